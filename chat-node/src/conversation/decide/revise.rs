//! Editing, deleting and reacting: what is done to a message that is there.

use chat_protocol::api::Changed;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::limits::{REACTION_BYTES_MAX, REACTION_KINDS_MAX};
use chat_protocol::message::{Message, Role};
use chat_protocol::record::{Change, MessageDeleted, MessageEdited, ReactionChanged};
use chat_protocol::{Body, MessageId, UserId};

use super::send::{check_body, checked_mentions};
use super::{Answer, Decision, Facts, Memory, Need, bytes, forbidden, invalid};
use crate::conversation::command::Reply;
use crate::conversation::state::State;

/// The message; `None`: its row must be read first.
fn target(id: MessageId, facts: &Facts, memory: &Memory<'_>) -> Result<Option<Message>, Refusal> {
    let Some(stored) = &facts.message else { return Ok(None) };
    let missing = || Refusal::new(Code::NotFound, "There is no such message in this conversation.");
    let message = (memory.message)(id, stored.clone()).ok_or_else(missing)?;
    match message.deleted {
        true => Err(Refusal::new(Code::MessageDeleted, "The message was deleted.")),
        false => Ok(Some(message)),
    }
}

/// It is as asked already: a repeat gets the same answer and changes nothing.
fn as_it_is(version: MessageId) -> Decision {
    Decision::Reply(Reply::Changed(Changed { version }))
}

pub(super) fn edit(
    state: &State,
    caller: UserId,
    id: MessageId,
    body: &Body,
    mentions: &[UserId],
    facts: &Facts,
    memory: &Memory<'_>,
) -> Result<Decision, Refusal> {
    let Some(message) = target(id, facts, memory)? else {
        return Ok(Decision::Need(Need::Message(id)));
    };
    if message.kind == "system" || message.sender_id != caller {
        return Err(forbidden("Only the person who sent a message can edit it."));
    }
    check_body(&message.kind, body)?;
    let mentions = checked_mentions(state, mentions)?;
    if message.body.as_ref() == Some(body) && message.mentions == mentions {
        return Ok(as_it_is(message.version));
    }
    let edited = MessageEdited {
        target: id.0,
        editor: bytes(caller),
        body: body.as_json().to_owned(),
        mentions: mentions.into_iter().map(bytes).collect(),
    };
    Ok(Decision::Commit(vec![Change::Edit(edited)], Answer::Changed))
}

pub(super) fn delete(
    caller: UserId,
    role: Role,
    id: MessageId,
    facts: &Facts,
    memory: &Memory<'_>,
) -> Result<Decision, Refusal> {
    let Some(message) = target(id, facts, memory)? else {
        return Ok(Decision::Need(Need::Message(id)));
    };
    if message.kind == "system" {
        return Err(forbidden("A system message cannot be deleted."));
    }
    if message.sender_id != caller && role < Role::Admin {
        return Err(forbidden("Only the person who sent a message, or an admin, can delete it."));
    }
    let deleted = MessageDeleted { target: id.0, by: bytes(caller) };
    Ok(Decision::Commit(vec![Change::Delete(deleted)], Answer::Changed))
}

pub(super) fn react(
    caller: UserId,
    id: MessageId,
    emoji: &str,
    remove: bool,
    facts: &Facts,
    memory: &Memory<'_>,
) -> Result<Decision, Refusal> {
    if emoji.is_empty() || emoji.len() > REACTION_BYTES_MAX || emoji.chars().any(char::is_control) {
        return Err(invalid(format!(
            "`emoji` must be 1 to {REACTION_BYTES_MAX} bytes of visible text."
        )));
    }
    let Some(message) = target(id, facts, memory)? else {
        return Ok(Decision::Need(Need::Message(id)));
    };
    let item = message.reactions.items.iter().find(|item| item.emoji == emoji);
    let present = item.is_some_and(|item| item.user_ids.contains(&caller));
    if present != remove {
        return Ok(as_it_is(message.reactions.version));
    }
    if item.is_none() && message.reactions.items.len() >= REACTION_KINDS_MAX {
        let detail =
            format!("This message has {REACTION_KINDS_MAX} different reactions; use one of them.");
        return Err(Refusal::new(Code::Conflict, detail));
    }
    let change = ReactionChanged {
        target: id.0,
        user: bytes(caller),
        emoji: emoji.to_owned(),
        removed: remove,
    };
    Ok(Decision::Commit(vec![Change::Reaction(change)], Answer::Changed))
}
