//! Records of the log. They carry decisions: replay applies them, it never decides.
//!
//! Encoded as Protocol Buffers, so that a node ignores fields it does not know. A new kind of entry is another matter: an
//! older node would drop it, so it is written only once the platform's feature level says that all nodes read it.

use prost::Message as _;

use crate::message::Role;
use crate::{ConversationId, MessageId, UserId};

/// One append to a partition of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// What kind of record, see [`RecordKind`].
    #[prost(enumeration = "RecordKind", tag = "1")]
    pub kind: i32,
    /// One more than that of the owner before.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The lease of the owner that wrote it: 16 bytes of node id.
    #[prost(bytes = "vec", tag = "3")]
    pub node: Vec<u8>,
    /// The start of that node's process, drawn at random: a lease belongs to one start.
    #[prost(uint64, tag = "4")]
    pub start: u64,
    /// Ids and watermarks up to here, inclusive, may be used once this record is accepted.
    #[prost(uint64, tag = "5")]
    pub reserved_until: u64,
    /// What was decided, in order.
    #[prost(message, repeated, tag = "6")]
    pub entries: Vec<Entry>,
    /// In a closing record: everything before it is in the store.
    #[prost(bool, tag = "7")]
    pub is_written: bool,
    /// The store has taken everything up to this sequence of the partition. 0: nothing is said.
    #[prost(uint64, tag = "8")]
    pub written_to: u64,
}

/// The kinds of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum RecordKind {
    /// Not a record this node can read.
    Unknown = 0,
    /// A new owner begins.
    Opening = 1,
    /// Extends the reservation of an idle partition.
    Tick = 2,
    /// Entries.
    Batch = 3,
    /// The owner has left.
    Closing = 4,
}

/// One decision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// 16 bytes: the conversation.
    #[prost(bytes = "vec", tag = "2")]
    pub conversation: Vec<u8>,
    /// What was decided; `None` if written by a newer node in a form unknown here.
    #[prost(oneof = "Change", tags = "3, 4, 5, 6, 7, 8, 9, 10")]
    pub change: Option<Change>,
}

/// What an entry decides.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Change {
    /// A message.
    #[prost(message, tag = "3")]
    Message(MessageSent),
    /// A new body of a message.
    #[prost(message, tag = "4")]
    Edit(MessageEdited),
    /// A message deleted for everyone.
    #[prost(message, tag = "5")]
    Delete(MessageDeleted),
    /// A reaction added or removed.
    #[prost(message, tag = "6")]
    Reaction(ReactionChanged),
    /// The conversation begins.
    #[prost(message, tag = "7")]
    Created(ConversationCreated),
    /// Its name or picture changed.
    #[prost(message, tag = "8")]
    Properties(PropertiesChanged),
    /// A membership began, ended, or changed its role.
    #[prost(message, tag = "9")]
    Member(MemberChanged),
    /// A member read up to a message.
    #[prost(message, tag = "10")]
    Read(ReadMarked),
}

/// A message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MessageSent {
    /// Dense number in the conversation.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// 16 bytes: who sent it.
    #[prost(bytes = "vec", tag = "2")]
    pub sender: Vec<u8>,
    /// 16 bytes: the id its client chose.
    #[prost(bytes = "vec", tag = "3")]
    pub client_message_id: Vec<u8>,
    /// Type.
    #[prost(string, tag = "4")]
    pub kind: String,
    /// JSON text.
    #[prost(string, tag = "5")]
    pub body: String,
    /// The message it answers, 0 for none.
    #[prost(uint64, tag = "6")]
    pub reply_to: u64,
    /// 16 bytes each: who is mentioned.
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub mentions: Vec<Vec<u8>>,
}

/// A new body of a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MessageEdited {
    /// The message.
    #[prost(uint64, tag = "1")]
    pub target: u64,
    /// 16 bytes: who edited it.
    #[prost(bytes = "vec", tag = "2")]
    pub editor: Vec<u8>,
    /// JSON text.
    #[prost(string, tag = "3")]
    pub body: String,
    /// 16 bytes each: who is mentioned now.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub mentions: Vec<Vec<u8>>,
}

/// A message deleted for everyone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MessageDeleted {
    /// The message.
    #[prost(uint64, tag = "1")]
    pub target: u64,
    /// 16 bytes: who deleted it.
    #[prost(bytes = "vec", tag = "2")]
    pub by: Vec<u8>,
}

/// A reaction added or removed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReactionChanged {
    /// The message.
    #[prost(uint64, tag = "1")]
    pub target: u64,
    /// 16 bytes: whose reaction.
    #[prost(bytes = "vec", tag = "2")]
    pub user: Vec<u8>,
    /// The emoji.
    #[prost(string, tag = "3")]
    pub emoji: String,
    /// Taken back.
    #[prost(bool, tag = "4")]
    pub removed: bool,
}

/// A conversation begins. Its first members join with this entry's id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConversationCreated {
    /// 16 bytes: who made it; the owner of a group or room.
    #[prost(bytes = "vec", tag = "1")]
    pub creator: Vec<u8>,
    /// Name, empty for none.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Picture, empty for none.
    #[prost(string, tag = "3")]
    pub picture: String,
    /// 16 bytes each: the other first members.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub members: Vec<Vec<u8>>,
}

/// Name or picture changed; an absent field stays as it was.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropertiesChanged {
    /// 16 bytes: who changed it.
    #[prost(bytes = "vec", tag = "1")]
    pub by: Vec<u8>,
    /// The name now.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// The picture now.
    #[prost(string, optional, tag = "3")]
    pub picture: Option<String>,
}

/// How a membership changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MemberChange {
    /// Not a change this node can read.
    Unknown = 0,
    /// An interval begins with this entry's id.
    Joined = 1,
    /// The open interval ends with this entry's id.
    Left = 2,
    /// The role changed.
    RoleChanged = 3,
}

/// A membership began, ended, or changed its role.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberChanged {
    /// 16 bytes: whose membership.
    #[prost(bytes = "vec", tag = "1")]
    pub user: Vec<u8>,
    /// 16 bytes: whose deed.
    #[prost(bytes = "vec", tag = "2")]
    pub by: Vec<u8>,
    /// What happened.
    #[prost(enumeration = "MemberChange", tag = "3")]
    pub change: i32,
    /// The role from now on: 0 member, 1 admin, 2 owner.
    #[prost(uint32, tag = "4")]
    pub role: u32,
}

/// A member read up to a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadMarked {
    /// 16 bytes: who.
    #[prost(bytes = "vec", tag = "1")]
    pub user: Vec<u8>,
    /// Up to the message with this seq.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// Bytes of the log that are not a record this code can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable log record: {0}")]
pub struct Unreadable(pub String);

impl Record {
    /// The bytes appended to the log.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The record with these bytes. A kind of record or change that this code does not know is an error: to skip it would
    /// lose a decision.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, Unreadable> {
        let record = Record::decode(bytes).map_err(|e| Unreadable(e.to_string()))?;
        if RecordKind::try_from(record.kind).unwrap_or(RecordKind::Unknown) == RecordKind::Unknown {
            return Err(Unreadable(format!("record kind {}", record.kind)));
        }
        if let Some(entry) = record.entries.iter().find(|entry| entry.change.is_none()) {
            return Err(Unreadable(format!("unknown change in entry {}", entry.id)));
        }
        Ok(record)
    }
}

impl Entry {
    /// The entry's id.
    pub fn message_id(&self) -> MessageId {
        MessageId(self.id)
    }

    /// The entry's conversation.
    pub fn conversation_id(&self) -> Result<ConversationId, Unreadable> {
        ConversationId::from_bytes(&self.conversation).map_err(|e| Unreadable(e.to_string()))
    }
}

/// A user id out of a record.
pub fn user_id(bytes: &[u8]) -> Result<UserId, Unreadable> {
    UserId::from_bytes(bytes).map_err(|e| Unreadable(e.to_string()))
}

/// A role as records write it.
pub fn role_number(role: Role) -> u32 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

/// A role out of a record.
pub fn role_from(number: u32) -> Result<Role, Unreadable> {
    match number {
        0 => Ok(Role::Member),
        1 => Ok(Role::Admin),
        2 => Ok(Role::Owner),
        _ => Err(Unreadable(format!("role {number}"))),
    }
}
