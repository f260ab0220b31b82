//! Faults of whole platforms. Those that take minutes are in modules named `long`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that panics has failed; what it prints helps to repeat it"
)]

mod clocks;
mod judge;
mod links;
mod long;
mod networks;
mod nodes;
mod steps;
