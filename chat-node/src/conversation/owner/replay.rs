//! Rows of records that are only in the log: at opening, and when more waited for the store than memory may hold.

use ahash::HashMap;
use chat_protocol::ConversationId;
use chat_protocol::record::{Entry, Record, Unreadable};
use chat_store::Store;

use super::super::rows::{self, EntryRows};
use super::super::state::{Loaded, State};
use super::facts::load;

/// Conversations kept between records of one replay.
const STATES_MAX: usize = 10_000;

/// Goes through records in log order.
#[derive(Default)]
pub(crate) struct Replay {
    states: HashMap<ConversationId, State>,
}

/// Why a replay cannot go on now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] chat_store::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl Replay {
    /// The rows of a record. The store must hold everything before it; it may hold it, and later things, already.
    pub(crate) async fn rows(
        &mut self,
        store: &dyn Store,
        record: &Record,
    ) -> Result<Vec<EntryRows>, Error> {
        let mut all = Vec::with_capacity(record.entries.len());
        for entry in &record.entries {
            all.push(self.entry_rows(store, entry).await?);
        }
        Ok(all)
    }

    async fn entry_rows(&mut self, store: &dyn Store, entry: &Entry) -> Result<EntryRows, Error> {
        let id = entry.conversation_id()?;
        if self.states.len() >= STATES_MAX {
            self.states.clear();
        }
        let before = match self.states.remove(&id) {
            Some(state) => state,
            None => State::new(id, as_of(load(store, id).await?, entry)),
        };
        let mut after = before.clone();
        after.apply(entry)?;
        let rows = rows::rows(&before, &after, entry)?;
        self.states.insert(id, after);
        Ok(rows)
    }
}

/// The members whose interval held the entry's id just before it: what was decided since must not change who gets it.
fn as_of(loaded: Loaded, entry: &Entry) -> Loaded {
    let id = entry.message_id();
    let held = |joined, left: Option<_>| joined < id && left.is_none_or(|left| left >= id);
    let members = loaded
        .members
        .into_iter()
        .filter(|row| held(row.joined_id, row.left_id))
        .map(|row| chat_store::MemberRow { left_id: None, ..row })
        .collect();
    Loaded { members, ..loaded }
}
