//! Deaths between the rows of a write.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chat_protocol::Partition;
use chat_store::faulty::Apply;
use chat_store::{Checkpoint, Error, InboxRow, Store, Write};
use cluster::step::Step;

use crate::death::Deaths;
use std::time::Duration;

/// Writes rows; knows which partitions are being opened.
pub(crate) struct MortalWrites {
    deaths: Arc<Deaths>,
    opening: Mutex<HashSet<Partition>>,
}

impl MortalWrites {
    /// No partition is being opened.
    pub(crate) fn new(deaths: Arc<Deaths>) -> MortalWrites {
        MortalWrites { deaths, opening: Mutex::default() }
    }

    /// The opening record is accepted: what is read and written from now on is a replay.
    pub(crate) fn opened(&self, partition: Partition) {
        self.opening().insert(partition);
    }

    /// The owner writes records of its own.
    pub(crate) fn served(&self, partition: Partition) {
        self.opening().remove(&partition);
    }

    /// Whether the log behind the checkpoint is being written again.
    pub(crate) fn is_replaying(&self, partition: Partition) -> bool {
        self.opening().contains(&partition)
    }

    fn opening(&self) -> MutexGuard<'_, HashSet<Partition>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the rows the store gets before the process dies; `None`: it lives on.
    fn last_rows(&self, partition: Partition, writes: &[Write]) -> Option<Vec<Write>> {
        if !writes.iter().any(|write| matches!(write, Write::Message(_))) {
            return None;
        }
        if self.is_replaying(partition) {
            let half = writes[..writes.len().div_ceil(2)].to_vec();
            return self.deaths.passes(Step::ReplayHalfWritten).then_some(half);
        }
        let of =
            |kinds: fn(&Write) -> bool| writes.iter().filter(move |write| kinds(write)).cloned();
        let messages = |write: &Write| matches!(write, Write::Message(_));
        let duplicates = |write: &Write| matches!(write, Write::Message(_) | Write::Duplicate(_));
        if self.deaths.passes(Step::Published) {
            Some(Vec::new())
        } else if self.deaths.passes(Step::MessageRowsWritten) {
            Some(of(messages).collect())
        } else if self.deaths.passes(Step::DuplicateRowsWritten) {
            Some(of(duplicates).collect())
        } else if self.deaths.passes(Step::InboxRowsHalfWritten) {
            Some(of(duplicates).chain(writes.iter().filter_map(half_of_inbox)).collect())
        } else if self.deaths.passes(Step::RowsWritten) {
            Some(writes.to_vec())
        } else {
            None
        }
    }
}

fn half_of_inbox(write: &Write) -> Option<Write> {
    let Write::Inbox(row) = write else { return None };
    let users = row.users[..row.users.len().div_ceil(2)].into();
    Some(Write::Inbox(InboxRow { users, ..row.clone() }))
}

#[async_trait]
impl Apply for MortalWrites {
    async fn apply(
        &self,
        store: &dyn Store,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        if let Some(last) = self.last_rows(partition, &writes) {
            if !last.is_empty() {
                store.apply(partition, last, None).await?;
            }
            self.deaths.die(Duration::ZERO);
        }
        store.apply(partition, writes, checkpoint).await
    }
}
