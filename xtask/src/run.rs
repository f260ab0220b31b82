//! Running other programs, and saying what is going on.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Writes a line for the person who runs the task.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// A command in the root of the repository.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// A script of the test clusters; its progress goes to standard error.
pub(crate) fn script(name: &str, arguments: &[&str]) -> Command {
    let path = root().join("tests/kind/offline").join(name);
    command(&path.display().to_string(), arguments)
}

/// What cargo tells the programs that it runs about themselves begins with one of these.
const TOLD_BY_CARGO: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// The cargo that started this program, with the environment of a person who starts it. Build scripts (ring's is one) look
/// at what cargo told this program: they would run again, and all above them be compiled again, whenever a person's cargo
/// and this one take turns.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = command(&program, arguments);
    for (name, _) in std::env::vars_os() {
        let is_told = |name: &str| TOLD_BY_CARGO.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(is_told) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a command and fails if it does.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    say(&format!("$ {shown}"));
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it writes to standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {shown}"))
}

/// Whether a program is there.
pub(crate) fn exists(program: &str) -> bool {
    exists_as(program, "--version")
}

/// Whether a program is there that tells its version when it is asked in this way.
pub(crate) fn exists_as(program: &str, version: &str) -> bool {
    let mut command = command(program, &[version]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether `cargo deny` is installed.
pub(crate) fn exists_cargo_deny() -> bool {
    let mut command = cargo(&["deny", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
