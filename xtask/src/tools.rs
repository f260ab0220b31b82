//! `cargo xtask tools`: the servers that tests and measurements run against, built into `target/tools`.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::run::{command, exists_as, root, say, succeed, target};

/// Builds what is missing or older than its sources.
pub(crate) fn run() -> anyhow::Result<()> {
    nats_server()?;
    Ok(())
}

/// Builds `nats-server` from its Go module, unless that is done. Its version is in the module's `go.mod`.
pub(crate) fn nats_server() -> anyhow::Result<PathBuf> {
    let module = root().join("tests/servers/nats");
    let program = target().join("tools/nats-server");
    if !is_older(&program, &module.join("go.mod")) {
        return Ok(program);
    }
    if !exists_as("go", "version") {
        bail!("nats-server is built with Go; install Go 1.25 or newer and run this again");
    }
    say("building nats-server; the first time this takes a minute or two");
    let mut build = command("go", &["build", "-trimpath", "-o"]);
    build.arg(&program).arg("github.com/nats-io/nats-server/v2").current_dir(module);
    succeed(&mut build)?;
    Ok(program)
}

/// Missing counts as older than everything.
pub(crate) fn is_older(file: &Path, than: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    changed(file).is_none_or(|time| changed(than).is_some_and(|than| time < than))
}
