//! `cargo xtask images`: an image for each program that runs in a cluster, from a static program and a `Dockerfile`.

use std::path::{Path, PathBuf};

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
    pub(crate) release: bool,
    /// As tests have built them, with the C library of this machine: in no time where tests have run
    #[arg(long, conflicts_with = "release")]
    pub(crate) debug: bool,
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
    succeed(&mut script("engine", &[]))?;
    install_authorities()?;
    let built = if options.debug { build_debug()? } else { build_static(options.release)? };
    PROGRAMS.iter().map(|program| image(program, &built)).collect()
}

/// Builds the programs as tests do, and returns the folder that they are in.
fn build_debug() -> anyhow::Result<PathBuf> {
    // The whole workspace, so that cargo finds everything built with the features it has.
    succeed(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    Ok(target().join("debug"))
}

/// Builds static programs, and returns the folder that they are in.
fn build_static(release: bool) -> anyhow::Result<PathBuf> {
    set_up_musl()?;
    let profile = if release { "release" } else { "image" };
    let mut build =
        cargo(&["build", "--locked", "--bins", "--target", TARGET, "--profile", profile]);
    build.args(PROGRAMS.iter().flat_map(|program| ["--package", program.package]));
    succeed(&mut build)?;
    Ok(target().join(TARGET).join(profile))
}

/// The Docker engine leaves an image as it is if nothing of it has changed.
fn image(program: &Program, built: &Path) -> anyhow::Result<String> {
    let context = target().join("images").join(program.name);
    if context.exists() {
        std::fs::remove_dir_all(&context).context("remove what an image was built from")?;
    }
    let files = context.join("root");
    let copied = files.join(program.name);
    copy(&built.join(program.name), &copied)?;
    succeed(command("strip", &["--strip-debug"]).arg(&copied))?;
    copy(Path::new(AUTHORITIES), &below(&files, Path::new(AUTHORITIES)))?;
    for library in libraries(&copied)? {
        copy(&library, &below(&files, &library))?;
    }
    copy(&root().join(program.package).join("Dockerfile"), &context.join("Dockerfile"))?;
    let name = format!("chatcluster/{}:dev", program.name);
    succeed(command("docker", &["build", "--quiet", "--tag", &name]).arg(&context))?;
    Ok(name)
}

/// What the dynamic linker of this machine loads for a program; nothing if it is static.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut ldd = command("ldd", &[]);
    // It fails on a static program, and says so.
    let output = ldd.arg(program).output().context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).filter(|path| path != program).collect())
}

/// An absolute path in another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).context("make a folder of an image")?;
    }
    std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn install_authorities() -> anyhow::Result<()> {
    tools::install(
        &["ca-certificates"],
        || Path::new(AUTHORITIES).exists(),
        "images need the system's certificate authorities; install them (Debian: apt-get install ca-certificates) and \
         run this again",
    )
}

/// What static programs are built with.
fn set_up_musl() -> anyhow::Result<()> {
    // The C code of SQLite and others needs a compiler for the same C library.
    tools::install(
        &["musl-tools"],
        || exists_as("musl-gcc", "--version"),
        "images need musl-gcc; install it (Debian: apt-get install musl-tools) and run this again",
    )?;
    let installed =
        output(&mut command("rustc", &["--print", "target-libdir", "--target", TARGET]))?;
    if Path::new(installed.trim()).exists() {
        return Ok(());
    }
    succeed(&mut command("rustup", &["target", "add", TARGET]))
        .with_context(|| format!("images need Rust's standard library for {TARGET}"))
}
