//! Where the programs are that `cargo xtask tools` builds.

use std::path::PathBuf;

/// The directory that `cargo xtask tools` fills.
pub fn directory() -> PathBuf {
    let in_repository = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(in_repository, PathBuf::from);
    target.join("tools")
}

/// The path of a program, or of a file it needs. Panics if it was not built.
pub fn path(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.exists(), "there is no {name} in target/tools: run `cargo xtask tools`");
    path
}
