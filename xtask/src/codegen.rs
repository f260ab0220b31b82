//! `cargo xtask codegen`: files that the program itself writes, kept in the repository for readers.

use anyhow::{Context, bail};

use crate::run::{cargo, command, output, root, succeed, target};

/// Each file, and the program and arguments that print it.
const FILES: &[(&str, &str, &[&str])] = &[
    ("docs/openapi.json", "chat-node", &["openapi"]),
    ("docs/config.md", "chat-node", &["config", "--show=reference"]),
    ("docs/chat-node.example.toml", "chat-node", &["config", "--show=example"]),
    ("crds/chatcluster.yaml", "chat-operator", &["crd"]),
    ("charts/chat-operator/files/chatcluster.yaml", "chat-operator", &["crd"]),
];

/// Writes the files, or says which are not up to date.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    succeed(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let mut stale = Vec::new();
    for (file, program, arguments) in FILES {
        let program = target().join("debug").join(program).display().to_string();
        let text = output(&mut command(&program, arguments))?;
        let path = root().join(file);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if check {
            stale.push(*file);
        } else {
            std::fs::write(&path, text).with_context(|| format!("write {file}"))?;
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    bail!("{} is not up to date: run `cargo xtask codegen` and commit it", stale.join(" and "))
}
