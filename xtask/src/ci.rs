//! `cargo xtask ci`: what must pass before a change is merged. The cheap checks come first.

use clap::Args;

use crate::run::{cargo, exists_cargo_deny, say, succeed};
use crate::{codegen, images, kind, test, tidy};

/// The tests on Kubernetes that run each time: installation, chat, a rollout under load in which the operator dies, and
/// the end. `cargo xtask test --kind` runs all.
const ON_KIND: &[&str] = &["platform::", "rollout::an_image"];

/// What is left out.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Leave out the tests on Kubernetes, which need root on Debian, or a Docker engine
    #[arg(long)]
    no_kind: bool,
}

/// Runs everything.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    succeed(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    if exists_cargo_deny() {
        succeed(&mut cargo(&["deny", "--workspace", "check"]))?;
    } else {
        say("cargo-deny is not installed: licences were checked by tidy, advisories were not");
    }
    // Kubernetes is compiled while cargo waits for one crate or links.
    let preparation = match options.no_kind {
        true => None,
        false => Some(kind::Preparation::start()?),
    };
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    succeed(&mut cargo(&clippy))?;
    let document = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    succeed(cargo(&document).env("RUSTDOCFLAGS", "-D warnings"))?;
    match preparation {
        None => test::run(&test::Options::default())?,
        Some(preparation) => {
            // Tests look at the time: nothing else is to run beside them.
            let build = ["test", "--workspace", "--all-targets", "--locked", "--no-run"];
            succeed(&mut cargo(&build))?;
            preparation.finish()?;
            test::run(&test::Options::default())?;
            // Static programs would be many minutes more of compiling.
            kind::test(ON_KIND, &images::Options { debug: true, ..images::Options::default() })?;
        }
    }
    codegen::run(true)?;
    say("ci: formatting, tidy, lints, documentation, tests and generated files are all right");
    Ok(())
}
