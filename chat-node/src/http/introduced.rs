//! People whom an external issuer introduces: their account and device are made when they first ask for something.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chat_protocol::DeviceId;
use chat_protocol::api::{Device, Profile};
use chat_store::{Account, DeviceRow};

use super::problem::Failure;
use super::{Api, field};
use crate::auth::{Introduction, RefreshToken};

/// Devices that need no look into the store; beyond it all are forgotten and looked up again.
const KNOWN_MAX: usize = 100_000;

/// Devices known to be in the store.
#[derive(Default)]
pub(super) struct Known(Mutex<HashSet<DeviceId>>);

impl Known {
    fn contains(&self, device: DeviceId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&device)
    }

    /// The device was removed.
    pub(super) fn forget(&self, device: DeviceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&device);
    }

    fn add(&self, device: DeviceId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(device);
    }
}

/// Makes sure that account and device are there.
pub(super) async fn welcome(api: &Api, introduction: Introduction) -> Result<(), Failure> {
    let caller = introduction.caller;
    if api.introduced.contains(caller.device_id) {
        return Ok(());
    }
    if api.store.account(caller.user_id).await?.is_none() {
        create(api, &introduction).await?;
    }
    let devices = api.store.devices(caller.user_id).await?;
    if !devices.iter().any(|row| row.device.device_id == caller.device_id) {
        api.store.add_device(device(api, &introduction)).await?;
    }
    api.introduced.add(caller.device_id);
    Ok(())
}

async fn create(api: &Api, introduction: &Introduction) -> Result<(), Failure> {
    let user_id = introduction.caller.user_id;
    // The digits of the id are a handle that nobody else has; the wish may be taken.
    let own = user_id.0.simple().to_string();
    let wished = introduction.handle.as_deref().and_then(|text| field::handle(text).ok());
    for handle in wished.into_iter().chain([own]) {
        let named = introduction.name.as_deref().and_then(|text| field::name("name", text).ok());
        let name = named.unwrap_or_else(|| handle.clone());
        let profile = Profile { user_id, handle, name, picture: None, status: None };
        // No password fits an empty hash.
        let password_hash = String::new();
        let account = Account { profile, password_hash, created_at: api.clock.now() };
        match api.store.create_account(account, device(api, introduction)).await {
            Ok(true) => return Ok(()),
            Ok(false) | Err(chat_store::Error::Refused(_)) => {}
            Err(unavailable) => return Err(unavailable.into()),
        }
        // Another request of the same person may have been first, also with another wish.
        if api.store.account(user_id).await?.is_some() {
            return Ok(());
        }
    }
    Err(Failure::internal(format!("no handle is free for the introduced user {user_id}")))
}

/// A device whose refresh token nobody has: the issuer renews its logins.
fn device(api: &Api, introduction: &Introduction) -> DeviceRow {
    let caller = introduction.caller;
    let now = api.clock.now();
    DeviceRow {
        user_id: caller.user_id,
        device: Device {
            device_id: caller.device_id,
            name: "Single sign-on".into(),
            created_at: now,
            last_seen_at: now,
            received_until: None,
            current: false,
        },
        refresh_digest: RefreshToken::random(caller.user_id, caller.device_id).digest(),
        refresh_expires_at: now,
    }
}
