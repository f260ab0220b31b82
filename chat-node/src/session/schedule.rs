//! When whose inbox is read next: one timing wheel per node instead of a timer per session.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

/// One slot of the wheel: reads need no finer time.
const SLOT: Duration = Duration::from_millis(125);
/// The wheel reaches this many slots ahead, a little over two minutes. What is due later comes at its end, earlier than
/// asked.
const SLOTS: usize = 1_024;

/// Things that are due at some time.
pub struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// The first slot that has not been emptied, counted since the start.
    next: u64,
}

impl<T> Wheel<T> {
    /// An empty wheel.
    pub fn new() -> Wheel<T> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: 0 }
    }

    /// Adds something that is due `after` now.
    pub fn insert(&mut self, now: Duration, after: Duration, item: T) {
        let due = ((now + after).as_millis() / SLOT.as_millis()) as u64;
        let slot = due.clamp(self.next, self.next + SLOTS as u64 - 1);
        self.slots[(slot % SLOTS as u64) as usize].push(item);
    }

    /// Takes what is due by now.
    pub fn take_due(&mut self, now: Duration) -> Vec<T> {
        let current = (now.as_millis() / SLOT.as_millis()) as u64;
        let mut due = Vec::new();
        // After a long pause once around is enough.
        let first = self.next.max((current + 1).saturating_sub(SLOTS as u64));
        for slot in first..=current {
            due.append(&mut std::mem::take(&mut self.slots[(slot % SLOTS as u64) as usize]));
        }
        self.next = self.next.max(current + 1);
        due
    }
}

/// A wheel that sessions put themselves on.
pub struct Schedule<T> {
    waiting: Mutex<Waiting<T>>,
    soon: Notify,
}

struct Waiting<T> {
    wheel: Wheel<T>,
    /// Due at once: a resume is not held up by the width of a slot.
    due: Vec<T>,
}

impl<T> Schedule<T> {
    /// An empty schedule.
    pub fn new() -> Schedule<T> {
        let waiting = Waiting { wheel: Wheel::new(), due: Vec::new() };
        Schedule { waiting: Mutex::new(waiting), soon: Notify::new() }
    }

    /// Adds something that is due `after` now.
    pub fn insert(&self, now: Duration, after: Duration, item: T) {
        if after < SLOT {
            self.lock().due.push(item);
            self.soon.notify_one();
        } else {
            self.lock().wheel.insert(now, after, item);
        }
    }

    /// Waits for the next slot, or for something that is due at once.
    pub async fn wait(&self) {
        tokio::select! {
            () = tokio::time::sleep(SLOT) => {}
            () = self.soon.notified() => {}
        }
    }

    /// Takes what is due by now.
    pub fn take_due(&self, now: Duration) -> Vec<T> {
        let mut waiting = self.lock();
        let mut due = std::mem::take(&mut waiting.due);
        due.append(&mut waiting.wheel.take_due(now));
        due
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everything_comes_once_and_within_a_slot_of_its_time(
            steps in prop::collection::vec((0u64..5_000, prop::option::of(0u64..120_000)), 1..80),
        ) {
            let mut wheel = Wheel::new();
            let mut now = 0;
            let (mut added, mut came) = (0, 0);
            let slot = SLOT.as_millis() as u64;
            for (step, after) in steps {
                // Time passes slot by slot, as the scheduler waits.
                for at in (now..now + step).step_by(100).chain([now + step]) {
                    for due in wheel.take_due(Duration::from_millis(at)) {
                        prop_assert!(due < at + slot && at <= due + 2 * slot, "{due} at {at}");
                        came += 1;
                    }
                }
                now += step;
                if let Some(after) = after {
                    wheel.insert(Duration::from_millis(now), Duration::from_millis(after), now + after);
                    added += 1;
                }
            }
            came += wheel.take_due(Duration::from_millis(now + 200_000)).len();
            prop_assert_eq!(came, added);
        }
    }
}
