//! How nodes tell each other things: the partition logs, the key-value entries that leases live in, and the bus.
//!
//! [`Broker`] is the contract; every backend passes the one suite in [`conformance`]. Knows nothing of what the bytes mean.

pub mod broker;
pub mod conformance;
pub mod embedded;
pub mod faulty;
pub mod subject;

pub use broker::{
    AppendError, Broker, Bus, Change, Entry, Error, Receiver, RequestError, Responder, Revision,
    Sequence, StoredRecord, WATCH_SILENCE_MAX, Watch,
};
pub use subject::Subject;
