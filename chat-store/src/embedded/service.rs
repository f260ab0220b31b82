//! The contract, method by method: each says which work runs, and whether it reads or writes.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::frame::Friendship;
use chat_protocol::message::Message;
use chat_protocol::{
    ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, UserId,
};
use rusqlite::Connection;

use super::devices::Rotation;
use super::error::Failure;
use super::{
    EmbeddedStore, accounts, conversations, devices, expiry, friends, inbox, messages, meta,
    presence, tables,
};
use crate::row::*;
use crate::store::{Error, Store};
use crate::table::{Page, Row, Table, Tables};

pub(super) fn put(connection: &Connection, write: &Write) -> Result<(), Failure> {
    match write {
        Write::Message(row) => messages::put_message(connection, row),
        Write::Revision(row) => messages::put_revision(connection, row),
        Write::Reaction(row) => messages::put_reaction(connection, row),
        Write::Duplicate(row) => messages::put_duplicate(connection, row),
        Write::Inbox(row) => inbox::put(connection, row),
        Write::Conversation(row) => conversations::put_conversation(connection, row),
        Write::Member(row) => conversations::put_member(connection, row),
        Write::Read(row) => conversations::put_read(connection, row),
        Write::Delivered(row) => conversations::put_delivered(connection, row),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn epoch(&self) -> Result<u64, Error> {
        self.read(meta::epoch).await
    }

    fn durability_lag(&self) -> Duration {
        // A commit is on the disk before it is answered.
        Duration::ZERO
    }

    async fn apply(
        &self,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        self.write(move |connection| {
            writes.iter().try_for_each(|write| put(connection, write))?;
            match checkpoint {
                Some(checkpoint) => meta::put_checkpoint(connection, partition, &checkpoint),
                None => Ok(()),
            }
        })
        .await
    }

    async fn put_checkpoints(
        &self,
        checkpoints: Vec<(Partition, Checkpoint)>,
    ) -> Result<(), Error> {
        self.write(move |connection| {
            checkpoints.iter().try_for_each(|(partition, checkpoint)| {
                meta::put_checkpoint(connection, *partition, checkpoint)
            })
        })
        .await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Checkpoint, Error> {
        self.read(move |connection| meta::checkpoint(connection, partition)).await
    }

    async fn quarantine(&self, row: QuarantineRow) -> Result<(), Error> {
        self.write(move |connection| meta::quarantine(connection, &row)).await
    }

    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, Error> {
        self.read(move |connection| conversations::conversation(connection, id)).await
    }

    async fn members(&self, id: ConversationId) -> Result<Vec<MemberRow>, Error> {
        self.read(move |connection| conversations::members(connection, id)).await
    }

    async fn marks(&self, id: ConversationId) -> Result<HashMap<UserId, (u64, u64)>, Error> {
        self.read(move |connection| conversations::marks(connection, id)).await
    }

    async fn conversations_of(
        &self,
        user: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Error> {
        self.read(move |connection| conversations::conversations_of(connection, user, after, limit))
            .await
    }

    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ConversationRow>, Error> {
        self.read(move |connection| conversations::rooms(connection, before, limit)).await
    }

    async fn message(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Message>, Error> {
        self.read(move |connection| Ok(messages::messages(connection, conversation, &[id])?.pop()))
            .await
    }

    async fn messages(
        &self,
        conversation: ConversationId,
        ids: Vec<MessageId>,
    ) -> Result<Vec<Message>, Error> {
        self.read(move |connection| messages::messages(connection, conversation, &ids)).await
    }

    async fn history_before(
        &self,
        conversation: ConversationId,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        self.read(move |connection| {
            messages::history_before(connection, conversation, before, limit)
        })
        .await
    }

    async fn history_after(
        &self,
        conversation: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        self.read(move |connection| messages::history_after(connection, conversation, after, limit))
            .await
    }

    async fn duplicate(
        &self,
        conversation: ConversationId,
        sender: UserId,
        client_message_id: ClientMessageId,
    ) -> Result<Option<DuplicateRow>, Error> {
        self.read(move |connection| {
            messages::duplicate(connection, conversation, sender, client_message_id)
        })
        .await
    }

    async fn inbox(
        &self,
        user: UserId,
        above: MessageId,
        up_to: MessageId,
        limit: usize,
    ) -> Result<InboxPage, Error> {
        self.read(move |connection| inbox::page(connection, user, above, up_to, limit)).await
    }

    async fn expire(&self, now: Millis) -> Result<u64, Error> {
        self.write(move |connection| expiry::expire(connection, now)).await
    }

    async fn create_account(&self, account: Account, device: DeviceRow) -> Result<bool, Error> {
        self.write(move |connection| accounts::create(connection, &account, &device)).await
    }

    async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>, Error> {
        let handle = handle.to_owned();
        self.read(move |connection| accounts::by_handle(connection, &handle)).await
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, Error> {
        self.read(move |connection| accounts::by_id(connection, user)).await
    }

    async fn profiles(&self, users: Vec<UserId>) -> Result<Vec<Profile>, Error> {
        self.read(move |connection| accounts::profiles(connection, &users)).await
    }

    async fn search_handles(&self, prefix: &str, limit: usize) -> Result<Vec<Profile>, Error> {
        let prefix = prefix.to_owned();
        self.read(move |connection| accounts::search(connection, &prefix, limit)).await
    }

    async fn change_profile(
        &self,
        user: UserId,
        change: ProfileChange,
    ) -> Result<Option<Profile>, Error> {
        self.write(move |connection| accounts::change_profile(connection, user, &change)).await
    }

    async fn change_password(&self, user: UserId, password_hash: String) -> Result<(), Error> {
        self.write(move |connection| accounts::change_password(connection, user, &password_hash))
            .await
    }

    async fn settings(&self, user: UserId) -> Result<Option<String>, Error> {
        self.read(move |connection| accounts::settings(connection, user)).await
    }

    async fn put_settings(&self, user: UserId, json: String) -> Result<(), Error> {
        self.write(move |connection| accounts::put_settings(connection, user, &json)).await
    }

    async fn add_device(&self, device: DeviceRow) -> Result<(), Error> {
        self.write(move |connection| devices::add(connection, &device)).await
    }

    async fn devices(&self, user: UserId) -> Result<Vec<DeviceRow>, Error> {
        self.read(move |connection| devices::all(connection, user)).await
    }

    async fn rename_device(
        &self,
        user: UserId,
        device: DeviceId,
        name: String,
    ) -> Result<bool, Error> {
        self.write(move |connection| devices::rename(connection, user, device, &name)).await
    }

    async fn remove_device(&self, user: UserId, device: DeviceId) -> Result<bool, Error> {
        self.write(move |connection| devices::remove(connection, user, device)).await
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
        self.write(move |connection| devices::rotate(connection, &rotation)).await
    }

    async fn put_confirmed(&self, rows: Vec<ConfirmedRow>) -> Result<(), Error> {
        self.write(move |connection| {
            rows.iter().try_for_each(|row| devices::put_confirmed(connection, row))
        })
        .await
    }

    async fn confirmed(&self, user: UserId) -> Result<Vec<ConfirmedRow>, Error> {
        self.read(move |connection| devices::confirmed(connection, user)).await
    }

    async fn set_friendship(
        &self,
        user: UserId,
        other: UserId,
        expected: Friendship,
        friendship: Friendship,
        now: Millis,
    ) -> Result<Friendship, Error> {
        self.write(move |connection| {
            friends::set(connection, (user, other), expected, friendship, now)
        })
        .await
    }

    async fn friendship(&self, user: UserId, other: UserId) -> Result<Friendship, Error> {
        self.read(move |connection| friends::get(connection, user, other)).await
    }

    async fn friends(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<FriendRow>, Error> {
        self.read(move |connection| friends::all(connection, user, after, limit)).await
    }

    async fn set_block(&self, user: UserId, other: UserId, blocked: bool) -> Result<(), Error> {
        self.write(move |connection| friends::set_block(connection, user, other, blocked)).await
    }

    async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, Error> {
        self.read(move |connection| friends::blocks(connection, user)).await
    }

    async fn is_blocked(&self, one: UserId, other: UserId) -> Result<bool, Error> {
        self.read(move |connection| friends::is_blocked(connection, one, other)).await
    }

    async fn put_presence(&self, rows: Vec<PresenceRow>) -> Result<(), Error> {
        self.write(move |connection| rows.iter().try_for_each(|row| presence::put(connection, row)))
            .await
    }

    async fn presence(&self, users: Vec<UserId>) -> Result<Vec<PresenceRow>, Error> {
        self.read(move |connection| presence::of(connection, &users)).await
    }

    async fn online_in(&self, partition: Partition) -> Result<Vec<PresenceRow>, Error> {
        self.read(move |connection| presence::online_in(connection, partition)).await
    }
}

#[async_trait]
impl Tables for EmbeddedStore {
    async fn scan(&self, table: Table, from: Vec<u8>, rows_max: usize) -> Result<Page, Error> {
        self.read(move |connection| tables::scan(connection, table, &from, rows_max)).await
    }

    async fn import(&self, rows: Vec<Row>) -> Result<(), Error> {
        self.write(move |connection| tables::import(connection, &rows)).await
    }
}
