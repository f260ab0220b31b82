//! The owners of the presence partitions that this node owns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_broker::Bus;
use chat_protocol::frame::Presence;
use chat_protocol::{NodeId, Partition, UserId};
use chat_store::{PresenceRow, Store};
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::SNAPSHOT_USERS_MAX;
use super::friends::{Friends, LANES};
use super::owner::{Owner, Transition};
use super::writes::Writes;
use super::{Metrics, PresenceCommand, PresenceReply, Settings};
use crate::clock::Clock;
use crate::partition::Leases;

/// How long a new owner waits for the store before it goes on without knowing who was online.
const ROWS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Partitions whose rows are read at a time.
const READS_MAX: usize = 4;

const READ_RETRY: Duration = Duration::from_secs(1);

const TICK: Duration = Duration::from_secs(1);

/// Decides who is online, for the partitions this node owns; writes that to the store and tells friends. Presence in
/// memory goes on while the store is away.
pub struct PresenceOwners {
    settings: Settings,
    clock: Clock,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    leases: Arc<dyn Leases>,
    metrics: Metrics,
    open: Mutex<HashMap<Partition, Open>>,
    opened: Notify,
    writes: Writes,
    friends: Friends,
}

struct Open {
    owner: Owner,
    since: Duration,
}

impl PresenceOwners {
    /// Owns nothing yet. Does nothing by itself until [`PresenceOwners::run`].
    pub fn new(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        leases: Arc<dyn Leases>,
        metrics: Metrics,
    ) -> Arc<PresenceOwners> {
        Arc::new(PresenceOwners {
            settings,
            leases,
            clock,
            store,
            bus,
            writes: Writes::new(metrics.clone()),
            friends: Friends::new(metrics.clone()),
            metrics,
            open: Mutex::default(),
            opened: Notify::new(),
        })
    }

    /// This node owns the partition from now on, with an epoch above every earlier one. Returns at once; commands are
    /// answered once the store has said who was online, or after a few seconds without it.
    pub fn open(&self, partition: Partition, epoch: u64) {
        let now = self.clock.elapsed();
        let owner = Owner::new(epoch, self.settings.offline_after(), now);
        let mut open = self.lock();
        self.forget(partition);
        open.insert(partition, Open { owner, since: now });
        drop(open);
        self.opened.notify_one();
    }

    /// This node no longer owns the partition. Nothing of it is published any more; what was not written is left to the
    /// next owner, who finds it out by itself.
    pub fn close(&self, partition: Partition) {
        let mut open = self.lock();
        open.remove(&partition);
        self.forget(partition);
    }

    fn forget(&self, partition: Partition) {
        self.writes.forget(partition);
        self.friends.forget(partition);
    }

    /// A node is known to be dead. Without this its users go offline once it has not been heard for the time of silence.
    pub fn node_gone(&self, node: NodeId) {
        let mut open = self.lock();
        for state in open.values_mut() {
            self.take_in(state.owner.node_gone(node));
        }
    }

    /// Answers a command for a partition. Never waits.
    pub fn handle(&self, partition: Partition, command: PresenceCommand) -> PresenceReply {
        let now = self.clock.elapsed();
        let mut open = self.lock();
        let Some(state) = open.get_mut(&partition) else { return PresenceReply::Moved };
        // Another node may be the owner by now.
        if !self.leases.is_held() {
            return PresenceReply::Moved;
        }
        if !state.owner.has_rows() && now.saturating_sub(state.since) < ROWS_WAIT_MAX {
            return PresenceReply::Moved;
        }
        match command {
            PresenceCommand::Announce(mut announcement) => {
                // A user of another partition would have two owners.
                let is_here = |user: UserId| Partition::of_user(user) == partition;
                announcement.arrived.retain(|arrived| is_here(arrived.user));
                let wall = self.clock.now();
                let (reply, transitions) = state.owner.announce(&announcement, now, wall);
                self.take_in(transitions);
                reply
            }
            PresenceCommand::Snapshot { mut users } => {
                users.truncate(SNAPSHOT_USERS_MAX);
                let users = self.snapshot(&state.owner, &users);
                PresenceReply::Snapshot { epoch: state.owner.epoch(), users }
            }
        }
    }

    /// Who is online, and who just was.
    fn snapshot(&self, owner: &Owner, users: &[UserId]) -> Vec<Presence> {
        let mut known = owner.snapshot(users);
        let online: std::collections::HashSet<UserId> =
            known.iter().map(|presence| presence.user_id).collect();
        let offline = users.iter().filter(|user| !online.contains(user)).filter_map(|user| {
            let last_active_at = self.writes.last_active_at(*user)?;
            Some(Presence { user_id: *user, online: false, last_active_at })
        });
        known.extend(offline);
        known
    }

    /// Called with the partitions locked, so that the latest transition of a user is noted last.
    fn take_in(&self, transitions: Vec<Transition>) {
        for transition in transitions {
            if transition.flipped {
                self.metrics.transitions.inc();
                self.friends.tell(transition.presence());
            }
            self.writes.put(transition.row);
        }
    }

    /// Starts the work in the background, until told to stop.
    pub fn run(self: Arc<Self>, tracker: &TaskTracker, stop: CancellationToken) {
        let (this, token) = (self.clone(), stop.clone());
        tracker.spawn(async move { token.run_until_cancelled(this.tick()).await });
        let (this, token) = (self.clone(), stop.clone());
        tracker.spawn(async move { token.run_until_cancelled(this.read_rows()).await });
        let (this, token) = (self.clone(), stop.clone());
        tracker.spawn(async move { this.writes.run(&*this.store, &token).await });
        for lane in 0..LANES {
            let (this, token) = (self.clone(), stop.clone());
            tracker.spawn(async move {
                this.friends.run(lane, &*this.store, &*this.bus, &this.clock, &token).await;
            });
        }
    }

    async fn tick(&self) {
        let mut ticks = tokio::time::interval(TICK.min(self.settings.offline_after() / 8));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.leases.is_held() {
                continue;
            }
            let now = self.clock.elapsed();
            let mut online = 0;
            let mut open = self.lock();
            for state in open.values_mut() {
                self.take_in(state.owner.tick(now));
                online += state.owner.online_users();
            }
            self.metrics.online_users.set(online as i64);
        }
    }

    /// Reads who was online, for partitions that were opened.
    async fn read_rows(&self) {
        loop {
            let wanted = self.without_rows();
            let reads = futures_util::stream::iter(wanted).map(|(partition, epoch)| async move {
                (partition, epoch, self.store.online_in(partition).await)
            });
            let mut reads = reads.buffer_unordered(READS_MAX);
            let mut failed = None;
            while let Some((partition, epoch, rows)) = reads.next().await {
                match rows {
                    Ok(rows) => self.opened_with(partition, epoch, rows),
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                None if self.without_rows().is_empty() => self.opened.notified().await,
                None => {}
                Some(error) => {
                    tracing::warn!(%error, "who was online cannot be read now; it is tried again");
                    tokio::time::sleep(READ_RETRY).await;
                }
            }
        }
    }

    fn without_rows(&self) -> Vec<(Partition, u64)> {
        let open = self.lock();
        let waiting = open.iter().filter(|(_, state)| !state.owner.has_rows());
        waiting.map(|(partition, state)| (*partition, state.owner.epoch())).collect()
    }

    fn opened_with(&self, partition: Partition, epoch: u64, rows: Vec<PresenceRow>) {
        let now = self.clock.elapsed();
        let mut open = self.lock();
        let same = |state: &&mut Open| state.owner.epoch() == epoch;
        if let Some(state) = open.get_mut(&partition).filter(same) {
            state.owner.opened(rows, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
