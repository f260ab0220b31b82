//! How long to wait before the next attempt. Pure: the number of failures and a random number go in, a time comes out.

/// Full-jitter exponential backoff: uniform between 0 and the smaller of `most_ms` and `first_ms` · 2ⁿ.
///
/// Full jitter spreads many clients that lost the same node; a fixed wait would bring them back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper end of the first wait.
    pub first_ms: u64,
    /// Upper end of every wait.
    pub most_ms: u64,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first_ms: 500, most_ms: 20_000 }
    }
}

impl Backoff {
    /// The upper end of the wait after `failures` failures in a row.
    pub fn ceiling_ms(&self, failures: u32) -> u64 {
        let factor = 1u64.checked_shl(failures.min(63)).unwrap_or(u64::MAX);
        self.first_ms.saturating_mul(factor).min(self.most_ms)
    }

    /// The wait after `failures` failures in a row. `random` is uniform over all numbers.
    pub fn wait_ms(&self, failures: u32, random: u64) -> u64 {
        fraction_of(self.ceiling_ms(failures), random)
    }
}

/// `random` scaled to 0 … `most`, both inclusive.
fn fraction_of(most: u64, random: u64) -> u64 {
    let wide = u128::from(random) * (u128::from(most) + 1);
    // The product of two 64-bit numbers shifted by 64 bits fits 64 bits.
    (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_until_its_limit() {
        let backoff = Backoff { first_ms: 100, most_ms: 1_000 };
        let ceilings: Vec<u64> = (0..6).map(|n| backoff.ceiling_ms(n)).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.ceiling_ms(u32::MAX), 1_000);
    }

    #[test]
    fn the_wait_covers_everything_from_nothing_to_the_ceiling() {
        let backoff = Backoff { first_ms: 100, most_ms: 1_000 };
        assert_eq!(backoff.wait_ms(1, 0), 0);
        assert_eq!(backoff.wait_ms(1, u64::MAX), 200);
        assert_eq!(backoff.wait_ms(1, u64::MAX / 2), 100);
    }
}
