//! A store that fails when told to: for tests of everything that uses a store.
//!
//! [`FaultyStore`] wraps any store; [`Faults`] is the handle that says what goes wrong from now on. What goes wrong is
//! drawn from a seed, one decision per call in the order in which calls are first polled, so that a run on a
//! `current_thread` runtime can be repeated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::frame::Friendship;
use chat_protocol::message::Message;
use chat_protocol::{
    ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, UserId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::row::*;
use crate::store::{Error, Store};

/// How often what goes wrong. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// The call fails and nothing is done.
    pub error_before: f64,
    /// The call is done and fails all the same.
    pub error_after: f64,
    /// The call takes longer, in tokio's time.
    pub delay: f64,
    /// Longest delay; each is drawn evenly from 1 ms up to this.
    pub delay_ms_max: u64,
}

/// Says of a write whether the store refuses it.
pub type Refusal = dyn Fn(&Write) -> bool + Send + Sync;

/// The handle on what goes wrong. Clones share one state.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

struct State {
    random: StdRng,
    rates: FaultRates,
    away: bool,
    is_forgetful: bool,
    durability_lag: Option<Duration>,
    refusal: Option<Arc<Refusal>>,
    calls: u64,
    faults: u64,
}

/// What was decided about one call.
#[derive(Clone, Copy)]
struct Decision {
    before: bool,
    after: bool,
    delay: Duration,
}

impl Faults {
    /// No faults yet; later ones are drawn from this seed.
    pub fn new(seed: u64) -> Faults {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            rates: FaultRates::default(),
            away: false,
            is_forgetful: false,
            durability_lag: None,
            refusal: None,
            calls: 0,
            faults: 0,
        };
        Faults { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on, calls go wrong this often.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state().rates = rates;
    }

    /// `true`: every call fails with [`Error::Away`] without being done, until this is set to `false`. Calls that are being
    /// delayed fail too.
    pub fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// `true`: what is written from the log, and checkpoints, are acknowledged and not kept, until this is set to `false`. So
    /// looks, after its crash, a store that acknowledges before it syncs.
    pub fn set_forgetful(&self, is_forgetful: bool) {
        self.state().is_forgetful = is_forgetful;
    }

    /// From now on, the store says that this is its [`Store::durability_lag`].
    pub fn set_durability_lag(&self, lag: Duration) {
        self.state().durability_lag = Some(lag);
    }

    /// From now on, a call of `apply` with a write for which this holds is refused, and nothing of it is done.
    pub fn set_refusal(&self, refusal: Option<Arc<Refusal>>) {
        self.state().refusal = refusal;
    }

    /// No more faults of any kind.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rates = FaultRates::default();
        state.away = false;
        state.is_forgetful = false;
        state.refusal = None;
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls that failed so far because of this handle.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self) -> Decision {
        let mut state = self.state();
        state.calls += 1;
        let FaultRates { error_before, error_after, delay, delay_ms_max } = state.rates;
        // As many draws whatever is decided: one changed rate does not shift every later decision.
        let (before, after, late) = (
            state.random.random::<f64>(),
            state.random.random::<f64>(),
            state.random.random::<f64>(),
        );
        let delay_ms = state.random.random_range(1..=delay_ms_max.max(1));
        Decision {
            before: before < error_before,
            after: after < error_after,
            delay: if late < delay { Duration::from_millis(delay_ms) } else { Duration::ZERO },
        }
    }

    fn fail<T>(&self, error: fn(String) -> Error, why: &str) -> Result<T, Error> {
        self.state().faults += 1;
        Err(error(format!("{why} (injected fault)")))
    }

    /// Runs a call that writes what could be lost.
    async fn keep(&self, call: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        // Not under the lock.
        let is_forgetful = self.state().is_forgetful;
        match is_forgetful {
            true => self.run(async { Ok(()) }).await,
            false => self.run(call).await,
        }
    }

    /// Runs one call with what was decided about it.
    async fn run<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let decision = self.decide();
        if !decision.delay.is_zero() {
            tokio::time::sleep(decision.delay).await;
        }
        if self.state().away {
            return self.fail(Error::Away, "the store is away");
        }
        if decision.before {
            return self.fail(Error::Unavailable, "nothing was done");
        }
        let result = call.await;
        if decision.after && result.is_ok() {
            return self.fail(Error::Unavailable, "the answer was lost");
        }
        result
    }

    fn refuses(&self, writes: &[Write]) -> bool {
        let refusal = self.state().refusal.clone();
        // Not under the lock: the predicate is the test's, and may use this handle.
        refusal.is_some_and(|refuses| writes.iter().any(|write| refuses(write)))
    }
}

/// Stands in for [`Store::apply`]: it may have the store take a part of the rows only, or never return.
#[async_trait]
pub trait Apply: Send + Sync {
    /// Called in place of the store's own, with that store.
    async fn apply(
        &self,
        store: &dyn Store,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error>;
}

/// A store with faults.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
    apply: Option<Arc<dyn Apply>>,
}

impl FaultyStore {
    /// Wraps a store; nothing goes wrong until `faults` says so.
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> FaultyStore {
        FaultyStore { inner, faults, apply: None }
    }

    /// The same, with something that stands in for `apply`.
    pub fn with_apply(inner: Arc<dyn Store>, faults: Faults, apply: Arc<dyn Apply>) -> FaultyStore {
        FaultyStore { inner, faults, apply: Some(apply) }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn durability_lag(&self) -> Duration {
        let pretended = self.faults.state().durability_lag;
        pretended.unwrap_or_else(|| self.inner.durability_lag())
    }

    async fn apply(
        &self,
        partition: Partition,
        writes: Vec<Write>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        if self.faults.refuses(&writes) {
            self.faults.state().faults += 1;
            return Err(Error::Refused("this content is not taken (injected fault)".into()));
        }
        match &self.apply {
            Some(apply) => {
                self.faults.keep(apply.apply(&*self.inner, partition, writes, checkpoint)).await
            }
            None => self.faults.keep(self.inner.apply(partition, writes, checkpoint)).await,
        }
    }

    async fn epoch(&self) -> Result<u64, Error> {
        self.faults.run(self.inner.epoch()).await
    }

    async fn put_checkpoints(
        &self,
        checkpoints: Vec<(Partition, Checkpoint)>,
    ) -> Result<(), Error> {
        self.faults.keep(self.inner.put_checkpoints(checkpoints)).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Checkpoint, Error> {
        self.faults.run(self.inner.checkpoint(partition)).await
    }

    async fn quarantine(&self, row: QuarantineRow) -> Result<(), Error> {
        self.faults.run(self.inner.quarantine(row)).await
    }

    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, Error> {
        self.faults.run(self.inner.conversation(id)).await
    }

    async fn members(&self, id: ConversationId) -> Result<Vec<MemberRow>, Error> {
        self.faults.run(self.inner.members(id)).await
    }

    async fn marks(&self, id: ConversationId) -> Result<HashMap<UserId, (u64, u64)>, Error> {
        self.faults.run(self.inner.marks(id)).await
    }

    async fn conversations_of(
        &self,
        user: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Error> {
        self.faults.run(self.inner.conversations_of(user, after, limit)).await
    }

    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ConversationRow>, Error> {
        self.faults.run(self.inner.rooms(before, limit)).await
    }

    async fn message(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Message>, Error> {
        self.faults.run(self.inner.message(conversation, id)).await
    }

    async fn messages(
        &self,
        conversation: ConversationId,
        ids: Vec<MessageId>,
    ) -> Result<Vec<Message>, Error> {
        self.faults.run(self.inner.messages(conversation, ids)).await
    }

    async fn history_before(
        &self,
        conversation: ConversationId,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        self.faults.run(self.inner.history_before(conversation, before, limit)).await
    }

    async fn history_after(
        &self,
        conversation: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        self.faults.run(self.inner.history_after(conversation, after, limit)).await
    }

    async fn duplicate(
        &self,
        conversation: ConversationId,
        sender: UserId,
        client_message_id: ClientMessageId,
    ) -> Result<Option<DuplicateRow>, Error> {
        self.faults.run(self.inner.duplicate(conversation, sender, client_message_id)).await
    }

    async fn inbox(
        &self,
        user: UserId,
        above: MessageId,
        up_to: MessageId,
        limit: usize,
    ) -> Result<InboxPage, Error> {
        self.faults.run(self.inner.inbox(user, above, up_to, limit)).await
    }

    async fn expire(&self, now: Millis) -> Result<u64, Error> {
        self.faults.run(self.inner.expire(now)).await
    }

    async fn create_account(&self, account: Account, device: DeviceRow) -> Result<bool, Error> {
        self.faults.run(self.inner.create_account(account, device)).await
    }

    async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>, Error> {
        self.faults.run(self.inner.account_by_handle(handle)).await
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>, Error> {
        self.faults.run(self.inner.account(user)).await
    }

    async fn profiles(&self, users: Vec<UserId>) -> Result<Vec<Profile>, Error> {
        self.faults.run(self.inner.profiles(users)).await
    }

    async fn search_handles(&self, prefix: &str, limit: usize) -> Result<Vec<Profile>, Error> {
        self.faults.run(self.inner.search_handles(prefix, limit)).await
    }

    async fn change_profile(
        &self,
        user: UserId,
        change: ProfileChange,
    ) -> Result<Option<Profile>, Error> {
        self.faults.run(self.inner.change_profile(user, change)).await
    }

    async fn change_password(&self, user: UserId, password_hash: String) -> Result<(), Error> {
        self.faults.run(self.inner.change_password(user, password_hash)).await
    }

    async fn settings(&self, user: UserId) -> Result<Option<String>, Error> {
        self.faults.run(self.inner.settings(user)).await
    }

    async fn put_settings(&self, user: UserId, json: String) -> Result<(), Error> {
        self.faults.run(self.inner.put_settings(user, json)).await
    }

    async fn add_device(&self, device: DeviceRow) -> Result<(), Error> {
        self.faults.run(self.inner.add_device(device)).await
    }

    async fn devices(&self, user: UserId) -> Result<Vec<DeviceRow>, Error> {
        self.faults.run(self.inner.devices(user)).await
    }

    async fn rename_device(
        &self,
        user: UserId,
        device: DeviceId,
        name: String,
    ) -> Result<bool, Error> {
        self.faults.run(self.inner.rename_device(user, device, name)).await
    }

    async fn remove_device(&self, user: UserId, device: DeviceId) -> Result<bool, Error> {
        self.faults.run(self.inner.remove_device(user, device)).await
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
        self.faults.run(self.inner.rotate_refresh(user, device, old, new, now, expires_at)).await
    }

    async fn put_confirmed(&self, rows: Vec<ConfirmedRow>) -> Result<(), Error> {
        self.faults.run(self.inner.put_confirmed(rows)).await
    }

    async fn confirmed(&self, user: UserId) -> Result<Vec<ConfirmedRow>, Error> {
        self.faults.run(self.inner.confirmed(user)).await
    }

    async fn set_friendship(
        &self,
        user: UserId,
        other: UserId,
        expected: Friendship,
        friendship: Friendship,
        now: Millis,
    ) -> Result<Friendship, Error> {
        self.faults.run(self.inner.set_friendship(user, other, expected, friendship, now)).await
    }

    async fn friendship(&self, user: UserId, other: UserId) -> Result<Friendship, Error> {
        self.faults.run(self.inner.friendship(user, other)).await
    }

    async fn friends(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<FriendRow>, Error> {
        self.faults.run(self.inner.friends(user, after, limit)).await
    }

    async fn set_block(&self, user: UserId, other: UserId, blocked: bool) -> Result<(), Error> {
        self.faults.run(self.inner.set_block(user, other, blocked)).await
    }

    async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, Error> {
        self.faults.run(self.inner.blocks(user)).await
    }

    async fn is_blocked(&self, one: UserId, other: UserId) -> Result<bool, Error> {
        self.faults.run(self.inner.is_blocked(one, other)).await
    }

    async fn put_presence(&self, rows: Vec<PresenceRow>) -> Result<(), Error> {
        self.faults.run(self.inner.put_presence(rows)).await
    }

    async fn presence(&self, users: Vec<UserId>) -> Result<Vec<PresenceRow>, Error> {
        self.faults.run(self.inner.presence(users)).await
    }

    async fn online_in(&self, partition: Partition) -> Result<Vec<PresenceRow>, Error> {
        self.faults.run(self.inner.online_in(partition)).await
    }
}
