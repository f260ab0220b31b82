//! Commands that a person gives.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::Space;

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// What it is for, and what is wrong.
    pub text: String,
}

impl Space {
    /// Runs `kubectl` in this namespace, with the plugin of this repository, and waits for its end.
    pub async fn kubectl(&self, arguments: &[&str]) -> Said {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(arguments).args(["--namespace", &self.name]).env("PATH", path());
        let ran = tokio::task::spawn_blocking(move || kubectl.output()).await.expect("it runs");
        let output = ran.expect("kubectl; `cargo xtask kind up` builds it");
        let said = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&said).into_owned();
        println!("$ kubectl {}\n{text}", arguments.join(" "));
        Said { code: output.status.code().unwrap_or(-1), text }
    }
}

/// The search path, with the folder of this repository's programs in front.
fn path() -> OsString {
    let own = std::env::current_exe().expect("a running program has a path");
    let folder = own.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
    let plugin = folder.join("kubectl-chat");
    assert!(plugin.exists(), "there is no {}: cargo build --workspace --bins", plugin.display());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("a search path")
}
