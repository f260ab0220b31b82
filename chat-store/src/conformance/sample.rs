//! Rows for tests. Ids are random, times are given.

use std::sync::Arc;

use chat_protocol::api::{Device, Profile};
use chat_protocol::message::Role;
use chat_protocol::{
    Body, ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, UserId,
};
use rand::RngExt;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::row::*;

/// A moment well after anything that the expiry case removes: 2026-06-01.
pub const NOW: Millis = Millis(1_780_272_000_000);

/// Makes the ids of one conversation, as the owner of its partition does.
#[derive(Clone, Debug)]
pub struct Ids {
    conversation: ConversationId,
    partition: Partition,
    last: MessageId,
}

impl Ids {
    /// Ids of this conversation's partition from [`NOW`] on.
    pub fn of(conversation: ConversationId) -> Ids {
        Ids::from(conversation, NOW)
    }

    /// Ids of this conversation's partition from a moment on.
    pub fn from(conversation: ConversationId, start: Millis) -> Ids {
        let partition = conversation.partition();
        Ids { conversation, partition, last: MessageId::first_of(start, partition) }
    }

    /// Whose ids these are.
    pub fn conversation(&self) -> ConversationId {
        self.conversation
    }

    /// The next id.
    pub fn next_id(&mut self) -> MessageId {
        self.last = self.last.next_in(self.partition);
        self.last
    }

    /// The first id after a pause.
    pub fn after_ms(&mut self, pause_ms: u64) -> MessageId {
        let later = self.last.created_at().plus(pause_ms);
        self.last = self.last.max(MessageId::first_of(later, self.partition));
        self.next_id()
    }
}

/// A new group's id.
pub fn group() -> ConversationId {
    ConversationId::group(UserId::random(), Uuid::new_v4())
}

/// A new room's id.
pub fn room() -> ConversationId {
    ConversationId::room(UserId::random(), Uuid::new_v4())
}

/// A message with this text.
pub fn message(conversation_id: ConversationId, id: MessageId, seq: u64, text: &str) -> MessageRow {
    MessageRow {
        conversation_id,
        message_id: id,
        seq,
        sender_id: UserId::random(),
        client_message_id: ClientMessageId::random(),
        kind: "text".into(),
        body: Body::text(text),
        reply_to: None,
        mentions: Vec::new(),
    }
}

/// An edit.
pub fn edit(of: &MessageRow, version: MessageId, text: &str) -> Write {
    let content = Some((Body::text(text), Vec::new()));
    let (conversation_id, message_id) = (of.conversation_id, of.message_id);
    Write::Revision(RevisionRow { conversation_id, message_id, version, content })
}

/// A deletion.
pub fn delete(of: &MessageRow, version: MessageId) -> Write {
    let (conversation_id, message_id) = (of.conversation_id, of.message_id);
    Write::Revision(RevisionRow { conversation_id, message_id, version, content: None })
}

/// A reaction.
pub fn react(
    of: &MessageRow,
    user_id: UserId,
    emoji: &str,
    version: MessageId,
    removed: bool,
) -> Write {
    let (conversation_id, message_id) = (of.conversation_id, of.message_id);
    let emoji = emoji.into();
    Write::Reaction(ReactionRow { conversation_id, message_id, user_id, emoji, version, removed })
}

/// A membership that is open.
pub fn joined(conversation_id: ConversationId, user_id: UserId, joined_id: MessageId) -> MemberRow {
    let (left_id, role) = (None, Role::Member);
    MemberRow { conversation_id, user_id, joined_id, left_id, role, version: joined_id }
}

/// The same membership, ended.
pub fn left(member: &MemberRow, left_id: MessageId) -> MemberRow {
    MemberRow { left_id: Some(left_id), version: left_id, ..member.clone() }
}

/// An inbox row for one user.
pub fn inbox(user: UserId, conversation_id: ConversationId, pointers: &[Pointer]) -> Write {
    Write::Inbox(InboxRow {
        users: Arc::from([user]),
        conversation_id,
        pointers: pointers.to_vec(),
    })
}

/// A pointer to a new message.
pub fn pointer(id: MessageId) -> Pointer {
    Pointer { id, kind: PointerKind::Message, target: id }
}

/// An account with a random handle that begins with `prefix`.
pub fn account(prefix: &str) -> Account {
    let user_id = UserId::random();
    let handle = format!("{prefix}{}", user_id.0.simple());
    let name = "A Name".into();
    Account {
        profile: Profile { user_id, handle, name, picture: None, status: None },
        password_hash: "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA".into(),
        created_at: NOW,
    }
}

/// A device that logged in at this time.
pub fn device(user_id: UserId, created_at: Millis) -> DeviceRow {
    DeviceRow {
        user_id,
        device: Device {
            device_id: DeviceId::random(),
            name: "phone".into(),
            created_at,
            last_seen_at: created_at,
            received_until: None,
            current: false,
        },
        refresh_digest: [7; 32],
        refresh_expires_at: created_at.plus(1_000),
    }
}

/// The seed of a randomised case: `CHAT_TEST_SEED` if given, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("CHAT_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(rand::random)
}

/// Another order, drawn from `random`.
pub fn shuffle<T>(items: &mut [T], random: &mut StdRng) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.random_range(0..=last));
    }
}
