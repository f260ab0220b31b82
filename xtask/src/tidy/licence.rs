//! Every dependency has a licence of the list that `deny.toml` allows. Needs no program beside cargo.

use anyhow::Context;
use serde::Deserialize;

use super::Tracked;
use crate::run::{cargo, output};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

pub(super) fn check(files: &[Tracked]) -> anyhow::Result<Vec<String>> {
    let deny = files.iter().find(|file| file.path == "deny.toml").context("find deny.toml")?;
    let allowed = allowed(&deny.text);
    // Other platforms' dependencies are not built, and need not be downloaded.
    let arguments = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ];
    let text = output(&mut cargo(&arguments))?;
    let metadata: Metadata = serde_json::from_str(&text).context("read cargo's metadata")?;
    let foreign = metadata.packages.iter().filter(|package| package.source.is_some());
    Ok(foreign
        .filter(|package| {
            !package.license.as_deref().is_some_and(|text| is_allowed(text, &allowed))
        })
        .map(|package| {
            let licence = package.license.as_deref().unwrap_or("none");
            format!(
                "{} {}: licence {licence} is not allowed by deny.toml",
                package.name, package.version
            )
        })
        .collect())
}

/// The list in `deny.toml`, one licence a line.
fn allowed(deny: &str) -> Vec<&str> {
    let list = deny.split("\nallow = [\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.starts_with(']'));
    lines.filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect()
}

/// Whether an SPDX expression can be met with these licences. `AND` binds tighter than `OR`.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    // An old form of `OR`, still in use.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allowed) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = either(words, at, allowed);
        *at += 1;
        return met;
    }
    // An exception only gives more rights.
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    allowed.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_by_allowed_licences_only() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "", "(MIT OR Apache-2.0) AND GPL-3.0"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
