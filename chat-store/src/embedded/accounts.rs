//! Accounts and settings.

use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::{Millis, UserId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::{bits, from_bits, rows, user_id};
use super::devices;
use super::error::Failure;
use crate::row::{Account, DeviceRow};

pub(super) fn create(
    connection: &Connection,
    account: &Account,
    device: &DeviceRow,
) -> Result<bool, Failure> {
    if !insert(connection, account)? {
        return Ok(false);
    }
    devices::add(connection, device)?;
    Ok(true)
}

/// `false`: the handle is taken.
pub(super) fn insert(connection: &Connection, account: &Account) -> Result<bool, Failure> {
    let profile = &account.profile;
    let mut statement = connection.prepare_cached(
        "INSERT INTO account (user, handle, name, picture, status, password_hash, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (handle) DO NOTHING",
    )?;
    let made = statement.execute(params![
        profile.user_id.as_bytes(),
        profile.handle,
        profile.name,
        profile.picture,
        profile.status,
        account.password_hash,
        bits(account.created_at.0),
    ])?;
    // A caller that heard nothing of its first attempt tries again: the handle is then its own.
    Ok(made > 0 || holder(connection, &profile.handle)? == Some(profile.user_id))
}

fn holder(connection: &Connection, handle: &str) -> Result<Option<UserId>, Failure> {
    let mut statement = connection.prepare_cached("SELECT user FROM account WHERE handle = ?1")?;
    let mut found = statement.query([handle])?;
    found.next()?.map(|row| user_id(row, 0)).transpose()
}

pub(super) fn by_handle(connection: &Connection, handle: &str) -> Result<Option<Account>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, handle, name, picture, status, password_hash, created_at FROM account
         WHERE handle = ?1",
    )?;
    let mut found = statement.query([handle])?;
    found.next()?.map(account).transpose()
}

pub(super) fn by_id(connection: &Connection, user: UserId) -> Result<Option<Account>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, handle, name, picture, status, password_hash, created_at FROM account
         WHERE user = ?1",
    )?;
    let mut found = statement.query([user.as_bytes()])?;
    found.next()?.map(account).transpose()
}

fn account(row: &Row) -> Result<Account, Failure> {
    Ok(Account {
        profile: profile(row)?,
        password_hash: row.get(5)?,
        created_at: Millis(from_bits(row.get(6)?)),
    })
}

fn profile(row: &Row) -> Result<Profile, Failure> {
    Ok(Profile {
        user_id: user_id(row, 0)?,
        handle: row.get(1)?,
        name: row.get(2)?,
        picture: row.get(3)?,
        status: row.get(4)?,
    })
}

/// In the order of `users`.
pub(super) fn profiles(connection: &Connection, users: &[UserId]) -> Result<Vec<Profile>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, handle, name, picture, status FROM account WHERE user = ?1",
    )?;
    let mut profiles = Vec::with_capacity(users.len());
    for user in users {
        let mut found = statement.query([user.as_bytes()])?;
        if let Some(row) = found.next()? {
            profiles.push(profile(row)?);
        }
    }
    Ok(profiles)
}

pub(super) fn search(
    connection: &Connection,
    prefix: &str,
    limit: usize,
) -> Result<Vec<Profile>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, handle, name, picture, status FROM account
         WHERE handle >= ?1 AND handle < ?2 ORDER BY handle LIMIT ?3",
    )?;
    // Above every text that begins with the prefix, for U+10FFFF is no character of a handle.
    let end = format!("{prefix}\u{10FFFF}");
    let mut found = statement.query(params![prefix, end, rows(limit)])?;
    let mut profiles = Vec::new();
    while let Some(row) = found.next()? {
        profiles.push(profile(row)?);
    }
    Ok(profiles)
}

pub(super) fn change_profile(
    connection: &Connection,
    user: UserId,
    change: &ProfileChange,
) -> Result<Option<Profile>, Failure> {
    // Absent is NULL and stays; empty text clears, except a name.
    let mut statement = connection.prepare_cached(
        "UPDATE account SET name = coalesce(nullif(?2, ''), name),
             picture = iif(?3 IS NULL, picture, nullif(?3, '')),
             status = iif(?4 IS NULL, status, nullif(?4, ''))
         WHERE user = ?1 RETURNING user, handle, name, picture, status",
    )?;
    let mut found =
        statement.query(params![user.as_bytes(), change.name, change.picture, change.status])?;
    found.next()?.map(profile).transpose()
}

pub(super) fn change_password(
    connection: &Connection,
    user: UserId,
    password_hash: &str,
) -> Result<(), Failure> {
    let mut statement =
        connection.prepare_cached("UPDATE account SET password_hash = ?2 WHERE user = ?1")?;
    match statement.execute(params![user.as_bytes(), password_hash])? {
        0 => Err(Failure::Refused(format!("there is no account {user}"))),
        _ => Ok(()),
    }
}

pub(super) fn settings(connection: &Connection, user: UserId) -> Result<Option<String>, Failure> {
    let mut statement = connection.prepare_cached("SELECT json FROM settings WHERE user = ?1")?;
    Ok(statement.query_row([user.as_bytes()], |row| row.get(0)).optional()?)
}

pub(super) fn put_settings(
    connection: &Connection,
    user: UserId,
    json: &str,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO settings (user, json) VALUES (?1, ?2)
         ON CONFLICT (user) DO UPDATE SET json = excluded.json",
    )?;
    statement.execute(params![user.as_bytes(), json])?;
    Ok(())
}
