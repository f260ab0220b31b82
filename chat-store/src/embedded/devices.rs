//! Devices, their refresh tokens, and what they have confirmed.

use chat_protocol::api::Device;
use chat_protocol::{DeviceId, Millis, UserId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::{bits, blob, from_bits, message_id};
use super::error::Failure;
use crate::row::{ConfirmedRow, DeviceRow, RefreshOutcome};

pub(super) fn add(connection: &Connection, row: &DeviceRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO device
             (user, device, name, created_at, last_seen_at, refresh_digest, refresh_expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(params![
        row.user_id.as_bytes(),
        row.device.device_id.as_bytes(),
        row.device.name,
        bits(row.device.created_at.0),
        bits(row.device.last_seen_at.0),
        row.refresh_digest,
        bits(row.refresh_expires_at.0),
    ])?;
    Ok(())
}

pub(super) fn all(connection: &Connection, user: UserId) -> Result<Vec<DeviceRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT device, name, created_at, last_seen_at, refresh_digest, refresh_expires_at
         FROM device WHERE user = ?1 ORDER BY created_at, device",
    )?;
    let mut found = statement.query([user.as_bytes()])?;
    let mut devices = Vec::new();
    while let Some(row) = found.next()? {
        devices.push(device_row(user, row)?);
    }
    Ok(devices)
}

fn device_row(user_id: UserId, row: &Row) -> Result<DeviceRow, Failure> {
    let device = Device {
        device_id: DeviceId::from_bytes(blob(row, 0)?)?,
        name: row.get(1)?,
        created_at: Millis(from_bits(row.get(2)?)),
        last_seen_at: Millis(from_bits(row.get(3)?)),
        received_until: None,
        current: false,
    };
    Ok(DeviceRow {
        user_id,
        device,
        refresh_digest: row.get(4)?,
        refresh_expires_at: Millis(from_bits(row.get(5)?)),
    })
}

pub(super) fn rename(
    connection: &Connection,
    user: UserId,
    device: DeviceId,
    name: &str,
) -> Result<bool, Failure> {
    let mut statement =
        connection.prepare_cached("UPDATE device SET name = ?3 WHERE user = ?1 AND device = ?2")?;
    Ok(statement.execute(params![user.as_bytes(), device.as_bytes(), name])? > 0)
}

pub(super) fn remove(
    connection: &Connection,
    user: UserId,
    device: DeviceId,
) -> Result<bool, Failure> {
    let mut statement =
        connection.prepare_cached("DELETE FROM device WHERE user = ?1 AND device = ?2")?;
    let removed = statement.execute(params![user.as_bytes(), device.as_bytes()])? > 0;
    let mut statement =
        connection.prepare_cached("DELETE FROM confirmed WHERE user = ?1 AND device = ?2")?;
    statement.execute(params![user.as_bytes(), device.as_bytes()])?;
    Ok(removed)
}

pub(super) fn put_confirmed(connection: &Connection, row: &ConfirmedRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO confirmed (user, device, safe)
         SELECT user, device, ?3 FROM device WHERE user = ?1 AND device = ?2
         ON CONFLICT (user, device) DO UPDATE SET safe = max(safe, excluded.safe)",
    )?;
    let safe = bits(row.safe.0);
    statement.execute(params![row.user_id.as_bytes(), row.device_id.as_bytes(), safe])?;
    Ok(())
}

pub(super) fn confirmed(
    connection: &Connection,
    user: UserId,
) -> Result<Vec<ConfirmedRow>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT device, safe FROM confirmed WHERE user = ?1")?;
    let mut found = statement.query([user.as_bytes()])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let device_id = DeviceId::from_bytes(blob(row, 0)?)?;
        rows.push(ConfirmedRow { user_id: user, device_id, safe: message_id(row.get(1)?) });
    }
    Ok(rows)
}

/// A refresh token to be exchanged for the next.
pub(super) struct Rotation {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    pub(super) old: [u8; 32],
    pub(super) new: [u8; 32],
    pub(super) now: Millis,
    pub(super) expires_at: Millis,
}

pub(super) fn rotate(
    connection: &Connection,
    rotation: &Rotation,
) -> Result<RefreshOutcome, Failure> {
    let Rotation { user, device, old, new, now, expires_at } = rotation;
    let mut present = connection.prepare_cached(
        "SELECT refresh_digest, refresh_expires_at FROM device WHERE user = ?1 AND device = ?2",
    )?;
    let found = present
        .query_row(params![user.as_bytes(), device.as_bytes()], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, from_bits(row.get(1)?)))
        })
        .optional()?;
    match found {
        Some((_, expires)) if expires <= now.0 => return Ok(RefreshOutcome::Gone),
        None => return Ok(RefreshOutcome::Gone),
        // What is compared are digests of random tokens: how long it takes tells nothing.
        Some((valid, _)) if valid != *old => return Ok(RefreshOutcome::Reused),
        Some(_) => {}
    }
    let mut statement = connection.prepare_cached(
        "UPDATE device SET refresh_digest = ?3, last_seen_at = ?4, refresh_expires_at = ?5
         WHERE user = ?1 AND device = ?2",
    )?;
    let row = params![user.as_bytes(), device.as_bytes(), new, bits(now.0), bits(expires_at.0)];
    statement.execute(row)?;
    Ok(RefreshOutcome::Rotated)
}
