//! The operator's chart, installed as a person does it.

use std::process::Command;

use crate::Space;

/// Name of the release, and of the operator's Deployment.
pub const RELEASE: &str = "chat-operator";

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/chat-operator");

impl Space {
    /// Installs the operator in this namespace or upgrades it, with the image of `cargo xtask images`, and waits until it is
    /// ready.
    pub async fn helm(&self, values: &[&str]) {
        let mut helm = Command::new("helm");
        helm.args(["upgrade", "--install", RELEASE, CHART, "--namespace", &self.name, "--wait"])
            .args(["--timeout", "120s", "--take-ownership"])
            .args([
                "--set",
                "image.repository=chatcluster/chat-operator",
                "--set",
                "image.tag=dev",
            ]);
        for value in values {
            helm.args(["--set", value]);
        }
        run(helm).await.unwrap_or_else(|error| panic!("helm cannot install the chart: {error}"));
    }

    /// Installs an operator that looks after this namespace alone. The definition of the ChatCluster must be there.
    pub async fn operator(&self) {
        let namespace = format!("namespace={}", self.name);
        self.helm(&[&namespace, "crds.install=false", "replicas=1"]).await;
    }

    /// Removes the operator. It is no error if there is none.
    pub async fn helm_uninstall(&self) {
        let mut helm = Command::new("helm");
        helm.args([
            "uninstall",
            RELEASE,
            "--namespace",
            &self.name,
            "--ignore-not-found",
            "--wait",
        ]);
        if let Err(error) = run(helm).await {
            println!("the operator was not removed: {error}");
        }
    }
}

async fn run(mut command: Command) -> Result<(), String> {
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("helm runs");
    let output = ran.map_err(|error| format!("{error}; `cargo xtask kind up` builds helm"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
