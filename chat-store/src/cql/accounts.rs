//! Accounts, handles and settings.

use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::{Millis, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Inner;
use super::column::{bits, from_bits, rows, user_id, values};
use super::error::Failure;
use crate::row::{Account, DeviceRow};

/// Rows of other tables that one read looks up at once.
const CONCURRENCY: usize = 16;

/// The only partition of the table that lists beginnings of handles.
const ONE: i16 = 1;

/// Handles are kept in one partition per first two characters: at most some 1,400 partitions, and of a hundred million
/// handles the fullest has less than a million.
fn beginning(handle: &str) -> &str {
    handle.char_indices().nth(2).map_or(handle, |(end, _)| &handle[..end])
}

/// Above every text that begins with the prefix, for U+10FFFF is no character of a handle.
fn end(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

impl Inner {
    /// The handle is taken last, by a lightweight transaction: who has it has everything else. What an attempt that
    /// died left behind cannot be reached by anyone.
    pub(super) async fn create_account(
        &self,
        account: &Account,
        device: &DeviceRow,
    ) -> Result<bool, Failure> {
        let profile = &account.profile;
        match self.holder(&profile.handle).await? {
            Some(holder) if holder != profile.user_id => return Ok(false),
            _ => {}
        }
        self.make_account(account).await?;
        self.add_device(device).await?;
        if self.take_handle(profile).await? {
            return Ok(true);
        }
        self.remove_device(profile.user_id, device.device.device_id).await?;
        let values = values![profile.user_id.as_bytes()];
        self.executor.compare(&self.statements.remove_account, values).await?;
        Ok(false)
    }

    /// The row alone: it can be found once its handle is taken.
    pub(super) async fn make_account(&self, account: &Account) -> Result<(), Failure> {
        let profile = &account.profile;
        let values = values![
            profile.user_id.as_bytes(),
            profile.handle.as_str(),
            profile.name.as_str(),
            profile.picture.as_deref(),
            profile.status.as_deref(),
            account.password_hash.as_str(),
            bits(account.created_at.0),
        ];
        self.executor.compare(&self.statements.make_account, values).await?;
        Ok(())
    }

    /// `false`: another one has it.
    pub(super) async fn take_handle(&self, profile: &Profile) -> Result<bool, Failure> {
        let beginning = beginning(&profile.handle);
        let put_beginning =
            self.executor.run(&self.statements.put_beginning, values![ONE, beginning]);
        let handle = values![beginning, profile.handle.as_str()];
        let put_handle = self.executor.run(&self.statements.put_handle, handle);
        futures_util::try_join!(put_beginning, put_handle)?;
        let values = values![profile.handle.as_str(), profile.user_id.as_bytes()];
        let taken = self.executor.compare(&self.statements.take_handle, values).await?;
        Ok(taken.applied || taken.blob("user") == Some(profile.user_id.as_bytes().as_slice()))
    }

    pub(super) async fn holder(&self, handle: &str) -> Result<Option<UserId>, Failure> {
        let found =
            self.executor.one::<(Vec<u8>,)>(&self.statements.holder, values![handle]).await?;
        found.map(|(user,)| user_id(&user)).transpose()
    }

    pub(super) async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>, Failure> {
        match self.holder(handle).await? {
            Some(user) => self.account(user).await,
            None => Ok(None),
        }
    }

    pub(super) async fn account(&self, user: UserId) -> Result<Option<Account>, Failure> {
        type Columns = (String, String, Option<String>, Option<String>, String, i64);
        let values = values![user.as_bytes()];
        let found = self.executor.one::<Columns>(&self.statements.account, values).await?;
        Ok(found.map(|(handle, name, picture, status, password_hash, created_at)| Account {
            profile: Profile { user_id: user, handle, name, picture, status },
            password_hash,
            created_at: Millis(from_bits(created_at)),
        }))
    }

    /// In the order of `users`.
    pub(super) async fn profiles(&self, users: Vec<UserId>) -> Result<Vec<Profile>, Failure> {
        let found: Vec<Option<Account>> = stream::iter(users)
            .map(|user| self.account(user))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().map(|account| account.profile).collect())
    }

    pub(super) async fn search_handles(
        &self,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Profile>, Failure> {
        let first = beginning(prefix);
        let values = values![ONE, first, end(first).as_str()];
        let beginnings: Vec<(String,)> =
            self.executor.all(&self.statements.beginnings, values).await?;
        let mut profiles = Vec::new();
        // The prefix itself may be a handle; all others are above it.
        if let Some(account) = self.account_by_handle(prefix).await? {
            profiles.push(account.profile);
        }
        for (beginning,) in beginnings {
            let mut after = prefix.to_owned();
            while profiles.len() < limit {
                let missing = rows(limit - profiles.len());
                let values =
                    values![beginning.as_str(), after.as_str(), end(prefix).as_str(), missing];
                let found: Vec<(String,)> =
                    self.executor.all(&self.statements.handles, values).await?;
                let Some((last,)) = found.last() else { break };
                after.clone_from(last);
                // A handle whose sign-up is not finished, or never was, has no account.
                let found: Vec<Option<Account>> = stream::iter(found)
                    .map(|(handle,)| async move { self.account_by_handle(&handle).await })
                    .buffered(CONCURRENCY)
                    .try_collect()
                    .await?;
                profiles.extend(found.into_iter().flatten().map(|account| account.profile));
            }
        }
        profiles.truncate(limit);
        Ok(profiles)
    }

    pub(super) async fn change_profile(
        &self,
        user: UserId,
        change: &ProfileChange,
    ) -> Result<Option<Profile>, Failure> {
        use scylla::value::{CqlValue, MaybeUnset};
        // Absent stays as it is; empty text clears, except a name.
        let column = |field: &Option<String>| match field.as_deref() {
            None => MaybeUnset::Unset,
            Some("") => MaybeUnset::Set(None),
            Some(text) => MaybeUnset::Set(Some(CqlValue::Text(text.to_owned()))),
        };
        let name = match change.name.as_deref() {
            Some("") => MaybeUnset::Unset,
            _ => column(&change.name),
        };
        let values =
            (name, column(&change.picture), column(&change.status), user.as_bytes().as_slice());
        let changed = self.executor.compare(&self.statements.change_profile, values).await?;
        if !changed.applied {
            return Ok(None);
        }
        Ok(self.account(user).await?.map(|account| account.profile))
    }

    pub(super) async fn change_password(
        &self,
        user: UserId,
        password_hash: &str,
    ) -> Result<(), Failure> {
        let values = values![password_hash, user.as_bytes()];
        let changed = self.executor.compare(&self.statements.change_password, values).await?;
        match changed.applied {
            true => Ok(()),
            false => Err(Failure::Refused(format!("there is no account {user}"))),
        }
    }

    pub(super) async fn settings(&self, user: UserId) -> Result<Option<String>, Failure> {
        let values = values![user.as_bytes()];
        let found = self.executor.one::<(String,)>(&self.statements.settings, values).await?;
        Ok(found.map(|(json,)| json))
    }

    pub(super) async fn put_settings(&self, user: UserId, json: &str) -> Result<(), Failure> {
        self.executor.run(&self.statements.put_settings, values![user.as_bytes(), json]).await
    }
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn a_handle_is_kept_under_its_first_two_characters() {
        for (handle, expected) in [("", ""), ("a", "a"), ("ab", "ab"), ("abc", "ab"), ("éèx", "éè")]
        {
            assert_eq!(beginning(handle), expected);
        }
    }
}
