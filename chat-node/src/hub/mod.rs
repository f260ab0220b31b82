//! Who on this node wants what: from a subject of the bus to the outboxes of its sessions.
//!
//! Lock order: the waiting room, a shard, then an outbox. A gate (one per subject, held across the bus's answers) is never taken while a
//! shard is locked.

mod fetch;
mod group;
pub mod outbox;
mod remembered;
mod room;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use chat_broker::{Bus, Error, Receiver, Subject};
use chat_protocol::SessionId;
use chat_protocol::close::Close;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::fetch::Fetch;
use self::group::Group;
pub use self::outbox::{Farewell, Item, Outbox, Pushed, Taken};
pub use self::room::RoomFrame;
use self::waiting::WaitingRoom;
use crate::clock::Clock;
use crate::delivery::{Class, Frame, Part};

const SHARDS: usize = 64;

/// How long interest outlives its last session: people reload pages.
pub const UNSUBSCRIBE_AFTER: Duration = Duration::from_secs(1);

/// What the hub counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Frames put into an outbox.
    pub delivered: Counter,
    /// Ephemeral frames and room batches left out because a socket was slow.
    pub dropped: Counter,
    /// Connections closed because chat overflowed.
    pub overflowed: Counter,
    /// Messages fetched because their body was too large for the bus.
    pub fetched: Counter,
    /// Messages that could not be fetched in time.
    pub unfetched: Counter,
    /// Frames left out because too much waited for messages that are fetched.
    pub refused: Counter,
}

/// The sessions of this node by subject.
pub struct Hub {
    shards: Vec<Mutex<HashMap<Subject, Entry, RandomState>>>,
    hasher: RandomState,
    bus: RwLock<Option<Arc<dyn Bus>>>,
    /// Subjects whose last session left, with the time to look at them again. A subject stands here at most once.
    leaving: Mutex<VecDeque<(Duration, Subject)>>,
    waiting: Mutex<WaitingRoom>,
    /// Users for whom something waits there; changed while it is locked, after what goes on has been pushed.
    waiting_users: AtomicUsize,
    /// Something is to be fetched.
    fetch: Notify,
    clock: Clock,
    counters: Counters,
}

#[derive(Default)]
struct Entry {
    group: Group,
    /// Whether the bus has the subscription. Held while asking the bus, so that two answers never cross.
    gate: Arc<tokio::sync::Mutex<bool>>,
    /// When the last session left.
    emptied_at: Option<Duration>,
    /// It stands in `leaving`.
    is_leaving: bool,
}

/// A session's interest in a subject, until dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    /// In what.
    pub subject: Subject,
    connection: SessionId,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(self.subject, self.connection);
    }
}

impl Hub {
    /// A hub without a bus; see [`Hub::attach`].
    pub fn new(clock: Clock, counters: Counters) -> Arc<Hub> {
        Arc::new(Hub {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bus: RwLock::new(None),
            leaving: Mutex::default(),
            waiting: Mutex::default(),
            waiting_users: AtomicUsize::new(0),
            fetch: Notify::new(),
            clock,
            counters,
        })
    }

    /// The node's connection to the bus, whose user and room subjects come to this hub. The bus knows its receiver first,
    /// so this cannot be an argument of `new`.
    pub fn attach(&self, bus: Arc<dyn Bus>) {
        *self.bus.write().expect("no code panics while it holds this lock") = Some(bus);
    }

    /// Lets go of the bus, which holds the hub in turn.
    pub fn detach(&self) {
        *self.bus.write().expect("no code panics while it holds this lock") = None;
    }

    /// From the return on, what is published to `subject` reaches the outbox.
    pub async fn join(
        self: &Arc<Hub>,
        subject: Subject,
        outbox: Arc<Outbox>,
    ) -> Result<Subscription, Error> {
        let connection = outbox.connection;
        let gate = {
            let mut shard = self.shard(&subject);
            let entry = shard.entry(subject).or_default();
            entry.group.insert(outbox);
            entry.emptied_at = None;
            entry.gate.clone()
        };
        // From here on a drop, by an error or by the caller, takes the session out again.
        let subscription = Subscription { hub: self.clone(), subject, connection };
        let mut is_subscribed = gate.lock().await;
        if !*is_subscribed {
            self.bus()?.subscribe(subject).await?;
            *is_subscribed = true;
        }
        Ok(subscription)
    }

    fn leave(&self, subject: Subject, connection: SessionId) {
        let now = self.clock.elapsed();
        let mut shard = self.shard(&subject);
        let Some(entry) = shard.get_mut(&subject) else { return };
        entry.group.remove(connection);
        if !entry.group.is_empty() {
            return;
        }
        entry.emptied_at = Some(now);
        let is_first = !std::mem::replace(&mut entry.is_leaving, true);
        drop(shard);
        if is_first {
            self.leaving().push_back((now + UNSUBSCRIBE_AFTER, subject));
        }
    }

    /// Ends subscriptions that nobody has wanted for a while, until `stop`.
    pub async fn run(self: Arc<Hub>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UNSUBSCRIBE_AFTER / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let sweeps = async {
            loop {
                ticks.tick().await;
                self.sweep().await;
            }
        };
        stop.run_until_cancelled(sweeps).await;
    }

    async fn sweep(&self) {
        let now = self.clock.elapsed();
        loop {
            let due = {
                let mut leaving = self.leaving();
                match leaving.front() {
                    Some((due, _)) if *due <= now => leaving.pop_front(),
                    _ => None,
                }
            };
            let Some((_, subject)) = due else { return };
            self.end_interest(subject, now).await;
        }
    }

    async fn end_interest(&self, subject: Subject, now: Duration) {
        let gate = {
            let mut shard = self.shard(&subject);
            let Some(entry) = shard.get_mut(&subject) else { return };
            entry.is_leaving = false;
            match entry.emptied_at {
                None => return,
                Some(at) if at + UNSUBSCRIBE_AFTER > now => {
                    entry.is_leaving = true;
                    drop(shard);
                    self.leaving().push_back((at + UNSUBSCRIBE_AFTER, subject));
                    return;
                }
                Some(_) => entry.gate.clone(),
            }
        };
        // A session that joins meanwhile waits for the gate, and then finds the subject unsubscribed.
        let mut is_subscribed = gate.lock().await;
        if !self.is_unwanted(&subject) {
            return;
        }
        if *is_subscribed {
            let answer = match self.bus() {
                Ok(bus) => bus.unsubscribe(subject).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                tracing::debug!(%subject, %error, "unsubscribe failed, trying again");
                self.look_again(subject);
                return;
            }
            *is_subscribed = false;
        }
        let mut shard = self.shard(&subject);
        if shard.get(&subject).is_some_and(|entry| entry.group.is_empty()) {
            shard.remove(&subject);
        }
    }

    fn look_again(&self, subject: Subject) {
        let now = self.clock.elapsed();
        let mut shard = self.shard(&subject);
        let Some(entry) = shard.get_mut(&subject) else { return };
        if std::mem::replace(&mut entry.is_leaving, true) {
            return;
        }
        drop(shard);
        self.leaving().push_back((now + UNSUBSCRIBE_AFTER, subject));
    }

    fn is_unwanted(&self, subject: &Subject) -> bool {
        self.shard(subject).get(subject).is_some_and(|entry| entry.group.is_empty())
    }

    fn bus(&self) -> Result<Arc<dyn Bus>, Error> {
        let bus = self.bus.read().expect("no code panics while it holds this lock");
        bus.clone().ok_or_else(|| Error("this node is not connected to the bus".into()))
    }

    fn shard(&self, subject: &Subject) -> MutexGuard<'_, HashMap<Subject, Entry, RandomState>> {
        // The upper bits: the map inside uses the lower ones of a hash of its own.
        let index = (self.hasher.hash_one(subject) >> 32) as usize % SHARDS;
        self.shards[index].lock().expect("no code panics while it holds this lock")
    }

    fn leaving(&self) -> MutexGuard<'_, VecDeque<(Duration, Subject)>> {
        self.leaving.lock().expect("no code panics while it holds this lock")
    }

    /// Subjects that have an entry, wanted or not yet given up.
    pub fn subjects(&self) -> usize {
        let length = |shard: &Mutex<HashMap<_, _, _>>| {
            shard.lock().expect("no code panics while it holds this lock").len()
        };
        self.shards.iter().map(length).sum()
    }
}

impl Receiver for Hub {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        let parts = Part::all(payload);
        let whole = parts.iter().filter_map(|part| match part {
            Part::Frame(frame) => Some(frame.clone()),
            Part::Pointer(_) => None,
        });
        let frames: Vec<_> = whole.collect();
        let nobody_waits = self.waiting_users.load(Ordering::Acquire) == 0;
        if nobody_waits && frames.len() == parts.len() {
            self.push(subjects, &frames);
            return;
        }
        for subject in subjects {
            match subject {
                Subject::User(user) => self.arrive(*user, &parts),
                _ => self.push(&[*subject], &frames),
            }
        }
    }
}

impl Hub {
    /// Hands frames to the sessions of these subjects.
    fn push(&self, subjects: &[Subject], frames: &[Arc<Frame>]) {
        let mut counted = Count::default();
        for subject in subjects {
            let shard = self.shard(subject);
            let Some(entry) = shard.get(subject) else { continue };
            match (subject, frames) {
                (Subject::Room(room), [frame]) if frame.class == Class::Room => {
                    let batch = Arc::new(RoomFrame::new(*room, frame.clone()));
                    entry.group.for_each(|outbox| counted.add(outbox.push_room(batch.clone())));
                }
                (_, [frame]) if frame.class == Class::Revoked => revoke(&entry.group, frame),
                _ => entry.group.for_each(|outbox| {
                    // The connection that caused one got an answer instead.
                    let others = frames.iter().filter(|frame| outbox.connection != frame.origin);
                    outbox.push_all(others.cloned(), |pushed| counted.add(pushed));
                }),
            }
        }
        self.counters.delivered.inc_by(counted.delivered);
        self.counters.dropped.inc_by(counted.dropped);
        self.counters.overflowed.inc_by(counted.overflowed);
    }
}

/// What became of the frames of one publication.
#[derive(Default)]
struct Count {
    delivered: u64,
    dropped: u64,
    overflowed: u64,
}

impl Count {
    fn add(&mut self, pushed: Pushed) {
        match pushed {
            Pushed::Waiting => self.delivered += 1,
            Pushed::Dropped => self.dropped += 1,
            Pushed::Overflowed => self.overflowed += 1,
            Pushed::Closed => {}
        }
    }
}

fn revoke(group: &Group, frame: &Frame) {
    group.for_each(|outbox| {
        if outbox.device.0 == frame.origin.0 {
            outbox.close(Close::LoggedOut);
        }
    });
}

#[cfg(test)]
mod tests;
