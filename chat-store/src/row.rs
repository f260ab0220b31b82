//! The rows. Those under "made from the log" are written with the version of the log entry that made them; the others
//! are written by the API service.

use std::sync::Arc;

use chat_protocol::api::{Device, Profile};
use chat_protocol::frame::Friendship;
use chat_protocol::message::Role;
use chat_protocol::{
    Body, ClientMessageId, ConversationId, ConversationKind, DeviceId, MessageId, Millis,
    Partition, SessionId, UserId,
};

// === Made from the log ===

/// One write of a row that the log implies. Idempotent; a lower version never replaces a higher one.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A message as sent. Does not touch what edits and deletes wrote.
    Message(MessageRow),
    /// A new body, or the deletion, of a message whose row may not be there yet.
    Revision(RevisionRow),
    /// A person's reaction with one emoji on one message.
    Reaction(ReactionRow),
    /// The answer to a repeated send; gone after 7 days.
    Duplicate(DuplicateRow),
    /// Pointers for the inboxes of some users.
    Inbox(InboxRow),
    /// A conversation's own columns.
    Conversation(ConversationRow),
    /// One membership interval, by (conversation, user, joined id).
    Member(MemberRow),
    /// A read mark; the highest `seq` wins.
    Read(MarkRow),
    /// A delivery mark; the highest `seq` wins. Not from the log: every device repeats it.
    Delivered(MarkRow),
}

/// A message as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its id, and its write time.
    pub message_id: MessageId,
    /// Dense number.
    pub seq: u64,
    /// Who sent it.
    pub sender_id: UserId,
    /// The id its client chose.
    pub client_message_id: ClientMessageId,
    /// Type.
    pub kind: String,
    /// Content.
    pub body: Body,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
    /// Who is mentioned.
    pub mentions: Vec<UserId>,
}

/// An edit or deletion. The highest version wins, but a deletion is never undone.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionRow {
    /// The message's conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// Id of the edit or deletion, and the write time.
    pub version: MessageId,
    /// The new body and mentions; `None`: deleted for everyone.
    pub content: Option<(Body, Vec<UserId>)>,
}

/// A reaction; the highest version wins.
#[derive(Clone, Debug, PartialEq)]
pub struct ReactionRow {
    /// The message's conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// Whose.
    pub user_id: UserId,
    /// With what.
    pub emoji: String,
    /// Id of the change, and the write time.
    pub version: MessageId,
    /// Taken back: a marker, so that a late older write does not bring it again.
    pub removed: bool,
}

/// What a repeated send is answered with.
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicateRow {
    /// Conversation, sender and the client's id are the key.
    pub conversation_id: ConversationId,
    /// See above.
    pub sender_id: UserId,
    /// See above.
    pub client_message_id: ClientMessageId,
    /// The message that was committed first.
    pub message_id: MessageId,
    /// Its seq.
    pub seq: u64,
}

/// Pointers for inboxes. All users get the same pointers, so a group's are encoded and stored packed: one row per user
/// and write, not per message.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    /// Whose inboxes.
    pub users: Arc<[UserId]>,
    /// The pointers, by increasing id, of one conversation, from first to last within [`INBOX_SPAN_MS`].
    pub conversation_id: ConversationId,
    /// See above; never empty.
    pub pointers: Vec<Pointer>,
}

/// Longest span of the ids in one packed inbox row. A reader looks back this far for rows that begin at or below its
/// cursor and reach above it.
pub const INBOX_SPAN_MS: u64 = 1_000;

/// What an inbox entry leads to. The entry itself says only that something changed; the reader gets the current row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    /// The log entry.
    pub id: MessageId,
    /// What changed.
    pub kind: PointerKind,
    /// The message concerned; for `Message` the same as `id`. Zero where no message is concerned.
    pub target: MessageId,
}

/// What an inbox entry says has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PointerKind {
    /// A new message.
    Message = 1,
    /// A message's body or deletion.
    Revision = 2,
    /// A message's reactions.
    Reaction = 3,
    /// The conversation itself: name, picture, members, roles.
    Conversation = 4,
    /// One's own read mark.
    Read = 5,
}

/// An inbox entry as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxEntry {
    /// Where to.
    pub pointer: Pointer,
    /// The conversation.
    pub conversation_id: ConversationId,
}

/// A page of an inbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxPage {
    /// Entries by increasing id, each id once per conversation.
    pub entries: Vec<InboxEntry>,
    /// The page was cut: it is complete only up to its last entry's id.
    pub more: bool,
}

/// A conversation's own columns, without members.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationRow {
    /// Its id.
    pub conversation_id: ConversationId,
    /// Id of the entry that created it.
    pub created_id: MessageId,
    /// Id of the entry that last changed these columns, and the write time.
    pub version: MessageId,
    /// Who created it.
    pub creator_id: UserId,
    /// Name.
    pub name: Option<String>,
    /// Picture.
    pub picture: Option<String>,
}

impl ConversationRow {
    /// Direct, group or room.
    pub fn kind(&self) -> ConversationKind {
        self.conversation_id.kind()
    }
}

/// One membership interval `[joined_id, left_id)`.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberRow {
    /// Conversation, user and `joined_id` are the key.
    pub conversation_id: ConversationId,
    /// See above.
    pub user_id: UserId,
    /// Id of the entry that began it.
    pub joined_id: MessageId,
    /// Id of the entry that ended it.
    pub left_id: Option<MessageId>,
    /// The role.
    pub role: Role,
    /// Id of the entry that last changed this row, and the write time.
    pub version: MessageId,
}

/// How far someone read or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkRow {
    /// Conversation and user are the key.
    pub conversation_id: ConversationId,
    /// See above.
    pub user_id: UserId,
    /// Up to this message.
    pub seq: u64,
}

/// How far the writer of a partition has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything up to this sequence of the log is written.
    pub sequence: u64,
    /// `reserved_until` of the last record known, ticks included.
    pub reserved_until: MessageId,
    /// Epoch of that record.
    pub epoch: u64,
}

/// An entry that the store refused five times.
#[derive(Clone, Debug, PartialEq)]
pub struct QuarantineRow {
    /// Its partition.
    pub partition: Partition,
    /// Its id.
    pub id: MessageId,
    /// The entry as in the log.
    pub entry: Vec<u8>,
    /// What the store said.
    pub reason: String,
}

// === Written by the API service ===

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What others see.
    pub profile: Profile,
    /// Password hash in PHC string form.
    pub password_hash: String,
    /// When it was made.
    pub created_at: Millis,
}

/// A device with its refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Whose.
    pub user_id: UserId,
    /// As the user sees it; `current` is always false here, and `received_until` absent.
    pub device: Device,
    /// SHA-256 of the refresh token that is valid now.
    pub refresh_digest: [u8; 32],
    /// When the refresh token expires.
    pub refresh_expires_at: Millis,
}

/// How far a device has said that it got: the safe id of the last cursor it showed. For people who look at their
/// devices, and for notifications. Nothing resumes from it: a device goes on from the cursor that it stored itself, and
/// this row is late, and may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmedRow {
    /// User and device are the key.
    pub user_id: UserId,
    /// See above.
    pub device_id: DeviceId,
    /// Everything in the inbox up to here has reached the device. The highest one wins.
    pub safe: MessageId,
}

/// What came of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// The digest was the valid one and has been replaced.
    Rotated,
    /// The device exists, but the digest was not the valid one: it was used before, or forged.
    Reused,
    /// There is no such device, or its token has expired.
    Gone,
}

/// A friend or a request, from one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FriendRow {
    /// The other person.
    pub user_id: UserId,
    /// How they stand.
    pub friendship: Friendship,
    /// Since when.
    pub since: Millis,
}

/// A user's presence as last written: so that a new owner knows who was online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceRow {
    /// Who.
    pub user_id: UserId,
    /// Sessions that are connected; none: offline.
    pub sessions: Vec<SessionId>,
    /// When they last connected.
    pub last_active_at: Option<Millis>,
}
