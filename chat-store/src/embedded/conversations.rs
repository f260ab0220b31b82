//! Conversations, their members and their marks.

use std::collections::HashMap;

use chat_protocol::message::Role;
use chat_protocol::record::{role_from, role_number};
use chat_protocol::{ConversationId, MessageId, UserId};
use rusqlite::{Connection, Row, params};

use super::column::{bits, bound, conversation_id, from_bits, message_id, ordered, rows, user_id};
use super::error::Failure;
use crate::row::{ConversationRow, MarkRow, MemberRow};

pub(super) fn put_conversation(
    connection: &Connection,
    row: &ConversationRow,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO conversation (conversation, created_id, version, version_id, creator, name, picture)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (conversation) DO UPDATE
         SET created_id = excluded.created_id, version = excluded.version, version_id = excluded.version_id,
             creator = excluded.creator, name = excluded.name, picture = excluded.picture
         WHERE excluded.version >= version",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        ordered(row.created_id.0)?,
        bits(row.version.row_version()),
        bits(row.version.0),
        row.creator_id.as_bytes(),
        row.name,
        row.picture,
    ])?;
    Ok(())
}

pub(super) fn put_member(connection: &Connection, row: &MemberRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO member (conversation, user, joined_id, left_id, role, version, version_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (conversation, user, joined_id) DO UPDATE
         SET left_id = excluded.left_id, role = excluded.role, version = excluded.version,
             version_id = excluded.version_id
         WHERE excluded.version >= version",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        row.user_id.as_bytes(),
        ordered(row.joined_id.0)?,
        row.left_id.map(|id| bits(id.0)),
        role_number(row.role),
        bits(row.version.row_version()),
        bits(row.version.0),
    ])?;
    Ok(())
}

pub(super) fn put_read(connection: &Connection, row: &MarkRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO mark (conversation, user, read_seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (conversation, user) DO UPDATE SET read_seq = excluded.read_seq
         WHERE excluded.read_seq > read_seq",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        row.user_id.as_bytes(),
        ordered(row.seq)?
    ])?;
    Ok(())
}

pub(super) fn put_delivered(connection: &Connection, row: &MarkRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO mark (conversation, user, delivered_seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (conversation, user) DO UPDATE SET delivered_seq = excluded.delivered_seq
         WHERE excluded.delivered_seq > delivered_seq",
    )?;
    statement.execute(params![
        row.conversation_id.as_bytes(),
        row.user_id.as_bytes(),
        ordered(row.seq)?
    ])?;
    Ok(())
}

pub(super) fn conversation(
    connection: &Connection,
    id: ConversationId,
) -> Result<Option<ConversationRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT conversation, created_id, version_id, creator, name, picture FROM conversation
         WHERE conversation = ?1",
    )?;
    let mut found = statement.query([id.as_bytes()])?;
    found.next()?.map(conversation_row).transpose()
}

/// Rooms, newest first.
pub(super) fn rooms(
    connection: &Connection,
    before: Option<MessageId>,
    limit: usize,
) -> Result<Vec<ConversationRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT conversation, created_id, version_id, creator, name, picture FROM conversation
         WHERE conversation >= x'72' AND conversation < x'73' AND created_id <= ?1
         ORDER BY created_id DESC LIMIT ?2",
    )?;
    let last = match before {
        None => i64::MAX,
        Some(MessageId::ZERO) => return Ok(Vec::new()),
        Some(before) => bound(before.0 - 1),
    };
    let mut found = statement.query(params![last, rows(limit)])?;
    let mut rooms = Vec::new();
    while let Some(row) = found.next()? {
        rooms.push(conversation_row(row)?);
    }
    Ok(rooms)
}

fn conversation_row(row: &Row) -> Result<ConversationRow, Failure> {
    Ok(ConversationRow {
        conversation_id: conversation_id(row, 0)?,
        created_id: message_id(row.get(1)?),
        version: message_id(row.get(2)?),
        creator_id: user_id(row, 3)?,
        name: row.get(4)?,
        picture: row.get(5)?,
    })
}

pub(super) fn members(
    connection: &Connection,
    id: ConversationId,
) -> Result<Vec<MemberRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, joined_id, left_id, role, version_id FROM member WHERE conversation = ?1
         ORDER BY user, joined_id",
    )?;
    let mut found = statement.query([id.as_bytes()])?;
    let mut members = Vec::new();
    while let Some(row) = found.next()? {
        members.push(MemberRow {
            conversation_id: id,
            user_id: user_id(row, 0)?,
            joined_id: message_id(row.get(1)?),
            left_id: row.get::<_, Option<i64>>(2)?.map(message_id),
            role: role(row.get(3)?)?,
            version: message_id(row.get(4)?),
        });
    }
    Ok(members)
}

fn role(number: u32) -> Result<Role, Failure> {
    role_from(number).map_err(|error| Failure::Damaged(error.to_string()))
}

pub(super) fn marks(
    connection: &Connection,
    id: ConversationId,
) -> Result<HashMap<UserId, (u64, u64)>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT user, read_seq, delivered_seq FROM mark WHERE conversation = ?1")?;
    let mut found = statement.query([id.as_bytes()])?;
    let mut marks = HashMap::new();
    while let Some(row) = found.next()? {
        marks.insert(user_id(row, 0)?, (from_bits(row.get(1)?), from_bits(row.get(2)?)));
    }
    Ok(marks)
}

/// A user is a member if any of their intervals is open.
pub(super) fn conversations_of(
    connection: &Connection,
    user: UserId,
    after: Option<ConversationId>,
    limit: usize,
) -> Result<Vec<ConversationId>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT conversation FROM member INDEXED BY member_open
         WHERE user = ?1 AND conversation > ?2 AND left_id IS NULL
         ORDER BY conversation LIMIT ?3",
    )?;
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let mut found = statement.query(params![user.as_bytes(), after, rows(limit)])?;
    let mut conversations = Vec::new();
    while let Some(row) = found.next()? {
        conversations.push(conversation_id(row, 0)?);
    }
    Ok(conversations)
}
