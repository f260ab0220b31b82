//! How long to wait for an owner on another node before it is asked once more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A message is sent again at the earliest after this time.
const PATIENCE_MIN: Duration = Duration::from_millis(200);

/// An owner that does not answer for this long may be gone, however slow all are.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// Follows how long answers take, so that a platform under load is not asked everything twice: smoothed time and deviation
/// as for the retransmission timer of TCP (RFC 6298, section 2).
#[derive(Debug, Default)]
pub(super) struct Patience(Mutex<Option<Estimate>>);

#[derive(Clone, Copy, Debug)]
struct Estimate {
    smoothed: Duration,
    deviation: Duration,
}

impl Estimate {
    fn first(taken: Duration) -> Estimate {
        Estimate { smoothed: taken, deviation: taken / 2 }
    }

    fn with(self, taken: Duration) -> Estimate {
        Estimate {
            deviation: (self.deviation * 3 + self.smoothed.abs_diff(taken)) / 4,
            smoothed: (self.smoothed * 7 + taken) / 8,
        }
    }
}

impl Patience {
    /// How long to wait now.
    pub(super) fn now(&self) -> Duration {
        let estimate = *self.estimate();
        estimate.map_or(PATIENCE_MIN, |Estimate { smoothed, deviation }| {
            (smoothed + deviation * 4).clamp(PATIENCE_MIN, PATIENCE_MAX)
        })
    }

    /// An answer took this long, counted from when the owner was first asked: with more than one question under way nobody
    /// knows which one it answers.
    pub(super) fn answered(&self, taken: Duration) {
        // One that was slow because its partition changed owners says little about the others.
        let taken = taken.min(PATIENCE_MAX);
        let mut estimate = self.estimate();
        *estimate = Some(estimate.map_or(Estimate::first(taken), |before| before.with(taken)));
    }

    fn estimate(&self) -> MutexGuard<'_, Option<Estimate>> {
        // Assigned as a whole, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(taken_ms: impl IntoIterator<Item = u64>) -> Duration {
        let patience = Patience::default();
        taken_ms.into_iter().for_each(|taken| patience.answered(Duration::from_millis(taken)));
        patience.now()
    }

    #[test]
    fn patience_follows_the_time_that_answers_take() {
        assert_eq!(after([]), PATIENCE_MIN);
        assert_eq!(after([2; 100]), PATIENCE_MIN, "fast answers");
        assert_eq!(after([100]), Duration::from_millis(300), "a first one says little");
        let steady = after([400; 100]);
        assert!((400..450).contains(&steady.as_millis()), "{steady:?}");
        let uneven = after([100, 500].repeat(50));
        assert!(uneven > Duration::from_millis(700), "{uneven:?}");
        assert_eq!(after([5_000; 100]), PATIENCE_MAX);
        let over = after([1_000; 20].into_iter().chain([2; 100]));
        assert_eq!(over, PATIENCE_MIN, "the load is gone");
    }
}
