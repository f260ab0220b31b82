//! When each message is due, and how the highest rate is searched. Pure.

/// Messages at a fixed rate from a start on: number `n` is due at `start + n / rate`, whatever happened before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    per_second: f64,
    issued: u64,
    total: u64,
}

impl Schedule {
    pub(crate) fn new(start_ns: u64, per_second: f64, seconds: f64) -> Schedule {
        let total = (per_second * seconds).round() as u64;
        Schedule { start_ns, per_second, issued: 0, total }
    }

    /// The next message that is due by now: its number and when it was due.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.due_ns();
        if self.issued >= self.total || due_ns > now_ns {
            return None;
        }
        self.issued += 1;
        Some((self.issued - 1, due_ns))
    }

    /// How long until the next message is due; 0 if it is, or if there is none.
    pub(crate) fn wait_ns(&self, now_ns: u64) -> u64 {
        match self.is_done() {
            true => 0,
            false => self.due_ns().saturating_sub(now_ns),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.issued >= self.total
    }

    fn due_ns(&self) -> u64 {
        self.start_ns + (self.issued as f64 * 1e9 / self.per_second) as u64
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }
}

/// Looks for the highest rate that holds: doubles until one does not, then halves the gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    next: f64,
    held: Option<f64>,
    failed: Option<f64>,
    halvings: u32,
}

impl Search {
    pub(crate) fn new(first: f64, halvings: u32) -> Search {
        Search { next: first, held: None, failed: None, halvings }
    }

    /// The rate to try next, or `None` when the search is over.
    pub(crate) fn rate(&self) -> Option<f64> {
        let open = self.failed.is_none() || self.halvings > 0;
        (open && self.next >= 1.0).then_some(self.next)
    }

    /// What came of the rate just tried.
    pub(crate) fn tried(&mut self, holds: bool) {
        if holds {
            self.held = Some(self.next);
        } else {
            self.failed = Some(self.next);
        }
        self.next = match (self.held, self.failed) {
            (Some(held), None) => held * 2.0,
            (None, Some(failed)) => failed / 2.0,
            (Some(held), Some(failed)) => {
                self.halvings = self.halvings.saturating_sub(1);
                (held + failed) / 2.0
            }
            (None, None) => self.next,
        };
        // Nothing has held yet: go on downwards, but not for ever.
        if self.held.is_none() && self.failed.is_some() {
            self.halvings = self.halvings.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_by_the_clock_and_not_by_the_one_before() {
        let mut schedule = Schedule::new(1_000, 1_000.0, 0.01);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(1_000), Some((0, 1_000)));
        assert_eq!(schedule.take(1_000), None);
        // A stall of 5 ms: everything missed is due at its own time.
        let late: Vec<_> = std::iter::from_fn(|| schedule.take(5_001_000)).collect();
        let expected: Vec<_> = (1..=5).map(|n| (n, 1_000 + n * 1_000_000)).collect();
        assert_eq!(late, expected);
        assert_eq!(std::iter::from_fn(|| schedule.take(u64::MAX)).count(), 4);
        assert!(schedule.is_done());
        assert_eq!(schedule.issued(), 10);
    }

    fn highest(limit: f64, first: f64) -> (f64, usize) {
        let mut search = Search::new(first, 4);
        let mut best: f64 = 0.0;
        let mut steps = 0;
        while let Some(rate) = search.rate() {
            search.tried(rate <= limit);
            best = if rate <= limit { best.max(rate) } else { best };
            steps += 1;
            assert!(steps < 40, "the search does not end");
        }
        (best, steps)
    }

    #[test]
    fn the_search_ends_close_below_the_limit() {
        for limit in [120.0, 1_000.0, 7_777.0, 90_000.0] {
            let (best, steps) = highest(limit, 100.0);
            assert!(best <= limit && best >= limit * 0.9, "{best} of {limit} in {steps} steps");
        }
    }

    #[test]
    fn the_search_goes_down_when_the_first_rate_is_too_high_and_ends_when_nothing_holds() {
        let (best, _) = highest(30.0, 100.0);
        assert!((15.0..=30.0).contains(&best), "{best}");
        assert_eq!(highest(0.0, 100.0).0, 0.0);
    }
}
