//! A node without others has nobody to ask whether a wall clock that was set is right now.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Clock;

/// A smaller difference is no step: it is how clocks drift, and how they are slewed.
const STEP_MS: u64 = 1_000;

/// A step is followed once it has stood for this long. Time servers set clocks for good; what is taken back sooner was a
/// mistake, and leaves no ids of its time.
const STANDS: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A step that was seen and not followed yet. Pure.
#[derive(Debug, Default)]
pub struct Doubt(Option<Step>);

#[derive(Clone, Copy, Debug)]
struct Step {
    ahead_ms: i64,
    since: Duration,
}

impl Doubt {
    /// Whether to follow the wall clock, which is so far ahead (behind, if negative) at this moment of the monotonic clock.
    pub fn is_over(&mut self, ahead_ms: i64, elapsed: Duration) -> bool {
        if ahead_ms.unsigned_abs() < STEP_MS {
            self.0 = None;
            return true;
        }
        let step = match self.0 {
            Some(step) if ahead_ms.abs_diff(step.ahead_ms) < STEP_MS => step,
            _ => Step { ahead_ms, since: elapsed },
        };
        let stands = elapsed.saturating_sub(step.since) >= STANDS;
        self.0 = (!stands).then_some(step);
        stands
    }
}

/// Follows the wall clock until `stop` is called.
pub async fn follow(clock: Clock, stop: CancellationToken) {
    let mut doubt = Doubt::default();
    let following = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (start, ahead_ms) = (clock.wall_start(), clock.wall_ahead_ms());
            if doubt.is_over(ahead_ms, clock.elapsed()) {
                if ahead_ms.unsigned_abs() >= STEP_MS {
                    tracing::info!(ahead_ms, "the wall clock was set; this node follows it now");
                }
                clock.follow(start);
            }
        }
    };
    stop.run_until_cancelled(following).await;
}

#[cfg(test)]
mod tests {
    use chat_protocol::Millis;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn drift_is_followed_at_once_and_a_step_once_it_has_stood() {
        let mut doubt = Doubt::default();
        assert!(doubt.is_over(-999, seconds(0)));
        for ahead_ms in [HOUR_MS, -HOUR_MS, 1_000] {
            let mut doubt = Doubt::default();
            assert!(!doubt.is_over(ahead_ms, seconds(20)));
            assert!(!doubt.is_over(ahead_ms + 300, seconds(29)), "not for long enough");
            assert!(doubt.is_over(ahead_ms + 600, seconds(30)));
            assert!(!doubt.is_over(ahead_ms, seconds(31)), "the next step is another one");
        }
    }

    #[test]
    fn a_step_that_is_taken_back_or_changed_has_not_stood() {
        let mut doubt = Doubt::default();
        assert!(!doubt.is_over(HOUR_MS, seconds(0)));
        assert!(doubt.is_over(0, seconds(5)));
        assert!(!doubt.is_over(HOUR_MS, seconds(11)), "it was right in between");
        assert!(!doubt.is_over(2 * HOUR_MS, seconds(20)));
        assert!(!doubt.is_over(2 * HOUR_MS, seconds(29)));
        assert!(doubt.is_over(2 * HOUR_MS, seconds(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_alone_follows_a_time_server_within_seconds() {
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let stop = CancellationToken::new();
        let following = tokio::spawn(follow(clock.clone(), stop.clone()));
        clock.step_wall(-HOUR_MS);
        tokio::time::sleep(seconds(9)).await;
        assert_eq!(clock.wall_ahead_ms(), -HOUR_MS);
        tokio::time::sleep(seconds(4)).await;
        assert_eq!(clock.wall_ahead_ms(), 0);
        stop.cancel();
        following.await.unwrap();
    }
}
