//! Latencies, counted in buckets at most 1.6 % wide.

const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;

/// Counts values of nanoseconds; recording is a shift and an increment.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    highest: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; (64 - SUB_BITS as usize + 1) * SUB], total: 0, highest: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, value: u64) {
        self.counts[index(value)] += 1;
        self.total += 1;
        self.highest = self.highest.max(value);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The upper end of the bucket that holds the value below which `quantile` of all lie; 0 if there are none.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(index).min(self.highest);
            }
        }
        0
    }

    pub(crate) fn milliseconds(&self, quantile: f64) -> f64 {
        self.quantile(quantile) as f64 / 1e6
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.highest = 0;
    }
}

fn index(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    (shift as usize + 1) * SUB + (value >> shift) as usize - SUB
}

fn upper(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = (index / SUB - 1) as u32;
    let base = ((index % SUB + SUB) as u64) << shift;
    base + ((1u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_at_most_a_sixtieth_wide() {
        let values = (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) + 1, (1u64 << bit) - 1]);
        for value in values.chain([u64::MAX, 123_456_789]) {
            let upper = upper(index(value));
            assert!(upper >= value, "{value} in a bucket up to {upper}");
            assert!(upper - value <= value / 60, "{value} in a bucket up to {upper}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|value| histogram.record(value * 1_000));
        let close = |quantile: f64, expected: f64| {
            let found = histogram.quantile(quantile) as f64;
            assert!((found / expected - 1.0).abs() < 0.02, "{quantile}: {found}, not {expected}");
        };
        close(0.5, 5_000_000.0);
        close(0.99, 9_900_000.0);
        close(1.0, 10_000_000.0);
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }
}
