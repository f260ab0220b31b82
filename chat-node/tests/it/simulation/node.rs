//! One node of the simulation: owners, router and watermarks over faulty ports.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::faulty::{Faults, FaultyBroker};
use chat_broker::{Broker, Bus, Receiver, Subject};
use chat_node::clock::Clock;
use chat_node::conversation::metrics::Metrics;
use chat_node::conversation::owner::{Outages, Shared};
use chat_node::conversation::owners::{Companion, Owners};
use chat_node::conversation::router::Router;
use chat_node::delivery::Place;
use chat_node::hub::{Counters, Fetch, Hub};
use chat_node::limits;
use chat_node::partition::{Alone, Lease};
use chat_node::watermark::{Announcement, PartitionState, Watermarks};
use chat_protocol::message::Message;
use chat_protocol::{Millis, NodeId, Partition, UserId};
use chat_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clock: Clock,
    pub(super) owners: Arc<Owners>,
    pub(super) router: Arc<Router>,
    pub(super) watermarks: Arc<Watermarks>,
    pub(super) hub: Arc<Hub>,
    pub(super) counters: Counters,
}

/// Nothing lives beside the conversations here.
struct NoCompanion;

#[async_trait]
impl Companion for NoCompanion {
    async fn open(&self, _: Partition, _: u64) {}
    fn close(&self, _: Partition) {}
    async fn request(&self, _: Partition, _: Bytes) -> Bytes {
        Bytes::new()
    }
}

struct Bodies(Arc<Router>);

#[async_trait]
impl Fetch for Bodies {
    async fn fetch(&self, reader: UserId, place: Place) -> Option<Message> {
        self.0.message(reader, place).await
    }
}

struct Ear {
    hub: Arc<Hub>,
    owners: std::sync::OnceLock<Arc<Owners>>,
}

impl Receiver for Ear {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        if subjects.contains(&Subject::Watermarks)
            && let Some(owners) = self.owners.get()
        {
            owners.hear(&payload);
        } else {
            self.hub.deliver(subjects, payload);
        }
    }
}

impl Node {
    pub(super) async fn start(
        number: u64,
        broker: Arc<dyn Broker>,
        store: Arc<dyn Store>,
        faults: &Faults,
        wall: Millis,
        used: &[Partition],
    ) -> Node {
        let id = NodeId(uuid::Uuid::from_u128(number as u128 + 1));
        let broker: Arc<dyn Broker> = Arc::new(FaultyBroker::new(broker, faults.clone(), id));
        let (clock, counters) = (Clock::manual(wall), Counters::default());
        let hub = Hub::new(clock.clone(), counters.clone());
        let ear = Arc::new(Ear { hub: hub.clone(), owners: std::sync::OnceLock::new() });
        let bus: Arc<dyn Bus> = loop {
            if let Ok(bus) = broker.connect(ear.clone()).await {
                break bus;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        while bus.subscribe(Subject::Watermarks).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        hub.attach(bus.clone());
        let shared = Arc::new(Shared {
            broker,
            bus: bus.clone(),
            store: store.clone(),
            clock: clock.clone(),
            lease: Lease { node: id, start: number },
            leases: Arc::new(Alone),
            room_window: Duration::from_millis(20),
            published_body_bytes_max: limits::PUBLISHED_BODY_BYTES_MAX,
            log_retention: Duration::from_secs(3_600),
            unwritten_bytes: AtomicUsize::new(0),
            outages: Outages::default(),
            replays: Semaphore::new(chat_node::limits::REPLAYS_MAX),
            metrics: Metrics::default(),
        });
        let watermarks = Arc::new(Watermarks::new(id));
        let tracker = TaskTracker::new();
        tracker.spawn(follow_everything_else(watermarks.clone(), used.to_vec()));
        let owners =
            Owners::new(shared, watermarks.clone(), Arc::new(NoCompanion), tracker.clone());
        assert!(ear.owners.set(owners.clone()).is_ok(), "set once");
        tracker.spawn(owners.clone().announce(CancellationToken::new()));
        tracker.spawn(owners.clone().watch_store(CancellationToken::new()));
        let router = Arc::new(Router::new(owners.clone(), bus, store, Duration::from_secs(3)));
        let bodies = Arc::new(Bodies(router.clone()));
        tracker.spawn(hub.clone().fetch_bodies(bodies, CancellationToken::new()));
        Node { id, clock, owners, router, watermarks, hub, counters }
    }

    /// Takes a partition that nobody holds, and waits until it is open.
    pub(super) async fn own(&self, partition: Partition) {
        self.owners.take(partition);
        while self.owners.local(partition).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Only a few partitions take part in a simulation. The others are idle and owned by somebody with the right clock, whose
/// watermarks follow what is heard.
async fn follow_everything_else(watermarks: Arc<Watermarks>, used: Vec<Partition>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let watermark = watermarks.highest_heard().0;
        if std::mem::replace(&mut before, watermark) == watermark {
            continue;
        }
        let others = Partition::conversations().filter(|partition| !used.contains(partition));
        let partitions = others
            .map(|partition| PartitionState {
                partition: partition.0 as u32,
                watermark,
                highest: 0,
            })
            .collect();
        watermarks.hear(&Announcement { node: vec![], partitions, echoes: vec![], probe: 0 });
    }
}
