//! Outages of the store, as this node's owners meet them.
//!
//! A store may acknowledge before what it took is on disk. Whoever sees that it was away must take it that it has come back
//! without what it took last, and write that again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts the writes that met a store that was away. One that is only slow does not count: to write more would make it
/// slower.
#[derive(Debug, Default)]
pub struct Outages {
    failures: AtomicU64,
    is_away: AtomicBool,
}

impl Outages {
    /// If it is the same twice, no write has found the store away in between.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// The store is away.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
        if !self.is_away.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "the store does not answer; messages are still taken, and wait in the log until it does"
            );
        }
    }

    /// The store took something.
    pub(super) fn succeeded(&self) {
        if self.is_away.load(Ordering::Relaxed) && self.is_away.swap(false, Ordering::AcqRel) {
            tracing::info!("the store answers again");
        }
    }
}
