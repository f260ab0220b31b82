//! Time stamps of writes that the log does not order.

use std::sync::atomic::{AtomicI64, Ordering};

use scylla::policies::timestamp_generator::TimestampGenerator;

use super::options::Time;

/// Time that goes back by less than this is made up for: two writes of one moment, or a clock that drifts. Beyond it the clock
/// was wrong before, and stamps that went on from there would hide the writes of others.
const BACK_MICROSECONDS_MAX: i64 = 2_000_000;

/// Each stamp is above the one before, unless time itself was corrected.
pub(super) struct Stamps {
    time: Time,
    last: AtomicI64,
}

impl Stamps {
    pub(super) fn new(time: Time) -> Stamps {
        Stamps { time, last: AtomicI64::new(0) }
    }
}

impl TimestampGenerator for Stamps {
    fn next_timestamp(&self) -> i64 {
        let now = i64::try_from((self.time)().0.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let next = |last: i64| match last.saturating_sub(now) {
            back if back > BACK_MICROSECONDS_MAX => now,
            _ => now.max(last.saturating_add(1)),
        };
        let before =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(before.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use chat_protocol::Millis;

    use super::*;

    #[test]
    fn stamps_rise_and_follow_a_clock_that_was_corrected() {
        let now_ms = Arc::new(AtomicU64::new(1_800_000_000_000));
        let read = now_ms.clone();
        let stamps = Stamps::new(Arc::new(move || Millis(read.load(Ordering::Relaxed))));
        let first = stamps.next_timestamp();
        assert_eq!(first, 1_800_000_000_000_000);
        assert_eq!(stamps.next_timestamp(), first + 1);
        now_ms.fetch_sub(1_000, Ordering::Relaxed);
        assert_eq!(stamps.next_timestamp(), first + 2, "drift");
        now_ms.fetch_add(3_600_000, Ordering::Relaxed);
        assert!(stamps.next_timestamp() > first + 3_500_000_000);
        now_ms.fetch_sub(3_600_000, Ordering::Relaxed);
        assert_eq!(stamps.next_timestamp(), first - 1_000_000, "it was an hour wrong");
    }
}
