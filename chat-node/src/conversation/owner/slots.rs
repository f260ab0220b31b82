//! The conversations that an owner holds in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use chat_protocol::message::Message;
use chat_protocol::record::{Change, Entry};
use chat_protocol::{ConversationId, MessageId};

use super::super::rows;
use super::super::state::State;
use super::Work;
use crate::limits::PARTITION_CONVERSATIONS_MAX;

/// How long a block between two people, or its absence, is believed.
const BLOCKED_BELIEVED: Duration = Duration::from_secs(5);

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
    /// Ids of entries that are neither in the store nor in `tail`, up to this one: the writer reads them from the log.
    pub(super) spilled_up_to: MessageId,
    /// Whether its two people have blocked one another, and when that was read.
    blocked_fact: Option<(bool, Duration)>,
    used_at: Duration,
}

impl Slot {
    /// A message as it will be in the store: the stored copy, or the sent one, with all later entries.
    pub(super) fn message(&self, id: MessageId, stored: Option<Message>) -> Option<Message> {
        let sent = || {
            let entry = self.tail.iter().find(|entry| entry.message_id() == id)?;
            match &entry.change {
                Some(Change::Message(sent)) => {
                    rows::message(entry.conversation_id().ok()?, entry, sent).ok()
                }
                _ => None,
            }
        };
        let mut message = stored.or_else(sent)?;
        for entry in &self.tail {
            // An entry that cannot be read never gets into a tail: it was encoded by this owner.
            rows::overlay(&mut message, entry).ok()?;
        }
        Some(message)
    }

    pub(super) fn blocked_fact(&self, elapsed: Duration) -> Option<bool> {
        let (blocked, read_at) = self.blocked_fact?;
        (elapsed.saturating_sub(read_at) < BLOCKED_BELIEVED).then_some(blocked)
    }

    pub(super) fn remember_blocked(&mut self, blocked: bool, elapsed: Duration) {
        self.blocked_fact = Some((blocked, elapsed));
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
        !self.busy && self.tail.is_empty() && self.spilled_up_to == MessageId::ZERO
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Slots {
    by_id: HashMap<ConversationId, Slot>,
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
