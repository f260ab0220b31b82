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
        // Not between the entries of one record: the store gets them together, and so lacks the first ones until then.
        if self.states.len() >= STATES_MAX {
            self.states.clear();
        }
        let mut all = Vec::with_capacity(record.entries.len());
        for entry in &record.entries {
            all.push(self.entry_rows(store, entry).await?);
        }
        Ok(all)
    }

    async fn entry_rows(&mut self, store: &dyn Store, entry: &Entry) -> Result<EntryRows, Error> {
        let id = entry.conversation_id()?;
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

#[cfg(test)]
mod tests {
    use chat_protocol::UserId;
    use chat_protocol::record::{Change, ConversationCreated, MessageSent, RecordKind};
    use chat_store::embedded::EmbeddedStore;
    use uuid::Uuid;

    use super::*;

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn what_one_entry_of_a_record_says_is_known_to_the_next_whatever_is_forgotten() {
        let store = EmbeddedStore::memory();
        let mut replay = Replay::default();
        // One more makes it full.
        for number in 2..=STATES_MAX as u128 {
            let id = ConversationId::direct(user(0), user(number));
            replay.states.insert(id, State::new(id, Loaded::default()));
        }
        let members = [user(1), user(2)].map(|user| user.0.as_bytes().to_vec());
        let created = ConversationCreated {
            creator: members[0].clone(),
            members: vec![members[1].clone()],
            ..ConversationCreated::default()
        };
        let sent = MessageSent {
            seq: 1,
            sender: members[0].clone(),
            client_message_id: vec![7; 16],
            kind: "text".to_owned(),
            body: "{}".to_owned(),
            ..MessageSent::default()
        };
        let group = ConversationId::group(user(1), Uuid::from_u128(9));
        let entries = [Change::Created(created), Change::Message(sent)].into_iter().zip(1..);
        let entry = |(change, id)| Entry {
            id,
            conversation: group.as_bytes().to_vec(),
            change: Some(change),
        };
        let record = Record {
            kind: RecordKind::Batch as i32,
            entries: entries.map(entry).collect(),
            ..Record::default()
        };
        let rows = replay.rows(&store, &record).await.unwrap();
        let (audience, _) = rows[1].inbox.as_ref().expect("the message is in inboxes");
        assert_eq!(audience.len(), 2, "its members were made by the entry before it");
    }
}
