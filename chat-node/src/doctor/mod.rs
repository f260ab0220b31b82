//! `chat-node doctor`: looks at everything a node depends on, and says in plain sentences what is wrong and what to do.
//!
//! `probe` looks, [`judge()`] decides what it means, [`finding`] is what people read.

pub mod evidence;
pub mod finding;
pub mod judge;
mod machine;
mod probe;
mod web;

use crate::config::Config;

pub use finding::{Finding, Level, Report};
pub use judge::judge;

/// Checks what this configuration names. `monitors`: addresses (`host:port`) of NATS monitoring ports, if any are known.
pub async fn examine(config: &Config, monitors: &[String]) -> Report {
    let evidence = Box::pin(probe::probe(config, monitors)).await;
    Report::new(judge(config, &evidence))
}
