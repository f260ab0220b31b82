//! The operator from outside: passes against an API server in memory, the lease, the nodes' configuration.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod bench;
mod configuration;
mod database;
mod lease;
mod reconcile;
mod rest;
mod servers;
mod support;
