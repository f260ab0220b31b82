//! What is remembered: the store contract and its embedded backend.
//!
//! [`Store`] is the contract; every backend passes the one suite in [`conformance`]. Tables are by query; nothing here
//! decides anything.

pub mod conformance;
pub mod embedded;
pub mod faulty;
pub mod row;
pub mod store;

pub use row::*;
pub use store::{Error, Store};
