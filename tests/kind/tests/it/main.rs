//! Tests on a real cluster. All are ignored where there is none: `cargo xtask test --kind` runs them.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test that panics has failed")]

mod images;
mod machines;
mod operate;
mod platform;
mod plugin;
mod restore;
mod rollout;
mod secrets;
mod servers;
