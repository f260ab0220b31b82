//! Which nodes there are, and which of them owns what.
//!
//! Each start of a node keeps one key with its lease and what others should know of it, and watches those of all others.
//! [`view`] decides, without I/O, whose leases have ended and who should own which partition; [`service`] renews,
//! watches, takes and releases. A lease only says who should try: the log says who owns.

pub mod clock;
pub mod entry;
pub mod metrics;
pub mod service;
pub mod view;

pub use entry::{NODE_KEY_PREFIX, NodeEntry, OWNER_REVISION_KEY};
pub use metrics::Metrics;
pub use service::{Membership, Parts};
pub use view::Settings;
