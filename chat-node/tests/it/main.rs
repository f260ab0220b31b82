//! Tests of the node from outside its modules.

#![allow(
    clippy::disallowed_methods,
    clippy::large_futures,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that panics has failed; it spawns, waits and prints as it likes"
)]

mod backup;
mod bad_input;
mod client;
mod cluster;
mod doctor;
mod drain;
mod durability;
mod full_disk;
mod migrate;
mod places;
mod platform_restore;
mod presence;
mod process;
mod program;
mod simulation;
mod transports;
