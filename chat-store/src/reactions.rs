//! Single reactions become what clients see: grouped by emoji. The same in every backend.

use std::collections::BTreeMap;

use chat_protocol::message::{Reaction, Reactions};
use chat_protocol::{MessageId, UserId};

/// The reactions on one message while its rows are read.
#[derive(Default)]
pub(crate) struct Collected {
    version: MessageId,
    /// Emoji → when it first appeared, and who reacts with it since when.
    emoji: BTreeMap<String, (u64, Vec<(MessageId, UserId)>)>,
}

impl Collected {
    /// Takes one person's reaction with one emoji; `first` orders emoji by their first appearance.
    pub(crate) fn add(
        &mut self,
        user: UserId,
        emoji: String,
        version: MessageId,
        first: u64,
        removed: bool,
    ) {
        self.version = self.version.max(version);
        let (first_seen, users) = self.emoji.entry(emoji).or_insert_with(|| (first, Vec::new()));
        *first_seen = first.min(*first_seen);
        if !removed {
            users.push((version, user));
        }
    }
}

impl From<Collected> for Reactions {
    fn from(collected: Collected) -> Reactions {
        let mut emoji: Vec<_> =
            collected.emoji.into_iter().filter(|(_, (_, users))| !users.is_empty()).collect();
        emoji.sort_by_key(|(_, (first, _))| *first);
        let items = emoji.into_iter().map(|(emoji, (_, mut users))| {
            users.sort();
            Reaction { emoji, user_ids: users.into_iter().map(|(_, user)| user).collect() }
        });
        Reactions { version: collected.version, items: items.collect() }
    }
}
