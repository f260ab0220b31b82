//! Tells friends who came or went: bounded, the latest of each user, a few lookups at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_broker::Bus;
use chat_protocol::frame::{Friendship, Presence, ServerFrame};
use chat_protocol::{Partition, UserId};
use chat_store::{Error, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::clock::Clock;
use crate::delivery::{self, Class};

/// Lookups of friends at a time. A user always uses the same lane, so that notices stay in order.
pub(super) const LANES: usize = 4;

/// Users of one lane whose friends wait to be told. What comes beyond is left out: clients ask for a snapshot when they
/// connect.
const WAITING_MAX: usize = 16_384;

/// Friends that are told. Large audiences get counts, not names.
const FRIENDS_MAX: usize = 5_000;

const PAGE_ROWS: usize = 500;

/// How long a list of friends is used again: for a user who comes and goes.
const CACHE_AGE_MAX: Duration = Duration::from_secs(5);

/// Friends in one lane's cache.
const CACHE_FRIENDS_MAX: usize = 50_000;

/// Waited before a lookup is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What waits to be told, in lanes.
pub(super) struct Friends {
    lanes: [Lane; LANES],
    metrics: Metrics,
}

#[derive(Default)]
struct Lane {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    latest: HashMap<UserId, Presence>,
    order: VecDeque<UserId>,
}

impl Friends {
    pub(super) fn new(metrics: Metrics) -> Friends {
        Friends { lanes: Default::default(), metrics }
    }

    /// Notes that a user came or went; it replaces what was noted before of the user.
    pub(super) fn tell(&self, presence: Presence) {
        let user = presence.user_id;
        let lane = &self.lanes[Partition::of_user(user).0 as usize % LANES];
        let mut waiting = lane.lock();
        if waiting.latest.len() >= WAITING_MAX && !waiting.latest.contains_key(&user) {
            self.metrics.dropped.inc();
            return;
        }
        if waiting.latest.insert(user, presence).is_none() {
            waiting.order.push_back(user);
        }
        drop(waiting);
        lane.wake.notify_one();
    }

    /// Drops what waits of a partition: another node owns it.
    pub(super) fn forget(&self, partition: Partition) {
        let mut waiting = self.lanes[partition.0 as usize % LANES].lock();
        waiting.latest.retain(|user, _| Partition::of_user(*user) != partition);
        waiting.order.retain(|user| Partition::of_user(*user) != partition);
    }

    /// Works one lane until told to stop.
    pub(super) async fn run(
        &self,
        lane: usize,
        store: &dyn Store,
        bus: &dyn Bus,
        clock: &Clock,
        stop: &CancellationToken,
    ) {
        let lane = &self.lanes[lane];
        let mut cache = Cache::default();
        let work = async {
            loop {
                let Some(user) = lane.first() else {
                    lane.wake.notified().await;
                    continue;
                };
                match cache.friends(store, user, clock.elapsed()).await {
                    Ok(friends) => lane.publish(bus, user, friends),
                    Err(error) => {
                        tracing::debug!(%error, "friends cannot be looked up now; they are told later");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        };
        // Stopped: what is left is stale soon, and clients ask again when they connect.
        stop.run_until_cancelled(work).await;
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> Option<UserId> {
        let mut waiting = self.lock();
        while let Some(user) = waiting.order.front().copied() {
            if waiting.latest.contains_key(&user) {
                return Some(user);
            }
            waiting.order.pop_front();
        }
        None
    }

    /// What is told is the latest now, not what it was before the lookup. Nothing, if the partition was given away.
    fn publish(&self, bus: &dyn Bus, user: UserId, friends: &[UserId]) {
        let mut waiting = self.lock();
        let Some(presence) = waiting.latest.remove(&user) else { return };
        if waiting.order.front() == Some(&user) {
            waiting.order.pop_front();
        }
        drop(waiting);
        for page in friends.chunks(PAGE_ROWS) {
            delivery::publish_to_users(
                bus,
                page,
                Class::Ephemeral,
                &ServerFrame::Presence(presence),
            );
        }
    }
}

#[derive(Default)]
struct Cache {
    lists: HashMap<UserId, (Duration, Vec<UserId>)>,
    friends: usize,
}

impl Cache {
    async fn friends(
        &mut self,
        store: &dyn Store,
        user: UserId,
        now: Duration,
    ) -> Result<&[UserId], Error> {
        let is_young = |read: Duration| now.saturating_sub(read) < CACHE_AGE_MAX;
        if !self.lists.get(&user).is_some_and(|(read, _)| is_young(*read)) {
            let friends = read_friends(store, user).await?;
            if self.friends + friends.len() + self.lists.len() > CACHE_FRIENDS_MAX {
                self.lists.clear();
                self.friends = 0;
            }
            self.friends += friends.len();
            if let Some((_, old)) = self.lists.insert(user, (now, friends)) {
                self.friends -= old.len();
            }
        }
        Ok(self.lists.get(&user).map_or(&[], |(_, friends)| friends))
    }
}

async fn read_friends(store: &dyn Store, user: UserId) -> Result<Vec<UserId>, Error> {
    let mut friends = Vec::new();
    let mut after = None;
    while friends.len() < FRIENDS_MAX {
        let rows = store.friends(user, after, PAGE_ROWS).await?;
        after = rows.last().map(|row| row.user_id);
        let is_last = rows.len() < PAGE_ROWS;
        let are_friends = rows.iter().filter(|row| row.friendship == Friendship::Friends);
        friends.extend(are_friends.map(|row| row.user_id));
        if is_last {
            break;
        }
    }
    friends.truncate(FRIENDS_MAX);
    Ok(friends)
}
