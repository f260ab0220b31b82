//! Inboxes: packed rows by user and first id.

use chat_protocol::{MessageId, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::column::{blob, bound, conversation_id, message_id, ordered};
use super::error::Failure;
use crate::packing::{PageBuilder, SPAN, pack, unpack};
use crate::row::{InboxPage, InboxRow};

const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// The week of a row: of its first id.
fn week(first_id: MessageId) -> i64 {
    bound(first_id.created_at().since_2025() / WEEK_MS)
}

/// Weeks below this are over: each of their rows is older than it must be kept.
pub(super) fn first_week_kept(now: chat_protocol::Millis) -> i64 {
    let kept_ms = chat_protocol::limits::INBOX_DAYS * 24 * 60 * 60 * 1_000;
    // A row reaches up to its span past its first id.
    let over_ms = now.since_2025().saturating_sub(kept_ms + crate::row::INBOX_SPAN_MS);
    bound(over_ms / WEEK_MS)
}

pub(super) fn put(connection: &Connection, row: &InboxRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO inbox (week, user, first_id, conversation, pointers) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    for packed in pack(&row.pointers) {
        let week = week(packed.first_id);
        let first_id = ordered(packed.first_id.0)?;
        for user in row.users.iter() {
            statement.execute(params![
                week,
                user.as_bytes(),
                first_id,
                row.conversation_id.as_bytes(),
                packed.bytes
            ])?;
        }
    }
    Ok(())
}

pub(super) fn page(
    connection: &Connection,
    user: UserId,
    above: MessageId,
    up_to: MessageId,
    limit: usize,
) -> Result<InboxPage, Failure> {
    let mut weeks = connection.prepare_cached(
        "SELECT week FROM inbox WHERE week BETWEEN ?1 AND ?2 ORDER BY week LIMIT 1",
    )?;
    let mut statement = connection.prepare_cached(
        "SELECT first_id, conversation, pointers FROM inbox
         WHERE week = ?1 AND user = ?2 AND first_id BETWEEN ?3 AND ?4 ORDER BY first_id",
    )?;
    let mut builder = PageBuilder::new(above, up_to, limit);
    // Rows that begin before this end at or before `above`.
    let low = MessageId(above.0.saturating_sub(SPAN));
    let (mut from, last) = (week(low), week(up_to));
    while let Some(week) = weeks.query_row([from, last], |row| row.get::<_, i64>(0)).optional()? {
        let key = params![week, user.as_bytes(), bound(low.0), bound(up_to.0)];
        let mut found = statement.query(key)?;
        while let Some(row) = found.next()? {
            let first_id = message_id(row.get(0)?);
            if builder.begins(first_id) {
                return Ok(builder.finish(false));
            }
            builder.add(conversation_id(row, 1)?, unpack(first_id, blob(row, 2)?)?);
        }
        from = week + 1;
    }
    Ok(builder.finish(true))
}
