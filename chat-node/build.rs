//! The web client is embedded: a build is stale once any of its files changed, came or went.

#[allow(clippy::print_stdout, reason = "this is how cargo is told")]
fn main() {
    println!("cargo:rerun-if-changed=../web");
}
