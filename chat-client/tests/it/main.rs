//! The client against a server inside the test.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod discovery;
mod mock;
mod node;
mod session;
mod terminal;
