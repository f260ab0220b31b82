//! Who may try to own: the node's own lease, and whether somebody else's has ended. The log decides all the same.

use super::Lease;

/// What is known of leases.
pub trait Leases: Send + Sync {
    /// Whether this node's own lease is good by its own monotonic clock. If not, it publishes and answers nothing as an
    /// owner until it is.
    fn is_held(&self) -> bool;

    /// Whether a lease has certainly ended, so that its partitions may be taken. Asking about a lease that nobody has
    /// heard of begins a wait for it.
    fn has_ended(&self, lease: Lease) -> bool;
}

/// A node whose log nobody else can open: its lease never ends, and all others have.
pub struct Alone;

impl Leases for Alone {
    fn is_held(&self) -> bool {
        true
    }

    fn has_ended(&self, _: Lease) -> bool {
        true
    }
}
