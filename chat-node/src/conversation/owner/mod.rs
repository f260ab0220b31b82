//! The owner of one partition: one task, the only writer of everything it holds.
//!
//! Commands wait in `ready`; whenever no append is under way, all that can be decided goes into the next record. What a
//! decision lacks is fetched from the store meanwhile, and the commands behind it in the same conversation wait, so that
//! a sender's order is kept.

mod batch;
mod blocks;
mod commit;
mod duplicates;
mod facts;
mod inheritance;
mod opening;
mod outages;
mod publish;
mod replay;
mod slots;
mod writing;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chat_broker::{Broker, Bus, Sequence};
use chat_protocol::error::{Code, Refusal};
use chat_protocol::{MessageId, Partition};
use chat_store::Store;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Reply};
use super::decide::Facts;
use super::metrics::Metrics;
use crate::clock::Clock;
use crate::limits::PARTITION_QUEUE_MAX;
use crate::partition::append::{Settled, settle};
use crate::partition::{Lease, Leases, Ownership};
use batch::Batch;
use blocks::Reread;
use duplicates::Duplicates;
use facts::Fetched;
use inheritance::Kept;
pub use outages::Outages;
use publish::RoomBatches;
pub(crate) use replay::Replay;
use slots::Slots;
use writing::Writing;

/// How often an owner looks after what has no event of its own: ticks, answers that wait for the store, eviction.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// When a new owner's epoch and reservation go into the store's checkpoint if nothing was written: not at once, because
/// partitions are opened in great numbers, and senders wait for that.
const CHECKPOINT_ROUND: u64 = 3;

/// How long a graceful end waits for the store before it closes the log all the same: what is unwritten is replayed.
const CLOSING_WRITE_MAX: Duration = Duration::from_secs(5);

/// What every owner of a node shares.
pub struct Shared {
    /// The log, and the keys.
    pub broker: Arc<dyn Broker>,
    /// This node's connection to the bus.
    pub bus: Arc<dyn Bus>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Clock,
    /// This start of this process.
    pub lease: Lease,
    /// Whose leases are good.
    pub leases: Arc<dyn Leases>,
    /// How long messages of a live room are collected before they are published together.
    pub room_window: Duration,
    /// Messages with a larger body are published as a pointer. No limit where all sessions are on this node.
    pub published_body_bytes_max: usize,
    /// Records at least this old and behind the checkpoint are purged from the log.
    pub log_retention: Duration,
    /// Bytes of committed entries that wait for the store, over all owners of the node.
    pub unwritten_bytes: AtomicUsize,
    /// Of the store.
    pub outages: Outages,
    /// Turns to write a partition's log to the store again.
    pub replays: Semaphore,
    /// Figures.
    pub metrics: Metrics,
}

impl Shared {
    /// Asks the store for something small, so that an outage is noticed that no write has met.
    pub(super) async fn look_at_store(&self, partition: Partition) {
        let began = self.clock.elapsed();
        match self.store.checkpoint(partition).await {
            Ok(_) => self.outages.seen(began),
            Err(chat_store::Error::Away(_)) => self.outages.failed(self.clock.elapsed()),
            Err(error) => tracing::debug!(%partition, %error, "a look at the store had no answer"),
        }
    }

    /// Whether the store has been there for as long as it may lose what it takes: it has lost nothing.
    fn was_store_there(&self) -> bool {
        self.outages.has_been_there_for(self.store.durability_lag(), self.clock.elapsed())
    }

    /// Whether the store may have been away since it took what it may still lose.
    fn has_store_failed(&self) -> bool {
        self.outages.has_failed_within(self.store.durability_lag(), self.clock.elapsed())
    }

    /// A write failed, and is tried again.
    fn store_failed(&self, error: &chat_store::Error) {
        self.metrics.write_retries.inc();
        if matches!(error, chat_store::Error::Away(_)) {
            self.outages.failed(self.clock.elapsed());
        }
    }
}

/// A command with the way back.
pub struct Work {
    command: Command,
    reply: oneshot::Sender<Result<Reply, Refusal>>,
    facts: Facts,
    /// It has waited for a fact and holds its conversation.
    resumed: bool,
}

impl Work {
    /// A command that nothing is known of yet.
    pub fn new(command: Command, reply: oneshot::Sender<Result<Reply, Refusal>>) -> Work {
        Work { command, reply, facts: Facts::default(), resumed: false }
    }

    fn answer(self, answer: Result<Reply, Refusal>) {
        // The asker may have stopped waiting; then nobody needs the answer.
        drop(self.reply.send(answer));
    }
}

/// It is time to extend reservations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// Changes with every tick.
    pub number: u64,
    /// Changes with every tick that is made also where it is not needed: whoever has lost the partition finds it out.
    pub forced: u64,
}

/// What the end of an owner left in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A closing record: the partition is free.
    Closed,
    /// Another owner's record.
    Deposed,
    /// Its own last record, because the log took no other: only the same node can open it again.
    Unclosed,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every id up to here is in the store.
    pub watermark: MessageId,
    /// Highest id issued.
    pub highest: MessageId,
    /// The reservation is behind what other partitions have used.
    pub is_outrun: bool,
}

/// What the rest of the node holds of an owner.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Work>,
    ownership: Arc<Mutex<Ownership>>,
}

impl Handle {
    /// Queues a command, in the order of calls. Refused when the queue is full or the owner has ended.
    pub fn submit(&self, work: Work) {
        match self.commands.try_send(work) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(work)) => work.answer(Err(overloaded())),
            Err(mpsc::error::TrySendError::Closed(work)) => work.answer(Err(moved())),
        }
    }

    /// What to announce now. `None` while it is not open.
    pub fn progress(&self, now: chat_protocol::Millis, heard: MessageId) -> Option<Progress> {
        let mut ownership = lock(&self.ownership);
        let watermark = ownership.watermark(now, heard)?;
        let highest = ownership.highest_issued();
        Some(Progress { watermark, highest, is_outrun: ownership.is_outrun() })
    }

    /// Commands are being decided.
    pub fn is_open(&self) -> bool {
        lock(&self.ownership).is_open()
    }

    /// One more than the epoch of the owner before.
    pub fn epoch(&self) -> u64 {
        lock(&self.ownership).epoch()
    }
}

fn lock(ownership: &Mutex<Ownership>) -> MutexGuard<'_, Ownership> {
    ownership.lock().expect("no code panics while it holds this lock")
}

pub(crate) fn moved() -> Refusal {
    Refusal::new(Code::Moved, "The conversation has just moved to another node. Try again.")
        .retry_after(50)
}

fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "Too much is waiting at the moment. Try again.").retry_after(500)
}

fn store_unavailable() -> Refusal {
    let detail = "The store does not answer at the moment. Try again.";
    Refusal::new(Code::StoreUnavailable, detail).retry_after(1_000)
}

/// The owner's task, once its opening record was accepted and what was committed before it is known.
pub struct Owner {
    shared: Arc<Shared>,
    partition: Partition,
    ownership: Arc<Mutex<Ownership>>,
    commands: mpsc::Receiver<Work>,
    ready: VecDeque<Work>,
    slots: Slots,
    fetching: FuturesUnordered<BoxFuture<'static, Fetched>>,
    rereading: FuturesUnordered<BoxFuture<'static, Reread>>,
    /// The batch whose record is under way; none while a tick is.
    batch: Option<Batch>,
    append: Option<BoxFuture<'static, Settled>>,
    /// No batch is formed before, so that a busy partition gathers more for each record.
    gathers_until: Option<Instant>,
    /// Highest id that may be committed, by this owner or any before.
    committed: MessageId,
    duplicates: Duplicates,
    writing: Writing,
    /// What owners before have committed and this one had to learn, until it is in the store and nothing read before that
    /// is in use.
    inheritance: Option<Kept>,
    /// What the store may have lost, or may lose soon, is being written again.
    replaying: Option<BoxFuture<'static, ()>>,
    /// That is so because the store was away, as this node has seen.
    is_recovering: bool,
    /// Failures of the store that were followed by a replay.
    failures_seen: u64,
    rooms: RoomBatches,
    housekeeping_rounds: u64,
}

impl Drop for Owner {
    /// What it still held is not written by this node any more.
    fn drop(&mut self) {
        self.shared.unwritten_bytes.fetch_sub(self.writing.held_bytes(), Ordering::Relaxed);
    }
}

impl Owner {
    /// Takes a partition: opens it on top of its last record, and learns what was committed before. `None`: it is somebody
    /// else's, and stays so for as long as `patience`, or `stop` was called.
    pub async fn open(
        shared: Arc<Shared>,
        partition: Partition,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Option<(Owner, Handle)> {
        let failures_seen = shared.outages.failures();
        let opening = opening::open(&shared, partition, patience);
        let opened = stop.run_until_cancelled(opening).await??;
        let (sender, commands) = mpsc::channel(PARTITION_QUEUE_MAX);
        let committed = opened.ownership.highest_issued();
        let ownership = Arc::new(Mutex::new(opened.ownership));
        let handle = Handle { commands: sender, ownership: ownership.clone() };
        let elapsed = shared.clock.elapsed();
        let inherited = opened.past.inheritance.into_parts();
        let mut owner = Owner {
            inheritance: inherited.kept,
            writing: Writing::new(opened.sequence, opened.past.durable_to, elapsed),
            replaying: None,
            // Until then nobody is to be told that the store has anything.
            is_recovering: opened.has_store_failed && opened.past.replay.is_some(),
            failures_seen,
            duplicates: Duplicates::new(elapsed, opened.unused),
            rooms: RoomBatches::new(shared.room_window),
            shared,
            partition,
            ownership,
            commands,
            ready: VecDeque::new(),
            slots: Slots::default(),
            fetching: FuturesUnordered::new(),
            rereading: FuturesUnordered::new(),
            batch: None,
            append: None,
            gathers_until: None,
            committed,
            housekeeping_rounds: 0,
        };
        owner.slots.inherit(inherited.conversations, elapsed);
        for (key, id, seq) in inherited.sends {
            owner.duplicates.insert(key, id, seq, elapsed);
        }
        if let Some((after, delay)) = opened.past.replay {
            owner.writing.begin_replay(elapsed);
            owner.replay(after, delay);
        }
        Some((owner, handle))
    }

    /// Serves until `stop` is called, and then closes the log; or until another owner is found in the log. `tick` changes
    /// when it is time to extend reservations, for all partitions at once, so that their records share a commit. Returns
    /// how the log goes on.
    pub async fn run(mut self, mut tick: watch::Receiver<Tick>, stop: CancellationToken) -> Ended {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut received = Vec::new();
        let mut forced = tick.borrow().forced;
        while !self.locked().is_over() {
            self.form_batch();
            self.write_more();
            let gathers_until = self.gathers_until.filter(|_| !self.ready.is_empty());
            let room_flush = self.rooms.due();
            let write_due = self.writing.due();
            let receiving = self.ready.len() < PARTITION_QUEUE_MAX;
            tokio::select! {
                biased;
                settled = wait(&mut self.append), if self.append.is_some() => {
                    self.append = None;
                    self.settled(settled);
                }
                Some(fetched) = self.fetching.next(), if !self.fetching.is_empty() => self.fetched(fetched),
                Some(reread) = self.rereading.next(), if !self.rereading.is_empty() => self.reread(reread),
                written = self.writing.done(), if self.writing.is_under_way() => self.written(written),
                () = wait(&mut self.replaying), if self.replaying.is_some() => self.replayed(),
                () = until(room_flush) => {
                    self.rooms.flush(&*self.shared.bus);
                }
                () = until(gathers_until) => {}
                () = until(write_due) => {}
                count = self.commands.recv_many(&mut received, 256), if receiving => {
                    if count == 0 {
                        // The router has dropped its handle: the node is ending.
                        break;
                    }
                    self.ready.extend(received.drain(..));
                }
                changed = tick.changed() => {
                    if changed.is_ok() {
                        let latest = tick.borrow_and_update().forced;
                        self.tick(latest != forced);
                        forced = latest;
                    }
                }
                _ = housekeeping.tick() => self.look_after().await,
                () = stop.cancelled() => break,
            }
        }
        self.end().await
    }

    /// Extends the reservation if nothing else has.
    fn tick(&mut self, is_forced: bool) {
        if self.append.is_some() {
            return;
        }
        let now = self.shared.clock.now();
        let mut ownership = self.preparing();
        if ownership.tick_due(now) || is_forced && ownership.is_open() {
            ownership.tick(now);
            drop(ownership);
            self.send_append();
        }
    }

    /// Sends what the ownership has prepared.
    fn send_append(&mut self) {
        let Some(append) = self.locked().append().cloned() else { return };
        let (broker, partition) = (self.shared.broker.clone(), self.partition);
        self.append = Some(Box::pin(async move { settle(&*broker, partition, &append).await }));
    }

    /// Writes again what is behind `after`, after a while and beside everything else.
    fn replay(&mut self, after: Sequence, delay: Duration) {
        let up_to = self.locked().sequence();
        let (shared, partition) = (self.shared.clone(), self.partition);
        self.replaying =
            Some(Box::pin(opening::replay_again(shared, partition, after, up_to, delay)));
    }

    /// What is behind the checkpoint was written again, and so is all that owners before have committed.
    fn replayed(&mut self) {
        self.replaying = None;
        self.is_recovering = false;
        let lag = self.shared.store.durability_lag();
        self.writing.replayed(lag, self.shared.clock.elapsed());
        self.locked().inherited_written();
    }

    /// Lets go of what was inherited once it can be read, and nothing that was read before that is in use.
    fn forget_inheritance(&mut self) {
        let is_written = self.inheritance.is_some() && !self.locked().inherits();
        if is_written && self.slots.forget_inherited() {
            self.inheritance = None;
        }
    }

    /// A store that was away may have come back without what it took last.
    fn notice_outage(&mut self) {
        let trails = !self.shared.store.durability_lag().is_zero();
        let failures = self.shared.outages.failures();
        if trails && failures != self.failures_seen {
            self.failures_seen = failures;
            self.is_recovering = true;
            // In place of one that has not begun yet, or was begun before the store failed.
            let after = self.writing.begin_replay(self.shared.clock.elapsed());
            self.replay(after, Duration::ZERO);
        }
    }

    /// Whether the store may lack something that it took and this owner knows.
    fn doubts_store(&self) -> bool {
        let trails = !self.shared.store.durability_lag().is_zero();
        let failures = self.shared.outages.failures();
        trails && (self.is_recovering || failures != self.failures_seen)
    }

    async fn look_after(&mut self) {
        self.notice_outage();
        self.housekeeping_rounds += 1;
        if self.housekeeping_rounds == CHECKPOINT_ROUND {
            self.writing.write_checkpoint();
        }
        let elapsed = self.shared.clock.elapsed();
        self.writing.answer_overdue(elapsed);
        let overdue = self.slots.release_overdue(elapsed);
        self.publish(overdue);
        self.forget_inheritance();
        self.slots.evict(elapsed);
        let lowest_unwritten = match &self.inheritance {
            Some(inheritance) => Some(inheritance.first),
            None => self.locked().lowest_unwritten(),
        };
        self.duplicates.evict(elapsed, lowest_unwritten);
        // Every ten minutes, at a different second in each partition.
        if (self.housekeeping_rounds + self.partition.0 as u64).is_multiple_of(600) {
            let up_to = self.writing.durable_to();
            let purged =
                self.shared.broker.purge(self.partition, up_to, self.shared.log_retention).await;
            if let Err(error) = purged {
                tracing::debug!(partition = %self.partition, %error, "cannot purge the log now, trying again later");
            }
        }
    }

    /// A graceful end: no more commands, the append under way is settled, what is committed is written, and the closing
    /// record says how far ids and watermarks were used.
    async fn end(mut self) -> Ended {
        self.commands.close();
        while let Some(work) = self.commands.recv().await {
            work.answer(Err(moved()));
        }
        if let Some(append) = self.append.take() {
            let settled = append.await;
            self.settled(settled);
        }
        self.rooms.flush(&*self.shared.bus);
        for work in self.ready.drain(..).chain(self.slots.take_blocked()) {
            work.answer(Err(moved()));
        }
        if self.locked().is_over() {
            self.writing.answer_all();
            return Ended::Deposed;
        }
        let written = tokio::time::timeout(CLOSING_WRITE_MAX, self.write_all()).await;
        if written.is_err() {
            self.writing.answer_all();
            tracing::info!(partition = %self.partition, "the store is slow; the next owner replays what it lacks");
        }
        if self.preparing().close() {
            self.send_append();
            if let Some(append) = self.append.take() {
                let settled = append.await;
                let is_closed = matches!(settled, Settled::Accepted(_));
                let is_deposed = settled == Settled::Deposed;
                self.settled(settled);
                return match (is_closed, is_deposed) {
                    (true, _) => Ended::Closed,
                    (_, true) => Ended::Deposed,
                    _ => Ended::Unclosed,
                };
            }
        }
        Ended::Unclosed
    }

    /// For whatever prepares a record: it says what is known of the store.
    fn preparing(&self) -> MutexGuard<'_, Ownership> {
        let is_doubted = self.doubts_store();
        let mut ownership = self.locked();
        ownership.doubt_store(is_doubted);
        ownership
    }

    fn locked(&self) -> MutexGuard<'_, Ownership> {
        lock(&self.ownership)
    }
}

/// Waits for a future that the caller keeps, so that another branch of a `select!` does not lose it.
async fn wait<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits for a time; without one, for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
