//! `cargo xtask kind`: Kubernetes clusters in containers of this machine, for people and for the tests of `tests/kind`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, bail};
use clap::Subcommand;

use crate::images;
use crate::run::{cargo, command, output, root, say, script, succeed};

/// A cluster of the tests has the id of the process that made it in its name.
const TEST_PREFIX: &str = "chat-test-";

/// The image of the chat node under a second name, which tests roll out.
const NEXT: (&str, &str) = ("chatcluster/chat-node:dev", "chatcluster/chat-node:next");

/// What to do with a cluster.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Make a cluster from nothing, with all images on it; one that is there gets the newest images
    Up {
        /// Its name
        #[arg(default_value = "chat")]
        name: String,
        #[command(flatten)]
        images: images::Options,
    },
    /// Copy the newest images to a cluster
    Load {
        /// Its name
        #[arg(default_value = "chat")]
        name: String,
        #[command(flatten)]
        images: images::Options,
    },
    /// Remove a cluster; images stay
    Down {
        /// Its name
        #[arg(default_value = "chat")]
        name: String,
    },
}

/// Does it.
pub(crate) fn run(action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Up { name, images } => {
            let kubeconfig = up(name)?;
            load(name, images)?;
            say_next(name, &kubeconfig);
            Ok(())
        }
        Action::Load { name, images } => load(name, images),
        Action::Down { name } => down(name),
    }
}

/// What clusters are made from, while it is being built beside other work.
pub(crate) struct Preparation(Child);

impl Preparation {
    /// Begins. What else runs goes first.
    pub(crate) fn start() -> anyhow::Result<Preparation> {
        let script = root().join("tests/kind/offline/prepare");
        let mut prepare = command("nice", &[]);
        prepare.arg(script).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Preparation(prepare.spawn().context("start tests/kind/offline/prepare")?))
    }

    /// Waits until all is built.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let status = self.0.wait().context("wait for tests/kind/offline/prepare")?;
        if !status.success() {
            bail!("tests/kind/offline/prepare failed ({status})");
        }
        Ok(())
    }
}

/// Runs the tests of `tests/kind` whose names contain one of these, or all if there are none, on a cluster of their own, with
/// images that are built in this way.
pub(crate) fn test(names: &[&str], options: &images::Options) -> anyhow::Result<()> {
    let cluster = format!("{TEST_PREFIX}{}", std::process::id());
    // Built first, so that no cluster waits for a compiler; of the whole workspace, as the other tests are.
    let tests = ["test", "--workspace", "--test", "on_kind", "--locked"];
    succeed(cargo(&tests).arg("--no-run"))?;
    // They run the plugin as a person does.
    succeed(&mut cargo(&["build", "--workspace", "--bin", "kubectl-chat", "--locked"]))?;
    remove_leftovers()?;
    let tested = up(&cluster).and_then(|kubeconfig| {
        load(&cluster, options)?;
        let mut run = cargo(&tests);
        run.env("PATH", path_with(&programs(&kubeconfig))?).env("KUBECONFIG", kubeconfig);
        // Tests share the cluster's nodes, and this machine's processors.
        run.args(["--", "--ignored", "--test-threads=1", "--nocapture"]).args(names);
        succeed(&mut run)
    });
    let removed = down(&cluster);
    tested.and(removed)
}

/// Returns the path of the cluster's kubeconfig.
fn up(name: &str) -> anyhow::Result<String> {
    let config = root().join("tests/kind/cluster.yaml");
    let up = output(script("up", &[name, "--config"]).arg(config))?;
    Ok(up.trim().to_owned())
}

fn down(name: &str) -> anyhow::Result<()> {
    succeed(&mut script("down", &[name]))
}

/// Builds the images of the servers and of this repository's programs, and copies all to the cluster.
fn load(name: &str, options: &images::Options) -> anyhow::Result<()> {
    let servers = output(&mut script("images", &[]))?;
    let mut images: Vec<String> = servers.lines().map(str::to_owned).collect();
    images.extend(images::build(options)?);
    succeed(&mut command("docker", &["tag", NEXT.0, NEXT.1]))?;
    images.push(NEXT.1.to_owned());
    succeed(script("load", &[name]).args(images))
}

/// Clusters of test runs that were killed.
fn remove_leftovers() -> anyhow::Result<()> {
    succeed(&mut script("engine", &[]))?;
    let list = ["ps", "--all", "--format", r#"{{.Label "io.x-k8s.kind.cluster"}}"#];
    let mut clusters: Vec<String> =
        output(&mut command("docker", &list))?.lines().map(str::to_owned).collect();
    clusters.sort();
    clusters.dedup();
    for cluster in clusters {
        let Some(process) = cluster.strip_prefix(TEST_PREFIX) else { continue };
        if !Path::new("/proc").join(process).exists() {
            down(&cluster)?;
        }
    }
    Ok(())
}

/// Where kubectl and helm are, beside the folder of a kubeconfig.
fn programs(kubeconfig: &str) -> PathBuf {
    let cache = Path::new(kubeconfig).ancestors().nth(2);
    cache.map(|cache| cache.join("bin")).unwrap_or_default()
}

/// The search path with a folder in front.
fn path_with(folder: &Path) -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("put the cluster's programs on the search path")
}

fn say_next(name: &str, kubeconfig: &str) {
    let programs = programs(kubeconfig);
    say(&format!(
        "The cluster {name} is ready. Next:\n\
         \n  export KUBECONFIG={kubeconfig} PATH={}:$PATH\
         \n  kubectl get nodes\
         \n  cargo xtask kind load {name}     # after a change of the code\
         \n  cargo xtask kind down {name}",
        programs.display()
    ));
}
