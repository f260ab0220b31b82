//! The conversations that an owner holds in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use chat_protocol::message::Message;
use chat_protocol::record::{Change, Entry};
use chat_protocol::{ConversationId, MessageId};

use super::super::rows;
use super::super::state::State;
use super::Work;
use super::blocks::Block;
use super::inheritance::Inherited;
use super::publish::Publication;
use crate::limits::PARTITION_CONVERSATIONS_MAX;

/// A change of a conversation is announced once it can be read, or after this time at the latest.
const HELD_MAX: Duration = Duration::from_secs(2);

/// Publications that wait.
struct Held {
    /// For this entry to be in the store; none: only for those before.
    written: Option<MessageId>,
    since: Duration,
    publications: Vec<Publication>,
}

/// One conversation.
#[derive(Default)]
pub(super) struct Slot {
    /// None until it was read from the store.
    pub(super) state: Option<State>,
    /// A command waits for a fact; those behind it wait in `blocked`.
    pub(super) busy: bool,
    pub(super) blocked: VecDeque<Work>,
    /// Committed entries that are not in the store, and while `busy` also those written since: a fact read before that
    /// lacks them.
    pub(super) tail: VecDeque<Arc<Entry>>,
    /// What owners before have committed of it, if the store may lack something of that.
    pub(super) inherited: Option<Inherited>,
    /// Ids of entries that are neither in the store nor in `tail`, up to this one: the writer reads them from the log.
    pub(super) spilled_up_to: MessageId,
    /// What is told once the conversation can be read, and what is told after that.
    held: VecDeque<Held>,
    /// Whether its two people have blocked one another, if that was read.
    pub(super) block: Option<Block>,
    used_at: Duration,
}

impl Slot {
    /// A message as it will be in the store: the stored copy, or the sent one, with all later entries.
    pub(super) fn message(&self, id: MessageId, stored: Option<Message>) -> Option<Message> {
        let sent = || {
            let entry = self.unwritten().find(|entry| entry.message_id() == id)?;
            match &entry.change {
                Some(Change::Message(sent)) => {
                    rows::message(entry.conversation_id().ok()?, entry, sent).ok()
                }
                _ => None,
            }
        };
        let mut message = stored.or_else(sent)?;
        for entry in self.unwritten() {
            // An entry that cannot be read never gets here: this owner has encoded it, or read it before it answered anybody.
            rows::overlay(&mut message, entry).ok()?;
        }
        Some(message)
    }

    /// Every entry that may not be in the store, in log order; but see [`Slot::lacks_entries`].
    pub(super) fn unwritten(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.inherited.iter().flat_map(Inherited::entries).chain(&self.tail)
    }

    /// Only the log holds some of its entries.
    pub(super) fn lacks_entries(&self) -> bool {
        let is_inherited = self.inherited.as_ref().is_some_and(Inherited::lacks_entries);
        self.spilled_up_to != MessageId::ZERO || is_inherited
    }

    /// What is told of this change must tell of inherited ones, too, and the store cannot say which of those it has.
    pub(super) fn depends_on_inherited(&self, change: &Change) -> bool {
        let Change::Reaction(change) = change else { return false };
        self.inherited.as_ref().is_some_and(|inherited| inherited.has_reactions(change.target))
    }

    /// Drops what is in the store from the tail.
    pub(super) fn written(&mut self, up_to: MessageId) {
        while !self.busy && self.tail.front().is_some_and(|entry| entry.message_id() <= up_to) {
            self.tail.pop_front();
        }
        if self.spilled_up_to <= up_to {
            self.spilled_up_to = MessageId::ZERO;
        }
    }

    fn is_idle(&self) -> bool {
        !self.busy
            && self.tail.is_empty()
            && self.inherited.is_none()
            && self.held.is_empty()
            && self.spilled_up_to == MessageId::ZERO
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Slots {
    by_id: HashMap<ConversationId, Slot>,
    /// Conversations with publications that wait.
    holding: BTreeSet<ConversationId>,
}

impl Slots {
    /// The slot of a conversation, used now.
    pub(super) fn get(&mut self, id: ConversationId, elapsed: Duration) -> &mut Slot {
        let slot = self.by_id.entry(id).or_default();
        slot.used_at = elapsed;
        slot
    }

    /// The slot of a conversation, if it is held.
    pub(super) fn find(&mut self, id: &ConversationId) -> Option<&mut Slot> {
        self.by_id.get_mut(id)
    }

    /// Takes in what owners before have committed.
    pub(super) fn inherit(
        &mut self,
        conversations: HashMap<ConversationId, Inherited>,
        elapsed: Duration,
    ) {
        for (id, inherited) in conversations {
            self.get(id, elapsed).inherited = Some(inherited);
        }
    }

    /// Forgets it, since it is in the store now; but not where a fact that was read before that is in use. `true`: nothing
    /// is left.
    pub(super) fn forget_inherited(&mut self) -> bool {
        let mut is_all = true;
        for slot in self.by_id.values_mut() {
            if !slot.busy {
                slot.inherited = None;
            }
            is_all &= slot.inherited.is_none();
        }
        is_all
    }

    /// Holds publications back until `written` is in the store, or behind others that are. Gives them back if there is no
    /// reason to.
    pub(super) fn hold(
        &mut self,
        id: ConversationId,
        written: Option<MessageId>,
        publications: Vec<Publication>,
        elapsed: Duration,
    ) -> Vec<Publication> {
        let slot = self.get(id, elapsed);
        if written.is_none() && slot.held.is_empty() {
            return publications;
        }
        slot.held.push_back(Held { written, since: elapsed, publications });
        self.holding.insert(id);
        vec![]
    }

    /// Publications of a conversation that need not wait any more, now that everything up to `up_to` is in the store.
    pub(super) fn release(&mut self, id: ConversationId, up_to: MessageId) -> Vec<Publication> {
        let Some(slot) = self.by_id.get_mut(&id) else { return vec![] };
        let mut released = vec![];
        while slot.held.front().is_some_and(|held| held.written.is_none_or(|id| id <= up_to)) {
            released.extend(slot.held.pop_front().into_iter().flat_map(|held| held.publications));
        }
        if slot.held.is_empty() {
            self.holding.remove(&id);
        }
        released
    }

    /// Publications that have waited long enough: a slow store is no reason to keep people in the dark.
    pub(super) fn release_overdue(&mut self, elapsed: Duration) -> Vec<Publication> {
        let overdue = |slot: &Slot| {
            slot.held.front().is_some_and(|held| elapsed.saturating_sub(held.since) > HELD_MAX)
        };
        let ids = self.holding.iter().filter(|id| self.by_id.get(*id).is_some_and(overdue));
        let ids: Vec<_> = ids.copied().collect();
        ids.into_iter().flat_map(|id| self.release(id, MessageId(u64::MAX))).collect()
    }

    /// Forgets the longest unused conversations beyond the limit. Those that the store lacks something of stay.
    pub(super) fn evict(&mut self, elapsed: Duration) {
        let excess = self.by_id.len().saturating_sub(PARTITION_CONVERSATIONS_MAX);
        if excess == 0 {
            return;
        }
        let idle = self.by_id.iter().filter(|(_, slot)| slot.is_idle());
        let mut oldest: Vec<_> =
            idle.map(|(id, slot)| (elapsed.saturating_sub(slot.used_at), *id)).collect();
        oldest.sort_unstable_by(|one, other| other.cmp(one));
        for (_, id) in oldest.into_iter().take(excess) {
            self.by_id.remove(&id);
        }
    }

    /// Commands that wait for a fact of somebody else's.
    pub(super) fn take_blocked(&mut self) -> impl Iterator<Item = Work> {
        self.by_id.values_mut().flat_map(|slot| slot.blocked.drain(..))
    }
}
