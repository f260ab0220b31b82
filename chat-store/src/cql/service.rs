//! The contract, method by method: which work runs, and which reads are shared.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::frame::Friendship;
use chat_protocol::message::Message;
use chat_protocol::{
    ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, UserId,
};

use super::devices::Rotation;
use super::history::Page;
use super::{Answer, CqlStore};
use crate::row::*;
use crate::store::{Error, Store};
use crate::table::{Page as TablePage, Row, Table, Tables};

/// ScyllaDB acknowledges before its commit log is on the disk: within 10 s by default. The rest is for safety.
const DURABILITY_LAG: Duration = Duration::from_secs(60);

/// A copy for one of those who asked.
fn own<T: Clone>(answer: Answer<T>) -> Result<T, Error> {
    answer.map(Arc::unwrap_or_clone)
}

/// Runs a read that others may share.
macro_rules! shared {
    ($self:ident, $reads:ident, $key:expr, |$inner:ident| $read:expr) => {{
        let $inner = Arc::clone(&$self.inner);
        let ask = move || async move { Ok(Arc::new($read.await?)) };
        own($self.shared.$reads.get($key, ask).await)
    }};
}

#[async_trait]
impl Store for CqlStore {
    async fn epoch(&self) -> Result<u64, Error> {
        Ok(self.inner.epoch().await?)
    }

    fn durability_lag(&self) -> Duration {
        DURABILITY_LAG
    }

    async fn apply(
        &self,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        Ok(Box::pin(self.inner.apply(partition, &writes, checkpoint)).await?)
    }

    async fn put_checkpoints(
        &self,
        checkpoints: Vec<(Partition, Checkpoint)>,
    ) -> Result<(), Error> {
        Ok(self.inner.put_checkpoints(checkpoints).await?)
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Checkpoint, Error> {
        Ok(self.inner.checkpoint(partition).await?)
    }

    async fn quarantine(&self, row: QuarantineRow) -> Result<(), Error> {
        Ok(self.inner.quarantine(row).await?)
    }

    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, Error> {
        shared!(self, conversation, id, |inner| inner.conversation(id))
    }

    async fn members(&self, id: ConversationId) -> Result<Vec<MemberRow>, Error> {
        shared!(self, members, id, |inner| inner.members(id))
    }

    async fn marks(&self, id: ConversationId) -> Result<HashMap<UserId, (u64, u64)>, Error> {
        shared!(self, marks, id, |inner| inner.marks(id))
    }

    async fn conversations_of(
        &self,
        user: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Error> {
        Ok(self.inner.conversations_of(user, after, limit).await?)
    }

    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ConversationRow>, Error> {
        Ok(self.inner.rooms(before, limit).await?)
    }

    async fn message(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Message>, Error> {
        Ok(self.messages(conversation, vec![id]).await?.pop())
    }

    async fn messages(
        &self,
        conversation: ConversationId,
        ids: Vec<MessageId>,
    ) -> Result<Vec<Message>, Error> {
        let key = (conversation, ids.clone());
        shared!(self, messages, key, |inner| inner.messages(conversation, &ids))
    }

    async fn history_before(
        &self,
        conversation: ConversationId,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let page = Page::Before(before);
        let key = (conversation, page, limit);
        shared!(self, history, key, |inner| inner.history(conversation, page, limit))
    }

    async fn history_after(
        &self,
        conversation: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let page = Page::After(after);
        let key = (conversation, page, limit);
        shared!(self, history, key, |inner| inner.history(conversation, page, limit))
    }

    async fn duplicate(
        &self,
        conversation: ConversationId,
        sender: UserId,
        client_message_id: ClientMessageId,
    ) -> Result<Option<DuplicateRow>, Error> {
        Ok(self.inner.duplicate(conversation, sender, client_message_id).await?)
    }

    async fn inbox(
        &self,
        user: UserId,
        above: MessageId,
        up_to: MessageId,
        limit: usize,
    ) -> Result<InboxPage, Error> {
        let key = (user, above, up_to, limit);
        shared!(self, inbox, key, |inner| inner.inbox(user, above, up_to, limit))
    }

    /// The database removes rows by itself when their time is over; from here readers learn what time it is.
    async fn expire(&self, now: Millis) -> Result<u64, Error> {
        self.inner.now_ms.fetch_max(now.0, Ordering::Relaxed);
        Ok(0)
    }

    async fn create_account(&self, account: Account, device: DeviceRow) -> Result<bool, Error> {
        Ok(Box::pin(self.inner.create_account(&account, &device)).await?)
    }

    async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>, Error> {
        Ok(self.inner.account_by_handle(handle).await?)
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, Error> {
        shared!(self, account, user, |inner| inner.account(user))
    }

    async fn profiles(&self, users: Vec<UserId>) -> Result<Vec<Profile>, Error> {
        Ok(self.inner.profiles(users).await?)
    }

    async fn search_handles(&self, prefix: &str, limit: usize) -> Result<Vec<Profile>, Error> {
        Ok(self.inner.search_handles(prefix, limit).await?)
    }

    async fn change_profile(
        &self,
        user: UserId,
        change: ProfileChange,
    ) -> Result<Option<Profile>, Error> {
        Ok(self.inner.change_profile(user, &change).await?)
    }

    async fn change_password(&self, user: UserId, password_hash: String) -> Result<(), Error> {
        Ok(self.inner.change_password(user, &password_hash).await?)
    }

    async fn settings(&self, user: UserId) -> Result<Option<String>, Error> {
        Ok(self.inner.settings(user).await?)
    }

    async fn put_settings(&self, user: UserId, json: String) -> Result<(), Error> {
        Ok(self.inner.put_settings(user, &json).await?)
    }

    async fn add_device(&self, device: DeviceRow) -> Result<(), Error> {
        Ok(self.inner.add_device(&device).await?)
    }

    async fn devices(&self, user: UserId) -> Result<Vec<DeviceRow>, Error> {
        Ok(self.inner.devices(user).await?)
    }

    async fn rename_device(
        &self,
        user: UserId,
        device: DeviceId,
        name: String,
    ) -> Result<bool, Error> {
        Ok(self.inner.rename_device(user, device, &name).await?)
    }

    async fn remove_device(&self, user: UserId, device: DeviceId) -> Result<bool, Error> {
        Ok(self.inner.remove_device(user, device).await?)
    }

    async fn rotate_refresh(
        &self,
        user: UserId,
        device: DeviceId,
        old: [u8; 32],
        new: [u8; 32],
        now: Millis,
        expires_at: Millis,
    ) -> Result<RefreshOutcome, Error> {
        let rotation = Rotation { user, device, old, new, now, expires_at };
        Ok(self.inner.rotate_refresh(&rotation).await?)
    }

    async fn put_confirmed(&self, rows: Vec<ConfirmedRow>) -> Result<(), Error> {
        Ok(self.inner.put_confirmed(rows).await?)
    }

    async fn confirmed(&self, user: UserId) -> Result<Vec<ConfirmedRow>, Error> {
        Ok(self.inner.confirmed(user).await?)
    }

    async fn set_friendship(
        &self,
        user: UserId,
        other: UserId,
        expected: Friendship,
        friendship: Friendship,
        now: Millis,
    ) -> Result<Friendship, Error> {
        Ok(Box::pin(self.inner.set_friendship(user, other, expected, friendship, now)).await?)
    }

    async fn friendship(&self, user: UserId, other: UserId) -> Result<Friendship, Error> {
        Ok(self.inner.friendship(user, other).await?)
    }

    async fn friends(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<FriendRow>, Error> {
        Ok(self.inner.friends(user, after, limit).await?)
    }

    async fn set_block(&self, user: UserId, other: UserId, blocked: bool) -> Result<(), Error> {
        Ok(self.inner.set_block(user, other, blocked).await?)
    }

    async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, Error> {
        Ok(self.inner.blocks(user).await?)
    }

    async fn is_blocked(&self, one: UserId, other: UserId) -> Result<bool, Error> {
        Ok(self.inner.is_blocked(one, other).await?)
    }

    async fn put_presence(&self, rows: Vec<PresenceRow>) -> Result<(), Error> {
        Ok(self.inner.put_presence(rows).await?)
    }

    async fn presence(&self, users: Vec<UserId>) -> Result<Vec<PresenceRow>, Error> {
        Ok(self.inner.presence(users).await?)
    }

    async fn online_in(&self, partition: Partition) -> Result<Vec<PresenceRow>, Error> {
        Ok(self.inner.online_in(partition).await?)
    }
}

#[async_trait]
impl Tables for CqlStore {
    async fn scan(&self, table: Table, from: Vec<u8>, rows_max: usize) -> Result<TablePage, Error> {
        Ok(Box::pin(self.inner.scan(table, from, rows_max)).await?)
    }

    async fn import(&self, rows: Vec<Row>) -> Result<(), Error> {
        Ok(Box::pin(self.inner.import(rows)).await?)
    }
}
