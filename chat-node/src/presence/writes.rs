//! Presence rows that wait for the store: bounded, the latest of each user, written in batches.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_protocol::{Millis, Partition, UserId};
use chat_store::{Error, PresenceRow, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Users whose row waits. What comes beyond is left out: a new owner learns who is online from the nodes, and who is
/// offline by their silence.
const WAITING_MAX: usize = 65_536;

/// Rows of one write.
const BATCH_ROWS_MAX: usize = 500;

/// Waited before a write, so that many transitions share it.
const GATHER: Duration = Duration::from_millis(50);

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Writes {
    waiting: Mutex<HashMap<UserId, PresenceRow>>,
    wake: Notify,
    metrics: Metrics,
}

impl Writes {
    pub(super) fn new(metrics: Metrics) -> Writes {
        Writes { waiting: Mutex::default(), wake: Notify::new(), metrics }
    }

    /// Notes a row; it replaces an older one of the user.
    pub(super) fn put(&self, row: PresenceRow) {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&row.user_id) {
            self.metrics.dropped.inc();
            return;
        }
        waiting.insert(row.user_id, row);
        self.metrics.unwritten.set(waiting.len() as i64);
        drop(waiting);
        self.wake.notify_one();
    }

    /// What waits to be written of a user: newer than the store.
    pub(super) fn last_active_at(&self, user: UserId) -> Option<Option<Millis>> {
        self.lock().get(&user).map(|row| row.last_active_at)
    }

    /// Drops what waits of a partition: another node owns it, and writes.
    pub(super) fn forget(&self, partition: Partition) {
        self.lock().retain(|user, _| Partition::of_user(*user) != partition);
    }

    /// Writes until told to stop, and then once more what is left.
    pub(super) async fn run(&self, store: &dyn Store, stop: &CancellationToken) {
        let mut failures = 0u32;
        loop {
            let pause = match failures {
                0 => GATHER,
                _ => BACKOFF_FIRST.saturating_mul(1 << failures.min(8)).min(BACKOFF_LAST),
            };
            let work = async {
                if failures == 0 {
                    self.wake.notified().await;
                }
                tokio::time::sleep(pause).await;
            };
            let stopped = stop.run_until_cancelled(work).await.is_none();
            failures = match self.flush(store).await {
                Ok(()) => 0,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "presence cannot be written now; it is kept and tried again");
                    }
                    failures + 1
                }
            };
            if stopped {
                return;
            }
        }
    }

    async fn flush(&self, store: &dyn Store) -> Result<(), Error> {
        loop {
            let batch: Vec<PresenceRow> =
                self.lock().values().take(BATCH_ROWS_MAX).cloned().collect();
            if batch.is_empty() {
                return Ok(());
            }
            match store.put_presence(batch.clone()).await {
                Ok(()) => self.written(&batch),
                Err(Error::Refused(reason)) => self.write_each(store, batch, &reason).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// One bad row must not hold up the others.
    async fn write_each(
        &self,
        store: &dyn Store,
        batch: Vec<PresenceRow>,
        reason: &str,
    ) -> Result<(), Error> {
        tracing::error!(
            reason,
            rows = batch.len(),
            "the store refused presence rows; writing them one by one"
        );
        for row in batch {
            match store.put_presence(vec![row.clone()]).await {
                Ok(()) | Err(Error::Refused(_)) => self.written(&[row]),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Rows that changed during the write stay.
    fn written(&self, rows: &[PresenceRow]) {
        let mut waiting = self.lock();
        for row in rows {
            if waiting.get(&row.user_id) == Some(row) {
                waiting.remove(&row.user_id);
            }
        }
        self.metrics.unwritten.set(waiting.len() as i64);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, PresenceRow>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
