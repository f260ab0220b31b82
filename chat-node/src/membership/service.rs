//! Renews the node's lease, watches those of the others, takes and releases partitions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use chat_broker::{Broker, Change, Entry, Revision, Watch};
use chat_protocol::NodeId;
use chat_protocol::admin::{AdminCode, AdminProblem, OwnerRevision};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::{OFFSET_MS_MAX, offset_ms};
use super::entry::{NodeEntry, OWNER_REVISION_KEY, owner_revision_after, owner_revision_of};
use super::metrics::Metrics;
use super::view::{Settings, View};
use crate::clock::Clock;
use crate::conversation::owners::{Holding, Owners, released_partition};
use crate::partition::{Lease, Leases};

/// How often the lease is renewed; several times within its period.
const RENEW_EVERY: Duration = Duration::from_millis(750);
/// A renewal that takes longer is tried again.
const RENEW_MAX: Duration = Duration::from_millis(1_000);
const RENEW_RETRY: Duration = Duration::from_millis(100);
/// How often it is looked at what to take and to release, if nothing happens.
const DECIDE_EVERY: Duration = Duration::from_millis(100);
/// How long what has happened is gathered before that.
const GATHER: Duration = Duration::from_millis(2);
/// How long a log may go on to say that a partition is held whose owner says that it has closed it.
const OFFER_PATIENCE: Duration = Duration::from_millis(500);
const WATCH_RETRY: Duration = Duration::from_millis(250);
/// Attempts to write a key that others write, too.
const OWNER_REVISION_TRIES: usize = 5;
/// Renewals whose entries did not come back yet.
const RENEWALS_MAX: usize = 16;
/// How long a node that ends tries to say so.
const UNREGISTER_MAX: Duration = Duration::from_secs(1);
/// The clock is not known to be anything.
const UNKNOWN: i64 = i64::MIN;

/// What membership is built on.
pub struct Parts {
    /// Times of leases.
    pub settings: Settings,
    /// The keys.
    pub broker: Arc<dyn Broker>,
    /// Time.
    pub clock: Clock,
    /// What the others are told; `owns`, `draining`, `connections` and `counter` are filled in.
    pub about: NodeEntry,
    /// Whether this node has the role to own partitions.
    pub has_role: bool,
    /// Figures.
    pub metrics: Metrics,
}

/// This node's place among the others.
pub struct Membership {
    parts: Parts,
    lease: Lease,
    state: Mutex<State>,
    /// On the monotonic clock, in milliseconds: the own lease is good before.
    held_until_ms: AtomicU64,
    offset_ms: AtomicI64,
    is_leaving: AtomicBool,
    is_prepared: AtomicBool,
    connections: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    renew: Notify,
    decide: Notify,
}

struct State {
    view: View,
    /// When the last renewals were sent and acknowledged, by the monotonic clock.
    renewals: VecDeque<(Revision, Duration, Duration)>,
    owner_revision: OwnerRevision,
}

impl Membership {
    /// Not registered yet. Nothing happens until [`Membership::run`].
    pub fn new(parts: Parts) -> Arc<Membership> {
        let lease = parts.about.lease();
        let view = View::new(parts.settings, lease);
        Arc::new(Membership {
            lease,
            state: Mutex::new(State {
                view,
                renewals: VecDeque::new(),
                owner_revision: OwnerRevision::default(),
            }),
            held_until_ms: AtomicU64::new(0),
            offset_ms: AtomicI64::new(UNKNOWN),
            is_leaving: AtomicBool::new(false),
            is_prepared: AtomicBool::new(false),
            connections: OnceLock::new(),
            renew: Notify::new(),
            decide: Notify::new(),
            parts,
        })
    }

    /// What tells how many connections stand, for the others to know.
    pub fn count_connections(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // A second one would count the same.
        drop(self.connections.set(Box::new(count)));
    }

    /// Registers, and takes and releases partitions until `stop` is called. Then it removes the node's entry.
    pub fn run(
        self: &Arc<Self>,
        owners: Arc<Owners>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) {
        let (this, token) = (self.clone(), stop.clone());
        tracker.spawn(async move { this.renew_until(token).await });
        let (this, token) = (self.clone(), stop.clone());
        tracker.spawn(async move { token.run_until_cancelled(this.watch()).await });
        let this = self.clone();
        tracker.spawn(async move { stop.run_until_cancelled(this.move_partitions(&owners)).await });
    }

    /// Says that this node leaves, and gives its partitions to others. Returns when it has none.
    pub async fn leave(&self, owners: &Owners) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.renew.notify_one();
        self.decide.notify_one();
        loop {
            let changed = owners.changed();
            if owners.holdings().iter().all(|holding| *holding == Holding::Idle) {
                return;
            }
            changed.await;
        }
    }

    /// The nodes that are alive, this one included, as they last told of themselves.
    pub fn nodes(&self) -> Vec<NodeEntry> {
        let now = self.parts.clock.elapsed();
        self.lock().view.alive(now).cloned().collect()
    }

    /// Tells the others whether this node hands its clients over. It goes on to own partitions.
    pub fn set_prepared(&self, is_prepared: bool) {
        self.is_prepared.store(is_prepared, Ordering::Relaxed);
        self.renew.notify_one();
    }

    /// Other nodes that hand their clients over.
    pub fn preparing_nodes(&self) -> Vec<NodeId> {
        let now = self.parts.clock.elapsed();
        let state = self.lock();
        let others = state.view.alive(now).filter(|entry| entry.node != self.lease.node);
        others.filter(|entry| entry.prepared || entry.draining).map(|entry| entry.node).collect()
    }

    /// Whose nodes own partitions, as this node has heard.
    pub fn owner_revision(&self) -> OwnerRevision {
        self.lock().owner_revision.clone()
    }

    /// Says whose nodes own partitions. An older operator than the last one is refused.
    pub async fn set_owner_revision(
        &self,
        wanted: &OwnerRevision,
    ) -> Result<OwnerRevision, AdminProblem> {
        let unavailable = |error: String| {
            let detail = format!("The broker does not take the change: {error}. Ask again.");
            AdminProblem::new(AdminCode::Unavailable, detail)
        };
        let broker = &self.parts.broker;
        for _ in 0..OWNER_REVISION_TRIES {
            let found = broker.get(OWNER_REVISION_KEY).await.map_err(|e| unavailable(e.0))?;
            let (at, known) = match &found {
                Some(entry) => (entry.revision, owner_revision_of(&entry.value)),
                None => (Revision(0), OwnerRevision::default()),
            };
            let after = owner_revision_after(&known, wanted)?;
            if found.is_some() && after == known {
                return Ok(after);
            }
            let value = serde_json::to_vec(&after).map_err(|e| unavailable(e.to_string()))?;
            let written = broker.put(OWNER_REVISION_KEY, at, value.into()).await;
            if written.map_err(|e| unavailable(e.0))?.is_some() {
                tracing::info!(
                    revision = after.revision,
                    generation = after.generation,
                    "the operator says whose nodes own partitions"
                );
                return Ok(after);
            }
        }
        Err(unavailable("others write it all the time".to_owned()))
    }

    fn set_known(&self, known: OwnerRevision, now: Duration) {
        let mut state = self.lock();
        state.view.set_owner_revision(known.revision.clone(), now);
        state.owner_revision = known;
    }

    /// Takes in what another node says to this one. `false`: it is not about partitions.
    pub fn hear(&self, payload: &[u8]) -> bool {
        let Some(partition) = released_partition(payload) else { return false };
        self.lock().view.offered(partition, self.parts.clock.elapsed());
        self.decide.notify_one();
        true
    }

    /// Why the node should not get traffic.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = vec![];
        if !self.is_held() {
            reasons.push("The node's lease is not renewed: the broker does not answer.".to_owned());
        }
        if !self.lock().view.is_current() {
            reasons.push("The node does not know the other nodes at the moment.".to_owned());
        }
        match self.offset_ms.load(Ordering::Relaxed) {
            UNKNOWN => reasons.push("The node's clock is not compared with the broker's yet.".to_owned()),
            offset if offset.unsigned_abs() > OFFSET_MS_MAX => reasons.push(format!(
                "The node's clock is {} ms {} the broker's; at most {OFFSET_MS_MAX} are allowed. Correct the clock.",
                offset.unsigned_abs(),
                if offset > 0 { "ahead of" } else { "behind" }
            )),
            _ => {}
        }
        reasons
    }

    /// Its figures.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    fn is_clock_fine(&self) -> bool {
        let offset = self.offset_ms.load(Ordering::Relaxed);
        offset != UNKNOWN && offset.unsigned_abs() <= OFFSET_MS_MAX
    }

    fn may_own(&self) -> bool {
        self.parts.has_role && self.is_clock_fine() && !self.is_leaving.load(Ordering::Relaxed)
    }

    fn entry(&self, counter: u64) -> NodeEntry {
        NodeEntry {
            owns: self.may_own(),
            draining: self.is_leaving.load(Ordering::Relaxed),
            prepared: self.is_prepared.load(Ordering::Relaxed),
            connections: self.connections.get().map_or(0, |count| count()),
            counter,
            ..self.parts.about.clone()
        }
    }

    async fn renew_until(&self, stop: CancellationToken) {
        let mut revision = Revision(0);
        let renewing = async {
            let mut counter = 0;
            loop {
                counter += 1;
                let pause = match self.renew_once(&mut revision, counter).await {
                    true => RENEW_EVERY,
                    false => RENEW_RETRY,
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.renew.notified() => {}
                }
            }
        };
        stop.run_until_cancelled(renewing).await;
        let key = NodeEntry::key(self.lease.node);
        let removed = self.parts.broker.remove(&key, revision);
        if !matches!(tokio::time::timeout(UNREGISTER_MAX, removed).await, Ok(Ok(true))) {
            tracing::info!("the node's entry could not be removed; the others wait for its lease");
        }
    }

    /// `false`: it is to be tried again soon.
    async fn renew_once(&self, revision: &mut Revision, counter: u64) -> bool {
        let Parts { broker, clock, settings, .. } = &self.parts;
        let key = NodeEntry::key(self.lease.node);
        let started = clock.elapsed();
        let value = self.entry(counter).to_value();
        match tokio::time::timeout(RENEW_MAX, broker.put(&key, *revision, value)).await {
            Ok(Ok(Some(written))) => {
                *revision = written;
                self.renewed(started + settings.period);
                let mut state = self.lock();
                if state.renewals.len() >= RENEWALS_MAX {
                    state.renewals.pop_front();
                }
                state.renewals.push_back((written, started, clock.elapsed()));
                true
            }
            // A renewal in doubt was made all the same, or others have removed the entry of a node they took for dead.
            Ok(Ok(None)) => {
                match broker.get(&key).await {
                    Ok(found) => *revision = found.map_or(Revision(0), |entry| entry.revision),
                    Err(error) => tracing::debug!(%error, "the node's own entry cannot be read"),
                }
                false
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                false
            }
            Err(_) => {
                tracing::debug!("the node's lease was not renewed in time");
                false
            }
        }
    }

    fn renewed(&self, until: Duration) {
        let was_held = self.is_held();
        self.held_until_ms.store(until.as_millis() as u64, Ordering::Relaxed);
        if !was_held {
            self.decide.notify_one();
        }
    }

    async fn watch(&self) {
        loop {
            match self.parts.broker.watch("").await {
                Ok(watch) => self.follow(watch).await,
                Err(error) => {
                    tracing::debug!(%error, "the other nodes cannot be watched yet");
                    tokio::time::sleep(WATCH_RETRY).await;
                }
            }
        }
    }

    async fn follow(&self, mut watch: Box<dyn Watch>) {
        loop {
            let change = watch.next().await;
            let now = self.parts.clock.elapsed();
            match change {
                Change::Written { key, entry } => self.written(&key, &entry, now),
                Change::Removed { key } if key == OWNER_REVISION_KEY => {
                    self.set_known(OwnerRevision::default(), now);
                }
                Change::Removed { key } => {
                    if let Some(node) = NodeEntry::node_of_key(&key) {
                        self.lock().view.gone(node, now);
                    }
                }
                Change::Current => self.lock().view.current(now),
                Change::Interrupted => self.lock().view.interrupted(),
            }
            self.decide.notify_one();
        }
    }

    fn written(&self, key: &str, entry: &Entry, now: Duration) {
        if key == OWNER_REVISION_KEY {
            self.set_known(owner_revision_of(&entry.value), now);
        }
        let Some(node) = NodeEntry::node_of_key(key) else { return };
        let Some(told) = NodeEntry::from_value(&entry.value).filter(|told| told.node == node)
        else {
            tracing::debug!(key, "the entry of a node is not known to this one");
            return;
        };
        if node == self.lease.node {
            self.compare_clocks(entry);
            if told.owns != self.may_own() {
                self.renew.notify_one();
            }
        }
        self.lock().view.heard(told, entry.revision.0, now);
    }

    /// The own renewal came back with the broker's time: the wall clock is followed if it agrees.
    fn compare_clocks(&self, entry: &Entry) {
        let mut state = self.lock();
        state.renewals.retain(|(revision, ..)| *revision >= entry.revision);
        let Some(&(_, before, after)) =
            state.renewals.front().filter(|(revision, ..)| *revision == entry.revision)
        else {
            return;
        };
        drop(state);
        let wall = self.parts.clock.wall_start();
        let offset = offset_ms(wall, before, after, entry.written_at);
        if offset.unsigned_abs() <= OFFSET_MS_MAX {
            self.parts.clock.follow(wall);
        }
        let was_fine = self.is_clock_fine();
        let known = self.offset_ms.swap(offset, Ordering::Relaxed) != UNKNOWN;
        self.parts.metrics.clock_offset_seconds.set(offset as f64 / 1_000.0);
        if known && was_fine && !self.is_clock_fine() {
            tracing::warn!(
                offset_ms = offset,
                "the clock is too far from the broker's; this node gives up its partitions"
            );
        }
    }

    async fn move_partitions(&self, owners: &Arc<Owners>) {
        let mut was_held = false;
        loop {
            let changed = owners.changed();
            let held = self.is_held();
            if held && !was_held {
                // Meanwhile others may have taken what was this node's: each partition's log says so.
                owners.look_at_logs();
            }
            was_held = held;
            self.move_once(owners, held);
            self.bury().await;
            tokio::select! {
                () = changed => {}
                () = self.decide.notified() => {}
                () = tokio::time::sleep(DECIDE_EVERY) => {}
            }
            // Partitions come and go in great numbers: one look for several of them.
            tokio::time::sleep(GATHER).await;
        }
    }

    fn move_once(&self, owners: &Arc<Owners>, held: bool) {
        let Parts { clock, metrics, settings, .. } = &self.parts;
        let now = clock.elapsed();
        let renewed_ms =
            self.held_until_ms.load(Ordering::Relaxed) as f64 - settings.period.as_millis() as f64;
        metrics.lease_age_seconds.set((now.as_millis() as f64 - renewed_ms) / 1_000.0);
        let holdings = owners.holdings();
        let mut state = self.lock();
        metrics.nodes_alive.set(state.view.alive(now).count() as i64);
        for partition in owners.take_unclosed() {
            // Only this node can open it again: the log says that it is its own.
            state.view.offered(partition, now);
        }
        let is_leaving = self.is_leaving.load(Ordering::Relaxed);
        if !held && !is_leaving {
            state.view.update(now);
            return;
        }
        let moves = state.view.moves(self.may_own(), &holdings, now);
        drop(state);
        for (partition, is_offered) in moves.take {
            let patience = if is_offered { OFFER_PATIENCE } else { Duration::ZERO };
            owners.take_soon(partition, patience);
        }
        for (partition, heir) in moves.release {
            owners.release_to(partition, heir);
        }
    }

    /// Removes entries of nodes that have been dead for long.
    async fn bury(&self) {
        let dead = self.lock().view.to_bury(self.parts.clock.elapsed());
        for (node, revision) in dead {
            tracing::info!(%node, "a node has not been heard for long; its entry is removed");
            let key = NodeEntry::key(node);
            let removed = self.parts.broker.remove(&key, Revision(revision));
            if !matches!(tokio::time::timeout(UNREGISTER_MAX, removed).await, Ok(Ok(true))) {
                tracing::debug!(%node, "the entry could not be removed now");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl Leases for Membership {
    fn is_held(&self) -> bool {
        let now = self.parts.clock.elapsed().as_millis() as u64;
        now < self.held_until_ms.load(Ordering::Relaxed)
    }

    fn has_ended(&self, lease: Lease) -> bool {
        self.lock().view.has_ended(lease, self.parts.clock.elapsed())
    }
}
