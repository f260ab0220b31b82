//! Time as an input: nothing else in this crate reads a clock.
//!
//! A wall clock that is set while the node runs would bring ids, tokens and deadlines of the wrong time about. So the
//! node's time is the monotonic clock's, counted from a moment of the wall clock that was found right: a step of the wall
//! clock is followed once it is confirmed, by the broker's time (`membership`), or, without others, by having stood for a
//! while ([`alone`]).

pub mod alone;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_protocol::Millis;

/// The clocks of a node. Cheap to clone; all clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    wall: Wall,
    started: tokio::time::Instant,
    /// The time at `started`, in milliseconds since 1970, by the wall clock as it was last confirmed.
    start_ms: AtomicU64,
}

enum Wall {
    System,
    /// What it would have shown at the start, as it goes now; advances with tokio's clock, which tests pause.
    Manual(AtomicU64),
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock::new(Wall::System)
    }

    /// A wall clock that shows `wall` now, advances with tokio's (pausable) clock, and can be set with [`Clock::step`]
    /// and [`Clock::step_wall`].
    pub fn manual(wall: Millis) -> Clock {
        Clock::new(Wall::Manual(AtomicU64::new(wall.0)))
    }

    fn new(wall: Wall) -> Clock {
        let started = tokio::time::Instant::now();
        let clock = Clock(Arc::new(Inner { wall, started, start_ms: AtomicU64::new(0) }));
        clock.follow(clock.wall_start());
        clock
    }

    /// The node's time. It goes on evenly, whatever is done to the wall clock, and steps in either direction when a new
    /// wall clock is followed.
    pub fn now(&self) -> Millis {
        self.at(self.elapsed())
    }

    /// The node's time at a moment of the monotonic clock.
    pub fn at(&self, elapsed: Duration) -> Millis {
        Millis(self.0.start_ms.load(Ordering::Relaxed)).plus(elapsed.as_millis() as u64)
    }

    /// Monotonic time since the node started: for waits, leases and time-outs. Stands still while the machine sleeps.
    pub fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// When the node started by the wall clock as it goes now. Differs from call to call as the wall clock is set.
    pub fn wall_start(&self) -> Millis {
        match &self.0.wall {
            #[expect(
                clippy::disallowed_methods,
                reason = "the one place that reads the wall clock"
            )]
            Wall::System => {
                let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let wall = since_1970.unwrap_or_default();
                Millis(wall.saturating_sub(self.elapsed()).as_millis() as u64)
            }
            Wall::Manual(wall_ms) => Millis(wall_ms.load(Ordering::Relaxed)),
        }
    }

    /// How far the wall clock is ahead of the node's time, in milliseconds; negative: behind.
    pub fn wall_ahead_ms(&self) -> i64 {
        difference_ms(self.wall_start(), self.at(Duration::ZERO))
    }

    /// From now on the node's time is the one that started at `start`: a [`Clock::wall_start`] that was found right.
    pub fn follow(&self, start: Millis) {
        self.0.start_ms.store(start.0, Ordering::Relaxed);
    }

    /// Sets a manual wall clock, as if it were found right at once; does nothing to the machine's.
    pub fn step(&self, milliseconds: i64) {
        self.step_wall(milliseconds);
        if let Wall::Manual(_) = &self.0.wall {
            self.follow(self.wall_start());
        }
    }

    /// Sets a manual wall clock; does nothing to the machine's.
    pub fn step_wall(&self, milliseconds: i64) {
        if let Wall::Manual(wall_ms) = &self.0.wall {
            let moved = wall_ms.load(Ordering::Relaxed).saturating_add_signed(milliseconds);
            wall_ms.store(moved, Ordering::Relaxed);
        }
    }
}

/// From `earlier` to `later` in milliseconds; negative if they are the other way round.
pub fn difference_ms(later: Millis, earlier: Millis) -> i64 {
    i64::try_from(i128::from(later.0) - i128::from(earlier.0)).unwrap_or(match later > earlier {
        true => i64::MAX,
        false => i64::MIN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);
    const HOUR_MS: i64 = 3_600_000;

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_is_followed_only_when_it_is_told_to_be_right() {
        let clock = Clock::manual(NOW);
        let same = clock.clone();
        tokio::time::advance(Duration::from_secs(5)).await;
        same.step_wall(HOUR_MS);
        assert_eq!(clock.now(), NOW.plus(5_000));
        assert_eq!(clock.wall_ahead_ms(), HOUR_MS);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), NOW.plus(6_000), "time goes on all the same");
        clock.follow(clock.wall_start());
        assert_eq!(same.now(), NOW.plus(6_000 + HOUR_MS as u64));
        same.step_wall(-2 * HOUR_MS);
        assert_eq!(clock.wall_ahead_ms(), -2 * HOUR_MS);
    }

    #[test]
    fn the_machine_has_one_time_at_first() {
        let clock = Clock::system();
        assert!(clock.wall_ahead_ms().abs() < 1_000, "{}", clock.wall_ahead_ms());
        assert!(clock.now() > NOW || clock.now() > Millis(1_700_000_000_000));
    }

    #[test]
    fn differences_have_a_sign_and_do_not_overflow() {
        assert_eq!(difference_ms(Millis(5), Millis(7)), -2);
        assert_eq!(difference_ms(Millis(u64::MAX), Millis(0)), i64::MAX);
        assert_eq!(difference_ms(Millis(0), Millis(u64::MAX)), i64::MIN);
    }
}
