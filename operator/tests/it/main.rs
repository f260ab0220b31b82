//! The operator from outside: passes against an API server in memory, the lease, the nodes' configuration.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod configuration;
mod lease;
mod reconcile;
mod support;
