//! Friends and blocks.

use chat_protocol::frame::Friendship;
use chat_protocol::{Millis, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::column::{bits, from_bits, rows, user_id};
use super::error::Failure;
use crate::friendship::{mirror, number};
use crate::row::FriendRow;

pub(super) fn from_number(number: i64) -> Result<Friendship, Failure> {
    match number {
        1 => Ok(Friendship::Requested),
        2 => Ok(Friendship::Received),
        3 => Ok(Friendship::Friends),
        _ => Err(Failure::Damaged(format!("a friendship of kind {number}"))),
    }
}

pub(super) fn set(
    connection: &Connection,
    (user, other): (UserId, UserId),
    expected: Friendship,
    friendship: Friendship,
    now: Millis,
) -> Result<Friendship, Failure> {
    if user == other {
        return Err(Failure::Refused("nobody is their own friend".into()));
    }
    let present = get(connection, user, other)?;
    if present != expected {
        return Ok(present);
    }
    put_side(connection, user, other, friendship, now)?;
    put_side(connection, other, user, mirror(friendship), now)?;
    Ok(friendship)
}

fn put_side(
    connection: &Connection,
    user: UserId,
    other: UserId,
    friendship: Friendship,
    now: Millis,
) -> Result<(), Failure> {
    let sides = params![user.as_bytes(), other.as_bytes()];
    if friendship == Friendship::None {
        connection
            .prepare_cached("DELETE FROM friend WHERE user = ?1 AND other = ?2")?
            .execute(sides)?;
        return Ok(());
    }
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO friend (user, other, friendship, since) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let row = params![user.as_bytes(), other.as_bytes(), number::<i64>(friendship), bits(now.0)];
    statement.execute(row)?;
    Ok(())
}

pub(super) fn get(
    connection: &Connection,
    user: UserId,
    other: UserId,
) -> Result<Friendship, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT friendship FROM friend WHERE user = ?1 AND other = ?2")?;
    let found = statement
        .query_row(params![user.as_bytes(), other.as_bytes()], |row| row.get(0))
        .optional()?;
    found.map_or(Ok(Friendship::None), from_number)
}

pub(super) fn all(
    connection: &Connection,
    user: UserId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<FriendRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT other, friendship, since FROM friend WHERE user = ?1 AND other > ?2
         ORDER BY other LIMIT ?3",
    )?;
    let after: &[u8] = after.as_ref().map_or(&[], |user| user.as_bytes());
    let mut found = statement.query(params![user.as_bytes(), after, rows(limit)])?;
    let mut friends = Vec::new();
    while let Some(row) = found.next()? {
        friends.push(FriendRow {
            user_id: user_id(row, 0)?,
            friendship: from_number(row.get(1)?)?,
            since: Millis(from_bits(row.get(2)?)),
        });
    }
    Ok(friends)
}

pub(super) fn set_block(
    connection: &Connection,
    user: UserId,
    other: UserId,
    blocked: bool,
) -> Result<(), Failure> {
    let sql = match blocked {
        true => "INSERT INTO block (user, other) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        false => "DELETE FROM block WHERE user = ?1 AND other = ?2",
    };
    connection.prepare_cached(sql)?.execute(params![user.as_bytes(), other.as_bytes()])?;
    Ok(())
}

pub(super) fn blocks(connection: &Connection, user: UserId) -> Result<Vec<UserId>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT other FROM block WHERE user = ?1 ORDER BY other")?;
    let mut found = statement.query([user.as_bytes()])?;
    let mut blocks = Vec::new();
    while let Some(row) = found.next()? {
        blocks.push(user_id(row, 0)?);
    }
    Ok(blocks)
}

pub(super) fn is_blocked(
    connection: &Connection,
    one: UserId,
    other: UserId,
) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM block WHERE (user = ?1 AND other = ?2) OR (user = ?2 AND other = ?1)",
    )?;
    Ok(statement.exists(params![one.as_bytes(), other.as_bytes()])?)
}
