//! Presence as last written.

use chat_protocol::{Millis, Partition, SessionId, UserId};
use rusqlite::{Connection, Row, params};

use super::column::{bits, from_bits, user_id};
use super::error::Failure;
use crate::row::PresenceRow;

pub(super) fn put(connection: &Connection, row: &PresenceRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO presence (user, partition, sessions, last_active_at)
         VALUES (?1, ?2, ?3, ?4)",
    )?;
    // NULL for nobody: the index holds only those who are online.
    let sessions: Option<Vec<u8>> = (!row.sessions.is_empty())
        .then(|| row.sessions.iter().flat_map(|session| *session.as_bytes()).collect());
    statement.execute(params![
        row.user_id.as_bytes(),
        Partition::of_user(row.user_id).0,
        sessions,
        row.last_active_at.map(|at| bits(at.0)),
    ])?;
    Ok(())
}

/// In the order of `users`.
pub(super) fn of(connection: &Connection, users: &[UserId]) -> Result<Vec<PresenceRow>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT user, sessions, last_active_at FROM presence WHERE user = ?1")?;
    let mut rows = Vec::with_capacity(users.len());
    for user in users {
        let mut found = statement.query([user.as_bytes()])?;
        if let Some(row) = found.next()? {
            rows.push(presence_row(row)?);
        }
    }
    Ok(rows)
}

pub(super) fn online_in(
    connection: &Connection,
    partition: Partition,
) -> Result<Vec<PresenceRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, sessions, last_active_at FROM presence INDEXED BY presence_online
         WHERE partition = ?1 AND sessions IS NOT NULL",
    )?;
    let mut found = statement.query([partition.0])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(presence_row(row)?);
    }
    Ok(rows)
}

fn presence_row(row: &Row) -> Result<PresenceRow, Failure> {
    let sessions = row
        .get_ref(1)?
        .as_blob_or_null()
        .map_err(|error| Failure::Damaged(error.to_string()))?
        .unwrap_or_default()
        .chunks(16)
        .map(SessionId::from_bytes)
        .collect::<Result<_, _>>()?;
    Ok(PresenceRow {
        user_id: user_id(row, 0)?,
        sessions,
        last_active_at: row.get::<_, Option<i64>>(2)?.map(|at| Millis(from_bits(at))),
    })
}
