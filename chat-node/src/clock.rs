//! Time as an input: nothing else in this crate reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_protocol::Millis;

/// The two clocks of a node. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System {
        started: tokio::time::Instant,
    },
    /// Follows tokio's clock, which tests pause, from a wall clock that tests may move.
    Manual {
        wall_ms: Arc<AtomicU64>,
        started: tokio::time::Instant,
    },
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock(Source::System { started: tokio::time::Instant::now() })
    }

    /// A wall clock that shows `wall` now, advances with tokio's (pausable) clock, and can be stepped with
    /// [`Clock::step`].
    pub fn manual(wall: Millis) -> Clock {
        let wall_ms = Arc::new(AtomicU64::new(wall.0));
        Clock(Source::Manual { wall_ms, started: tokio::time::Instant::now() })
    }

    /// Wall clock: may be wrong, and may step in both directions.
    pub fn now(&self) -> Millis {
        match &self.0 {
            #[expect(
                clippy::disallowed_methods,
                reason = "the one place that reads the wall clock"
            )]
            Source::System { .. } => {
                let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Millis(since_1970.map_or(0, |duration| duration.as_millis() as u64))
            }
            Source::Manual { wall_ms, started } => {
                Millis(wall_ms.load(Ordering::Relaxed) + started.elapsed().as_millis() as u64)
            }
        }
    }

    /// Monotonic time since the node started: for waits, leases and time-outs.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::System { started } | Source::Manual { started, .. } => started.elapsed(),
        }
    }

    /// Moves a manual wall clock; does nothing to the machine's.
    pub fn step(&self, milliseconds: i64) {
        if let Source::Manual { wall_ms, .. } = &self.0 {
            let moved = wall_ms.load(Ordering::Relaxed).saturating_add_signed(milliseconds);
            wall_ms.store(moved, Ordering::Relaxed);
        }
    }
}
