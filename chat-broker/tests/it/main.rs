//! The backends against the contract.

mod embedded;
mod faulty;
