//! The backends against the contract.

mod embedded;
