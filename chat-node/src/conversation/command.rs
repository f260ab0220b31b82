//! What can be asked of a conversation's owner, wherever that is.

use async_trait::async_trait;
use chat_protocol::api::{Changed, ConversationHead, History, Sent};
use chat_protocol::error::Refusal;
use chat_protocol::message::{Conversation, Role};
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, Millis, SessionId, UserId};
use serde::{Deserialize, Serialize};

/// A command, as a gateway hands it over. The caller is authenticated; everything else is checked by the owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Who asks.
    pub caller: UserId,
    /// The connection that asks: it gets the answer instead of a copy of its own message.
    pub origin: Option<SessionId>,
    /// When the gateway received it, by its clock.
    pub received_at: Millis,
    /// What is asked.
    pub action: Action,
}

impl Command {
    /// Asks for the conversation's unwritten tail.
    pub(super) fn tail(caller: UserId, conversation_id: ConversationId) -> Command {
        let action = Action::Tail;
        Command { conversation_id, caller, origin: None, received_at: Millis(0), action }
    }
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Sends a message. Answer: [`Reply::Sent`], the first one's again on a repeat.
    Send(Draft),
    /// Replaces the body of an own message. Answer: [`Reply::Changed`].
    Edit {
        /// The message.
        message_id: MessageId,
        /// The new body.
        body: Body,
        /// The new mentions.
        mentions: Vec<UserId>,
    },
    /// Deletes an own message, or as admin anyone's, for everyone. Answer: [`Reply::Changed`].
    Delete {
        /// The message.
        message_id: MessageId,
    },
    /// Adds or removes an own reaction. Answer: [`Reply::Changed`].
    React {
        /// The message.
        message_id: MessageId,
        /// With what.
        emoji: String,
        /// Take it back.
        remove: bool,
    },
    /// Raises the own read mark. Answer: [`Reply::Done`].
    Read {
        /// Up to this message.
        seq: u64,
    },
    /// Raises the own delivery mark. Answer: [`Reply::Done`].
    Delivered {
        /// Up to this message.
        seq: u64,
    },
    /// Shows or hides "is typing". Answer: [`Reply::Done`].
    Typing {
        /// Typing now.
        active: bool,
    },
    /// Makes the conversation, or finds that it is there. Answer: [`Reply::Conversation`], once it can be read.
    Create {
        /// Name of a group or room.
        name: Option<String>,
        /// The other first members: exactly one for a direct conversation, none for a room.
        members: Vec<UserId>,
    },
    /// Changes name or picture. Answer: [`Reply::Conversation`], once it can be read. So for the three below.
    Change {
        /// The new name.
        name: Option<String>,
        /// The new picture; empty clears.
        picture: Option<String>,
    },
    /// Invites people to a group, or makes moderators join a room's members.
    Invite {
        /// Who; members are passed over.
        user_ids: Vec<UserId>,
    },
    /// Removes a member; oneself: leaves.
    Remove {
        /// Who.
        user_id: UserId,
    },
    /// Changes a member's role.
    SetRole {
        /// Whose.
        user_id: UserId,
        /// The new role.
        role: Role,
    },
    /// What is committed and not yet in the store. Answer: [`Reply::Tail`] or [`Reply::TailWithGaps`].
    Tail,
}

/// A message to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Draft {
    /// The key of its duplicates, with conversation and sender.
    pub client_message_id: ClientMessageId,
    /// `false` only the first time this id is ever sent.
    pub retry: bool,
    /// Type.
    pub kind: String,
    /// Content.
    pub body: Body,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
    /// Who is mentioned.
    pub mentions: Vec<UserId>,
}

/// What the owner answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Committed.
    Sent(Sent),
    /// Committed.
    Changed(Changed),
    /// As it is now.
    Conversation(Conversation),
    /// Done; nothing to tell.
    Done,
    /// Log entries, encoded, in order.
    Tail(Vec<Vec<u8>>),
    /// The same, but the store was away: it may lack others that it took before, until they are written again.
    TailWithGaps(Vec<Vec<u8>>),
}

/// Conversations as sessions and the HTTP API see them. Errors are [`Refusal`]s that go to the client as they are.
#[async_trait]
pub trait Conversations: Send + Sync {
    /// Hands a command to the owner and waits for the answer, at most the configured deadline. Repeats it by itself, as a
    /// retry, when the partition moves.
    async fn command(&self, command: Command) -> Result<Reply, Refusal>;

    /// A conversation for a member (of a room: for anyone), with its newest message and the caller's unread count.
    async fn head(&self, caller: UserId, id: ConversationId) -> Result<ConversationHead, Refusal>;

    /// The caller's conversations, by id.
    async fn list(
        &self,
        caller: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationHead>, Refusal>;

    /// Messages below `before`, newest first: from the owner's unwritten tail and the store.
    async fn history_before(
        &self,
        caller: UserId,
        id: ConversationId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<History, Refusal>;

    /// Messages above `after`, oldest first.
    async fn history_after(
        &self,
        caller: UserId,
        id: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<History, Refusal>;

    /// Rooms, newest first, created before `before`.
    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Conversation>, Refusal>;
}
