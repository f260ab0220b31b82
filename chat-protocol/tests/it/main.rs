//! Tests of the crate from outside.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod document;
mod drain;
