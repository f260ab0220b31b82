//! The services together, over the embedded store and bus, in paused time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::{Broker, Bus, Receiver, RequestError, Subject};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{Friendship, Presence, ServerFrame};
use chat_protocol::{Code, Millis, NodeId, Partition, SessionId, UserId};
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::{FaultRates, Faults, FaultyStore};
use chat_store::{PresenceRow, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::clock::Clock;
use crate::delivery::{Class, Frame};
use crate::partition::Alone;

const START: Millis = Millis(1_790_000_000_000);

/// The bus between a node and one set of owners; it can be cut.
struct Local {
    owners: Mutex<Arc<PresenceOwners>>,
    cut: AtomicBool,
}

#[async_trait]
impl Route for Local {
    async fn send(
        &self,
        partition: Partition,
        command: PresenceCommand,
    ) -> Result<PresenceReply, RequestError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(RequestError::NoResponder);
        }
        // As over a bus: everything must survive its encoding.
        let command = serde_json::to_vec(&command).expect("commands can be encoded");
        let command = serde_json::from_slice(&command).expect("commands can be decoded");
        let reply = self.owners.lock().unwrap().handle(partition, command);
        let reply = serde_json::to_vec(&reply).expect("replies can be encoded");
        Ok(serde_json::from_slice(&reply).expect("replies can be decoded"))
    }
}

/// Keeps the presence frames that reach its user.
#[derive(Default)]
struct Inbox(Mutex<Vec<Presence>>);

impl Receiver for Inbox {
    fn deliver(&self, _subjects: &[Subject], payload: Bytes) {
        for frame in Frame::all(payload) {
            assert_eq!(frame.class, Class::Ephemeral);
            match Encoding::Json.read(&frame.encoded(Encoding::Json)) {
                Ok(ServerFrame::Presence(presence)) => self.0.lock().unwrap().push(presence),
                other => panic!("not a presence frame: {other:?}"),
            }
        }
    }
}

impl Inbox {
    fn take(&self) -> Vec<bool> {
        std::mem::take(&mut *self.0.lock().unwrap()).iter().map(|frame| frame.online).collect()
    }
}

struct Platform {
    clock: Clock,
    broker: EmbeddedBroker,
    store: Arc<dyn Store>,
    faults: Faults,
    route: Arc<Local>,
    stop: CancellationToken,
    epoch: u64,
    buses: Vec<Arc<dyn Bus>>,
}

impl Platform {
    async fn new() -> Platform {
        let clock = Clock::manual(START);
        let broker = EmbeddedBroker::memory();
        let faults = Faults::new(1);
        let store: Arc<dyn Store> =
            Arc::new(FaultyStore::new(Arc::new(EmbeddedStore::memory()), faults.clone()));
        let stop = CancellationToken::new();
        let owners = start_owners(&clock, &broker, &store, &stop, 1).await;
        let cut = AtomicBool::new(false);
        let route = Arc::new(Local { owners: Mutex::new(owners), cut });
        Platform { clock, broker, store, faults, route, stop, epoch: 1, buses: Vec::new() }
    }

    /// A node; its process ends with the token.
    fn node(&self) -> (Arc<PresenceService>, CancellationToken) {
        let service = PresenceService::new(
            NodeId::random(),
            Settings::default(),
            self.clock.clone(),
            self.route.clone(),
            self.store.clone(),
            Metrics::default(),
        );
        let stop = self.stop.child_token();
        service.clone().run(&TaskTracker::new(), stop.clone());
        (service, stop)
    }

    /// The process of the owners dies; another opens every partition.
    async fn replace_owners(&mut self) {
        self.stop_owners();
        self.epoch += 1;
        let owners =
            start_owners(&self.clock, &self.broker, &self.store, &self.stop, self.epoch).await;
        *self.route.owners.lock().unwrap() = owners;
    }

    fn stop_owners(&self) {
        let owners = self.route.owners.lock().unwrap();
        Partition::conversations().for_each(|partition| owners.close(partition));
    }

    async fn inbox(&mut self, user: UserId) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        let bus = self.broker.connect(inbox.clone()).await.unwrap();
        bus.subscribe(Subject::User(user)).await.unwrap();
        self.buses.push(bus);
        inbox
    }

    async fn befriend(&self, one: UserId, other: UserId, friendship: Friendship) {
        let (none, now) = (Friendship::None, self.clock.now());
        let stands = self.store.set_friendship(one, other, none, friendship, now).await.unwrap();
        assert_eq!(stands, friendship);
    }

    async fn row(&self, user: UserId) -> Option<PresenceRow> {
        self.store.presence(vec![user]).await.unwrap().pop()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start_owners(
    clock: &Clock,
    broker: &EmbeddedBroker,
    store: &Arc<dyn Store>,
    stop: &CancellationToken,
    epoch: u64,
) -> Arc<PresenceOwners> {
    let bus = broker.connect(Arc::new(Inbox::default())).await.unwrap();
    let (clock, store) = (clock.clone(), store.clone());
    let leases = Arc::new(Alone);
    let owners =
        PresenceOwners::new(Settings::default(), clock, store, bus, leases, Metrics::default());
    Partition::conversations().for_each(|partition| owners.open(partition, epoch));
    owners.clone().run(&TaskTracker::new(), stop.clone());
    owners
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn snapshot(service: &PresenceService, user: UserId) -> Presence {
    service.snapshot(vec![user]).await.unwrap()[0]
}

async fn is_online(service: &PresenceService, user: UserId) -> bool {
    snapshot(service, user).await.online
}

/// Beats every five seconds, for so many seconds.
async fn beat(clock: &Clock, attendance: &Attendance, for_seconds: u64) {
    for _ in 0..for_seconds / 5 {
        seconds(5).await;
        attendance.beat(clock.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_is_online_at_connect_and_offline_30_seconds_after_the_last_beat() {
    let platform = Platform::new().await;
    let (node, _) = platform.node();
    let user = UserId::random();
    seconds(3).await;
    let attendance = node.arrive(user, SessionId::random());
    seconds(1).await;
    let online = snapshot(&node, user).await;
    assert!(online.online);
    let active_ms = online.last_active_at.unwrap().since(START);
    assert!((3_000..=3_200).contains(&active_ms), "{active_ms}");
    beat(&platform.clock, &attendance, 60).await;
    seconds(29).await;
    assert!(is_online(&node, user).await);
    seconds(3).await;
    let offline = snapshot(&node, user).await;
    assert!(!offline.online);
    assert_eq!(offline.last_active_at, online.last_active_at);
    tokio::time::timeout(Duration::from_secs(1), attendance.silent()).await.expect("told");
    let row = platform.row(user).await.unwrap();
    assert_eq!((row.sessions, row.last_active_at), (vec![], online.last_active_at));
}

#[tokio::test(start_paused = true)]
async fn a_logout_takes_effect_at_once_and_leaves_other_devices_online() {
    let platform = Platform::new().await;
    let (node, _) = platform.node();
    let user = UserId::random();
    let phone = node.arrive(user, SessionId::random());
    let laptop = node.arrive(user, SessionId::random());
    seconds(1).await;
    phone.leave();
    seconds(1).await;
    assert!(is_online(&node, user).await, "the laptop is still there");
    laptop.leave();
    laptop.leave();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!is_online(&node, user).await);
}

#[tokio::test(start_paused = true)]
async fn friends_get_frames_and_strangers_do_not() {
    let mut platform = Platform::new().await;
    let (node, _) = platform.node();
    let [user, friend, asked, stranger] = std::array::from_fn(|_| UserId::random());
    platform.befriend(user, friend, Friendship::Friends).await;
    platform.befriend(user, asked, Friendship::Requested).await;
    let friends = platform.inbox(friend).await;
    let others =
        [platform.inbox(asked).await, platform.inbox(stranger).await, platform.inbox(user).await];
    let attendance = node.arrive(user, SessionId::random());
    seconds(1).await;
    let frames = std::mem::take(&mut *friends.0.lock().unwrap());
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].user_id, frames[0].online), (user, true));
    assert!(frames[0].last_active_at.is_some());
    node.arrive(user, SessionId::random()).leave();
    seconds(1).await;
    assert_eq!(friends.take(), [] as [bool; 0], "a second device is no news");
    attendance.leave();
    seconds(1).await;
    assert_eq!(friends.take(), [false]);
    for other in others {
        assert_eq!(other.take(), [] as [bool; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_on_another_node_does_not_flap() {
    let mut platform = Platform::new().await;
    let (blue, stop_blue) = platform.node();
    let (green, _) = platform.node();
    let (user, friend) = (UserId::random(), UserId::random());
    platform.befriend(user, friend, Friendship::Friends).await;
    let friends = platform.inbox(friend).await;
    let old = blue.arrive(user, SessionId::random());
    beat(&platform.clock, &old, 20).await;
    drop(old);
    seconds(4).await;
    let new = green.arrive(user, SessionId::random());
    stop_blue.cancel();
    beat(&platform.clock, &new, 90).await;
    assert!(is_online(&green, user).await);
    assert_eq!(friends.take(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_nodes_users_are_offline_30_seconds_later() {
    let platform = Platform::new().await;
    let (dying, stop) = platform.node();
    let (witness, _) = platform.node();
    let user = UserId::random();
    let attendance = dying.arrive(user, SessionId::random());
    beat(&platform.clock, &attendance, 60).await;
    stop.cancel();
    seconds(20).await;
    assert!(is_online(&witness, user).await);
    seconds(12).await;
    assert!(!is_online(&witness, user).await);
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_declares_offline_whom_nobody_announces_again() {
    let mut platform = Platform::new().await;
    let (dying, stop) = platform.node();
    let (witness, _) = platform.node();
    let (user, friend) = (UserId::random(), UserId::random());
    platform.befriend(user, friend, Friendship::Friends).await;
    let friends = platform.inbox(friend).await;
    let _attendance = dying.arrive(user, SessionId::random());
    seconds(1).await;
    assert_eq!(friends.take(), [true]);
    stop.cancel();
    platform.replace_owners().await;
    seconds(28).await;
    assert!(is_online(&witness, user).await, "the store said so");
    seconds(4).await;
    assert!(!is_online(&witness, user).await);
    assert_eq!(friends.take(), [false]);
    assert!(platform.row(user).await.unwrap().sessions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_hears_of_everyone_again_without_anyone_noticing() {
    let mut platform = Platform::new().await;
    let (node, _) = platform.node();
    let (user, friend) = (UserId::random(), UserId::random());
    platform.befriend(user, friend, Friendship::Friends).await;
    let friends = platform.inbox(friend).await;
    let attendance = node.arrive(user, SessionId::random());
    seconds(1).await;
    let before = snapshot(&node, user).await;
    for _ in 0..3 {
        platform.replace_owners().await;
        beat(&platform.clock, &attendance, 60).await;
    }
    assert_eq!(snapshot(&node, user).await, before);
    assert_eq!(friends.take(), [true]);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_without_an_owner_is_announced_once_there_is_one() {
    let mut platform = Platform::new().await;
    let (node, _) = platform.node();
    let user = UserId::random();
    platform.stop_owners();
    let attendance = node.arrive(user, SessionId::random());
    beat(&platform.clock, &attendance, 60).await;
    assert!(!is_online(&node, user).await);
    platform.replace_owners().await;
    beat(&platform.clock, &attendance, 5).await;
    assert!(is_online(&node, user).await);
}

#[tokio::test(start_paused = true)]
async fn presence_goes_on_while_the_store_is_away_and_is_written_later() {
    let mut platform = Platform::new().await;
    let (node, _) = platform.node();
    let (user, friend) = (UserId::random(), UserId::random());
    platform.befriend(user, friend, Friendship::Friends).await;
    let friends = platform.inbox(friend).await;
    platform.faults.set_away(true);
    let attendance = node.arrive(user, SessionId::random());
    beat(&platform.clock, &attendance, 60).await;
    assert!(is_online(&node, user).await);
    assert_eq!(friends.take(), [] as [bool; 0], "nobody knows who the friends are");
    platform.route.cut.store(true, Ordering::Relaxed);
    let refusal = node.snapshot(vec![user]).await.unwrap_err();
    assert_eq!(refusal.code, Code::StoreUnavailable);
    platform.route.cut.store(false, Ordering::Relaxed);
    platform.faults.heal();
    beat(&platform.clock, &attendance, 10).await;
    assert_eq!(platform.row(user).await.unwrap().sessions, [attendance.connection]);
    assert_eq!(friends.take(), [true]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_opens_without_the_store_still_takes_announcements() {
    let mut platform = Platform::new().await;
    let (node, _) = platform.node();
    let [user, gone] = std::array::from_fn(|_| UserId::random());
    let left = PresenceRow {
        user_id: gone,
        sessions: vec![SessionId::random()],
        last_active_at: Some(START),
    };
    platform.store.put_presence(vec![left]).await.unwrap();
    platform.faults.set_away(true);
    platform.replace_owners().await;
    let attendance = node.arrive(user, SessionId::random());
    beat(&platform.clock, &attendance, 15).await;
    assert!(is_online(&node, user).await);
    platform.faults.heal();
    beat(&platform.clock, &attendance, 5).await;
    assert!(is_online(&node, gone).await, "the store said so at last");
    beat(&platform.clock, &attendance, 35).await;
    assert!(!is_online(&node, gone).await);
    assert!(is_online(&node, user).await);
}

#[tokio::test(start_paused = true)]
async fn without_an_owner_a_snapshot_says_what_the_store_knows() {
    let platform = Platform::new().await;
    let (node, _) = platform.node();
    let [user, unknown] = std::array::from_fn(|_| UserId::random());
    let _attendance = node.arrive(user, SessionId::random());
    seconds(1).await;
    platform.route.cut.store(true, Ordering::Relaxed);
    let mut both = node.snapshot(vec![user, unknown, user]).await.unwrap();
    both.sort_by_key(|presence| !presence.online);
    assert_eq!(both.len(), 2, "each user once");
    assert_eq!((both[0].user_id, both[0].online), (user, true));
    assert!(both[0].last_active_at.is_some());
    let offline = Presence { user_id: unknown, online: false, last_active_at: None };
    assert_eq!(both[1], offline);
}

#[tokio::test(start_paused = true)]
async fn thousands_who_connect_at_once_cost_the_store_few_writes() {
    let platform = Platform::new().await;
    let (node, _) = platform.node();
    seconds(1).await;
    let before = platform.faults.calls();
    let all: Vec<_> =
        (0..5_000).map(|_| node.arrive(UserId::random(), SessionId::random())).collect();
    seconds(3).await;
    let users: Vec<UserId> = all.iter().map(|attendance| attendance.user).collect();
    let rows = platform.store.presence(users.clone()).await.unwrap();
    assert_eq!(rows.len(), 5_000);
    // One lookup of friends each, and rows in batches.
    let calls = platform.faults.calls() - before;
    assert!((5_000..5_100).contains(&calls), "{calls} calls");
    let snapshot = node.snapshot(users).await.unwrap();
    assert!(snapshot.iter().all(|presence| presence.online));
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_slow_write_is_written_too() {
    let platform = Platform::new().await;
    let (node, _) = platform.node();
    seconds(1).await;
    let slow = FaultRates { delay: 1.0, delay_ms_max: 5_000, ..FaultRates::default() };
    platform.faults.set_rates(slow);
    for _ in 0..20 {
        let attendance = node.arrive(UserId::random(), SessionId::random());
        tokio::time::sleep(Duration::from_millis(300)).await;
        attendance.leave();
        seconds(20).await;
        let row = platform.row(attendance.user).await.unwrap();
        assert!(row.sessions.is_empty() && row.last_active_at.is_some());
    }
}

#[tokio::test]
async fn the_metrics_can_be_written() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    metrics.transitions.inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("presence_transitions_total 1"), "{text}");
}
