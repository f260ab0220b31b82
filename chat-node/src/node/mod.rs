//! The composition root: builds everything, runs it, and ends it in order.
//!
//! The end: 1. not ready; among many nodes its partitions go to others; no more connections; 2. clients are asked to come
//! back elsewhere, as in a rollout, and their sockets close; 3. requests under way finish; 4. owners settle, write and close their logs; 5. tasks end;
//! 6. store and log close.

mod places;
pub(crate) mod ports;
mod settings;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{Broker, Receiver, RequestError, Subject};
use chat_protocol::id::PARTITIONS;
use chat_protocol::message::Message;
use chat_protocol::{NodeId, Partition, UserId};
use chat_store::Store;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;

use crate::admin::{self, Admin};
use crate::auth::{Auth, KeyRing};
use crate::clock::{Clock, alone};
use crate::config::{BrokerAddress, Config, Sources};
use crate::conversation::metrics::Metrics;
use crate::conversation::owner::{Outages, Shared};
use crate::conversation::owners::{Companion, Holding, Owners};
use crate::conversation::router::Router;
use crate::delivery::Place;
use crate::discovery::Role;
use crate::handover::{self, Handover};
use crate::hub::{Fetch, Hub};
use crate::membership::{self, Membership, NodeEntry};
use crate::partition::{Alone, Lease, Leases};
use crate::presence::{PresenceCommand, PresenceOwners, PresenceReply, PresenceService, Route};
use crate::session::{self, Gateway, Parts};
use crate::watermark::Watermarks;
use crate::{http, limits, presence, server, transport};
use ports::Ports;

/// Records stay in the log at least this long.
const LOG_RETENTION: Duration = Duration::from_secs(72 * 3_600);

/// How often rows whose time is over are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);

/// What the bus lost is read from the store within this time.
const READ_AFTER_INTERRUPTION: Duration = Duration::from_secs(3);

/// Deadline of requests between nodes about presence.
const PRESENCE_DEADLINE: Duration = Duration::from_secs(2);

/// Everything that runs.
struct Node {
    /// Among many nodes.
    membership: Option<Arc<Membership>>,
    owners: Arc<Owners>,
    watermarks: Arc<Watermarks>,
    handover: Arc<Handover>,
    hub: Arc<Hub>,
    api: axum::Router,
    document: utoipa::openapi::OpenApi,
    registry: Registry,
    /// Tasks that serve: they end before the owners do.
    serving: TaskTracker,
    /// Tasks that keep things going: they end last.
    keeping: TaskTracker,
    stop_keeping: CancellationToken,
    owning: TaskTracker,
}

/// Runs a node until `stop` is called, and then ends it gracefully.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    Box::pin(run_on(config, stop, |broker, store| (broker, store))).await
}

/// The same on what `wrap` makes of the backends: a test puts faults between them and the node.
pub async fn run_on(
    config: Config,
    stop: CancellationToken,
    wrap: impl FnOnce(Arc<dyn Broker>, Arc<dyn Store>) -> (Arc<dyn Broker>, Arc<dyn Store>),
) -> anyhow::Result<()> {
    let directory = ports::directory(&config)?;
    let keys = ports::keys(&config, directory.as_ref())?;
    let listener = listen(config.listen, "listen").await?;
    let admin_listener = listen(config.admin_listen, "admin_listen").await?;
    let clock = Clock::system();
    let opening = Box::pin(ports::open(&config, directory, &clock));
    let Some(opened) = stop.run_until_cancelled(opening).await else { return Ok(()) };
    let mut ports = opened?;
    (ports.broker, ports.store) = wrap(ports.broker.clone(), ports.store.clone());
    let epoch = ports::agree_on_epoch(&*ports.broker, &*ports.store).await?;
    let node = build(&config, &ports, clock.clone(), keys, epoch, &stop).await?;
    let draining = Arc::new(AtomicBool::new(false));
    let stop_accepting = CancellationToken::new();
    match &node.membership {
        Some(membership) => {
            membership.run(node.owners.clone(), &node.keeping, node.stop_keeping.clone());
        }
        // Nobody else can own anything, or tell the time.
        None => {
            node.keeping.spawn(alone::follow(clock.clone(), node.stop_keeping.clone()));
            Partition::all().for_each(|partition| node.owners.take(partition));
        }
    }
    node.keeping.spawn(node.owners.clone().announce(node.stop_keeping.clone()));
    node.keeping.spawn(node.owners.clone().watch_store(node.stop_keeping.clone()));
    node.keeping.spawn(expire(ports.store.clone(), clock, node.stop_keeping.clone()));
    node.keeping.spawn(node.handover.clone().run(node.stop_keeping.clone()));
    let not_ready = not_ready(&node, draining.clone());
    let admin = Admin {
        registry: Arc::new(node.registry),
        not_ready,
        token: config.admin_token.clone(),
        handover: Some(node.handover.clone()),
    };
    let admin_settings = server::Settings { proxies: vec![], ..settings::server(&config) };
    let stop_admin = node.stop_keeping.clone();
    let admin_address = admin_listener.local_addr()?;
    node.keeping.spawn(server::serve(
        admin_listener,
        admin::router(admin),
        admin_settings,
        node.keeping.clone(),
        stop_admin,
    ));
    let address = listener.local_addr()?;
    let settings = settings::server(&config);
    node.serving.spawn(server::serve(
        listener,
        node.api,
        settings,
        node.serving.clone(),
        stop_accepting.clone(),
    ));
    tracing::info!(%address, admin = %admin_address, data = %ports.place, "serving at http://{address}/");

    stop.cancelled().await;
    let grace = Duration::from_millis(config.shutdown.grace_ms);
    let ended = async {
        draining.store(true, Ordering::Relaxed);
        if let Some(membership) = &node.membership {
            tracing::info!("ending: partitions go to other nodes");
            let left = tokio::time::timeout(grace / 3, membership.leave(&node.owners)).await;
            if left.is_err() {
                tracing::warn!(
                    "not every partition could be closed in time; others wait for the lease"
                );
            }
        }
        tracing::info!("ending: clients are told to connect again");
        stop_accepting.cancel();
        let drained = node.handover.leave(config.shutdown.drain_jitter_ms).await;
        node.serving.close();
        node.serving.wait().await;
        node.owners.release_all();
        node.owning.close();
        node.owning.wait().await;
        node.stop_keeping.cancel();
        node.keeping.close();
        node.keeping.wait().await;
        node.hub.detach();
        drained
    };
    match tokio::time::timeout(grace, ended).await {
        Ok(drained) => tracing::info!(told = drained.told, cut_off = drained.cut_off, "ended"),
        Err(_) => tracing::warn!("ended before everything was done: the grace time is over"),
    }
    Ok(())
}

/// The OpenAPI document of the HTTP API, as JSON.
pub fn openapi() -> String {
    let document = async {
        let ports = Ports::memory();
        let config = Config::load(&Sources::default())?;
        let (clock, stop) = (Clock::system(), CancellationToken::new());
        let node = build(&config, &ports, clock, KeyRing::random(), 0, &stop).await?;
        Ok::<_, anyhow::Error>(node.document.to_pretty_json()?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(document));
    made.unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

async fn listen(address: SocketAddr, field: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| {
        format!("cannot listen on {address}; choose another address with `{field}`")
    })
}

async fn build(
    config: &Config,
    ports: &Ports,
    clock: Clock,
    keys: KeyRing,
    epoch: u64,
    stop: &CancellationToken,
) -> anyhow::Result<Node> {
    let lease = Lease { node: NodeId::random(), start: rand::random() };
    let keys = Arc::new(keys);
    let auth = Arc::new(Auth::new(settings::auth(config), keys.clone(), clock.clone())?);
    let session_metrics = session::Metrics::default();
    let hub = Hub::new(clock.clone(), session_metrics.hub.clone());
    let membership = membership(config, ports, &clock, lease);
    let leases: Arc<dyn Leases> = match &membership {
        Some(membership) => membership.clone(),
        None => Arc::new(Alone),
    };
    let ear = Arc::new(Ear {
        hub: hub.clone(),
        auth: auth.clone(),
        membership: membership.clone(),
        owners: OnceLock::new(),
        gateway: OnceLock::new(),
        handover: OnceLock::new(),
    });
    let bus = ports.broker.connect(ear.clone()).await?;
    hub.attach(bus.clone());
    bus.subscribe(Subject::Watermarks).await?;
    bus.subscribe(Subject::Nodes).await?;
    bus.subscribe(Subject::Node(lease.node)).await?;
    let (serving, keeping, owning) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let stop_keeping = CancellationToken::new();

    let presence_settings = presence::Settings {
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        offline_after_ms: config.offline_after_ms,
    };
    let presence_metrics = presence::Metrics::default();
    let presence_owners = PresenceOwners::new(
        presence_settings,
        clock.clone(),
        ports.store.clone(),
        bus.clone(),
        leases.clone(),
        presence_metrics.clone(),
    );
    let route =
        Arc::new(PresenceRoute { owners: presence_owners.clone(), router: OnceLock::new() });
    let presences = PresenceService::new(
        lease.node,
        presence_settings,
        clock.clone(),
        route.clone(),
        ports.store.clone(),
        presence_metrics.clone(),
    );
    let companion =
        PresenceCompanion { owners: presence_owners.clone(), service: presences.clone() };

    let metrics = Metrics::default();
    let shared = Arc::new(Shared {
        broker: ports.broker.clone(),
        bus: bus.clone(),
        store: ports.store.clone(),
        clock: clock.clone(),
        lease,
        leases,
        room_window: Duration::from_millis(config.room_batch_window_ms),
        // A node alone has every session: fetching would cost it more than the bus does.
        published_body_bytes_max: match &membership {
            Some(_) => limits::PUBLISHED_BODY_BYTES_MAX,
            None => usize::MAX,
        },
        log_retention: LOG_RETENTION,
        unwritten_bytes: AtomicUsize::new(0),
        outages: Outages::default(),
        replays: Semaphore::new(limits::REPLAYS_MAX),
        metrics: metrics.clone(),
    });
    let watermarks = Arc::new(Watermarks::new(lease.node));
    let owners = Owners::new(shared, watermarks.clone(), Arc::new(companion), owning.clone());
    ensure!(ear.owners.set(owners.clone()).is_ok(), "the bus has one set of owners");
    let deadline = Duration::from_millis(config.command_deadline_ms);
    let router = Arc::new(Router::new(owners.clone(), bus.clone(), ports.store.clone(), deadline));
    ensure!(route.router.set(router.clone()).is_ok(), "presence has one router");
    presence_owners.run(&keeping, stop_keeping.clone());
    let bodies = Arc::new(Bodies { router: router.clone() });
    keeping.spawn(hub.clone().fetch_bodies(bodies, stop_keeping.clone()));
    presences.clone().run(&keeping, stop_keeping.clone());

    let directory = Arc::new(places::directory(config, lease.node, membership.clone(), keys));
    let gateway = Gateway::new(Parts {
        settings: settings::session(config),
        clock: clock.clone(),
        store: ports.store.clone(),
        store_epoch: epoch,
        hub: hub.clone(),
        watermarks: watermarks.clone(),
        conversations: router.clone(),
        presences: presences.clone(),
        authenticate: auth.clone(),
        directory: directory.clone(),
        metrics: session_metrics.clone(),
    });
    gateway.spawn(&keeping, &stop_keeping);
    // The gateway holds the bus, and the bus its receiver.
    ensure!(ear.gateway.set(Arc::downgrade(&gateway)).is_ok(), "the bus has one gateway");
    let held = owners.clone();
    let handover = Handover::new(handover::Parts {
        gateway: gateway.clone(),
        bus: bus.clone(),
        membership: membership.clone(),
        partitions: Box::new(move || {
            held.holdings().iter().filter(|holding| **holding != Holding::Idle).count() as u64
        }),
        name: config.node_name.clone(),
        revision: config.revision.clone(),
        start: lease.start,
        stop: stop.clone(),
    });
    ensure!(ear.handover.set(Arc::downgrade(&handover)).is_ok(), "the bus has one hand-over");
    let transports: OpenApiRouter = transport::websocket::router(gateway.clone())
        .merge(transport::poll::router(gateway.clone()))
        .merge(transport::events::router(gateway.clone()));
    let services = http::Services {
        store: ports.store.clone(),
        conversations: router,
        presences,
        bus,
        auth,
        clock,
        directory,
        settings: settings::http(config),
    };
    let (api, document) = http::router(services, transports)?;
    let mut registry = Registry::with_prefix("chat");
    metrics.register(&mut registry);
    session_metrics.register(&mut registry);
    presence_metrics.register(&mut registry);
    handover.metrics().register(&mut registry);
    if let Some(membership) = &membership {
        membership.metrics().register(&mut registry);
        let gateway = Arc::downgrade(&gateway);
        membership.count_connections(move || {
            gateway.upgrade().map_or(0, |gateway| gateway.sessions.len() as u64)
        });
    }
    Ok(Node {
        membership,
        owners,
        watermarks,
        handover,
        hub,
        api,
        document,
        registry,
        serving,
        keeping,
        stop_keeping,
        owning,
    })
}

/// This node's place among others; none if there can be no others.
fn membership(
    config: &Config,
    ports: &Ports,
    clock: &Clock,
    lease: Lease,
) -> Option<Arc<Membership>> {
    if config.broker == BrokerAddress::Embedded {
        return None;
    }
    let about = NodeEntry {
        node: lease.node,
        start: lease.start,
        name: config.node_name.clone(),
        address: places::advertised_host(config),
        region: config.region.as_ref().map(|region| region.as_str().to_owned()),
        revision: config.revision.clone().unwrap_or_default(),
        roles: config.roles.to_string().split(',').map(str::to_owned).collect(),
        connections: 0,
        capacity: config.connections_max,
        owns: false,
        draining: false,
        prepared: false,
        counter: 0,
    };
    Some(Membership::new(membership::Parts {
        settings: membership::Settings::default(),
        broker: ports.broker.clone(),
        clock: clock.clone(),
        about,
        has_role: config.roles.has(Role::Partitions),
        metrics: membership::Metrics::default(),
    }))
}

/// Why the node should not get traffic.
fn not_ready(node: &Node, draining: Arc<AtomicBool>) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    let (owners, watermarks) = (node.owners.clone(), node.watermarks.clone());
    let membership = node.membership.clone();
    let handover = node.handover.clone();
    Arc::new(move || {
        let mut reasons = vec![];
        if draining.load(Ordering::Relaxed) {
            reasons.push("The node is ending.".to_owned());
        } else {
            reasons.extend(handover.not_ready());
        }
        if let Some(membership) = &membership {
            reasons.extend(membership.not_ready());
        } else {
            let open = owners.open_count();
            if open < PARTITIONS as usize {
                reasons.push(format!("{open} of {PARTITIONS} partitions are open."));
            }
        }
        if watermarks.safe().0 == 0 {
            reasons.push("The safe watermark is not known yet.".to_owned());
        }
        reasons
    })
}

/// Removes rows whose time is over.
async fn expire(store: Arc<dyn Store>, clock: Clock, stop: CancellationToken) {
    let work = async {
        loop {
            match store.expire(clock.now()).await {
                // Each call is bounded; more is there as long as something went.
                Ok(removed) if removed > 0 => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(_) => tokio::time::sleep(EXPIRE_EVERY).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot remove old rows now, trying again later");
                    tokio::time::sleep(EXPIRE_EVERY).await;
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What comes in from the bus goes to whom it concerns.
struct Ear {
    hub: Arc<Hub>,
    auth: Arc<Auth>,
    membership: Option<Arc<Membership>>,
    owners: OnceLock<Arc<Owners>>,
    gateway: OnceLock<Weak<Gateway>>,
    handover: OnceLock<Weak<Handover>>,
}

impl Receiver for Ear {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        match subjects.first() {
            Some(Subject::User(_) | Subject::Room(_)) => self.hub.deliver(subjects, payload),
            Some(Subject::Watermarks) => {
                if let Some(owners) = self.owners.get() {
                    owners.hear(&payload);
                }
            }
            Some(Subject::Nodes) => {
                if !self.auth.hear(&payload) {
                    tracing::debug!("a payload for all nodes is not known to this one");
                }
            }
            Some(Subject::Node(_)) => {
                let handover = self.handover.get().and_then(Weak::upgrade);
                let is_known = self.membership.as_ref().is_some_and(|known| known.hear(&payload))
                    || handover.is_some_and(|known| known.hear(&payload));
                if !is_known {
                    tracing::debug!("a payload for this node is not known to it");
                }
            }
            Some(Subject::Partition(_)) | None => {}
        }
    }

    fn interrupted(&self) {
        if let Some(gateway) = self.gateway.get().and_then(Weak::upgrade) {
            gateway.read_all_within(READ_AFTER_INTERRUPTION);
        }
    }
}

/// Messages that were too large for the bus come from where history does.
struct Bodies {
    router: Arc<Router>,
}

#[async_trait]
impl Fetch for Bodies {
    async fn fetch(&self, reader: UserId, place: Place) -> Option<Message> {
        self.router.message(reader, place).await
    }
}

/// Presence is kept beside the conversations of a partition.
struct PresenceCompanion {
    owners: Arc<PresenceOwners>,
    service: Arc<PresenceService>,
}

#[async_trait]
impl Companion for PresenceCompanion {
    async fn open(&self, partition: Partition, epoch: u64) {
        if !partition.is_room() {
            self.owners.open(partition, epoch);
            self.service.owner_changed(partition);
        }
    }

    fn close(&self, partition: Partition) {
        self.owners.close(partition);
    }

    async fn request(&self, partition: Partition, payload: Bytes) -> Bytes {
        let Ok(command) = serde_json::from_slice(&payload) else { return Bytes::new() };
        let reply = self.owners.handle(partition, command);
        serde_json::to_vec(&reply).unwrap_or_default().into()
    }
}

/// The way to presence owners: a call where the partition is this node's, else the bus.
struct PresenceRoute {
    owners: Arc<PresenceOwners>,
    router: OnceLock<Arc<Router>>,
}

#[async_trait]
impl Route for PresenceRoute {
    async fn send(
        &self,
        partition: Partition,
        command: PresenceCommand,
    ) -> Result<PresenceReply, RequestError> {
        let unavailable = |what: &str| RequestError::Unavailable(what.to_owned());
        let router = self.router.get().ok_or_else(|| unavailable("the node is starting"))?;
        if router.is_local(partition) {
            return Ok(self.owners.handle(partition, command));
        }
        let payload =
            serde_json::to_vec(&command).map_err(|e| RequestError::Unavailable(e.to_string()))?;
        let answer = router.companion(partition, payload.into(), PRESENCE_DEADLINE).await?;
        serde_json::from_slice(&answer).map_err(|e| RequestError::Unavailable(e.to_string()))
    }
}
