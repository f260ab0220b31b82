//! The platform of one run, and what happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_broker::Broker;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::faulty::{Faults, Rates};
use chat_node::conversation::{Action, Command, Conversations};
use chat_protocol::{ConversationId, Millis, Partition, UserId};
use chat_store::Store;
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::FaultRates;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::checker;
use super::client::{Client, Promises};
use super::device::Device;
use super::node::Node;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plan {
    Calm,
    Appends,
    Owners,
    Store,
    /// Owners change and crash, and clocks are an hour wrong.
    Clocks,
    Everything,
}

const HOUR_MS: i64 = 3_600_000;

const NODES: usize = 3;
const USERS: usize = 3;
const MESSAGES: usize = 12;

const TRAILING: Duration = Duration::from_secs(30);

/// How long the calm end may take.
const SETTLE: Duration = Duration::from_secs(300);

pub(super) struct World {
    plan: Plan,
    random: StdRng,
    seed: u64,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    node_store: Arc<dyn Store>,
    broker_faults: Faults,
    store_faults: chat_store::faulty::Faults,
    nodes: Arc<Mutex<Vec<Arc<Node>>>>,
    next_node: u64,
    users: Vec<UserId>,
    members: BTreeMap<ConversationId, Vec<UserId>>,
    promises: Promises,
}

impl World {
    pub(super) fn new(plan: Plan, seed: u64) -> World {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::memory());
        let store_faults = chat_store::faulty::Faults::new(seed ^ 0x5702e);
        if seed % 2 == 1 {
            // Checkpoints trail, as they do with a store that acknowledges before it syncs.
            store_faults.set_durability_lag(TRAILING);
        }
        let users: Vec<_> =
            (0..USERS).map(|n| UserId(uuid::Uuid::from_u128(1 + n as u128))).collect();
        World {
            plan,
            random: StdRng::seed_from_u64(seed),
            seed,
            broker: Arc::new(EmbeddedBroker::memory()),
            node_store: Arc::new(chat_store::faulty::FaultyStore::new(
                store.clone(),
                store_faults.clone(),
            )),
            store,
            broker_faults: Faults::new(seed ^ 0xb20),
            store_faults,
            nodes: Arc::default(),
            next_node: 0,
            users,
            members: BTreeMap::new(),
            promises: Promises::default(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), String> {
        let (one, other) = (self.users[0], self.users[1]);
        let group = ConversationId::group(one, uuid::Uuid::from_u128(self.seed as u128));
        let direct = ConversationId::direct(one, other);
        self.members.insert(group, self.users.clone());
        self.members.insert(direct, vec![one, other]);
        for _ in 0..NODES {
            self.start_node().await;
        }
        self.create().await?;
        self.set_faults();
        let clients = self.start_clients();
        let devices = self.disturb(clients).await?;
        self.settle(devices).await
    }

    /// Each once: both conversations may be in the same.
    fn partitions(&self) -> Vec<Partition> {
        let partitions: BTreeSet<_> = self.members.keys().map(ConversationId::partition).collect();
        partitions.into_iter().collect()
    }

    async fn start_node(&mut self) {
        self.next_node += 1;
        let wall = Millis::from_2025(40_000_000_000 + self.random.random_range(0..10_000));
        let partitions = self.partitions();
        let node = Node::start(
            self.next_node,
            self.broker.clone(),
            self.node_store.clone(),
            &self.broker_faults,
            wall,
            &partitions,
        );
        let node = Arc::new(node.await);
        self.nodes.lock().unwrap().push(node);
    }

    fn node(&mut self) -> Arc<Node> {
        let nodes = self.nodes.lock().unwrap();
        nodes[self.random.random_range(0..nodes.len())].clone()
    }

    /// Makes the conversations, while nothing goes wrong.
    async fn create(&mut self) -> Result<(), String> {
        for (id, members) in self.members.clone() {
            let node = self.node();
            node.owners.take(id.partition());
            let name = (members.len() > 2).then(|| "all of us".to_owned());
            let action = Action::Create { name, members: members[1..].to_vec() };
            let command = Command {
                conversation_id: id,
                caller: members[0],
                origin: None,
                received_at: node.clock.now(),
                action,
            };
            node.router.command(command).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn set_faults(&self) {
        let appends = Rates {
            append_lost: 0.05,
            append_answer_lost: 0.05,
            append_late: 0.05,
            append_delay_before: 0.1,
            append_delay_after: 0.1,
            append_full: 0.03,
            read_stale: 0.2,
            read_error: 0.05,
            read_delay: 0.1,
            ..Rates::default()
        };
        let bus = Rates {
            publish_lost: 0.1,
            publish_delay: 0.1,
            request_lost: 0.05,
            answer_lost: 0.05,
            request_delay: 0.1,
            request_duplicate: 0.05,
            serve_error: 0.2,
            ..Rates::default()
        };
        match self.plan {
            Plan::Calm | Plan::Clocks => {}
            Plan::Appends => self.broker_faults.set_rates(appends),
            Plan::Owners => self.broker_faults.set_rates(bus),
            Plan::Store => self.store_faults.set_rates(self.store_rates()),
            Plan::Everything => {
                self.broker_faults.set_rates(Rates {
                    publish_lost: bus.publish_lost,
                    publish_delay: bus.publish_delay,
                    request_lost: bus.request_lost,
                    answer_lost: bus.answer_lost,
                    request_delay: bus.request_delay,
                    request_duplicate: bus.request_duplicate,
                    serve_error: bus.serve_error,
                    ..appends
                });
                self.store_faults.set_rates(self.store_rates());
            }
        }
    }

    fn store_rates(&self) -> FaultRates {
        FaultRates { error_before: 0.1, error_after: 0.1, delay: 0.2, delay_ms_max: 800 }
    }

    fn start_clients(&mut self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for (number, user) in self.users.iter().enumerate() {
            let own = self.members.iter().filter(|(_, members)| members.contains(user));
            let conversations = own.map(|(id, _)| *id).collect();
            let seed = self.seed.wrapping_mul(31).wrapping_add(number as u64);
            let client = Client::new(*user, conversations, seed, self.promises.clone());
            clients.spawn(client.run(self.nodes.clone(), MESSAGES));
        }
        clients
    }

    /// Lets things happen until all clients are done; devices read meanwhile, at any node.
    async fn disturb(&mut self, mut clients: JoinSet<()>) -> Result<Vec<Device>, String> {
        let mut devices: Vec<Device> =
            self.users.iter().flat_map(|user| [Device::new(*user), Device::new(*user)]).collect();
        let moving = matches!(self.plan, Plan::Owners | Plan::Clocks | Plan::Everything);
        let calm_after = Duration::from_secs(120);
        let started = tokio::time::Instant::now();
        while !clients.is_empty() {
            let pause = Duration::from_millis(self.random.random_range(20..600));
            tokio::select! {
                done = clients.join_next() => {
                    if let Some(Err(error)) = done {
                        return Err(format!("a client failed: {error}"));
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            if started.elapsed() > SETTLE * 4 {
                return Err("clients did not get through".to_owned());
            }
            if moving && started.elapsed() < calm_after {
                self.something_happens().await;
            } else if moving {
                self.make_sure_someone_owns();
            }
            for device in &mut devices {
                if self.random.random_bool(0.4) {
                    let node = self.node();
                    let page = self.random.random_range(1..5);
                    // A failed read is tried again later, from the same cursor.
                    drop(device.poll(&self.node_store, &node.watermarks, page).await);
                }
            }
        }
        Ok(devices)
    }

    async fn something_happens(&mut self) {
        let partitions = self.partitions();
        let partition = partitions[self.random.random_range(0..partitions.len())];
        let node = self.node();
        match self.random.random_range(0..100) {
            // A take-over at any moment covers every expired lease, pause and split.
            0..15 => node.owners.take(partition),
            15..20 => node.owners.release(partition),
            20..25 => self.broker_faults.cut_off(node.id, true),
            25..40 => self.broker_faults.cut_off(node.id, false),
            40..43 => {
                self.broker_faults.cut_off(node.id, true);
                self.nodes.lock().unwrap().retain(|other| other.id != node.id);
                self.start_node().await;
            }
            43..55 => node.clock.step(self.random.random_range(-5_000..5_000)),
            55..70 if self.plan == Plan::Clocks => {
                node.clock.step(HOUR_MS * self.random.random_range(-1..=1));
            }
            _ => {}
        }
    }

    /// Connected nodes take what nobody owns, as assignment would have them do.
    fn make_sure_someone_owns(&mut self) {
        let nodes = self.nodes.lock().unwrap().clone();
        for node in &nodes {
            self.broker_faults.cut_off(node.id, false);
        }
        for partition in self.partitions() {
            let owned = nodes
                .iter()
                .any(|node| node.owners.local(partition).is_some_and(|handle| handle.is_open()));
            if !owned {
                nodes[self.random.random_range(0..nodes.len())].owners.take(partition);
            }
        }
    }

    /// Nothing goes wrong any more: everything must come together.
    async fn settle(mut self, mut devices: Vec<Device>) -> Result<(), String> {
        self.broker_faults.clear();
        self.store_faults.set_rates(FaultRates::default());
        self.nodes.lock().unwrap().clear();
        self.start_node().await;
        let node = self.node();
        let partitions = self.partitions();
        partitions.iter().for_each(|partition| node.owners.take(*partition));
        let entries = {
            // Appends in doubt may still land; the new owner's opening record ends that.
            let until = tokio::time::Instant::now() + SETTLE;
            while !partitions.iter().all(|partition| node.owners.local(*partition).is_some()) {
                if tokio::time::Instant::now() > until {
                    return Err("the last owner did not get the partitions".to_owned());
                }
                partitions.iter().for_each(|partition| node.owners.take(*partition));
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            checker::log(&*self.broker, &partitions).await
        };
        let highest = entries.iter().map(|entry| entry.id).max().unwrap_or(0);
        let until = tokio::time::Instant::now() + SETTLE;
        for device in &mut devices {
            while device.cursor.0 < highest {
                if tokio::time::Instant::now() > until {
                    return Err(format!(
                        "the cursor stays at {}, the safe watermark at {}, the highest id is {highest}",
                        device.cursor,
                        node.watermarks.safe()
                    ));
                }
                drop(device.poll(&self.store, &node.watermarks, 7).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        match checker::check(&entries, &self.promises, &devices, &self.members) {
            Ok(()) => Ok(()),
            Err(problem) => {
                Err(format!("{problem}\n{}", checker::dump(&*self.broker, &partitions).await))
            }
        }
    }
}
