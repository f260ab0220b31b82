//! Messages with their revisions and reactions, and the answers to repeated sends.

use std::collections::HashMap;

use chat_protocol::limits::DUPLICATE_DAYS;
use chat_protocol::message::{Message, Reactions};
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, UserId};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::column::{
    bits, blob, bound, from_bits, message_id, ordered, pack_users, rows, unpack_users, user_id,
};
use super::error::Failure;
use crate::reactions::Collected;
use crate::row::{DuplicateRow, MessageRow, ReactionRow, RevisionRow};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The day of a duplicate row: of its message.
fn day(id: MessageId) -> i64 {
    bound(id.created_at().since_2025() / DAY_MS)
}

/// Days below this are over: each of their rows is older than it must be kept.
pub(super) fn first_day_kept(now: chat_protocol::Millis) -> i64 {
    bound((now.since_2025() / DAY_MS).saturating_sub(DUPLICATE_DAYS))
}

pub(super) fn put_message(connection: &Connection, row: &MessageRow) -> Result<(), Failure> {
    let id = ordered(row.message_id.0)?;
    let conversation = row.conversation_id.as_bytes();
    // A message's version is its id, which is the key: a row that is there already is this very row, or has been emptied.
    let mut statement = connection.prepare_cached(
        "INSERT INTO message (conversation, message_id, seq, sender, client_message_id, kind, body, reply_to, mentions)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (conversation, message_id) DO NOTHING",
    )?;
    let made = statement.execute(params![
        conversation,
        id,
        ordered(row.seq)?,
        row.sender_id.as_bytes(),
        row.client_message_id.as_bytes(),
        row.kind,
        row.body.as_json(),
        row.reply_to.map(|id| bits(id.0)),
        pack_users(&row.mentions),
    ])?;
    if made > 0 {
        let mut deleted = connection.prepare_cached(
            "SELECT 1 FROM revision WHERE conversation = ?1 AND message_id = ?2 AND deleted",
        )?;
        if deleted.exists(params![conversation, id])? {
            empty_message(connection, row.conversation_id, id)?;
        }
    }
    Ok(())
}

/// What was deleted for everyone is not kept either.
fn empty_message(
    connection: &Connection,
    conversation: ConversationId,
    id: i64,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "UPDATE message SET kind = '', body = '', mentions = NULL
         WHERE conversation = ?1 AND message_id = ?2 AND body <> ''",
    )?;
    statement.execute(params![conversation.as_bytes(), id])?;
    Ok(())
}

pub(super) fn put_revision(connection: &Connection, row: &RevisionRow) -> Result<(), Failure> {
    let id = ordered(row.message_id.0)?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO revision (conversation, message_id, version, version_id, deleted, body, mentions)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (conversation, message_id) DO UPDATE
         SET version = excluded.version, version_id = excluded.version_id, deleted = excluded.deleted,
             body = excluded.body, mentions = excluded.mentions
         WHERE (excluded.deleted, excluded.version) >= (deleted, version)",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        id,
        bits(row.version.row_version()),
        bits(row.version.0),
        row.content.is_none(),
        row.content.as_ref().map(|(body, _)| body.as_json()),
        row.content.as_ref().and_then(|(_, mentions)| pack_users(mentions)),
    ])?;
    match row.content {
        None => empty_message(connection, row.conversation_id, id),
        Some(_) => Ok(()),
    }
}

pub(super) fn put_reaction(connection: &Connection, row: &ReactionRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO reaction
             (conversation, message_id, user, emoji, version, version_id, removed, first_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?5)
         ON CONFLICT (conversation, message_id, user, emoji) DO UPDATE
         SET first_version = min(first_version, excluded.version),
             removed = iif(excluded.version >= version, excluded.removed, removed),
             version_id = iif(excluded.version >= version, excluded.version_id, version_id),
             version = max(version, excluded.version)",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        ordered(row.message_id.0)?,
        row.user_id.as_bytes(),
        row.emoji,
        bits(row.version.row_version()),
        bits(row.version.0),
        row.removed,
    ])?;
    Ok(())
}

pub(super) fn put_duplicate(connection: &Connection, row: &DuplicateRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO duplicate (day, conversation, sender, client_message_id, message_id, seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (day, conversation, sender, client_message_id) DO UPDATE
         SET message_id = excluded.message_id, seq = excluded.seq
         WHERE excluded.message_id > message_id",
    )?;
    statement.execute(params![
        day(row.message_id),
        row.conversation_id.as_bytes(),
        row.sender_id.as_bytes(),
        row.client_message_id.as_bytes(),
        ordered(row.message_id.0)?,
        ordered(row.seq)?,
    ])?;
    Ok(())
}

pub(super) fn duplicate(
    connection: &Connection,
    conversation_id: ConversationId,
    sender_id: UserId,
    client_message_id: ClientMessageId,
) -> Result<Option<DuplicateRow>, Failure> {
    let mut days = connection
        .prepare_cached("SELECT day FROM duplicate WHERE day < ?1 ORDER BY day DESC LIMIT 1")?;
    let mut statement = connection.prepare_cached(
        "SELECT message_id, seq FROM duplicate
         WHERE day = ?1 AND conversation = ?2 AND sender = ?3 AND client_message_id = ?4",
    )?;
    // Newest first: a later day has the higher version. There are about as many days as rows are kept.
    let mut before = i64::MAX;
    while let Some(day) = days.query_row([before], |row| row.get::<_, i64>(0)).optional()? {
        let key = params![
            day,
            conversation_id.as_bytes(),
            sender_id.as_bytes(),
            client_message_id.as_bytes()
        ];
        let found = statement.query_row(key, |row| {
            Ok(DuplicateRow {
                conversation_id,
                sender_id,
                client_message_id,
                message_id: message_id(row.get(0)?),
                seq: from_bits(row.get(1)?),
            })
        });
        if let Some(found) = found.optional()? {
            return Ok(Some(found));
        }
        before = day;
    }
    Ok(None)
}

pub(super) fn history_before(
    connection: &Connection,
    conversation: ConversationId,
    before: MessageId,
    limit: usize,
) -> Result<Vec<Message>, Failure> {
    // An id that does not fit a key is above all of them.
    let last = bound(before.0.saturating_sub(1));
    if before == MessageId::ZERO {
        return Ok(Vec::new());
    }
    let sql = "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions FROM message
               WHERE conversation = ?1 AND message_id <= ?2 ORDER BY message_id DESC LIMIT ?3";
    let key = params![conversation.as_bytes(), last, rows(limit)];
    let messages = select(connection, conversation, sql, key)?;
    complete_range(connection, conversation, messages)
}

pub(super) fn history_after(
    connection: &Connection,
    conversation: ConversationId,
    after: MessageId,
    limit: usize,
) -> Result<Vec<Message>, Failure> {
    let sql = "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions FROM message
               WHERE conversation = ?1 AND message_id > ?2 ORDER BY message_id LIMIT ?3";
    let key = params![conversation.as_bytes(), bound(after.0), rows(limit)];
    let messages = select(connection, conversation, sql, key)?;
    complete_range(connection, conversation, messages)
}

/// By increasing id, each once.
pub(super) fn messages(
    connection: &Connection,
    conversation: ConversationId,
    ids: &[MessageId],
) -> Result<Vec<Message>, Failure> {
    let ids: Vec<u64> = ids.iter().map(|id| id.0).filter(|id| i64::try_from(*id).is_ok()).collect();
    // A list as one parameter; numbers in JSON reach 63 bits here.
    let ids = serde_json::to_string(&ids).map_err(|e| Failure::Refused(e.to_string()))?;
    let sql = "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions FROM message
               WHERE conversation = ?1 AND message_id IN (SELECT value FROM json_each(?2)) ORDER BY message_id";
    let messages = select(connection, conversation, sql, params![conversation.as_bytes(), ids])?;
    let revisions = "SELECT message_id, version_id, deleted, body, mentions FROM revision
                     WHERE conversation = ?1 AND message_id IN (SELECT value FROM json_each(?2))";
    let reactions =
        "SELECT message_id, user, emoji, version_id, removed, first_version FROM reaction
                     WHERE conversation = ?1 AND message_id IN (SELECT value FROM json_each(?2))";
    let revisions = select_revisions(connection, revisions, params![conversation.as_bytes(), ids])?;
    let reactions = select_reactions(connection, reactions, params![conversation.as_bytes(), ids])?;
    Ok(merge(messages, revisions, reactions))
}

/// Adds revisions and reactions to the messages of one range.
fn complete_range(
    connection: &Connection,
    conversation: ConversationId,
    messages: Vec<Message>,
) -> Result<Vec<Message>, Failure> {
    let (Some(one), Some(other)) = (messages.first(), messages.last()) else {
        return Ok(messages);
    };
    let low = bound(one.message_id.0.min(other.message_id.0));
    let high = bound(one.message_id.0.max(other.message_id.0));
    let revisions = "SELECT message_id, version_id, deleted, body, mentions FROM revision
                     WHERE conversation = ?1 AND message_id BETWEEN ?2 AND ?3";
    let reactions =
        "SELECT message_id, user, emoji, version_id, removed, first_version FROM reaction
                     WHERE conversation = ?1 AND message_id BETWEEN ?2 AND ?3";
    let range = params![conversation.as_bytes(), low, high];
    let revisions = select_revisions(connection, revisions, range)?;
    let reactions = select_reactions(connection, reactions, range)?;
    Ok(merge(messages, revisions, reactions))
}

fn select(
    connection: &Connection,
    conversation: ConversationId,
    sql: &str,
    key: impl Params,
) -> Result<Vec<Message>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(key)?;
    let mut messages = Vec::new();
    while let Some(row) = found.next()? {
        messages.push(message(conversation, row)?);
    }
    Ok(messages)
}

fn message(conversation_id: ConversationId, row: &Row) -> Result<Message, Failure> {
    let message_id = message_id(row.get(0)?);
    let body: String = row.get(5)?;
    Ok(Message {
        conversation_id,
        message_id,
        version: message_id,
        seq: from_bits(row.get(1)?),
        sender_id: user_id(row, 2)?,
        client_message_id: ClientMessageId::from_bytes(blob(row, 3)?)?,
        kind: row.get(4)?,
        // Empty: deleted, as its revision says.
        body: if body.is_empty() { None } else { Some(parse_body(body)?) },
        created_at: message_id.created_at(),
        edited_at: None,
        deleted: false,
        reply_to: row.get::<_, Option<i64>>(6)?.map(super::column::message_id),
        mentions: mentions(row, 7)?,
        reactions: Reactions::default(),
    })
}

fn parse_body(json: String) -> Result<Body, Failure> {
    Body::from_json(json).map_err(|error| Failure::Damaged(format!("a message body: {error}")))
}

fn mentions(row: &Row, index: usize) -> Result<Vec<UserId>, Failure> {
    let column = row.get_ref(index)?.as_blob_or_null();
    unpack_users(column.map_err(|error| Failure::Damaged(error.to_string()))?)
}

/// A revision as read.
struct Revision {
    version: MessageId,
    /// `None`: deleted.
    content: Option<(Body, Vec<UserId>)>,
}

fn select_revisions(
    connection: &Connection,
    sql: &str,
    key: impl Params,
) -> Result<HashMap<MessageId, Revision>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(key)?;
    let mut revisions = HashMap::new();
    while let Some(row) = found.next()? {
        let content = match row.get::<_, bool>(2)? {
            true => None,
            false => Some((parse_body(row.get(3)?)?, mentions(row, 4)?)),
        };
        let revision = Revision { version: message_id(row.get(1)?), content };
        revisions.insert(message_id(row.get(0)?), revision);
    }
    Ok(revisions)
}

fn select_reactions(
    connection: &Connection,
    sql: &str,
    key: impl Params,
) -> Result<HashMap<MessageId, Reactions>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(key)?;
    let mut collected: HashMap<MessageId, Collected> = HashMap::new();
    while let Some(row) = found.next()? {
        let version = message_id(row.get(3)?);
        let first = from_bits(row.get(5)?);
        let of_message = collected.entry(message_id(row.get(0)?)).or_default();
        let (emoji, removed) = (row.get(2)?, row.get(4)?);
        of_message.add(user_id(row, 1)?, emoji, version, first, removed);
    }
    Ok(collected.into_iter().map(|(id, collected)| (id, collected.into())).collect())
}

fn merge(
    mut messages: Vec<Message>,
    mut revisions: HashMap<MessageId, Revision>,
    mut reactions: HashMap<MessageId, Reactions>,
) -> Vec<Message> {
    for message in &mut messages {
        message.reactions = reactions.remove(&message.message_id).unwrap_or_default();
        let Some(revision) = revisions.remove(&message.message_id) else { continue };
        message.version = revision.version;
        match revision.content {
            Some((body, mentions)) => {
                message.edited_at = Some(revision.version.created_at());
                message.body = Some(body);
                message.mentions = mentions;
            }
            None => {
                message.deleted = true;
                message.kind.clear();
                message.body = None;
                message.mentions.clear();
                message.reactions = Reactions::default();
            }
        }
    }
    messages
}
