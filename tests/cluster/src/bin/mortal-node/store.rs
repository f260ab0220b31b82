//! Deaths between the rows of a write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chat_protocol::{MessageId, Partition};
use chat_store::faulty::Apply;
use chat_store::{Checkpoint, Error, InboxRow, Store, Write};
use cluster::step::Step;

use crate::death::Deaths;
use std::time::Duration;

/// Writes rows; knows which of them owners before have committed.
pub(crate) struct MortalWrites {
    deaths: Arc<Deaths>,
    /// The lowest id that this process has committed since it opened a partition; none: nothing yet.
    first_ids: Mutex<HashMap<Partition, Option<MessageId>>>,
}

impl MortalWrites {
    /// Nothing was opened.
    pub(crate) fn new(deaths: Arc<Deaths>) -> MortalWrites {
        MortalWrites { deaths, first_ids: Mutex::default() }
    }

    /// The opening record is accepted.
    pub(crate) fn opened(&self, partition: Partition) {
        self.first_ids().insert(partition, None);
    }

    /// The owner commits an entry of its own.
    pub(crate) fn committed(&self, partition: Partition, id: MessageId) {
        if let Some(first) = self.first_ids().get_mut(&partition) {
            first.get_or_insert(id);
        }
    }

    /// Whether the partition's owner has committed nothing yet: what it reads is what was committed before.
    pub(crate) fn is_opening(&self, partition: Partition) -> bool {
        matches!(self.first_ids().get(&partition), Some(None))
    }

    /// Whether an owner before has committed this.
    fn is_inherited(&self, partition: Partition, id: MessageId) -> bool {
        let first = self.first_ids().get(&partition).copied();
        first.is_some_and(|first| first.is_none_or(|first| id < first))
    }

    fn first_ids(&self) -> MutexGuard<'_, HashMap<Partition, Option<MessageId>>> {
        self.first_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the rows the store gets before the process dies; `None`: it lives on.
    fn last_rows(&self, partition: Partition, writes: &[Write]) -> Option<Vec<Write>> {
        let mut ids = writes.iter().filter_map(|write| match write {
            Write::Message(row) => Some(row.message_id),
            _ => None,
        });
        if self.is_inherited(partition, ids.next()?) {
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
