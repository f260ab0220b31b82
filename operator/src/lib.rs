//! The operator: turns a `ChatCluster` into a running platform, and keeps it so.
//!
//! One pass: `observe → validate → build (pure) → rollout::next_step (pure) → apply → status`. Whatever decides is a
//! function of values and `now`; [`observe`], [`apply`], [`nodes`], [`nats`]'s monitor, [`scylla`]'s ring and [`machines`] are the
//! only parts that talk to anything.

pub mod apply;
pub mod build;
pub mod controller;
pub mod error;
pub mod lease;
pub mod limits;
pub mod machines;
pub mod metrics;
pub mod names;
pub mod nats;
pub mod nodes;
pub mod observe;
pub mod reconcile;
pub mod restart;
pub mod rollout;
pub mod scylla;
pub mod server;
pub mod status;
pub mod volumes;
