//! Logs and keys in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chat_protocol::{Millis, Partition};
use tokio::sync::watch;

use super::PAGE_RECORDS_MAX;
use super::options::{Clock, Options};
use super::watch::{KeyWatch, Source};
use crate::broker::{AppendError, Entry, Revision, Sequence, StoredRecord};

/// Counted for each record on top of its payload.
const RECORD_OVERHEAD_BYTES: u64 = 64;

struct Stored {
    appended_at: Millis,
    payload: Bytes,
}

impl Stored {
    fn size(&self) -> u64 {
        self.payload.len() as u64 + RECORD_OVERHEAD_BYTES
    }
}

#[derive(Default)]
pub(super) struct State {
    partitions: BTreeMap<u16, BTreeMap<Sequence, Stored>>,
    last_sequence: u64,
    bytes: u64,
    keys: BTreeMap<String, Entry>,
    last_revision: u64,
}

impl State {
    fn last_sequence_of(&self, partition: Partition) -> Sequence {
        let log = self.partitions.get(&partition.0);
        log.and_then(|log| log.last_key_value()).map_or(Sequence(0), |(sequence, _)| *sequence)
    }

    fn revision_of(&self, key: &str) -> Revision {
        self.keys.get(key).map_or(Revision(0), |entry| entry.revision)
    }
}

pub(super) struct MemoryLog {
    state: Arc<Mutex<State>>,
    /// Told of every change of a key.
    keys_changed: watch::Sender<()>,
    size_bytes_max: u64,
    clock: Clock,
}

impl MemoryLog {
    pub(super) fn new(options: &Options) -> MemoryLog {
        MemoryLog {
            state: Arc::default(),
            keys_changed: watch::Sender::new(()),
            size_bytes_max: options.size_bytes_max.unwrap_or(u64::MAX),
            clock: options.clock.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let stored = Stored { appended_at: (self.clock)(), payload };
        let mut state = self.state();
        if state.last_sequence_of(partition) != expected {
            return Err(AppendError::Refused);
        }
        if state.bytes + stored.size() > self.size_bytes_max {
            return Err(AppendError::Full);
        }
        // Shared by all partitions, so that nobody comes to rely on sequences without gaps.
        state.last_sequence += 1;
        let sequence = Sequence(state.last_sequence);
        state.bytes += stored.size();
        state.partitions.entry(partition.0).or_default().insert(sequence, stored);
        Ok(sequence)
    }

    pub(super) fn last(&self, partition: Partition) -> Option<StoredRecord> {
        let state = self.state();
        let (sequence, stored) = state.partitions.get(&partition.0)?.last_key_value()?;
        Some(StoredRecord { sequence: *sequence, payload: stored.payload.clone() })
    }

    pub(super) fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Vec<StoredRecord> {
        let state = self.state();
        let mut page = Vec::new();
        let Some(log) = state.partitions.get(&partition.0) else { return page };
        let mut bytes = 0;
        for (sequence, stored) in log.range(Sequence(after.0.saturating_add(1))..) {
            bytes += stored.payload.len();
            if !page.is_empty() && (bytes > bytes_max || page.len() == PAGE_RECORDS_MAX) {
                break;
            }
            page.push(StoredRecord { sequence: *sequence, payload: stored.payload.clone() });
        }
        page
    }

    pub(super) fn purge(&self, partition: Partition, up_to: Sequence, min_age: Duration) -> u64 {
        let now = (self.clock)();
        let mut state = self.state();
        let Some(log) = state.partitions.get_mut(&partition.0) else { return 0 };
        let (mut count, mut bytes) = (0, 0);
        while log.len() > 1
            && let Some(oldest) = log.first_entry()
            && *oldest.key() <= up_to
            && u128::from(now.since(oldest.get().appended_at)) >= min_age.as_millis()
        {
            bytes += oldest.remove().size();
            count += 1;
        }
        state.bytes -= bytes;
        count
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.state().keys.get(key).cloned()
    }

    pub(super) fn put(&self, key: &str, expected: Revision, value: Bytes) -> Option<Revision> {
        let written_at = (self.clock)();
        let mut state = self.state();
        if state.revision_of(key) != expected {
            return None;
        }
        state.last_revision += 1;
        let revision = Revision(state.last_revision);
        state.keys.insert(key.to_owned(), Entry { revision, value, written_at });
        drop(state);
        self.keys_changed.send_replace(());
        Some(revision)
    }

    pub(super) fn remove(&self, key: &str, expected: Revision) -> bool {
        let mut state = self.state();
        if expected == Revision(0) || state.revision_of(key) != expected {
            return false;
        }
        state.keys.remove(key);
        drop(state);
        self.keys_changed.send_replace(());
        true
    }

    pub(super) fn watch(&self, prefix: &str) -> KeyWatch {
        let source = Source::Memory(self.state.clone());
        KeyWatch::new(source, prefix, self.keys_changed.subscribe())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every change is complete before anything that could panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The keys that begin with `prefix`.
pub(super) fn keys(state: &Mutex<State>, prefix: &str) -> Vec<(String, Entry)> {
    let state = lock(state);
    let from_prefix = state.keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from_prefix
        .take_while(|(key, _)| key.starts_with(prefix))
        .map(|(key, entry)| (key.clone(), entry.clone()))
        .collect()
}
