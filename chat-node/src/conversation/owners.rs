//! The partitions that this node owns, and the announcements of their watermarks.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use ahash::HashMap;
use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{Responder, Subject};
use chat_protocol::id::PARTITIONS;
use chat_protocol::message::Message;
use chat_protocol::{NodeId, Partition, record};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{Command, Reply};
use super::owner::{Ended, Handle, Owner, Shared, Tick, Work, moved};
use super::read::{Reader, Tail, Wanted};
use crate::watermark::{Announcement, Echo, PartitionState, Watermarks};
use chat_protocol::error::{Code, Refusal};

/// How often watermarks are announced.
const ANNOUNCE: Duration = Duration::from_millis(200);

/// How often reservations are extended.
const TICK: Duration = Duration::from_secs(5);

/// How long a node goes on to answer for a partition that it has closed for another, until that one answers.
const HEIR_PATIENCE: Duration = Duration::from_secs(1);

/// How often the store is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// If ids elsewhere have outrun them, sooner; but a log that takes nothing is not asked all the time.
const TICK_AGAIN: Duration = Duration::from_secs(1);

/// Between two attempts to serve a partition's subject.
const SERVE_PAUSE: Duration = Duration::from_millis(100);
const SERVE_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Gateways whose probes are echoed; more than any fleet has nodes.
const PROBES_MAX: usize = 10_000;

/// What is kept per partition beside the conversations, and moves with its owner.
#[async_trait]
pub trait Companion: Send + Sync {
    /// This node owns the partition from now on.
    async fn open(&self, partition: Partition, epoch: u64);
    /// It does no longer.
    fn close(&self, partition: Partition);
    /// A request to the partition's owner that is not about a conversation.
    async fn request(&self, partition: Partition, payload: Bytes) -> Bytes;
}

/// A request on a partition's subject: the first byte says which kind.
pub(super) const KIND_COMMAND: u8 = 1;
/// See [`KIND_COMMAND`].
pub(super) const KIND_COMPANION: u8 = 2;
/// See [`KIND_COMMAND`]. The answer of a node that does not know it is empty.
pub(super) const KIND_MESSAGE: u8 = 3;

/// The owners of one node.
pub struct Owners {
    shared: Arc<Shared>,
    watermarks: Arc<Watermarks>,
    companion: Arc<dyn Companion>,
    handles: Vec<RwLock<Option<Handle>>>,
    taken: Mutex<HashMap<Partition, Taken>>,
    /// Partitions whose log took no closing record.
    unclosed: Mutex<Vec<Partition>>,
    changed: Notify,
    /// Highest probe heard, by node.
    probes: Mutex<HashMap<Vec<u8>, u64>>,
    tick: watch::Sender<Tick>,
    tracker: TaskTracker,
}

/// A partition that is being opened, is open, or is being closed.
struct Taken {
    /// Ends the owner gracefully.
    stop: CancellationToken,
    open_since: Option<Duration>,
    /// Who is to take it next.
    heir: Option<NodeId>,
}

/// What this node has of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    Idle,
    /// It is being opened.
    Opening,
    /// It is open, since this time.
    Open(Duration),
    /// It is being closed.
    Releasing,
}

/// First byte of what a node is told about a partition that was closed for it.
const KIND_RELEASED: u8 = b'P';

fn released(partition: Partition) -> Bytes {
    let [high, low] = partition.0.to_be_bytes();
    Bytes::copy_from_slice(&[KIND_RELEASED, high, low])
}

/// The partition that a payload for this node says was closed for it, if it says so.
pub fn released_partition(payload: &[u8]) -> Option<Partition> {
    match *payload {
        // A newer node may say more behind it.
        [KIND_RELEASED, high, low, ..] => Some(Partition(u16::from_be_bytes([high, low])))
            .filter(|partition| partition.0 < PARTITIONS),
        _ => None,
    }
}

impl Owners {
    /// No partition yet.
    pub fn new(
        shared: Arc<Shared>,
        watermarks: Arc<Watermarks>,
        companion: Arc<dyn Companion>,
        tracker: TaskTracker,
    ) -> Arc<Owners> {
        Arc::new(Owners {
            shared,
            watermarks,
            companion,
            handles: (0..PARTITIONS).map(|_| RwLock::new(None)).collect(),
            taken: Mutex::new(HashMap::default()),
            unclosed: Mutex::default(),
            changed: Notify::new(),
            probes: Mutex::new(HashMap::default()),
            tick: watch::Sender::new(Tick::default()),
            tracker,
        })
    }

    /// The owner of a partition, if it is on this node and open.
    pub fn local(&self, partition: Partition) -> Option<Handle> {
        self.handles
            .get(partition.0 as usize)?
            .read()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    /// How many partitions are open here.
    pub fn open_count(&self) -> usize {
        Partition::all().filter(|partition| self.local(*partition).is_some()).count()
    }

    /// What this node has of each partition, in their order.
    pub fn holdings(&self) -> Vec<Holding> {
        let taken = self.lock_taken();
        let holding = |partition| match taken.get(&partition) {
            None => Holding::Idle,
            Some(taken) if taken.stop.is_cancelled() => Holding::Releasing,
            Some(Taken { open_since: Some(since), .. }) => Holding::Open(*since),
            Some(_) => Holding::Opening,
        };
        Partition::all().map(holding).collect()
    }

    /// Completes when a partition is opened or ended after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Partitions whose log took no closing record since the last call: no other node can open them.
    pub fn take_unclosed(&self) -> Vec<Partition> {
        std::mem::take(&mut *self.unclosed.lock().expect("no code panics while it holds this lock"))
    }

    /// Takes a partition, in the background: opens it and serves it until it is released, or another node takes it.
    /// Nothing happens if it is another node's.
    pub fn take(self: &Arc<Self>, partition: Partition) {
        self.take_soon(partition, Duration::ZERO);
    }

    /// The same for a partition that is said to be closed: a log that does not tell so yet is read for as long as
    /// `patience`.
    pub fn take_soon(self: &Arc<Self>, partition: Partition, patience: Duration) {
        let stop = CancellationToken::new();
        let mut taken = self.lock_taken();
        if taken.contains_key(&partition) {
            return;
        }
        taken.insert(partition, Taken { stop: stop.clone(), open_since: None, heir: None });
        drop(taken);
        let owners = self.clone();
        self.tracker.spawn(async move {
            owners.own(partition, patience, stop).await;
            owners.lock_taken().remove(&partition);
            owners.changed.notify_waiters();
        });
    }

    /// Gives a partition up, in the background: settles, writes, and closes its log.
    pub fn release(&self, partition: Partition) {
        self.release_to(partition, None);
    }

    /// The same, and tells the node that should take it next.
    pub fn release_to(&self, partition: Partition, heir: Option<NodeId>) {
        if let Some(taken) = self.lock_taken().get_mut(&partition) {
            taken.heir = heir;
            taken.stop.cancel();
        }
    }

    /// Gives all partitions up.
    pub fn release_all(&self) {
        Partition::all().for_each(|partition| self.release(partition));
    }

    /// Has every owner write to its log, so that one which has lost its partition finds it out.
    pub fn look_at_logs(&self) {
        self.extend_reservations(true);
    }

    fn extend_reservations(&self, is_forced: bool) {
        self.tick.send_modify(|tick| {
            tick.number += 1;
            tick.forced += u64::from(is_forced);
        });
    }

    async fn own(
        self: &Arc<Self>,
        partition: Partition,
        patience: Duration,
        stop: CancellationToken,
    ) {
        let opening = Owner::open(self.shared.clone(), partition, patience, &stop);
        let Some((owner, handle)) = opening.await else { return };
        let epoch = handle.epoch();
        self.companion.open(partition, epoch).await;
        self.set(partition, Some(handle));
        self.shared.metrics.partitions_owned.inc();
        if let Some(taken) = self.lock_taken().get_mut(&partition) {
            taken.open_since = Some(self.shared.clock.elapsed());
        }
        self.changed.notify_waiters();
        let mut owner = self.tracker.spawn(owner.run(self.tick.subscribe(), stop.clone()));
        // Commands of this node are served meanwhile: a server before that hangs is waited for.
        let ended = tokio::select! {
            biased;
            ended = &mut owner => ended,
            () = self.serve(partition, epoch) => owner.await,
        };
        let subject = Subject::Partition(partition);
        self.set(partition, None);
        self.shared.metrics.partitions_owned.dec();
        self.companion.close(partition);
        let is_told = ended.is_ok_and(|ended| self.tell_heir(partition, ended));
        // Whoever asks meanwhile is told that the partition has moved, and asks again soon.
        let patience = if is_told { HEIR_PATIENCE } else { Duration::ZERO };
        let bus = self.shared.bus.clone();
        self.tracker.spawn(async move {
            if let Err(error) = bus.stop_serving(subject, patience).await {
                tracing::debug!(%partition, %error, "cannot withdraw from the partition's subject");
            }
        });
    }

    /// Answers other nodes from now on. The epoch says who is the later owner, so that one which begins late ends nobody.
    async fn serve(self: &Arc<Self>, partition: Partition, epoch: u64) {
        let subject = Subject::Partition(partition);
        let mut pause = SERVE_PAUSE;
        loop {
            let responder = Arc::new(PartitionResponder { owners: self.clone() });
            let Err(error) = self.shared.bus.serve(subject, epoch, responder).await else { return };
            // Once is enough.
            if pause == SERVE_PAUSE {
                tracing::warn!(%partition, %error, "other nodes cannot reach this partition yet, trying on");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SERVE_PAUSE_MAX);
        }
    }

    /// Whether there is one that was told that the partition is free.
    fn tell_heir(&self, partition: Partition, ended: Ended) -> bool {
        let heir = self.lock_taken().get(&partition).and_then(|taken| taken.heir);
        match ended {
            Ended::Closed => {
                if let Some(heir) = heir {
                    self.shared.metrics.hand_overs.inc();
                    self.shared.bus.publish(&[Subject::Node(heir)], released(partition));
                }
                return heir.is_some();
            }
            Ended::Deposed => {}
            Ended::Unclosed => {
                let mut unclosed =
                    self.unclosed.lock().expect("no code panics while it holds this lock");
                if !unclosed.contains(&partition) {
                    unclosed.push(partition);
                }
            }
        }
        false
    }

    fn lock_taken(&self) -> MutexGuard<'_, HashMap<Partition, Taken>> {
        self.taken.lock().expect("no code panics while it holds this lock")
    }

    fn set(&self, partition: Partition, handle: Option<Handle>) {
        if let Some(place) = self.handles.get(partition.0 as usize) {
            *place.write().expect("no code panics while it holds this lock") = handle;
        }
    }

    /// Announces watermarks and extends reservations until `stop` is called.
    pub async fn announce(self: Arc<Self>, stop: CancellationToken) {
        let mut announce = tokio::time::interval(ANNOUNCE);
        let mut tick = tokio::time::interval(TICK);
        announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut extended = Instant::now();
        loop {
            tokio::select! {
                _ = announce.tick() => {
                    if self.announce_once() && extended.elapsed() >= TICK_AGAIN {
                        extended = Instant::now();
                        self.extend_reservations(false);
                    }
                }
                _ = tick.tick() => self.extend_reservations(false),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at a store that acknowledges before it syncs, until `stop` is called: at one partition's part of it after the
    /// other.
    pub async fn watch_store(self: Arc<Self>, stop: CancellationToken) {
        if self.shared.store.durability_lag().is_zero() {
            return;
        }
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let looks = async {
            for partition in Partition::all().cycle() {
                look.tick().await;
                self.shared.look_at_store(partition).await;
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    /// Takes in what any node announces.
    pub fn hear(&self, payload: &[u8]) {
        let Some(announcement) = Announcement::from_payload(payload) else { return };
        if announcement.probe != 0 {
            let mut probes = self.probes.lock().expect("no code panics while it holds this lock");
            if probes.len() < PROBES_MAX || probes.contains_key(&announcement.node) {
                let highest = probes.entry(announcement.node.clone()).or_default();
                *highest = announcement.probe.max(*highest);
            }
        }
        self.watermarks.hear(&announcement);
    }

    /// Whether a partition's watermark waits for its reservation.
    fn announce_once(&self) -> bool {
        // Probes first: an echo says that the states were read after it was heard.
        let echoes = {
            let probes = self.probes.lock().expect("no code panics while it holds this lock");
            probes.iter().map(|(node, probe)| Echo { node: node.clone(), probe: *probe }).collect()
        };
        let now = self.shared.clock.now();
        let heard = self.watermarks.highest_heard();
        // A node whose lease is over may have been replaced: nothing it says as an owner counts until it has renewed it.
        let is_held = self.shared.leases.is_held();
        let mut is_outrun = false;
        let partitions = Partition::conversations()
            .filter(|_| is_held)
            .filter_map(|partition| {
                let progress = self.local(partition)?.progress(now, heard)?;
                is_outrun |= progress.is_outrun;
                let (watermark, highest) = (progress.watermark.0, progress.highest.0);
                Some(PartitionState { partition: partition.0 as u32, watermark, highest })
            })
            .collect();
        let probe = self.watermarks.probe().unwrap_or(0);
        let node = self.shared.lease.node.as_bytes().to_vec();
        let announcement = Announcement { node, partitions, echoes, probe };
        self.shared.bus.publish(&[Subject::Watermarks], announcement.to_payload());
        // Ids may be ahead of the clock: then it is they who wait for the watermark.
        let lag_ms = now.max(heard.created_at()).since(self.watermarks.safe().created_at());
        self.shared.metrics.safe_watermark_lag_seconds.set(lag_ms as f64 / 1_000.0);
        is_outrun
    }

    /// Asks this node's own owner, without the bus. `None`: it is not here.
    pub(super) fn submit(
        &self,
        command: Command,
    ) -> Option<oneshot::Receiver<Result<Reply, Refusal>>> {
        let handle = self.local(command.conversation_id.partition())?;
        if !self.shared.leases.is_held() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        handle.submit(Work::new(command, reply));
        Some(answer)
    }

    /// A message out of a partition of this node, and the store.
    pub(super) async fn message(&self, wanted: Wanted) -> Option<Message> {
        let command = Command::tail(wanted.reader, wanted.place.conversation_id);
        let tail = match self.submit(command) {
            Some(answer) => Tail::answered(answer.await.unwrap_or_else(|_| Err(moved()))),
            None => Tail::default(),
        };
        let reader = Reader::new(self.shared.store.clone());
        reader.message(wanted.place, &tail).await.ok().flatten()
    }
}

/// Answers requests of other nodes.
struct PartitionResponder {
    owners: Arc<Owners>,
}

#[async_trait]
impl Responder for PartitionResponder {
    async fn respond(&self, subject: Subject, payload: Bytes) -> Bytes {
        let Subject::Partition(partition) = subject else { return Bytes::new() };
        match payload.split_first() {
            Some((&KIND_COMMAND, command)) => {
                let answer = self.command(command).await;
                serde_json::to_vec(&answer).unwrap_or_default().into()
            }
            Some((&KIND_COMPANION, _)) => {
                self.owners.companion.request(partition, payload.slice(1..)).await
            }
            Some((&KIND_MESSAGE, wanted)) => {
                let Ok(wanted) = serde_json::from_slice(wanted) else { return Bytes::new() };
                let found = self.owners.message(wanted).await;
                serde_json::to_vec(&found).unwrap_or_default().into()
            }
            _ => Bytes::new(),
        }
    }
}

impl PartitionResponder {
    async fn command(&self, json: &[u8]) -> Result<Reply, Refusal> {
        let command: Command = serde_json::from_slice(json).map_err(|e| {
            Refusal::new(Code::MalformedRequest, format!("The command cannot be read: {e}."))
        })?;
        let answer = self.owners.submit(command).ok_or_else(moved)?;
        answer.await.unwrap_or_else(|_| Err(moved()))
    }
}

/// An entry out of a tail.
pub(super) fn entry(bytes: &[u8]) -> Result<record::Entry, record::Unreadable> {
    use prost::Message as _;
    record::Entry::decode(bytes).map_err(|e| record::Unreadable(e.to_string()))
}
