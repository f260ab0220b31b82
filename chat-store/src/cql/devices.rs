//! Devices and their refresh tokens. Every change is a lightweight transaction: they must not mix with plain writes,
//! whose time stamps come from other clocks. What devices have confirmed is a table of its own, of plain writes.

use chat_protocol::api::Device;
use chat_protocol::{DeviceId, Millis, UserId};
use futures_util::{TryStreamExt, stream};

use super::Inner;
use super::column::{bits, bound, from_bits, message_id, ordered, values};
use super::error::Failure;
use crate::row::{ConfirmedRow, DeviceRow, RefreshOutcome};

/// Rows of confirmed cursors that are written at once.
const CONCURRENCY: usize = 32;

/// From a safe id to its row's time stamp. It keeps the order of ids, and of equal ones the larger id wins; and it lies
/// in the past, as row versions do.
const STAMP_SHIFT: u32 = 10;

/// A refresh token to be exchanged for the next.
pub(super) struct Rotation {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    pub(super) old: [u8; 32],
    pub(super) new: [u8; 32],
    pub(super) now: Millis,
    pub(super) expires_at: Millis,
}

impl Inner {
    /// One that is there already is this very one, added by an attempt that nobody heard of.
    pub(super) async fn add_device(&self, row: &DeviceRow) -> Result<(), Failure> {
        let values = values![
            row.user_id.as_bytes(),
            row.device.device_id.as_bytes(),
            row.device.name.as_str(),
            bits(row.device.created_at.0),
            bits(row.device.last_seen_at.0),
            &row.refresh_digest,
            bits(row.refresh_expires_at.0),
        ];
        self.executor.compare(&self.statements.add_device, values).await?;
        Ok(())
    }

    pub(super) async fn devices(&self, user: UserId) -> Result<Vec<DeviceRow>, Failure> {
        type Columns = (Vec<u8>, String, i64, i64, Vec<u8>, i64);
        let found: Vec<Columns> =
            self.executor.all(&self.statements.devices, values![user.as_bytes()]).await?;
        let rows =
            found.into_iter().map(|(device, name, created_at, seen_at, digest, expires_at)| {
                let device = Device {
                    device_id: DeviceId::from_bytes(&device)?,
                    name,
                    created_at: Millis(from_bits(created_at)),
                    last_seen_at: Millis(from_bits(seen_at)),
                    received_until: None,
                    current: false,
                };
                let refresh_digest = digest
                    .try_into()
                    .map_err(|_| Failure::Damaged("the digest of a refresh token".into()))?;
                let refresh_expires_at = Millis(from_bits(expires_at));
                Ok(DeviceRow { user_id: user, device, refresh_digest, refresh_expires_at })
            });
        let mut devices = rows.collect::<Result<Vec<_>, Failure>>()?;
        devices.sort_by_key(|row| (row.device.created_at, row.device.device_id));
        Ok(devices)
    }

    pub(super) async fn rename_device(
        &self,
        user: UserId,
        device: DeviceId,
        name: &str,
    ) -> Result<bool, Failure> {
        let values = values![name, user.as_bytes(), device.as_bytes()];
        Ok(self.executor.compare(&self.statements.rename_device, values).await?.applied)
    }

    pub(super) async fn remove_device(
        &self,
        user: UserId,
        device: DeviceId,
    ) -> Result<bool, Failure> {
        let values = values![user.as_bytes(), device.as_bytes()];
        let removed = self.executor.compare(&self.statements.remove_device, values.clone()).await?;
        // Behind the device: whoever repeats a removal that broke off here does this, too.
        self.executor.run(&self.statements.remove_confirmed, values).await?;
        Ok(removed.applied)
    }

    pub(super) async fn put_confirmed(&self, rows: Vec<ConfirmedRow>) -> Result<(), Failure> {
        stream::iter(rows.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |row| async move {
                let safe = ordered(row.safe.0)?;
                let (user, device) = (row.user_id.as_bytes(), row.device_id.as_bytes());
                let values = values![user, device, safe, bound(row.safe.0 >> STAMP_SHIFT)];
                self.executor.run(&self.statements.put_confirmed, values).await
            })
            .await
    }

    pub(super) async fn confirmed(&self, user: UserId) -> Result<Vec<ConfirmedRow>, Failure> {
        let found: Vec<(Vec<u8>, i64)> =
            self.executor.all(&self.statements.confirmed, values![user.as_bytes()]).await?;
        let rows = found.into_iter().map(|(device, safe)| {
            let device_id = DeviceId::from_bytes(&device)?;
            Ok(ConfirmedRow { user_id: user, device_id, safe: message_id(safe) })
        });
        rows.collect()
    }

    /// The new digest is drawn at random by the caller: one that is there already is this rotation's own, done by an
    /// attempt that nobody heard of.
    pub(super) async fn rotate_refresh(
        &self,
        rotation: &Rotation,
    ) -> Result<RefreshOutcome, Failure> {
        let Rotation { user, device, old, new, now, expires_at } = rotation;
        let values = values![
            new,
            bits(now.0),
            bits(expires_at.0),
            user.as_bytes(),
            device.as_bytes(),
            old,
            bits(now.0),
        ];
        let rotated = self.executor.compare(&self.statements.rotate_refresh, values).await?;
        if rotated.applied || rotated.blob("refresh_digest") == Some(new.as_slice()) {
            return Ok(RefreshOutcome::Rotated);
        }
        match rotated.number("refresh_expires_at") {
            Some(expires_at) if from_bits(expires_at) > now.0 => Ok(RefreshOutcome::Reused),
            _ => Ok(RefreshOutcome::Gone),
        }
    }
}
