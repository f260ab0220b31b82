//! Watching keys: what there is now is compared with what was told.
//!
//! There are few keys, so each look reads all of those watched. Nothing is queued for a watcher who does not ask.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::memory::{self, State};
use super::reader::Readers;
use crate::broker::{Change, Entry, Error, Revision, Watch};

const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) enum Source {
    Memory(Arc<Mutex<State>>),
    File(Readers),
}

impl Source {
    async fn keys(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        match self {
            Source::Memory(state) => Ok(memory::keys(state, prefix)),
            Source::File(readers) => readers.keys(prefix).await,
        }
    }
}

/// How far the watcher is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Everything is to be told, and then that it is current.
    New,
    /// Something changed since the last look.
    Behind,
    /// Nothing changed since the last look.
    Current,
    /// The broker is closed.
    Ended,
}

pub(super) struct KeyWatch {
    source: Source,
    prefix: String,
    changed: watch::Receiver<()>,
    progress: Progress,
    told: BTreeMap<String, Revision>,
    /// What the last look found: at most one change for each key, and `Current`.
    waiting: VecDeque<Change>,
    retry: bool,
}

impl KeyWatch {
    pub(super) fn new(source: Source, prefix: &str, changed: watch::Receiver<()>) -> KeyWatch {
        KeyWatch {
            source,
            prefix: prefix.to_owned(),
            changed,
            progress: Progress::New,
            told: BTreeMap::new(),
            waiting: VecDeque::new(),
            retry: false,
        }
    }

    /// Queues what is different now.
    fn compare(&mut self, keys: Vec<(String, Entry)>) {
        let told = std::mem::take(&mut self.told);
        self.told = keys.iter().map(|(key, entry)| (key.clone(), entry.revision)).collect();
        for key in told.keys().filter(|key| !self.told.contains_key(*key)) {
            self.waiting.push_back(Change::Removed { key: key.clone() });
        }
        let all = self.progress == Progress::New;
        for (key, entry) in keys {
            if all || told.get(&key) != Some(&entry.revision) {
                self.waiting.push_back(Change::Written { key, entry });
            }
        }
        if all {
            self.waiting.push_back(Change::Current);
        }
        self.progress = Progress::Current;
    }
}

#[async_trait]
impl Watch for KeyWatch {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return change;
            }
            match self.progress {
                Progress::Ended => std::future::pending().await,
                Progress::New | Progress::Behind => {}
                Progress::Current => match self.changed.changed().await {
                    Ok(()) => self.progress = Progress::Behind,
                    Err(_) => {
                        self.progress = Progress::Ended;
                        return Change::Interrupted;
                    }
                },
            }
            if self.retry {
                tokio::time::sleep(RETRY_PAUSE).await;
                self.retry = false;
            }
            // Before the look: a change made meanwhile leads to another one.
            self.changed.mark_unchanged();
            match self.source.keys(&self.prefix).await {
                Ok(keys) => self.compare(keys),
                Err(error) => {
                    tracing::warn!(%error, "keys cannot be read; the watch is interrupted");
                    self.retry = true;
                    self.progress = Progress::New;
                    return Change::Interrupted;
                }
            }
        }
    }
}
