//! What tests on a real Kubernetes cluster share. They know the cluster through its API and the platform through a client,
//! as everyone does.
//!
//! `cargo xtask test --kind` makes the cluster and removes it. To run one test on a cluster of `cargo xtask kind up` again
//! and again, set `KUBECONFIG`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it serves tests alone: a panic is how they fail, and what they print tells why"
)]

mod diagnosis;
pub mod drain;
pub mod helm;
pub mod kubectl;
pub mod machines;
pub mod manifest;
pub mod platform;
pub mod pod;
pub mod roll;
pub mod space;
mod wait;

pub use platform::Platform;
pub use roll::Roll;
pub use space::{Space, in_space};
pub use wait::{PATIENCE, until};
