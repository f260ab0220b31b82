//! `cargo xtask tools`: the servers that tests and measurements run against, in `target/tools`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::run::{command, exists, exists_as, output, root, say, succeed, target};

/// Builds what is missing or older than its sources.
pub(crate) fn run() -> anyhow::Result<()> {
    nats_server()?;
    cassandra()?;
    networks()
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

/// Fetches Apache Cassandra with Maven, unless that is done. Its version is in `pom.xml`.
pub(crate) fn cassandra() -> anyhow::Result<PathBuf> {
    let pom = root().join("tests/servers/cassandra/pom.xml");
    let directory = target().join("tools/cassandra");
    // Written last: what was broken off is fetched again.
    let done = directory.join("done");
    if !is_older(&done, &pom) {
        return Ok(directory);
    }
    install_java()?;
    say("fetching Apache Cassandra; the first time this takes a minute or two");
    let libraries = directory.join("lib");
    if libraries.exists() {
        std::fs::remove_dir_all(&libraries).context("remove the older Cassandra")?;
    }
    let mut fetch = command("mvn", &["--batch-mode", "--quiet", MAVEN_COPY]);
    fetch.arg("--file").arg(pom).arg(format!("-DoutputDirectory={}", libraries.display()));
    succeed(&mut fetch)?;
    std::fs::write(done, "").context("note that Cassandra is there")?;
    Ok(directory)
}

/// Maven's plugin that copies what a pom names.
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Java and Maven, installed where that is possible.
fn install_java() -> anyhow::Result<()> {
    let how = "the tests' CQL server needs Java 17 and Maven; install them (Debian: apt-get install \
               openjdk-17-jre-headless maven) and run this again";
    let there = || exists_as("java", "-version") && exists_as("mvn", "--version");
    install(&["openjdk-17-jre-headless", "maven"], there, how)
}

/// What makes networks of a test's own, installed where that is possible.
fn networks() -> anyhow::Result<()> {
    let how = "tests that cut servers off need ip, unshare and nsenter; install them (Debian: apt-get install iproute2 \
               util-linux) and run this again";
    let there = || exists_as("ip", "-V") && exists("unshare") && exists("nsenter");
    install(&["iproute2", "util-linux"], there, how)
}

/// Installs packages of Debian unless what is needed is there; fails with `how` where that is not possible.
pub(crate) fn install(
    packages: &[&str],
    there: impl Fn() -> bool,
    how: &'static str,
) -> anyhow::Result<()> {
    if there() {
        return Ok(());
    }
    let is_root = output(&mut command("id", &["-u"])).is_ok_and(|id| id.trim() == "0");
    if !is_root || !exists("apt-get") {
        bail!(how);
    }
    let install = ["install", "-y", "--no-install-recommends"];
    let installed = succeed(&mut command("apt-get", &["update", "-q"])).and_then(|()| {
        let mut install = command("apt-get", &install);
        succeed(install.args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
    });
    match installed {
        Ok(()) if there() => Ok(()),
        _ => bail!(how),
    }
}

/// Missing counts as older than everything.
pub(crate) fn is_older(file: &Path, than: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    changed(file).is_none_or(|time| changed(than).is_some_and(|than| time < than))
}
