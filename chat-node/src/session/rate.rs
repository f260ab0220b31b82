//! A token bucket: pure, its time is an argument.

use std::time::Duration;

use super::settings::Rate;

/// What one session may still ask.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// In thousandths of a request.
    tokens: u64,
    filled_at: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Duration) -> Bucket {
        Bucket { rate, tokens: u64::from(rate.burst) * 1000, filled_at: now }
    }

    /// Takes one request. `Err`: milliseconds until there is one.
    pub fn take(&mut self, now: Duration) -> Result<(), u64> {
        let elapsed_ms = now.saturating_sub(self.filled_at).as_millis() as u64;
        let per_second = u64::from(self.rate.per_second.max(1));
        // Whole milliseconds only, so that nothing is lost by rounding.
        self.filled_at += Duration::from_millis(elapsed_ms);
        let full = u64::from(self.rate.burst.max(1)) * 1000;
        self.tokens = self.tokens.saturating_add(elapsed_ms.saturating_mul(per_second)).min(full);
        if self.tokens >= 1000 {
            self.tokens -= 1000;
            return Ok(());
        }
        Err((1000 - self.tokens).div_ceil(per_second))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_allow_and_the_wait_it_names_is_enough(
            per_second in 1u32..100, burst in 1u32..50, gaps in prop::collection::vec(0u64..300, 1..300),
        ) {
            let mut bucket = Bucket::new(Rate { per_second, burst }, Duration::ZERO);
            let (mut now, mut taken) = (0, 0);
            for gap in gaps {
                now += gap;
                match bucket.take(Duration::from_millis(now)) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        prop_assert!(wait > 0);
                        let mut later = bucket;
                        prop_assert!(later.take(Duration::from_millis(now + wait)).is_ok());
                    }
                }
                prop_assert!(taken * 1000 <= u64::from(burst) * 1000 + now * u64::from(per_second));
            }
        }
    }
}
