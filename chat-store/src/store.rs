//! The contract.

use std::collections::HashMap;

use async_trait::async_trait;
use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::frame::Friendship;
use chat_protocol::message::Message;
use chat_protocol::{
    ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, UserId,
};

use crate::row::*;

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not answer, or is out of room; the same call may succeed later. A write may have happened.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// Too few of its machines can be reached. The same call may succeed later, and a write may have happened. Unlike one
    /// that is only slow, a store that was away may come back without what it took in the last
    /// [`Store::durability_lag`].
    #[error("too few nodes of the store can be reached: {0}")]
    Away(String),
    /// It will not take this content, ever.
    #[error("refused by the store: {0}")]
    Refused(String),
}

/// Everything that is remembered.
///
/// - A write that returned `Ok` survives the death of any process, and is seen by every later read.
/// - `apply` takes rows made from the log. Applying the same rows again, in any order and mixed with other rows, ends in
///   the same tables: each row carries the version of its log entry ([`MessageId::row_version`]), and a lower version
///   never replaces a higher one. One call is not atomic; after an error any part of it may have been written.
/// - Back-pressure: a call waits while the store is busy; nothing is queued without bound.
#[async_trait]
pub trait Store: Send + Sync {
    /// The random number that names this store; a restore changes it.
    async fn epoch(&self) -> Result<u64, Error>;

    /// How long an acknowledged write may still be lost in a crash of the store's machines. Checkpoints trail by this.
    fn durability_lag(&self) -> std::time::Duration;

    // === Made from the log ===

    /// Writes rows, and then, if given, the partition's checkpoint: the checkpoint is never there without the rows.
    async fn apply(
        &self,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error>;

    /// Writes checkpoints alone, for partitions that ticked.
    async fn put_checkpoints(&self, checkpoints: Vec<(Partition, Checkpoint)>)
    -> Result<(), Error>;

    /// A partition's checkpoint; the default if it has none.
    async fn checkpoint(&self, partition: Partition) -> Result<Checkpoint, Error>;

    /// Keeps an entry that the store refused.
    async fn quarantine(&self, row: QuarantineRow) -> Result<(), Error>;

    /// A conversation's columns.
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, Error>;

    /// Every membership interval of a conversation, ended ones included.
    async fn members(&self, id: ConversationId) -> Result<Vec<MemberRow>, Error>;

    /// Read and delivery marks of a conversation: user → (read seq, delivered seq).
    async fn marks(&self, id: ConversationId) -> Result<HashMap<UserId, (u64, u64)>, Error>;

    /// The conversations a user is a member of now, by id, from after `after`.
    async fn conversations_of(
        &self,
        user: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Error>;

    /// Rooms, newest first, created before `before`.
    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ConversationRow>, Error>;

    /// One message as it is now, reactions included.
    async fn message(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Message>, Error>;

    /// Several messages of one conversation as they are now; those that do not exist are left out.
    async fn messages(
        &self,
        conversation: ConversationId,
        ids: Vec<MessageId>,
    ) -> Result<Vec<Message>, Error>;

    /// Messages with an id below `before`, newest first, as they are now.
    async fn history_before(
        &self,
        conversation: ConversationId,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error>;

    /// Messages with an id above `after`, oldest first, as they are now.
    async fn history_after(
        &self,
        conversation: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error>;

    /// The answer to a repeated send.
    async fn duplicate(
        &self,
        conversation: ConversationId,
        sender: UserId,
        client_message_id: ClientMessageId,
    ) -> Result<Option<DuplicateRow>, Error>;

    /// A user's inbox entries with ids in (`above`, `up_to`], by increasing id, at most `limit`. All entries of one id
    /// come on one page.
    async fn inbox(
        &self,
        user: UserId,
        above: MessageId,
        up_to: MessageId,
        limit: usize,
    ) -> Result<InboxPage, Error>;

    /// Removes duplicate rows and inbox rows whose time is over. Returns how many went. Bounded work per call: call again
    /// until it returns 0.
    async fn expire(&self, now: Millis) -> Result<u64, Error>;

    // === Accounts ===

    /// Makes an account and its first device. `false`: the handle is taken, nothing is written.
    async fn create_account(&self, account: Account, device: DeviceRow) -> Result<bool, Error>;

    /// An account by handle.
    async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>, Error>;

    /// An account by id.
    async fn account(&self, user: UserId) -> Result<Option<Account>, Error>;

    /// Profiles by id; unknown ones are left out.
    async fn profiles(&self, users: Vec<UserId>) -> Result<Vec<Profile>, Error>;

    /// Profiles whose handle begins with `prefix`, by handle.
    async fn search_handles(&self, prefix: &str, limit: usize) -> Result<Vec<Profile>, Error>;

    /// Changes a profile; absent fields stay, empty strings clear (a name never becomes empty here: the caller checks).
    async fn change_profile(
        &self,
        user: UserId,
        change: ProfileChange,
    ) -> Result<Option<Profile>, Error>;

    /// Changes the password hash.
    async fn change_password(&self, user: UserId, password_hash: String) -> Result<(), Error>;

    /// A user's settings as JSON text.
    async fn settings(&self, user: UserId) -> Result<Option<String>, Error>;

    /// Replaces a user's settings.
    async fn put_settings(&self, user: UserId, json: String) -> Result<(), Error>;

    // === Devices ===

    /// Adds a device to an account.
    async fn add_device(&self, device: DeviceRow) -> Result<(), Error>;

    /// A user's devices, oldest first.
    async fn devices(&self, user: UserId) -> Result<Vec<DeviceRow>, Error>;

    /// Renames a device. `false`: there is none.
    async fn rename_device(
        &self,
        user: UserId,
        device: DeviceId,
        name: String,
    ) -> Result<bool, Error>;

    /// Removes a device, its refresh token and what it has confirmed. `false`: there was none.
    async fn remove_device(&self, user: UserId, device: DeviceId) -> Result<bool, Error>;

    /// Replaces the refresh digest of a device if `old` is the valid one, and notes when it was seen.
    async fn rotate_refresh(
        &self,
        user: UserId,
        device: DeviceId,
        old: [u8; 32],
        new: [u8; 32],
        now: Millis,
        expires_at: Millis,
    ) -> Result<RefreshOutcome, Error>;

    /// Notes what devices have confirmed. The highest id of a device wins, in any order of writes; one that was removed
    /// is passed over.
    async fn put_confirmed(&self, rows: Vec<ConfirmedRow>) -> Result<(), Error>;

    /// What a user's devices have confirmed, in no order; those that never did are left out.
    async fn confirmed(&self, user: UserId) -> Result<Vec<ConfirmedRow>, Error>;

    // === Friends and blocks ===

    /// Sets how two people stand, on both sides at once: `user`'s side gets `friendship`, the other side its mirror
    /// (requested ↔ received). `None` removes both. Does nothing, and returns the present state of `user`'s side, if that
    /// is not `expected`.
    async fn set_friendship(
        &self,
        user: UserId,
        other: UserId,
        expected: Friendship,
        friendship: Friendship,
        now: Millis,
    ) -> Result<Friendship, Error>;

    /// How two people stand, from `user`'s side.
    async fn friendship(&self, user: UserId, other: UserId) -> Result<Friendship, Error>;

    /// Friends and requests of a user, by id, from after `after`.
    async fn friends(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<FriendRow>, Error>;

    /// Blocks a person, or ends that.
    async fn set_block(&self, user: UserId, other: UserId, blocked: bool) -> Result<(), Error>;

    /// Whom a user has blocked.
    async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, Error>;

    /// Whether either of two people has blocked the other.
    async fn is_blocked(&self, one: UserId, other: UserId) -> Result<bool, Error>;

    // === Presence ===

    /// Writes transitions.
    async fn put_presence(&self, rows: Vec<PresenceRow>) -> Result<(), Error>;

    /// Presence of these users; those never seen are left out.
    async fn presence(&self, users: Vec<UserId>) -> Result<Vec<PresenceRow>, Error>;

    /// Everyone whose presence row has a session and whose presence this partition's owner keeps.
    async fn online_in(&self, partition: Partition) -> Result<Vec<PresenceRow>, Error>;
}
