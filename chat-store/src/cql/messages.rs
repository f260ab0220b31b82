//! Messages: how their rows are written, and how a row is read.

use std::collections::HashMap;

use chat_protocol::message::{Message, Reactions};
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, UserId};
use scylla::DeserializeRow;

use super::column::{message_id, ordered, pack_users, timestamp, unpack_users, user_id, values};
use super::error::Failure;
use super::execute::RowWrite;
use super::statements::Statements;
use crate::reactions::Collected;
use crate::row::{MessageRow, ReactionRow, RevisionRow};

/// Time stamps of `first_reactions` are this less the entry's, so that the lowest entry wins. Some databases refuse
/// time stamps in the future: as microseconds this is in 2023. Ids reach it in 2038.
const FALLING: i64 = 1_700_000_000_000_000;

/// Where a message's row is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) conversation: ConversationId,
    pub(super) bucket: i64,
}

pub(super) fn put_message<'a>(
    statements: &'a Statements,
    place: Place,
    row: &MessageRow,
) -> Result<RowWrite<'a>, Failure> {
    let values = values![
        place.conversation.as_bytes(),
        place.bucket,
        ordered(row.message_id.0)?,
        ordered(row.seq)?,
        row.sender_id.as_bytes(),
        row.client_message_id.as_bytes(),
        row.kind.as_str(),
        row.body.as_json(),
        // No message has the id 0; a null would be a tombstone.
        ordered(row.reply_to.unwrap_or_default().0)?,
        pack_users(&row.mentions),
        timestamp(row.message_id),
    ];
    Ok(RowWrite { statement: &statements.put_message, values })
}

/// An edit goes over the message's own body, which has the lower time stamp. A deletion has a column of its own, so
/// that no edit undoes it, and empties what the message said.
pub(super) fn put_revision<'a>(
    statements: &'a Statements,
    place: Place,
    row: &RevisionRow,
) -> Result<RowWrite<'a>, Failure> {
    let version = ordered(row.version.0)?;
    let (time, id) = (timestamp(row.version), ordered(row.message_id.0)?);
    let conversation = place.conversation.as_bytes();
    Ok(match &row.content {
        Some((body, mentions)) => RowWrite {
            statement: &statements.edit_message,
            values: values![
                time,
                version,
                body.as_json(),
                pack_users(mentions),
                conversation,
                place.bucket,
                id
            ],
        },
        None => RowWrite {
            statement: &statements.delete_message,
            values: values![time, version, conversation, place.bucket, id],
        },
    })
}

/// The reaction itself, and when its emoji first appeared.
pub(super) fn put_reaction<'a>(
    statements: &'a Statements,
    place: Place,
    row: &ReactionRow,
) -> Result<[RowWrite<'a>; 2], Failure> {
    let (version, id) = (ordered(row.version.0)?, ordered(row.message_id.0)?);
    let conversation = place.conversation.as_bytes();
    let key = [row.user_id.as_bytes(), row.emoji.as_bytes()].concat();
    let change = if row.removed { -version } else { version };
    let falling = FALLING.saturating_sub(timestamp(row.version)).max(1);
    Ok([
        RowWrite {
            statement: &statements.react,
            values: values![timestamp(row.version), key, change, conversation, place.bucket, id],
        },
        RowWrite {
            statement: &statements.react_first,
            values: values![falling, row.emoji.as_str(), version, conversation, place.bucket, id],
        },
    ])
}

/// A row as read.
#[derive(DeserializeRow)]
pub(super) struct Columns {
    pub(super) message_id: i64,
    seq: Option<i64>,
    sender: Option<Vec<u8>>,
    client_message_id: Option<Vec<u8>>,
    kind: Option<String>,
    body: Option<String>,
    reply_to: Option<i64>,
    mentions: Option<Vec<u8>>,
    edited: Option<i64>,
    deleted: Option<i64>,
    reactions: Option<HashMap<Vec<u8>, i64>>,
    first_reactions: Option<HashMap<String, i64>>,
    pub(super) rolled: Option<bool>,
}

impl Columns {
    /// The message as it is now; `None`: only what came before it is there.
    pub(super) fn message(
        self,
        conversation_id: ConversationId,
    ) -> Result<Option<Message>, Failure> {
        let (Some(sender), Some(seq), Some(client)) =
            (&self.sender, self.seq, &self.client_message_id)
        else {
            return Ok(None);
        };
        let id = message_id(self.message_id);
        let mut message = Message {
            conversation_id,
            message_id: id,
            version: id,
            seq: super::column::from_bits(seq),
            sender_id: user_id(sender)?,
            client_message_id: ClientMessageId::from_bytes(client)?,
            kind: String::new(),
            body: None,
            created_at: id.created_at(),
            edited_at: None,
            deleted: false,
            reply_to: self.reply_to.filter(|id| *id != 0).map(message_id),
            mentions: Vec::new(),
            reactions: Reactions::default(),
        };
        if let Some(deleted) = self.deleted {
            message.version = message_id(deleted);
            message.deleted = true;
            return Ok(Some(message));
        }
        if let Some(edited) = self.edited.map(message_id) {
            message.version = edited;
            message.edited_at = Some(edited.created_at());
        }
        message.mentions = unpack_users(self.mentions.as_deref().unwrap_or_default())?;
        message.reactions = reactions(self.reactions.as_ref(), self.first_reactions.as_ref())?;
        message.body = Some(parse_body(self.body.unwrap_or_default())?);
        message.kind = self.kind.unwrap_or_default();
        Ok(Some(message))
    }

    /// What is in this row beside the message itself, as writes that make it again elsewhere.
    pub(super) fn rewrite<'a>(
        self,
        statements: &'a Statements,
        place: Place,
    ) -> Result<Vec<RowWrite<'a>>, Failure> {
        let id = message_id(self.message_id);
        let (conversation_id, message_id_) = (place.conversation, id);
        let mut writes = Vec::new();
        let revision = |version, content| RevisionRow {
            conversation_id,
            message_id: message_id_,
            version: message_id(version),
            content,
        };
        match (self.deleted, self.edited) {
            // What was edited before or after is never shown again.
            (Some(deleted), _) => {
                writes.push(put_revision(statements, place, &revision(deleted, None))?);
            }
            (None, Some(edited)) => {
                let mentions = unpack_users(self.mentions.as_deref().unwrap_or_default())?;
                let content = Some((parse_body(self.body.unwrap_or_default())?, mentions));
                writes.push(put_revision(statements, place, &revision(edited, content))?);
            }
            (None, None) => {}
        }
        let firsts = self.first_reactions.unwrap_or_default();
        for (key, change) in self.reactions.unwrap_or_default() {
            let (user_id, emoji) = reaction_key(&key)?;
            let mut row = ReactionRow {
                conversation_id,
                message_id: id,
                user_id,
                version: message_id(change.abs()),
                removed: change < 0,
                emoji,
            };
            let [now, _] = put_reaction(statements, place, &row)?;
            row.version = message_id(firsts.get(&row.emoji).copied().unwrap_or(change.abs()));
            let [_, first] = put_reaction(statements, place, &row)?;
            writes.extend([now, first]);
        }
        Ok(writes)
    }
}

pub(super) fn parse_body(json: String) -> Result<Body, Failure> {
    Body::from_json(json).map_err(|error| Failure::Damaged(format!("a message body: {error}")))
}

/// 16 bytes of the user, then the emoji.
pub(super) fn reaction_key(key: &[u8]) -> Result<(UserId, String), Failure> {
    let damaged = || Failure::Damaged("the key of a reaction".into());
    let (user, emoji) = key.split_at_checked(16).ok_or_else(damaged)?;
    Ok((user_id(user)?, String::from_utf8(emoji.to_vec()).map_err(|_| damaged())?))
}

fn reactions(
    changes: Option<&HashMap<Vec<u8>, i64>>,
    firsts: Option<&HashMap<String, i64>>,
) -> Result<Reactions, Failure> {
    let Some(changes) = changes else { return Ok(Reactions::default()) };
    let mut collected = Collected::default();
    for (key, change) in changes {
        let (user, emoji) = reaction_key(key)?;
        let version: MessageId = message_id(change.abs());
        let first = firsts.and_then(|firsts| firsts.get(&emoji)).copied().map(message_id);
        let first = first.unwrap_or(version).row_version();
        collected.add(user, emoji, version, first, *change < 0);
    }
    Ok(collected.into())
}
