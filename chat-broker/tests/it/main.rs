//! The backends against the contract.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod durability;
mod embedded;
mod faulty;
mod nats;
