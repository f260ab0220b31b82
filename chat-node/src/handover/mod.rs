//! Sends clients elsewhere: in batches that an operator grants, or all of them when the node ends. One mechanism.
//!
//! [`plan`] decides what a call may do, [`choice`] whom a batch asks and when, [`ledger`] counts who left and who came
//! back. [`service`] does it. `docs/drain.md` is the contract.

pub mod choice;
pub mod ledger;
pub mod metrics;
pub mod plan;
pub mod service;
#[cfg(test)]
pub(crate) mod tests;

pub use metrics::Metrics;
pub use service::{Drained, Handover, Parts};
