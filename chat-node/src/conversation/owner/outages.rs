//! Outages of the store, as this node's owners meet them.
//!
//! A store may acknowledge before what it took is on disk. Whoever sees that it was away must take it that it has come back
//! without what it took last, and write that again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An outage between two looks that are no further apart than this would be over before a database has started again.
const GAP_MAX: Duration = Duration::from_secs(5);

/// Counts the calls that met a store that was away. One that is only slow does not count: to write more would make it
/// slower.
#[derive(Debug, Default)]
pub struct Outages {
    failures: AtomicU64,
    is_away: AtomicBool,
    looks: Mutex<Looks>,
}

/// What looks at the store have found.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    presence: Option<Presence>,
    failed_at: Option<Duration>,
}

/// From when to when every look has found the store there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Presence {
    since: Duration,
    last: Duration,
}

impl Presence {
    fn goes_on(self, elapsed: Duration) -> bool {
        elapsed.saturating_sub(self.last) <= GAP_MAX
    }
}

impl Outages {
    /// If it is the same twice, no call has found the store away in between.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Whether looks have found the store there for as long as `lag`, up to now.
    pub(super) fn has_been_there_for(&self, lag: Duration, elapsed: Duration) -> bool {
        let presence = self.looks().presence;
        presence.is_some_and(|presence| {
            presence.goes_on(elapsed) && elapsed.saturating_sub(presence.since) >= lag
        })
    }

    /// Whether a call has found the store away within the last `lag`.
    pub(super) fn has_failed_within(&self, lag: Duration, elapsed: Duration) -> bool {
        let failed_at = self.looks().failed_at;
        failed_at.is_some_and(|at| elapsed.saturating_sub(at) <= lag)
    }

    /// A look that was begun at this time has found the store there.
    pub(super) fn seen(&self, elapsed: Duration) {
        let mut looks = self.looks();
        let since = match looks.presence {
            Some(before) if before.goes_on(elapsed) => before.since,
            _ => elapsed,
        };
        looks.presence = Some(Presence { since, last: elapsed });
    }

    /// The store is away.
    pub(super) fn failed(&self, elapsed: Duration) {
        *self.looks() = Looks { presence: None, failed_at: Some(elapsed) };
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

    fn looks(&self) -> MutexGuard<'_, Looks> {
        // Nothing panics between two assignments, so a panic elsewhere leaves it whole.
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_store_was_there_for_as_long_as_every_look_has_found_it() {
        let outages = Outages::default();
        assert!(!outages.has_been_there_for(LAG, at(100)), "nobody has looked");
        for second in 100..=160 {
            outages.seen(at(second));
            assert_eq!(outages.has_been_there_for(LAG, at(second)), second == 160);
        }
        assert!(outages.has_been_there_for(LAG, at(165)));
        assert!(!outages.has_been_there_for(LAG, at(166)), "nobody has looked for a while");
        outages.seen(at(170));
        assert!(!outages.has_been_there_for(LAG, at(170)), "it may have been away in between");
    }

    #[test]
    fn a_failure_begins_the_time_anew() {
        let outages = Outages::default();
        (0..=60).for_each(|second| outages.seen(at(second)));
        assert!(outages.has_been_there_for(LAG, at(60)));
        assert!(!outages.has_failed_within(LAG, at(60)));
        outages.failed(at(60));
        assert!(!outages.has_been_there_for(LAG, at(60)));
        (61..=120).for_each(|second| outages.seen(at(second)));
        assert!(!outages.has_been_there_for(LAG, at(120)));
        assert!(
            outages.has_failed_within(LAG, at(120)) && !outages.has_failed_within(LAG, at(121))
        );
        outages.seen(at(121));
        assert!(outages.has_been_there_for(LAG, at(121)));
    }
}
