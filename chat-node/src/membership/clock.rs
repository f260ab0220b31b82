//! How far this node's clock is from the broker's.

use chat_protocol::Millis;

/// A node whose clock is further off owns nothing.
pub const OFFSET_MS_MAX: u64 = 2_000;

/// How far the own clock is ahead, in milliseconds (negative: behind), at least: something was written between `before`
/// and `after` by the own clock, and at `written_at` by the broker's.
pub fn offset_ms(before: Millis, after: Millis, written_at: Millis) -> i64 {
    let distance = |from: Millis, to: Millis| i64::try_from(to.0 - from.0).unwrap_or(i64::MAX);
    if written_at < before {
        distance(written_at, before)
    } else if written_at > after {
        // The own clock may have been set back in between.
        -distance(after, written_at)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_no_offset() {
        let offset =
            |before, after, written| offset_ms(Millis(before), Millis(after), Millis(written));
        assert_eq!(offset(10_000, 13_000, 11_000), 0, "a slow answer says nothing of the clock");
        assert_eq!(offset(15_000, 15_005, 10_000), 5_000, "ahead");
        assert_eq!(offset(10_000, 10_005, 15_005), -5_000, "behind");
        assert_eq!(offset(u64::MAX, u64::MAX, 0), i64::MAX);
    }
}
