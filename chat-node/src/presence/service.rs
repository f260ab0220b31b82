//! A node's side of presence: its connections, their silence, and what owners are told of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::Presence;
use chat_protocol::{Millis, NodeId, Partition, SessionId, UserId};
use chat_store::Store;
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::announcer::Announcer;
use super::attendance::{Attendance, Leavers};
use super::command::{Announcement, Route, SNAPSHOT_USERS_MAX};
use super::wheel::Wheel;
use super::{Metrics, PresenceCommand, PresenceReply, Presences, Settings};
use crate::clock::Clock;

/// Waited after an arrival or departure, so that many share an announcement.
const GATHER: Duration = Duration::from_millis(20);

/// How long an owner's answer is waited for.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// The same for a snapshot: someone looks at a screen.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Owners asked at a time for one snapshot.
const SNAPSHOT_ASKS_MAX: usize = 16;

/// Users read from the store at a time.
const SNAPSHOT_ROWS_MAX: usize = 500;

/// Presence on one node. Implements [`Presences`].
pub struct PresenceService {
    node: NodeId,
    settings: Settings,
    clock: Clock,
    route: Arc<dyn Route>,
    store: Arc<dyn Store>,
    metrics: Metrics,
    roster: Mutex<Roster>,
    leavers: Arc<Leavers>,
    wake: Arc<Notify>,
}

struct Roster {
    wheel: Wheel,
    /// Made when the first connection of a partition comes; at most one per partition.
    announcers: HashMap<Partition, Announcer>,
}

impl Roster {
    fn depart(&mut self, user: UserId, connection: SessionId) {
        if let Some(announcer) = self.announcers.get_mut(&Partition::of_user(user)) {
            announcer.depart(connection);
        }
    }

    fn connections(&self) -> i64 {
        self.announcers.values().map(|announcer| announcer.connections() as i64).sum()
    }
}

impl PresenceService {
    /// No connections yet. Announces nothing until [`PresenceService::run`].
    pub fn new(
        node: NodeId,
        settings: Settings,
        clock: Clock,
        route: Arc<dyn Route>,
        store: Arc<dyn Store>,
        metrics: Metrics,
    ) -> Arc<PresenceService> {
        let wheel = Wheel::new(settings.offline_after(), clock.elapsed());
        let roster = Mutex::new(Roster { wheel, announcers: HashMap::new() });
        let wake = Arc::new(Notify::new());
        let leavers = Arc::new(Leavers::new(wake.clone()));
        Arc::new(PresenceService {
            node,
            settings,
            clock,
            route,
            store,
            metrics,
            roster,
            leavers,
            wake,
        })
    }

    /// A partition has a new owner: its connections are announced again at once. Not needed for correctness; the next
    /// beat finds it out, too.
    pub fn owner_changed(&self, partition: Partition) {
        if let Some(announcer) = self.lock().announcers.get_mut(&partition) {
            announcer.announce_again();
            self.metrics.announced_again.inc();
            self.wake.notify_one();
        }
    }

    /// Starts the work in the background, until told to stop. Connections are not taken back at the stop: their users
    /// resume elsewhere, or are offline after the silence.
    pub fn run(self: Arc<Self>, tracker: &TaskTracker, stop: CancellationToken) {
        let tasks = tracker.clone();
        tracker.spawn(async move {
            let sends = stop.clone();
            stop.run_until_cancelled(self.work(&tasks, &sends)).await;
        });
    }

    async fn work(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let slot = self.lock().wheel.slot();
        let mut turn_at = self.clock.elapsed();
        loop {
            self.take_leavers();
            let now = self.clock.elapsed();
            if now >= turn_at {
                self.turn(now);
                turn_at = now + slot;
            }
            for (partition, announcement) in self.due(now) {
                let (this, stop) = (self.clone(), stop.clone());
                // One announcement at a time is under way per partition: so many tasks at most.
                tasks.spawn(async move {
                    stop.run_until_cancelled(this.send(partition, announcement)).await;
                });
            }
            let until = self.next_due().map_or(turn_at, |due| due.min(turn_at));
            tokio::select! {
                () = tokio::time::sleep(until.saturating_sub(now)) => {}
                () = self.wake.notified() => tokio::time::sleep(GATHER).await,
            }
        }
    }

    fn take_leavers(&self) {
        let left = self.leavers.take();
        let mut roster = self.lock();
        for (user, connection) in left {
            roster.depart(user, connection);
        }
    }

    fn turn(&self, now: Duration) {
        let mut roster = self.lock();
        let turn = roster.wheel.turn(now);
        for attendance in turn.left.iter().chain(&turn.silent) {
            roster.depart(attendance.user, attendance.connection);
        }
        self.metrics.connections.set(roster.connections());
        drop(roster);
        turn.silent.iter().for_each(|attendance| attendance.declare_silent());
    }

    fn due(&self, now: Duration) -> Vec<(Partition, Announcement)> {
        let mut roster = self.lock();
        let next = |(partition, announcer): (&Partition, &mut Announcer)| {
            announcer.next(now).map(|announcement| (*partition, announcement))
        };
        roster.announcers.iter_mut().filter_map(next).collect()
    }

    fn next_due(&self) -> Option<Duration> {
        self.lock().announcers.values().filter_map(Announcer::due).min()
    }

    async fn send(&self, partition: Partition, announcement: Announcement) {
        let number = announcement.number;
        let reply = self
            .ask(partition, PresenceCommand::Announce(announcement), ANSWER_WAIT_MAX)
            .await
            .filter(|reply| matches!(reply, PresenceReply::Heard { .. }));
        if reply.is_none() {
            self.metrics.failed_announcements.inc();
        }
        let now = self.clock.elapsed();
        let again = self
            .lock()
            .announcers
            .get_mut(&partition)
            .is_some_and(|announcer| announcer.answered(number, reply.as_ref(), now));
        if again {
            self.metrics.announced_again.inc();
        }
        self.wake.notify_one();
    }

    async fn ask(
        &self,
        partition: Partition,
        command: PresenceCommand,
        wait: Duration,
    ) -> Option<PresenceReply> {
        let answer = tokio::time::timeout(wait, self.route.send(partition, command)).await;
        let error = match answer {
            Ok(Ok(reply)) => return Some(reply),
            Ok(Err(error)) => error,
            Err(_) => chat_broker::RequestError::Deadline,
        };
        tracing::debug!(%partition, %error, "the owner of a presence partition did not answer");
        None
    }

    /// Asks owners. Returns what they know, and for whom no owner answered.
    async fn ask_owners(&self, users: &[UserId]) -> (HashMap<UserId, Presence>, Vec<UserId>) {
        let mut by_partition: HashMap<Partition, Vec<UserId>> = HashMap::new();
        for user in users {
            by_partition.entry(Partition::of_user(*user)).or_default().push(*user);
        }
        let asks = by_partition.into_iter().flat_map(|(partition, users)| {
            let parts: Vec<_> = users.chunks(SNAPSHOT_USERS_MAX).map(<[_]>::to_vec).collect();
            parts.into_iter().map(move |users| (partition, users))
        });
        let answers = futures_util::stream::iter(asks).map(|(partition, users)| async move {
            let command = PresenceCommand::Snapshot { users: users.clone() };
            (users, self.ask(partition, command, SNAPSHOT_WAIT_MAX).await)
        });
        let mut answers = answers.buffer_unordered(SNAPSHOT_ASKS_MAX);
        let (mut known, mut unanswered) = (HashMap::new(), Vec::new());
        while let Some((users, reply)) = answers.next().await {
            match reply {
                Some(PresenceReply::Snapshot { users, .. }) => {
                    known.extend(users.into_iter().map(|presence| (presence.user_id, presence)));
                }
                _ => unanswered.extend(users),
            }
        }
        (known, unanswered)
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Presences for PresenceService {
    fn arrive(&self, user: UserId, connection: SessionId) -> Arc<Attendance> {
        let attendance = Attendance::new(user, connection, self.clock.elapsed());
        let attendance = Arc::new(attendance.noted_by(self.leavers.clone()));
        let mut roster = self.lock();
        roster.wheel.insert(attendance.clone());
        let (node, beat_every) = (self.node, self.settings.beat_every());
        roster
            .announcers
            .entry(Partition::of_user(user))
            .or_insert_with(|| Announcer::new(node, beat_every))
            .arrive(user, connection);
        drop(roster);
        self.wake.notify_one();
        attendance
    }

    async fn snapshot(&self, mut users: Vec<UserId>) -> Result<Vec<Presence>, Refusal> {
        users.sort_unstable();
        users.dedup();
        let (known, unanswered) = self.ask_owners(&users).await;
        let unknown: Vec<UserId> =
            users.iter().filter(|user| !known.contains_key(user)).copied().collect();
        let mut rows: HashMap<UserId, (bool, Option<Millis>)> = HashMap::new();
        for page in unknown.chunks(SNAPSHOT_ROWS_MAX) {
            match self.store.presence(page.to_vec()).await {
                Ok(read) => rows.extend(
                    read.into_iter()
                        .map(|row| (row.user_id, (!row.sessions.is_empty(), row.last_active_at))),
                ),
                // Whoever an owner does not know is offline; only the time is missing.
                Err(error) if unanswered.is_empty() => {
                    tracing::debug!(%error, "a snapshot of presence goes out without times");
                    break;
                }
                Err(error) => return Err(unavailable(&error)),
            }
        }
        let unanswered: std::collections::HashSet<UserId> = unanswered.into_iter().collect();
        let presence = |user: UserId| {
            let (in_store, last_active_at) = rows.get(&user).copied().unwrap_or_default();
            let online = in_store && unanswered.contains(&user);
            known.get(&user).copied().unwrap_or(Presence { user_id: user, online, last_active_at })
        };
        Ok(users.into_iter().map(presence).collect())
    }
}

fn unavailable(error: &chat_store::Error) -> Refusal {
    tracing::warn!(%error, "a snapshot of presence found neither owner nor store");
    let detail = "Who is online cannot be told at the moment. Try again in a few seconds.";
    Refusal::new(Code::StoreUnavailable, detail).retry_after(2_000)
}
