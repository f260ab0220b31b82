//! What a client tells its program.

use chat_protocol::api::{Sent, Tokens};
use chat_protocol::error::Refusal;
use chat_protocol::frame::{
    AccountChanged, FriendChanged, Outcome, Presence, ReactionsChanged, Receipt, RoomBatch, Typing,
    Welcome,
};
use chat_protocol::message::{Conversation, Message};
use chat_protocol::{ClientMessageId, Code};

use crate::outbox::Draft;

/// Something happened. Events come in the order in which the program must apply them.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Connected. On [`Outcome::Reset`] the local copy must be dropped and loaded as if new.
    Connected(Box<Welcome>),
    /// Not connected; the next attempt starts by itself.
    Disconnected {
        /// Why, as a plain sentence.
        reason: String,
        /// When the next attempt starts.
        retry_in_ms: u64,
    },
    /// The session is over: the client does not try again. The last event.
    Ended(Ended),
    /// New tokens of this device: store them at once, the old refresh token no longer works.
    Tokens(Box<Tokens>),
    /// A message, new or changed; each version comes once.
    Message(Box<Message>),
    /// Reactions changed.
    Reactions(Box<ReactionsChanged>),
    /// A conversation is new or changed.
    Conversation(Box<Conversation>),
    /// Someone's read mark moved.
    Read(Receipt),
    /// Someone's delivery mark moved.
    Delivered(Receipt),
    /// Someone is typing, or stopped.
    Typing(Typing),
    /// A friend came or went; for a snapshot, one event per friend.
    Presence(Presence),
    /// A friendship changed.
    Friend(FriendChanged),
    /// The own account changed elsewhere.
    Account(AccountChanged),
    /// A batch of a live room, without the messages seen before.
    Room(Box<RoomBatch>),
    /// Everything before this event may be stored now, together with this cursor.
    Cursor {
        /// The cursor.
        cursor: String,
        /// Something from before the connection may still be on its way.
        catching_up: bool,
    },
    /// A message is committed.
    Sent {
        /// Which.
        client_message_id: ClientMessageId,
        /// Its place; `None` if the message's own appearance told, which precedes this event.
        sent: Option<Sent>,
    },
    /// A message was refused for good; it has left the outbox.
    Refused {
        /// What was to be sent.
        draft: Box<Draft>,
        /// Why.
        refusal: Answer,
    },
}

/// Why the client gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The program closed it.
    Closed,
    /// The device was logged out or its tokens are no longer good: log in again.
    LoggedOut,
    /// The server closed with a code of the range that says not to come back.
    Refused {
        /// The close code.
        close_code: u16,
        /// The server's reason.
        reason: String,
    },
}

/// A refusal as it arrived: its code may be newer than this client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code_text})")]
pub struct Answer {
    /// The code, if this client knows it.
    pub code: Option<Code>,
    /// The code as it came.
    pub code_text: String,
    /// A plain sentence.
    pub detail: String,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
}

impl Answer {
    /// Whether the same request may succeed later. A code this client does not know is final.
    pub fn is_retryable(&self) -> bool {
        self.code.is_some_and(Code::is_retryable)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        Answer {
            code: Some(refusal.code),
            code_text: refusal.code.as_str().to_owned(),
            detail: refusal.detail,
            retry_after_ms: refusal.retry_after_ms,
        }
    }
}

/// Whether the local copy must be dropped and loaded as if new.
pub fn must_load(outcome: Outcome) -> bool {
    outcome != Outcome::Resumed
}
