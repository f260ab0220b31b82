//! `cargo xtask ci`: what must pass before a change is merged. The cheap checks come first.

use crate::run::{cargo, exists_cargo_deny, say, succeed};
use crate::{codegen, test, tidy};

/// Runs everything.
pub(crate) fn run() -> anyhow::Result<()> {
    succeed(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    if exists_cargo_deny() {
        succeed(&mut cargo(&["deny", "--workspace", "check"]))?;
    } else {
        say("cargo-deny is not installed: licences were checked by tidy, advisories were not");
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    succeed(&mut cargo(&clippy))?;
    let document = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    succeed(cargo(&document).env("RUSTDOCFLAGS", "-D warnings"))?;
    test::run(&test::Options::default())?;
    codegen::run(true)?;
    say("ci: formatting, tidy, lints, documentation, tests and generated files are all right");
    Ok(())
}
