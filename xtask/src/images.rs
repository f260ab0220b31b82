//! `cargo xtask images`: an image for each program that runs in a cluster, from a static program and a `Dockerfile`.

use std::path::Path;

use anyhow::Context;
use clap::Args;

use crate::run::{cargo, command, exists_as, output, root, say, script, succeed, target};
use crate::tools;

/// A program with an image.
struct Program {
    /// Its name, and that of its image.
    name: &'static str,
    /// Its package, and the folder that has its `Dockerfile`.
    package: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "chat-node", package: "chat-node" },
    Program { name: "chat-operator", package: "operator" },
];

/// Nothing in an image depends on the C library of a distribution.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Where Debian and others keep the authorities that programs trust.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How the programs are built.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// As they are published: fully optimised, which takes several minutes more
    #[arg(long)]
    release: bool,
}

/// Builds what has changed, and tells the names.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    for name in build(options)? {
        say(&name);
    }
    Ok(())
}

/// Builds what has changed, and returns the names of all images.
pub(crate) fn build(options: &Options) -> anyhow::Result<Vec<String>> {
    set_up()?;
    let profile = if options.release { "release" } else { "image" };
    let mut build =
        cargo(&["build", "--locked", "--bins", "--target", TARGET, "--profile", profile]);
    build.args(PROGRAMS.iter().flat_map(|program| ["--package", program.package]));
    succeed(&mut build)?;
    PROGRAMS.iter().map(|program| image(program, profile)).collect()
}

/// The Docker engine leaves an image as it is if nothing of it has changed.
fn image(program: &Program, profile: &str) -> anyhow::Result<String> {
    let context = target().join("images").join(program.name);
    std::fs::create_dir_all(&context).context("make the folder that an image is built from")?;
    let built = target().join(TARGET).join(profile).join(program.name);
    copy(&built, &context.join(program.name))?;
    copy(Path::new(AUTHORITIES), &context.join("ca-certificates.crt"))?;
    copy(&root().join(program.package).join("Dockerfile"), &context.join("Dockerfile"))?;
    let name = format!("chatcluster/{}:dev", program.name);
    succeed(command("docker", &["build", "--quiet", "--tag", &name]).arg(&context))?;
    Ok(name)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

/// A Docker engine, and what static programs are built with.
fn set_up() -> anyhow::Result<()> {
    succeed(&mut script("engine", &[]))?;
    // The C code of SQLite and others needs a compiler for the same C library.
    tools::install(
        &["musl-tools"],
        || exists_as("musl-gcc", "--version"),
        "images need musl-gcc; install it (Debian: apt-get install musl-tools) and run this again",
    )?;
    tools::install(
        &["ca-certificates"],
        || Path::new(AUTHORITIES).exists(),
        "images need the system's certificate authorities; install them (Debian: apt-get install ca-certificates) and \
         run this again",
    )?;
    let installed =
        output(&mut command("rustc", &["--print", "target-libdir", "--target", TARGET]))?;
    if Path::new(installed.trim()).exists() {
        return Ok(());
    }
    succeed(&mut command("rustup", &["target", "add", TARGET]))
        .with_context(|| format!("images need Rust's standard library for {TARGET}"))
}
