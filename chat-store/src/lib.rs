//! What is remembered: the store contract and its backends.
//!
//! [`Store`] is the contract; every backend passes the one suite in [`conformance`]. Tables are by query; nothing here
//! decides anything.

pub mod conformance;
pub mod cql;
pub mod embedded;
pub mod faulty;
mod friendship;
mod packing;
mod reactions;
pub mod row;
pub mod store;
pub mod table;

pub use row::*;
pub use store::{Error, Store};
pub use table::{Row, Table, Tables};
