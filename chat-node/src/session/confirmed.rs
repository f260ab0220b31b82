//! What devices have confirmed, on its way to the store: the highest of each device, bounded, written rarely.
//!
//! A device confirms a cursor by showing it. Nothing is resumed from what is written here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_protocol::{DeviceId, MessageId, UserId};
use chat_store::{ConfirmedRow, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::auth::Caller;
use crate::clock::Clock;
use crate::limits::CONFIRMED_DEVICES_MAX;

/// A device's row is written this long after it was noted, with the highest id of that time: at most once in it.
const WRITE_AFTER: Duration = Duration::from_secs(30);

/// Waited before a look at what is due, so that many devices share a write.
const GATHER: Duration = Duration::from_secs(1);

/// Rows of one write.
const BATCH_ROWS_MAX: usize = 500;

/// The last rows, at the node's end, wait no longer than this for the store.
const LAST_WRITE_MAX: Duration = Duration::from_secs(2);

type Device = (UserId, DeviceId);

/// See the module.
pub(super) struct Confirmed {
    waiting: Mutex<Waiting>,
    wake: Notify,
    clock: Clock,
    metrics: Metrics,
}

impl Confirmed {
    pub(super) fn new(clock: Clock, metrics: Metrics) -> Confirmed {
        Confirmed { waiting: Mutex::default(), wake: Notify::new(), clock, metrics }
    }

    /// A device has everything up to `safe`. Never waits.
    pub(super) fn note(&self, caller: &Caller, safe: MessageId) {
        if safe == MessageId::ZERO {
            return;
        }
        let device = (caller.user_id, caller.device_id);
        let was_noted = self.lock().note(device, safe, self.clock.elapsed());
        if !was_noted {
            // The device confirms again, sooner or later.
            self.metrics.confirmations_dropped.inc();
        }
        self.wake.notify_one();
    }

    /// Writes what is due until told to stop, and then what is left.
    pub(super) async fn run(&self, store: &dyn Store, stop: &CancellationToken) {
        let writes = async {
            loop {
                let due = self.lock().next_due();
                match due {
                    None => self.wake.notified().await,
                    Some(due) => {
                        let wait = due.saturating_sub(self.clock.elapsed());
                        tokio::time::sleep(wait + GATHER).await;
                        self.write_due(store, self.clock.elapsed()).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(writes).await;
        // What a slow store does not take in time is confirmed again at the next node.
        drop(tokio::time::timeout(LAST_WRITE_MAX, self.write_due(store, Duration::MAX)).await);
    }

    /// Writes what is due. What fails is tried again later, and the rest waits for it.
    pub(super) async fn write_due(&self, store: &dyn Store, now: Duration) {
        loop {
            let rows = self.lock().take_due(now);
            if rows.is_empty() {
                return;
            }
            if let Err(error) = store.put_confirmed(rows.clone()).await {
                tracing::debug!(%error, "what devices confirmed cannot be written now; it is tried again");
                let again = self.clock.elapsed();
                let mut waiting = self.lock();
                for row in rows {
                    waiting.note((row.user_id, row.device_id), row.safe, again);
                }
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows that wait, in the order in which they are due.
#[derive(Default)]
struct Waiting {
    rows: HashMap<Device, MessageId>,
    /// Each device of `rows` once.
    due: VecDeque<(Duration, Device)>,
}

impl Waiting {
    /// `false`: there is no room for another device.
    fn note(&mut self, device: Device, safe: MessageId, now: Duration) -> bool {
        if let Some(noted) = self.rows.get_mut(&device) {
            *noted = safe.max(*noted);
            return true;
        }
        if self.rows.len() >= CONFIRMED_DEVICES_MAX {
            return false;
        }
        self.rows.insert(device, safe);
        self.due.push_back((now + WRITE_AFTER, device));
        true
    }

    fn next_due(&self) -> Option<Duration> {
        self.due.front().map(|(due, _)| *due)
    }

    /// A batch of what is due.
    fn take_due(&mut self, now: Duration) -> Vec<ConfirmedRow> {
        let mut rows = Vec::new();
        while rows.len() < BATCH_ROWS_MAX && self.next_due().is_some_and(|due| due <= now) {
            let Some((_, device)) = self.due.pop_front() else { break };
            let (user_id, device_id) = device;
            let safe = self.rows.remove(&device);
            rows.extend(safe.map(|safe| ConfirmedRow { user_id, device_id, safe }));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn device() -> Device {
        (UserId::random(), DeviceId::random())
    }

    #[test]
    fn a_device_is_written_once_in_a_while_with_the_highest_that_it_confirmed() {
        let (one, two) = (device(), device());
        let mut waiting = Waiting::default();
        assert!(waiting.note(one, MessageId(5), Duration::ZERO));
        assert!(waiting.note(two, MessageId(7), SECOND));
        for safe in [9, 6] {
            assert!(waiting.note(one, MessageId(safe), 20 * SECOND));
        }
        assert_eq!(waiting.take_due(29 * SECOND), []);
        let row = |(user_id, device_id), safe| ConfirmedRow { user_id, device_id, safe };
        assert_eq!(waiting.take_due(30 * SECOND), [row(one, MessageId(9))]);
        assert!(waiting.note(one, MessageId(10), 30 * SECOND));
        assert_eq!(waiting.take_due(31 * SECOND), [row(two, MessageId(7))]);
        assert_eq!(waiting.next_due(), Some(60 * SECOND));
        assert_eq!(waiting.take_due(Duration::MAX), [row(one, MessageId(10))]);
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn there_is_room_for_so_many_devices_and_those_in_it_still_rise() {
        let mut waiting = Waiting::default();
        let first = device();
        assert!(waiting.note(first, MessageId(1), Duration::ZERO));
        for _ in 1..CONFIRMED_DEVICES_MAX {
            assert!(waiting.note(device(), MessageId(1), Duration::ZERO));
        }
        assert!(!waiting.note(device(), MessageId(1), Duration::ZERO));
        assert!(waiting.note(first, MessageId(2), Duration::ZERO));
        let batch = waiting.take_due(Duration::MAX);
        assert_eq!((batch.len(), batch[0].safe), (BATCH_ROWS_MAX, MessageId(2)));
    }
}
