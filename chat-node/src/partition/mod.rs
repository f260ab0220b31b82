//! The log of one partition and who owns it: opening, fenced appends, ids and their reservation, watermarks.
//!
//! [`ownership`] decides, as a pure state machine; [`append`] talks to the broker until an append is settled. Nothing
//! here knows what the entries mean.

pub mod append;
pub mod floor;
mod lease;
pub mod ownership;
#[cfg(test)]
mod tests;

pub use lease::{Alone, Leases};
pub use ownership::{Lease, Ownership};
