//! The backends against the contract.

mod durability;
mod embedded;
mod faulty;
