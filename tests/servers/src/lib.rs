//! Real servers for the tests of every crate. What it starts ends with the test, also if the test is killed.
//!
//! Everything here blocks for a moment; a test may call it from async code.

pub mod cassandra;
pub mod nats;
pub mod network;
pub mod port;
pub mod process;
pub mod tools;
