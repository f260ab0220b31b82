//! How far this node's clock is from the broker's.

use std::time::Duration;

use chat_protocol::Millis;

use crate::clock::difference_ms;

/// A node whose clock is further off owns nothing, and does not follow it.
pub const OFFSET_MS_MAX: u64 = 2_000;

/// How far a clock is ahead, in milliseconds (negative: behind), at least: by that clock the node started at `start`, and
/// something was written between `before` and `after` since then, and at `written_at` by the broker's clock.
pub fn offset_ms(start: Millis, before: Duration, after: Duration, written_at: Millis) -> i64 {
    let at = |elapsed: Duration| start.plus(elapsed.as_millis() as u64);
    let (before, after) = (at(before), at(after));
    if written_at < before {
        difference_ms(before, written_at)
    } else if written_at > after {
        difference_ms(after, written_at)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_no_offset() {
        let offset = |start, written| {
            let (before, after) = (Duration::from_millis(5_000), Duration::from_millis(8_000));
            offset_ms(Millis(start), before, after, Millis(written))
        };
        assert_eq!(offset(5_000, 11_000), 0, "a slow answer says nothing of the clock");
        assert_eq!(offset(10_000, 10_000), 5_000, "ahead");
        assert_eq!(offset(2_000, 15_005), -5_005, "behind");
        assert_eq!(offset(u64::MAX, 0), i64::MAX);
    }
}
