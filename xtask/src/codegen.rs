//! `cargo xtask codegen`: files that the program itself writes, kept in the repository for readers.

use anyhow::{Context, bail};

use crate::run::{cargo, command, output, root, succeed, target};

/// Each file, and what makes the program print it.
const FILES: &[(&str, &[&str])] = &[
    ("docs/openapi.json", &["openapi"]),
    ("docs/config.md", &["config", "--show=reference"]),
    ("docs/chat-node.example.toml", &["config", "--show=example"]),
];

/// Writes the files, or says which are not up to date.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    succeed(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let program = target().join("debug/chat-node").display().to_string();
    let mut stale = Vec::new();
    for (file, arguments) in FILES {
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
