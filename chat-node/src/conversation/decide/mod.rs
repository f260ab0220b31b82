//! What a command comes to, decided from values: the conversation's state, facts from the store, and `now`.

mod marks;
mod members;
mod revise;
mod send;
#[cfg(test)]
mod tests;

use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::ServerFrame;
use chat_protocol::message::{Message, Role};
use chat_protocol::record::Change;
use chat_protocol::{ConversationKind, MessageId, UserId};
use chat_store::{DuplicateRow, Write};

use super::command::{Action, Command, Reply};
use super::state::State;

/// What the store was asked for on behalf of one command.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The duplicate row of a send, if it was read.
    pub duplicate: Option<Option<DuplicateRow>>,
    /// The message that the command is about, as the store has it, if it was read.
    pub message: Option<Option<Message>>,
    /// Whether the two people of a direct conversation have blocked one another, if it was read.
    pub blocked: Option<bool>,
}

/// A fact that a decision lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The duplicate row of this send.
    Duplicate,
    /// This message.
    Message(MessageId),
    /// Whether these two have blocked one another.
    Blocked(UserId, UserId),
}

/// What the owner's memory says of one command.
pub struct Memory<'a> {
    /// The committed or pending send with the same key.
    pub sent: Option<(MessageId, u64)>,
    /// Not finding a send there proves nothing: the row must be read.
    pub sent_is_uncertain: bool,
    /// The message the command is about, with everything that is not yet in the store; given the store's copy.
    pub message: &'a dyn Fn(MessageId, Option<Message>) -> Option<Message>,
}

/// What a command comes to.
#[derive(Clone, Debug)]
pub enum Decision {
    /// These entries, in this order, and then the answer.
    Commit(Vec<Change>, Answer),
    /// Nothing to commit.
    Reply(Reply),
    /// The first send's answer again, once that is committed.
    Repeat(MessageId, u64),
    /// Nothing to commit, but others learn of it.
    Tell {
        /// To every member but the caller.
        frame: Box<ServerFrame>,
        /// A row that is not made from the log.
        write: Option<Write>,
    },
    /// Refused.
    Refuse(Refusal),
    /// A fact is missing.
    Need(Need),
}

/// What to answer once the entries are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Id and seq of the message among them.
    Sent,
    /// Id of the last of them.
    Changed,
    /// The conversation, once it can be read from the store.
    Conversation,
    /// Only that it is done.
    Done,
}

/// Decides a command. `state.row` is `None` if the conversation does not exist.
pub fn decide(state: &State, command: &Command, facts: &Facts, memory: &Memory<'_>) -> Decision {
    decided(state, command, facts, memory).unwrap_or_else(Decision::Refuse)
}

fn decided(
    state: &State,
    command: &Command,
    facts: &Facts,
    memory: &Memory<'_>,
) -> Result<Decision, Refusal> {
    if let Action::Create { name, members } = &command.action {
        return members::create(state, command.caller, name.as_deref(), members);
    }
    let role = permitted(state, command.caller)?;
    match &command.action {
        Action::Send(draft) => send::send(state, command.caller, draft, facts, memory),
        Action::Edit { message_id, body, mentions } => {
            revise::edit(state, command.caller, *message_id, body, mentions, facts, memory)
        }
        Action::Delete { message_id } => {
            revise::delete(command.caller, role, *message_id, facts, memory)
        }
        Action::React { message_id, emoji, remove } => {
            revise::react(command.caller, *message_id, emoji, *remove, facts, memory)
        }
        Action::Read { seq } => Ok(marks::read(state, command.caller, *seq)),
        Action::Delivered { seq } => Ok(marks::delivered(state, command.caller, *seq)),
        Action::Typing { active } => Ok(marks::typing(state, command.caller, *active)),
        Action::Change { name, picture } => {
            members::change(state, command.caller, role, name.as_deref(), picture.as_deref())
        }
        Action::Invite { user_ids } => members::invite(state, command.caller, role, user_ids),
        Action::Remove { user_id } => members::remove(state, command.caller, role, *user_id),
        Action::SetRole { user_id, role: new } => {
            members::set_role(state, command.caller, role, *user_id, *new)
        }
        // The owner answers this one from what it holds; see `owner`.
        Action::Tail | Action::Create { .. } => Ok(Decision::Reply(Reply::Done)),
    }
}

/// The caller's role, if they may do anything here at all. Everyone may talk in a live room. Strangers do not learn
/// whether a conversation exists.
fn permitted(state: &State, caller: UserId) -> Result<Role, Refusal> {
    let role = match state.kind() {
        ConversationKind::Room => Some(state.role(caller).unwrap_or_default()),
        _ => state.role(caller),
    };
    role.filter(|_| state.row.is_some()).ok_or_else(not_found)
}

fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "There is no such conversation, or you are not a member of it.")
}

fn forbidden(detail: &str) -> Refusal {
    Refusal::new(Code::Forbidden, detail)
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidField, detail)
}

fn bytes(user: UserId) -> Vec<u8> {
    user.as_bytes().to_vec()
}
