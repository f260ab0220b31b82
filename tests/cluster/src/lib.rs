//! Whole platforms of real processes (NATS, Cassandra, chat nodes, clients), what befalls them, and a check of every
//! acknowledged message against what every device has in the end.
//!
//! Everything that happens is an [`log::Entry`]; [`check`] judges entries alone, so that the file of a run can be judged
//! again: `CHAT_TEST_RUN=file cargo test -p cluster -- judge`. `CHAT_TEST_SEED` repeats the choices of a run: who sends
//! what and when, and whom a fault meets; the operating system's part is not repeatable.
//!
//! Faults are made from outside: signals, [`link`]s that lose or delay answers, networks that cut servers off
//! ([`servers::network`]), and for deaths at a [`step::Step`] of an owner the program `mortal-node`, the chat node on
//! backends that kill it. The product has nothing of this in it.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it serves tests alone: a panic is how they fail, and what they print helps to repeat them"
)]

pub mod ahead;
pub mod balancer;
pub mod check;
pub mod clock;
pub mod crowd;
pub mod device;
pub mod link;
pub mod log;
pub mod node;
pub mod platform;
pub(crate) mod poll;
pub mod run;
pub mod service;
pub mod step;

pub use crowd::{Crowd, CrowdOptions};
pub use platform::{Platform, PlatformOptions, Program, Surroundings};
pub use run::{Run, RunOptions};
pub use service::Service;
