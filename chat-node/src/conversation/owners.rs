//! The partitions that this node owns, and the announcements of their watermarks.

use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use ahash::HashMap;
use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{Responder, Subject};
use chat_protocol::id::PARTITIONS;
use chat_protocol::{Partition, record};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{Command, Reply};
use super::owner::{Handle, Owner, Shared, Work, moved};
use crate::watermark::{Announcement, Echo, PartitionState, Watermarks};
use chat_protocol::error::{Code, Refusal};

/// How often watermarks are announced.
const ANNOUNCE: Duration = Duration::from_millis(200);

/// How often reservations are extended.
const TICK: Duration = Duration::from_secs(5);

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

/// The owners of one node.
pub struct Owners {
    shared: Arc<Shared>,
    watermarks: Arc<Watermarks>,
    companion: Arc<dyn Companion>,
    handles: Vec<RwLock<Option<Handle>>>,
    /// Ends the owner of a partition gracefully.
    releases: Mutex<HashMap<Partition, CancellationToken>>,
    /// Highest probe heard, by node.
    probes: Mutex<HashMap<Vec<u8>, u64>>,
    tick: watch::Sender<u64>,
    tracker: TaskTracker,
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
            releases: Mutex::new(HashMap::default()),
            probes: Mutex::new(HashMap::default()),
            tick: watch::Sender::new(0),
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

    /// Takes a partition, in the background: opens it and serves it until it is released, or another node takes it.
    pub fn take(self: &Arc<Self>, partition: Partition) {
        let stop = CancellationToken::new();
        let mut releases = self.releases.lock().expect("no code panics while it holds this lock");
        if releases.contains_key(&partition) {
            return;
        }
        releases.insert(partition, stop.clone());
        drop(releases);
        let owners = self.clone();
        self.tracker.spawn(async move {
            owners.own(partition, stop).await;
            owners
                .releases
                .lock()
                .expect("no code panics while it holds this lock")
                .remove(&partition);
        });
    }

    /// Gives a partition up, in the background: settles, writes, and closes its log.
    pub fn release(&self, partition: Partition) {
        let releases = self.releases.lock().expect("no code panics while it holds this lock");
        if let Some(stop) = releases.get(&partition) {
            stop.cancel();
        }
    }

    /// Gives all partitions up.
    pub fn release_all(&self) {
        Partition::all().for_each(|partition| self.release(partition));
    }

    async fn own(self: &Arc<Self>, partition: Partition, stop: CancellationToken) {
        let Some((owner, handle)) = Owner::open(self.shared.clone(), partition, &stop).await else {
            return;
        };
        let epoch = handle.epoch();
        self.companion.open(partition, epoch).await;
        self.set(partition, Some(handle));
        self.shared.metrics.partitions_owned.inc();
        let subject = Subject::Partition(partition);
        let responder = Arc::new(PartitionResponder { owners: self.clone() });
        if let Err(error) = self.shared.bus.serve(subject, responder).await {
            tracing::warn!(%partition, %error, "other nodes cannot reach this partition yet");
        }
        owner.run(self.tick.subscribe(), stop).await;
        self.set(partition, None);
        self.shared.metrics.partitions_owned.dec();
        self.companion.close(partition);
        if let Err(error) = self.shared.bus.stop_serving(subject).await {
            tracing::debug!(%partition, %error, "cannot withdraw from the partition's subject");
        }
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
        loop {
            tokio::select! {
                _ = announce.tick() => self.announce_once(),
                _ = tick.tick() => self.tick.send_modify(|count| *count += 1),
                () = stop.cancelled() => return,
            }
        }
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

    fn announce_once(&self) {
        // Probes first: an echo says that the states were read after it was heard.
        let echoes = {
            let probes = self.probes.lock().expect("no code panics while it holds this lock");
            probes.iter().map(|(node, probe)| Echo { node: node.clone(), probe: *probe }).collect()
        };
        let now = self.shared.clock.now();
        let heard = self.watermarks.highest_heard();
        let partitions = Partition::conversations()
            .filter_map(|partition| {
                let (watermark, highest) = self.local(partition)?.watermark(now, heard)?;
                let partition = partition.0 as u32;
                Some(PartitionState { partition, watermark: watermark.0, highest: highest.0 })
            })
            .collect();
        let probe = self.watermarks.probe().unwrap_or(0);
        let node = self.shared.lease.node.as_bytes().to_vec();
        let announcement = Announcement { node, partitions, echoes, probe };
        self.shared.bus.publish(&[Subject::Watermarks], announcement.to_payload());
        let lag_ms = now.since(self.watermarks.safe().created_at());
        self.shared.metrics.safe_watermark_lag_seconds.set(lag_ms as f64 / 1_000.0);
    }

    /// Asks this node's own owner, without the bus. `None`: it is not here.
    pub(super) fn submit(
        &self,
        command: Command,
    ) -> Option<oneshot::Receiver<Result<Reply, Refusal>>> {
        let handle = self.local(command.conversation_id.partition())?;
        let (reply, answer) = oneshot::channel();
        handle.submit(Work::new(command, reply));
        Some(answer)
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
