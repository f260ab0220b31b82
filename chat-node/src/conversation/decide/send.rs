//! Sending a message.

use chat_protocol::error::{Code, Refusal};
use chat_protocol::limits::{BODY_BYTES_MAX, MENTIONS_MAX, MESSAGE_TYPE_BYTES_MAX, TEXT_CHARS_MAX};
use chat_protocol::record::{Change, MessageSent};
use chat_protocol::{Body, ConversationKind, UserId};
use serde::Deserialize;

use super::{Answer, Decision, Facts, Memory, Need, bytes, invalid};
use crate::conversation::command::Draft;
use crate::conversation::state::State;

pub(super) fn send(
    state: &State,
    caller: UserId,
    draft: &Draft,
    facts: &Facts,
    memory: &Memory<'_>,
) -> Result<Decision, Refusal> {
    // A repeat gets its first answer whatever has changed since: blocks, limits, membership of those mentioned.
    if let Some((id, seq)) = memory.sent {
        return Ok(Decision::Repeat(id, seq));
    }
    if draft.retry || memory.sent_is_uncertain {
        match &facts.duplicate {
            None => return Ok(Decision::Need(Need::Duplicate)),
            Some(Some(row)) => return Ok(Decision::Repeat(row.message_id, row.seq)),
            Some(None) => {}
        }
    }
    check_kind(&draft.kind)?;
    check_body(&draft.kind, &draft.body)?;
    let mentions = checked_mentions(state, &draft.mentions)?;
    if let Some(reply_to) = draft.reply_to
        && (reply_to.0 == 0 || reply_to.partition() != state.id.partition())
    {
        return Err(invalid("`reply_to` is not a message of this conversation."));
    }
    if let Some(peer) = state.peer(caller) {
        match facts.blocked {
            None => return Ok(Decision::Need(Need::Blocked(caller, peer))),
            Some(true) => {
                let detail = "One of you has blocked the other, so no message can be sent here.";
                return Err(Refusal::new(Code::Blocked, detail));
            }
            Some(false) => {}
        }
    }
    let message = MessageSent {
        seq: state.last_seq + 1,
        sender: bytes(caller),
        client_message_id: draft.client_message_id.as_bytes().to_vec(),
        kind: draft.kind.clone(),
        body: draft.body.as_json().to_owned(),
        reply_to: draft.reply_to.map_or(0, |id| id.0),
        mentions: mentions.into_iter().map(bytes).collect(),
    };
    Ok(Decision::Commit(vec![Change::Message(message)], Answer::Sent))
}

fn check_kind(kind: &str) -> Result<(), Refusal> {
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if kind.is_empty() || kind.len() > MESSAGE_TYPE_BYTES_MAX || !kind.bytes().all(named) {
        return Err(invalid(format!(
            "`type` must be 1 to {MESSAGE_TYPE_BYTES_MAX} of a-z, 0-9, dot, hyphen and underscore."
        )));
    }
    if kind == "system" {
        return Err(invalid("`type` cannot be `system`: only the server writes those."));
    }
    Ok(())
}

/// Types other than `text` are the application's own and are not looked into.
pub(super) fn check_body(kind: &str, body: &Body) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Text<'a> {
        #[serde(borrow)]
        text: std::borrow::Cow<'a, str>,
    }
    if body.as_json().len() > BODY_BYTES_MAX {
        let detail = format!(
            "`body` is over {BODY_BYTES_MAX} bytes of JSON. Send it in parts, or as a file."
        );
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    if kind != "text" {
        return Ok(());
    }
    // Without the look at the brace, a list would be read as the fields in their order.
    let object = Some(body.as_json()).filter(|json| json.starts_with('{'));
    let text: Text<'_> =
        object.and_then(|json| serde_json::from_str(json).ok()).ok_or_else(|| {
            invalid("`body` of a `text` message must be an object with a string `text`.")
        })?;
    // Counting stops just above the limit; most texts are far below it.
    match text.text.chars().take(TEXT_CHARS_MAX + 1).count() {
        0 => Err(invalid("`body.text` is empty.")),
        count if count > TEXT_CHARS_MAX => {
            let detail =
                format!("`body.text` is over {TEXT_CHARS_MAX} characters. Send it in parts.");
            Err(Refusal::new(Code::TooLarge, detail))
        }
        _ => Ok(()),
    }
}

/// Mentions without repeats, members only (in a live room: anyone).
pub(super) fn checked_mentions(state: &State, mentions: &[UserId]) -> Result<Vec<UserId>, Refusal> {
    if mentions.len() > MENTIONS_MAX {
        return Err(invalid(format!("`mentions` names over {MENTIONS_MAX} people.")));
    }
    let mut distinct: Vec<UserId> = Vec::with_capacity(mentions.len());
    for user in mentions {
        if state.kind() != ConversationKind::Room && state.role(*user).is_none() {
            return Err(invalid("`mentions` names somebody who is not a member."));
        }
        if !distinct.contains(user) {
            distinct.push(*user);
        }
    }
    Ok(distinct)
}
