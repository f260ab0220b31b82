//! When a connection sends what it has.
//!
//! Every write to a socket costs the other side a read, and the answers to what came with one read leave with one write. So a
//! busy connection sends what it has together. A message that comes alone goes at once.

use std::time::Duration;

use tokio::time::Instant;

/// How long a busy connection gathers.
const WINDOW: Duration = Duration::from_millis(4);
/// So many messages in a window make a connection busy.
const BUSY_MESSAGES: usize = 8;

/// The window that is running, and what was sent in it.
pub(super) struct Pace {
    ends: Instant,
    sent: usize,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { ends: now, sent: 0 }
    }

    /// Until when a message that is there now waits for others; none: it goes now.
    pub(super) fn gathers_until(&self, now: Instant) -> Option<Instant> {
        (now < self.ends && self.sent >= BUSY_MESSAGES).then_some(self.ends)
    }

    /// So many messages are sent now.
    pub(super) fn sent(&mut self, messages: usize, now: Instant) {
        if now >= self.ends {
            *self = Pace { ends: now + WINDOW, sent: 0 };
        }
        self.sent += messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each message leaves that comes at one of these times, in microseconds.
    fn departures(arrivals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let micros = |time: Instant| time.duration_since(start).as_micros() as u64;
        let mut pace = Pace::new(start);
        let mut left: Vec<u64> = Vec::new();
        let mut waiting: Option<(u64, usize)> = None;
        for arrival in arrivals {
            if let Some((due, count)) = waiting.filter(|(due, _)| *due <= arrival) {
                pace.sent(count, at(due));
                left.extend(std::iter::repeat_n(due, count));
                waiting = None;
            }
            match (pace.gathers_until(at(arrival)), &mut waiting) {
                (Some(until), None) => waiting = Some((micros(until), 1)),
                (Some(_), Some((_, count))) => *count += 1,
                (None, _) => {
                    pace.sent(1, at(arrival));
                    left.push(arrival);
                }
            }
        }
        left
    }

    #[test]
    fn what_comes_alone_goes_at_once() {
        let arrivals: Vec<u64> = (0..100).map(|number| number * 600).collect();
        assert_eq!(departures(arrivals.clone()), arrivals);
    }

    #[test]
    fn what_comes_in_numbers_goes_together_once_in_a_window() {
        let mut times = departures((0..1_000).map(|number| number * 100));
        let count = times.len();
        times.dedup();
        // The first ones went alone.
        assert_eq!(times[..BUSY_MESSAGES], [0, 100, 200, 300, 400, 500, 600, 700]);
        let window = WINDOW.as_micros() as u64;
        assert!(times[BUSY_MESSAGES..].iter().all(|time| time % window == 0), "{times:?}");
        assert!(count > 900 && times.len() < BUSY_MESSAGES + 26, "{count} in {}", times.len());
    }

    #[test]
    fn a_burst_is_over_with_its_window() {
        let (burst, later) = (0..20, [4_000, 9_000, 9_100]);
        let left = departures(burst.map(|number| number * 10).chain(later));
        assert_eq!(left[8..], [[4_000; 12].as_slice(), &[8_000], &[9_000, 9_100]].concat());
    }
}
