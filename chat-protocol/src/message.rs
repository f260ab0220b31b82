//! Messages and conversations as clients see them, the same in frames and in the HTTP API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Body, ClientMessageId, ConversationId, ConversationKind, MessageId, Millis, UserId};

/// A message as it is now: edits, deletion and reactions included.
///
/// A client keeps, per message, the copy with the highest `version`; then any order of arrival ends in the same state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// The conversation it belongs to.
    pub conversation_id: ConversationId,
    /// Its id; the order of messages in a conversation is the order of their ids.
    pub message_id: MessageId,
    /// Id of the last change to type, body, mentions or deletion; equal to `message_id` until the first.
    pub version: MessageId,
    /// 1, 2, 3, … without a hole in each conversation.
    pub seq: u64,
    /// Who sent it. For type `system`, whose deed it tells.
    pub sender_id: UserId,
    /// The id its sender's client chose.
    pub client_message_id: ClientMessageId,
    /// `text`, `system`, or any name the application chose. Empty once deleted.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content; `null` once deleted.
    pub body: Option<Body>,
    /// When its owner committed it.
    pub created_at: Millis,
    /// When it was last edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Millis>,
    /// Deleted for everyone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// People it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    /// Who reacted with what.
    #[serde(default, skip_serializing_if = "Reactions::is_empty")]
    pub reactions: Reactions,
}

/// All reactions on one message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reactions {
    /// Id of the last change to any of them; the copy with the higher version wins.
    pub version: MessageId,
    /// One entry per emoji, in the order in which each first appeared.
    pub items: Vec<Reaction>,
}

impl Reactions {
    /// Nobody has ever reacted.
    pub fn is_empty(&self) -> bool {
        self.version == MessageId::ZERO
    }
}

/// Everyone who reacted with one emoji.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reaction {
    /// The emoji.
    pub emoji: String,
    /// Who reacted with it, in the order in which they did.
    pub user_ids: Vec<UserId>,
}

/// What a member may do.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Talks, and leaves.
    #[default]
    Member,
    /// Also renames, invites and removes members.
    Admin,
    /// Also makes and unmakes admins. A conversation has exactly one.
    Owner,
}

/// A member of a conversation, with what they received and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// What they may do.
    pub role: Role,
    /// Since when; they get what has an id from here on.
    pub joined_id: MessageId,
    /// The last message they read, by its `seq`.
    pub read_seq: u64,
    /// The last message that reached one of their devices, by its `seq`; at least `read_seq`.
    pub delivered_seq: u64,
}

/// A conversation as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: ConversationId,
    /// Direct, group or room.
    pub kind: ConversationKind,
    /// Id of the last change to its name, picture, members or roles; the copy with the higher version wins.
    pub version: MessageId,
    /// Name of a group or room; a direct conversation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Reference to a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// When it was created.
    pub created_at: Millis,
    /// Its members; for a room, its owner and admins only.
    pub members: Vec<Member>,
}
