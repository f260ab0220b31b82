//! `cargo xtask tidy`: what no compiler checks. It builds nothing.

mod direction;
mod licence;
mod text;

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::run::{command, output, root, say};

/// A file under version control.
pub(crate) struct Tracked {
    /// From the root of the repository.
    pub(crate) path: String,
    /// Its text; empty if it is not text.
    pub(crate) text: String,
}

/// Runs all checks and reports everything that they find.
pub(crate) fn run() -> anyhow::Result<()> {
    let files = tracked()?;
    let mut findings = Vec::new();
    findings.extend(text::check(&files));
    findings.extend(direction::check(&files));
    findings.extend(licence::check(&files)?);
    for finding in &findings {
        say(finding);
    }
    if findings.is_empty() {
        say(&format!("tidy: {} files are all right", files.len()));
        return Ok(());
    }
    bail!("tidy: {} findings", findings.len())
}

fn tracked() -> anyhow::Result<Vec<Tracked>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let names = output(&mut command("git", &list))?;
    let mut files = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let path: PathBuf = root().join(name);
        // A file that was deleted and not yet committed is still listed.
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("read {name}"))?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        files.push(Tracked { path: name.to_owned(), text });
    }
    Ok(files)
}
