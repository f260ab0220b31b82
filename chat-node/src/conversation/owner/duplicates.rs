//! The sends that an owner remembers, so that a repeat gets the first answer without a read.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::HashMap;
use chat_protocol::{ClientMessageId, ConversationId, MessageId, Millis, UserId};

use crate::limits::{
    DUPLICATE_MEMORY_MS, FRESH_OWNER_MS, PARTITION_DUPLICATES_MAX,
    PARTITION_DUPLICATES_UNWRITTEN_MAX,
};

/// What names a send.
pub(super) type Key = (ConversationId, UserId, ClientMessageId);

/// Clocks of gateways and owner may differ by this much.
const CLOCK_DIFFERENCE_MS: u64 = 5_000;

pub(super) struct Duplicates {
    sent: HashMap<Key, (MessageId, u64)>,
    /// The same keys, oldest first.
    order: VecDeque<(Duration, MessageId, Key)>,
    /// A command received earlier than this may be a repeat of one that is no longer remembered.
    complete_since: Millis,
    /// Until then, by the monotonic clock, every command may be a repeat of one that went to the owner before.
    fresh_until: Duration,
    opened_at: (Millis, Duration),
}

impl Duplicates {
    /// Nothing remembered. `unused`: nobody has owned this partition before, so nothing can repeat.
    pub(super) fn new(now: Millis, elapsed: Duration, unused: bool) -> Duplicates {
        let fresh = if unused { Duration::ZERO } else { Duration::from_millis(FRESH_OWNER_MS) };
        Duplicates {
            sent: HashMap::default(),
            order: VecDeque::new(),
            complete_since: if unused { Millis(0) } else { now.plus(CLOCK_DIFFERENCE_MS) },
            fresh_until: elapsed + fresh,
            opened_at: (now, elapsed),
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<(MessageId, u64)> {
        self.sent.get(key).copied()
    }

    /// Not finding a command's key here proves nothing.
    pub(super) fn is_uncertain(&self, received_at: Millis, elapsed: Duration) -> bool {
        elapsed < self.fresh_until || received_at < self.complete_since
    }

    pub(super) fn insert(&mut self, key: Key, id: MessageId, seq: u64, elapsed: Duration) {
        self.sent.insert(key, (id, seq));
        self.order.push_back((elapsed, id, key));
    }

    /// Takes back a send that was certainly not committed.
    pub(super) fn remove(&mut self, key: &Key) {
        self.sent.remove(key);
        self.order.retain(|(_, _, other)| other != key);
    }

    /// There is room for another send even if the store takes nothing.
    pub(super) fn has_room(&self) -> bool {
        self.order.len() < PARTITION_DUPLICATES_UNWRITTEN_MAX
    }

    /// Forgets what is old or too much, but nothing that is not in the store: `lowest_waiting` and above.
    pub(super) fn evict(&mut self, elapsed: Duration, lowest_waiting: Option<MessageId>) {
        while let Some((at, id, key)) = self.order.front() {
            let old = elapsed.saturating_sub(*at) > Duration::from_millis(DUPLICATE_MEMORY_MS);
            let written = lowest_waiting.is_none_or(|lowest| *id < lowest);
            if !written || !(old || self.order.len() > PARTITION_DUPLICATES_MAX) {
                return;
            }
            // Memory is complete for what was received after the newest send forgotten, by this owner's own clocks.
            let (wall, monotonic) = self.opened_at;
            let forgotten_at = wall.plus(at.saturating_sub(monotonic).as_millis() as u64);
            self.complete_since = self.complete_since.max(forgotten_at.plus(CLOCK_DIFFERENCE_MS));
            self.sent.remove(key);
            self.order.pop_front();
        }
    }
}
