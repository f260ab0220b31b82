//! A client's copy of conversations. Whatever order things arrive in and however often, every copy ends the same.
//!
//! Pure. [`Versions`] drops what has been seen from a stream; [`Timeline`] holds one conversation.

use std::collections::{BTreeMap, HashMap, VecDeque};

use chat_protocol::frame::ReactionsChanged;
use chat_protocol::message::{Conversation, Message, Reactions};
use chat_protocol::{ConversationId, MessageId};

/// What an arrival meant for the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// Not seen before.
    New,
    /// Seen before in an older version.
    Changed,
    /// Seen before in this or a newer version: to be dropped.
    Old,
}

#[derive(Clone, Copy)]
struct Seen {
    message: MessageId,
    reactions: MessageId,
}

/// Which versions went by, for the last messages of a stream. Bounded: of messages beyond `capacity` the ones that were
/// seen first are forgotten, and would pass once more; a [`Timeline`] then still ends in the right state.
pub struct Versions {
    capacity: usize,
    seen: HashMap<MessageId, Seen>,
    order: VecDeque<MessageId>,
    conversations: HashMap<ConversationId, MessageId>,
}

impl Versions {
    /// Remembers up to `capacity` messages and as many conversations.
    pub fn new(capacity: usize) -> Versions {
        Versions {
            capacity: capacity.max(1),
            seen: HashMap::new(),
            order: VecDeque::new(),
            conversations: HashMap::new(),
        }
    }

    /// Notes a message.
    pub fn message(&mut self, message: &Message) -> Novelty {
        let now = Seen { message: message.version, reactions: message.reactions.version };
        let Some(seen) = self.seen.get_mut(&message.message_id) else {
            self.insert(message.message_id, now);
            return Novelty::New;
        };
        let newer = now.message > seen.message || now.reactions > seen.reactions;
        let first = seen.message == MessageId::ZERO;
        seen.message = seen.message.max(now.message);
        seen.reactions = seen.reactions.max(now.reactions);
        match (first, newer) {
            (true, _) => Novelty::New,
            (false, true) => Novelty::Changed,
            (false, false) => Novelty::Old,
        }
    }

    /// Notes a change of reactions. It may come before its message.
    pub fn reactions(&mut self, change: &ReactionsChanged) -> Novelty {
        let version = change.reactions.version;
        let Some(seen) = self.seen.get_mut(&change.message_id) else {
            self.insert(change.message_id, Seen { message: MessageId::ZERO, reactions: version });
            return Novelty::Changed;
        };
        if version <= seen.reactions {
            return Novelty::Old;
        }
        seen.reactions = version;
        Novelty::Changed
    }

    /// Notes a conversation. Read marks are not versioned, so an equal version passes once more only as [`Novelty::Old`].
    pub fn conversation(&mut self, conversation: &Conversation) -> Novelty {
        let id = conversation.conversation_id;
        match self.conversations.get(&id).copied() {
            None => {
                if self.conversations.len() >= self.capacity {
                    self.conversations.clear();
                }
                self.conversations.insert(id, conversation.version);
                Novelty::New
            }
            Some(version) if version >= conversation.version => Novelty::Old,
            Some(_) => {
                self.conversations.insert(id, conversation.version);
                Novelty::Changed
            }
        }
    }

    /// Forgets everything, as after a reset.
    pub fn clear(&mut self) {
        self.seen.clear();
        self.order.clear();
        self.conversations.clear();
    }

    fn insert(&mut self, id: MessageId, seen: Seen) {
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(id);
        self.seen.insert(id, seen);
    }
}

/// The messages of one conversation, in order.
#[derive(Default)]
pub struct Timeline {
    messages: BTreeMap<MessageId, Message>,
    /// Reactions that came before their message.
    waiting: HashMap<MessageId, Reactions>,
}

impl Timeline {
    /// Takes a message in: the higher version wins, separately for the message and for its reactions.
    pub fn message(&mut self, mut incoming: Message) -> Novelty {
        if let Some(early) = self.waiting.remove(&incoming.message_id)
            && early.version > incoming.reactions.version
        {
            incoming.reactions = early;
        }
        let Some(known) = self.messages.get_mut(&incoming.message_id) else {
            self.messages.insert(incoming.message_id, incoming);
            return Novelty::New;
        };
        let newer_message = incoming.version > known.version;
        let newer_reactions = incoming.reactions.version > known.reactions.version;
        if newer_reactions {
            known.reactions = std::mem::take(&mut incoming.reactions);
        }
        if newer_message {
            incoming.reactions = std::mem::take(&mut known.reactions);
            *known = incoming;
        }
        if newer_message || newer_reactions { Novelty::Changed } else { Novelty::Old }
    }

    /// Takes a change of reactions in.
    pub fn reactions(&mut self, change: ReactionsChanged) -> Novelty {
        let known = match self.messages.get_mut(&change.message_id) {
            Some(message) => &mut message.reactions,
            None => self.waiting.entry(change.message_id).or_default(),
        };
        if change.reactions.version <= known.version {
            return Novelty::Old;
        }
        *known = change.reactions;
        Novelty::Changed
    }

    /// The messages, oldest first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.messages.values()
    }

    /// The message with this seq.
    pub fn with_seq(&self, seq: u64) -> Option<&Message> {
        self.messages.values().rev().find(|message| message.seq == seq)
    }

    /// Forgets the oldest messages beyond `keep`.
    pub fn shorten(&mut self, keep: usize) {
        while self.messages.len() > keep {
            self.messages.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::message::Reaction;
    use chat_protocol::{Body, ClientMessageId, Millis, UserId};
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use uuid::Uuid;

    use super::*;

    fn conversation_id() -> ConversationId {
        ConversationId::direct(UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)))
    }

    fn message(id: u64, version: u64, reactions: u64) -> Message {
        Message {
            conversation_id: conversation_id(),
            message_id: MessageId(id),
            version: MessageId(version),
            seq: id,
            sender_id: UserId(Uuid::from_u128(1)),
            client_message_id: ClientMessageId(Uuid::from_u128(id.into())),
            kind: "text".into(),
            body: Some(Body::text(&format!("version {version}"))),
            created_at: Millis(id),
            edited_at: None,
            deleted: false,
            reply_to: None,
            mentions: Vec::new(),
            reactions: reactions_at(reactions),
        }
    }

    fn reactions_at(version: u64) -> Reactions {
        let items = match version {
            0 => Vec::new(),
            _ => vec![Reaction { emoji: version.to_string(), user_ids: Vec::new() }],
        };
        Reactions { version: MessageId(version), items }
    }

    fn reacted(id: u64, version: u64) -> ReactionsChanged {
        ReactionsChanged {
            conversation_id: conversation_id(),
            message_id: MessageId(id),
            reactions: reactions_at(version),
        }
    }

    enum Arrival {
        Message(Message),
        Reactions(ReactionsChanged),
    }

    #[test]
    fn every_order_of_arrival_with_repeats_ends_in_the_same_state() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut arrivals: Vec<Arrival> = Vec::new();
            for id in 1..=4u64 {
                for version in [id, 10 + id, 20 + id] {
                    arrivals.push(Arrival::Message(message(id, version, version)));
                    arrivals.push(Arrival::Message(message(id, version, 0)));
                }
                arrivals.push(Arrival::Reactions(reacted(id, 30 + id)));
                if random.random_bool(0.5) {
                    arrivals.push(Arrival::Reactions(reacted(id, 15)));
                }
            }
            arrivals.shuffle(&mut random);
            let mut timeline = Timeline::default();
            for arrival in arrivals {
                match arrival {
                    Arrival::Message(message) => timeline.message(message),
                    Arrival::Reactions(change) => timeline.reactions(change),
                };
            }
            let end: Vec<(u64, u64, u64)> = timeline
                .messages()
                .map(|m| (m.message_id.0, m.version.0, m.reactions.version.0))
                .collect();
            assert_eq!(end, [(1, 21, 31), (2, 22, 32), (3, 23, 33), (4, 24, 34)], "seed {seed}");
        }
    }

    #[test]
    fn a_stream_passes_each_version_once() {
        let mut versions = Versions::new(100);
        assert_eq!(versions.message(&message(1, 1, 0)), Novelty::New);
        assert_eq!(versions.message(&message(1, 1, 0)), Novelty::Old);
        assert_eq!(versions.message(&message(1, 5, 0)), Novelty::Changed);
        assert_eq!(versions.message(&message(1, 1, 0)), Novelty::Old);
        assert_eq!(versions.reactions(&reacted(1, 7)), Novelty::Changed);
        assert_eq!(versions.reactions(&reacted(1, 6)), Novelty::Old);
        assert_eq!(versions.message(&message(1, 5, 7)), Novelty::Old);
    }

    #[test]
    fn a_message_whose_reactions_came_first_is_still_new() {
        let mut versions = Versions::new(100);
        assert_eq!(versions.reactions(&reacted(1, 7)), Novelty::Changed);
        assert_eq!(versions.message(&message(1, 1, 7)), Novelty::New);
    }

    #[test]
    fn the_memory_of_versions_is_bounded() {
        let mut versions = Versions::new(10);
        (1..=1_000).for_each(|id| {
            versions.message(&message(id, id, 0));
        });
        assert_eq!(versions.seen.len(), 10);
        assert_eq!(versions.message(&message(1_000, 1_000, 0)), Novelty::Old);
        assert_eq!(versions.message(&message(1, 1, 0)), Novelty::New);
    }
}
