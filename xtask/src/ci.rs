//! `cargo xtask ci`: what must pass before a change is merged. The cheap checks come first.

use crate::run::{cargo, exists_cargo_deny, say, succeed};
use crate::{codegen, kind, test, tidy};

/// The tests on Kubernetes that run each time: installation, chat, a rollout under load in which the operator dies, and
/// the end. `cargo xtask test --kind` runs all.
const ON_KIND: &[&str] = &["platform::", "rollout::an_image"];

/// Runs everything.
pub(crate) fn run() -> anyhow::Result<()> {
    succeed(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    if exists_cargo_deny() {
        succeed(&mut cargo(&["deny", "--workspace", "check"]))?;
    } else {
        say("cargo-deny is not installed: licences were checked by tidy, advisories were not");
    }
    // Kubernetes is compiled while cargo waits for one crate or links.
    let preparation = kind::Preparation::start()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    succeed(&mut cargo(&clippy))?;
    let document = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    succeed(cargo(&document).env("RUSTDOCFLAGS", "-D warnings"))?;
    // Tests look at the time: nothing else is to run beside them.
    preparation.finish()?;
    test::run(&test::Options::default())?;
    kind::test(ON_KIND)?;
    codegen::run(true)?;
    say("ci: formatting, tidy, lints, documentation, tests and generated files are all right");
    Ok(())
}
