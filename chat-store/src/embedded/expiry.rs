//! Removal of rows whose time is over. Their keys begin with a day or a week, so that this is a delete of a range.

use chat_protocol::Millis;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Failure;
use super::{inbox, messages};

/// Rows of each table that one call removes: a few milliseconds of the thread that writes.
const ROWS_MAX: i64 = 2_000;

pub(super) fn expire(connection: &Connection, now: Millis) -> Result<u64, Failure> {
    let duplicates = expire_duplicates(connection, messages::first_day_kept(now))?;
    let inbox = expire_inbox(connection, inbox::first_week_kept(now))?;
    Ok((duplicates + inbox) as u64)
}

fn expire_duplicates(connection: &Connection, first_day_kept: i64) -> Result<usize, Failure> {
    let mut last = connection.prepare_cached(
        "SELECT day, conversation, sender, client_message_id FROM duplicate WHERE day < ?1
         ORDER BY day, conversation, sender, client_message_id LIMIT 1 OFFSET ?2",
    )?;
    let found = last
        .query_row([first_day_kept, ROWS_MAX - 1], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
                row.get::<_, Vec<u8>>(3)?,
            ))
        })
        .optional()?;
    let removed = match found {
        Some((day, conversation, sender, client_message_id)) => connection
            .prepare_cached(
                "DELETE FROM duplicate
                 WHERE (day, conversation, sender, client_message_id) <= (?1, ?2, ?3, ?4)",
            )?
            .execute(params![day, conversation, sender, client_message_id])?,
        None => connection
            .prepare_cached("DELETE FROM duplicate WHERE day < ?1")?
            .execute([first_day_kept])?,
    };
    Ok(removed)
}

fn expire_inbox(connection: &Connection, first_week_kept: i64) -> Result<usize, Failure> {
    let mut last = connection.prepare_cached(
        "SELECT week, user, first_id, conversation, pointers FROM inbox WHERE week < ?1
         ORDER BY week, user, first_id, conversation, pointers LIMIT 1 OFFSET ?2",
    )?;
    let found = last
        .query_row([first_week_kept, ROWS_MAX - 1], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, Vec<u8>>(3)?,
                row.get::<_, Vec<u8>>(4)?,
            ))
        })
        .optional()?;
    let removed = match found {
        Some((week, user, first_id, conversation, pointers)) => connection
            .prepare_cached(
                "DELETE FROM inbox
                 WHERE (week, user, first_id, conversation, pointers) <= (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![week, user, first_id, conversation, pointers])?,
        None => connection
            .prepare_cached("DELETE FROM inbox WHERE week < ?1")?
            .execute([first_week_kept])?,
    };
    Ok(removed)
}
