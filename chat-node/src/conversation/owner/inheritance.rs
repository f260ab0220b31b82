//! What owners before have committed and the store may lack. A new owner learns it from the log before it answers anybody,
//! as if it had appended it itself while the store was slow, and has it written meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ahash::{HashMap, HashSet};
use chat_broker::{Sequence, StoredRecord};
use chat_protocol::record::{self, Change, Entry, MessageSent, Record, RecordKind, Unreadable};
use chat_protocol::{ConversationId, MessageId};
use prost::Message as _;

use super::super::rows;
use super::super::state::{Loaded, State};
use super::Shared;
use super::duplicates::Key;
use crate::limits::{
    INHERITED_BODIES_BYTES_MAX, INHERITED_FACTS_BYTES_MAX, PARTITION_INHERITED_MAX,
};

/// What it costs to remember an entry besides the entry itself: the keys of its send, in a map and in a queue.
const FACTS_BYTES: usize = 256;

/// Part of what a node may hold in memory of entries that are not in the store. Given back when it is dropped.
pub(super) struct Share {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Share {
    /// `false`: with it the node would hold more than `bytes_max`.
    fn take(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let fits = |held: usize| Some(held + bytes).filter(|held| *held <= bytes_max);
        let held = &self.shared.unwritten_bytes;
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.unwritten_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What is inherited of one conversation.
#[derive(Default)]
pub(super) struct Inherited {
    /// In log order. What the conversation's state follows from is always among them.
    entries: Vec<Arc<Entry>>,
    /// Of `entries`, encoded.
    bytes: usize,
    last_seq: u64,
    /// Messages whose reactions have changed.
    reacted: HashSet<u64>,
    /// There were others, for which there was no room.
    lacks_entries: bool,
}

impl Inherited {
    /// Entries that may not be in the store, in log order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// Their size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages, or changes of messages, are only in the log.
    pub(super) fn lacks_entries(&self) -> bool {
        self.lacks_entries
    }

    /// The reactions of this message have changed.
    pub(super) fn has_reactions(&self, message: u64) -> bool {
        self.reacted.contains(&message)
    }

    /// Brings what the store says of the conversation up to the log. The store may have any part of it already: the entries
    /// are the end of the conversation's log, so whatever they speak of ends as the last of them says.
    pub(super) fn apply(&self, state: &mut State) {
        for entry in &self.entries {
            // Entries that cannot be applied were refused when they were read from the log.
            drop(state.apply(entry));
        }
        state.last_seq = state.last_seq.max(self.last_seq);
    }
}

/// All of it.
pub(super) struct Inheritance {
    /// The lowest id; none: nothing is inherited.
    first: Option<MessageId>,
    conversations: HashMap<ConversationId, Inherited>,
    sends: Vec<(Key, MessageId, u64)>,
    entries: usize,
    share: Share,
}

/// An inheritance as the owner keeps it: what was in it is with the conversations and sends.
pub(super) struct Kept {
    /// The lowest id.
    pub(super) first: MessageId,
    _share: Share,
}

/// What was inherited, taken apart.
pub(super) struct Parts {
    pub(super) kept: Option<Kept>,
    pub(super) conversations: HashMap<ConversationId, Inherited>,
    pub(super) sends: Vec<(Key, MessageId, u64)>,
}

/// Takes records in, in log order.
pub(super) struct Heir {
    inheritance: Inheritance,
    /// As far as entries alone tell: whatever cannot be applied to these cannot be applied at all.
    states: HashMap<ConversationId, State>,
}

impl Heir {
    pub(super) fn new(shared: &Arc<Shared>) -> Heir {
        let inheritance = Inheritance {
            first: None,
            conversations: HashMap::default(),
            sends: Vec::new(),
            entries: 0,
            share: Share { shared: shared.clone(), bytes: 0 },
        };
        Heir { inheritance, states: HashMap::default() }
    }

    /// Takes in records up to one for which there is no room. Returns the sequence of the last that was taken in, `after` if
    /// it is none.
    pub(super) fn take_in(
        &mut self,
        after: Sequence,
        page: &[StoredRecord],
    ) -> Result<Sequence, Unreadable> {
        let mut taken = after;
        for stored in page {
            let record = Record::from_bytes(&stored.payload)?;
            if record.kind == RecordKind::Batch as i32 {
                for entry in record.entries {
                    if !self.add(entry)? {
                        return Ok(taken);
                    }
                }
            }
            taken = stored.sequence;
        }
        Ok(taken)
    }

    pub(super) fn done(self) -> Inheritance {
        self.inheritance
    }

    /// `false`: there is no room.
    fn add(&mut self, entry: Entry) -> Result<bool, Unreadable> {
        let Inheritance { first, conversations, sends, entries, share } = &mut self.inheritance;
        let has_room = *entries < PARTITION_INHERITED_MAX
            && share.take(FACTS_BYTES, INHERITED_FACTS_BYTES_MAX);
        if !has_room {
            return Ok(false);
        }
        *entries += 1;
        let id = entry.conversation_id()?;
        let state = self.states.entry(id).or_insert_with(|| State::new(id, Loaded::default()));
        state.apply(&entry)?;
        first.get_or_insert(entry.message_id());
        let inherited = conversations.entry(id).or_default();
        match &entry.change {
            Some(Change::Message(sent)) => {
                inherited.last_seq = inherited.last_seq.max(sent.seq);
                sends.push((key(id, sent)?, entry.message_id(), sent.seq));
            }
            Some(Change::Reaction(change)) => drop(inherited.reacted.insert(change.target)),
            _ => {}
        }
        let bytes = entry.encoded_len();
        if share.take(bytes, INHERITED_BODIES_BYTES_MAX) || changes_state(&entry) {
            inherited.bytes += bytes;
            inherited.entries.push(Arc::new(entry));
        } else {
            inherited.lacks_entries = true;
        }
        Ok(true)
    }
}

impl Inheritance {
    /// Nothing.
    pub(super) fn none(shared: &Arc<Shared>) -> Inheritance {
        Heir::new(shared).done()
    }

    /// The lowest id; none: nothing is inherited.
    pub(super) fn first(&self) -> Option<MessageId> {
        self.first
    }

    pub(super) fn into_parts(self) -> Parts {
        let Inheritance { first, conversations, sends, share, .. } = self;
        let kept = first.map(|first| Kept { first, _share: share });
        Parts { kept, conversations, sends }
    }
}

fn key(id: ConversationId, sent: &MessageSent) -> Result<Key, Unreadable> {
    Ok((id, record::user_id(&sent.sender)?, rows::client_message_id(sent)?))
}

/// Whether the state of its conversation follows from more than the entry's `seq`.
fn changes_state(entry: &Entry) -> bool {
    match &entry.change {
        Some(Change::Created(_) | Change::Properties(_) | Change::Member(_) | Change::Read(_)) => {
            true
        }
        Some(Change::Message(_) | Change::Edit(_) | Change::Delete(_) | Change::Reaction(_))
        | None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use bytes::Bytes;
    use chat_broker::embedded::EmbeddedBroker;
    use chat_broker::{Broker, Receiver, Subject};
    use chat_protocol::message::Role;
    use chat_protocol::record::{ConversationCreated, MemberChange, MemberChanged};
    use chat_protocol::{Millis, NodeId, UserId};
    use chat_store::embedded::EmbeddedStore;
    use tokio::sync::Semaphore;
    use uuid::Uuid;

    use super::super::{Metrics, Outages};
    use super::*;
    use crate::clock::Clock;
    use crate::partition::{Alone, Lease};

    struct Deaf;

    impl Receiver for Deaf {
        fn deliver(&self, _: &[Subject], _: Bytes) {}
    }

    async fn shared(unwritten_bytes: usize) -> Arc<Shared> {
        let broker = Arc::new(EmbeddedBroker::memory());
        Arc::new(Shared {
            bus: broker.connect(Arc::new(Deaf)).await.unwrap(),
            broker,
            store: Arc::new(EmbeddedStore::memory()),
            clock: Clock::manual(Millis::from_2025(1)),
            lease: Lease { node: NodeId::random(), start: 1 },
            leases: Arc::new(Alone),
            room_window: Duration::from_millis(20),
            published_body_bytes_max: usize::MAX,
            log_retention: Duration::from_secs(3_600),
            unwritten_bytes: AtomicUsize::new(unwritten_bytes),
            outages: Outages::default(),
            replays: Semaphore::new(1),
            metrics: Metrics::default(),
        })
    }

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    fn bytes(number: u128) -> Vec<u8> {
        user(number).0.as_bytes().to_vec()
    }

    fn group() -> ConversationId {
        ConversationId::group(user(1), Uuid::from_u128(9))
    }

    fn created() -> Change {
        Change::Created(ConversationCreated {
            creator: bytes(1),
            members: vec![bytes(2)],
            ..ConversationCreated::default()
        })
    }

    fn member(number: u128, change: MemberChange, role: Role) -> Change {
        Change::Member(MemberChanged {
            user: bytes(number),
            change: change as i32,
            role: record::role_number(role),
            ..MemberChanged::default()
        })
    }

    fn message(seq: u64) -> Change {
        Change::Message(MessageSent {
            seq,
            sender: bytes(1),
            client_message_id: vec![seq as u8; 16],
            kind: "text".to_owned(),
            body: "{}".to_owned(),
            ..MessageSent::default()
        })
    }

    /// One record for each.
    fn log(changes: impl IntoIterator<Item = Change>) -> Vec<StoredRecord> {
        let record = |(id, change)| {
            let conversation = group().as_bytes().to_vec();
            let entry = Entry { id, conversation, change: Some(change) };
            let kind = RecordKind::Batch as i32;
            let record = Record { kind, entries: vec![entry], ..Record::default() };
            StoredRecord { sequence: Sequence(id), payload: record.to_bytes().into() }
        };
        (1..).zip(changes).map(record).collect()
    }

    #[tokio::test]
    async fn without_room_bodies_stay_in_the_log_and_then_everything() {
        let shared = shared(INHERITED_BODIES_BYTES_MAX).await;
        let page = log([created(), message(1), message(2)]);
        let mut heir = Heir::new(&shared);
        assert_eq!(heir.take_in(Sequence(0), &page).unwrap(), Sequence(3));
        let parts = heir.done().into_parts();
        let inherited = &parts.conversations[&group()];
        assert!(inherited.lacks_entries());
        assert_eq!(inherited.entries().count(), 1, "members are known all the same");
        assert_eq!((inherited.last_seq, parts.sends.len()), (2, 2), "and so are sends");
        let held = || shared.unwritten_bytes.load(Ordering::Relaxed);
        assert!(held() > INHERITED_BODIES_BYTES_MAX);
        assert_eq!(parts.kept.as_ref().expect("something is inherited").first, MessageId(1));
        drop(parts);
        assert_eq!(held(), INHERITED_BODIES_BYTES_MAX);

        shared.unwritten_bytes.store(INHERITED_FACTS_BYTES_MAX - FACTS_BYTES, Ordering::Relaxed);
        let mut heir = Heir::new(&shared);
        assert_eq!(heir.take_in(Sequence(0), &page).unwrap(), Sequence(1), "room for one");
    }

    #[tokio::test]
    async fn a_conversation_is_brought_up_to_the_log_however_much_of_it_the_store_has() {
        use MemberChange::{Joined, Left, RoleChanged};
        let shared = shared(0).await;
        let changes = [
            created(),
            member(3, Joined, Role::Member),
            message(1),
            member(2, Left, Role::Member),
            member(3, RoleChanged, Role::Admin),
            member(2, Joined, Role::Member),
            message(2),
            member(3, Left, Role::Admin),
        ];
        let records = log(changes);
        let entries: Vec<Entry> = records
            .iter()
            .flat_map(|stored| Record::from_bytes(&stored.payload).unwrap().entries)
            .collect();
        let after = |count: usize| {
            let mut state = State::new(group(), Loaded::default());
            entries[..count].iter().for_each(|entry| state.apply(entry).unwrap());
            state
        };
        let whole = after(entries.len());
        for begin in 0..entries.len() {
            let mut heir = Heir::new(&shared);
            heir.take_in(Sequence(begin as u64), &records[begin..]).unwrap();
            let parts = heir.done().into_parts();
            for stored in begin..=entries.len() {
                let mut state = after(stored);
                parts.conversations[&group()].apply(&mut state);
                assert_eq!(state.view(), whole.view(), "from {begin}, with {stored} in the store");
                assert_eq!(state.last_seq, whole.last_seq);
            }
        }
    }
}
