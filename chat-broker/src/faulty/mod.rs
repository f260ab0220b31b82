//! A broker that fails as brokers do: for tests of what is built on one.
//!
//! [`FaultyBroker`] wraps the broker of one node; all nodes of a test share one [`Faults`]. What fails is drawn from the
//! caller's seed, when a call begins, so that a test on a `current_thread` runtime runs the same way every time. Without
//! [`Rates`] nothing fails.
//!
//! Everything but duplicate publications is within the contract of [`Broker`](crate::Broker).

mod broker;
mod bus;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chat_protocol::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch::Sender;

use crate::Subject;
use crate::broker::Receiver;

pub use self::broker::FaultyBroker;

/// How often each thing goes wrong: probabilities from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// An append gets lost on its way: unknown outcome, not appended.
    pub append_lost: f64,
    /// An append lands, its acknowledgement gets lost: unknown outcome.
    pub append_answer_lost: f64,
    /// An append is answered "unknown" now, and tried later.
    pub append_late: f64,
    /// An append takes a while before it is tried.
    pub append_delay_before: f64,
    /// An append takes a while after it was tried.
    pub append_delay_after: f64,
    /// The log has no room for an append.
    pub append_full: f64,
    /// A read of the log misses the newest records.
    pub read_stale: f64,
    /// A read of the log, or of a key, fails.
    pub read_error: f64,
    /// A read takes a while.
    pub read_delay: f64,
    /// A write or removal of a key gets lost on its way: error, not made.
    pub put_lost: f64,
    /// A key is written or removed, the answer gets lost: error.
    pub put_answer_lost: f64,
    /// A write or removal of a key takes a while before it is tried.
    pub put_delay: f64,
    /// A purge fails without having removed anything.
    pub purge_error: f64,
    /// A change that is watched is told a while later.
    pub watch_delay: f64,
    /// A watch is interrupted for a while, instead of telling a change.
    pub watch_interrupted: f64,
    /// A publication to one subject reaches nobody.
    pub publish_lost: f64,
    /// A publication to one subject takes a while; later ones to that subject stay behind it.
    pub publish_delay: f64,
    /// A publication to one subject arrives twice. Not within the contract.
    pub publish_duplicate: f64,
    /// A request gets lost: nobody sees it, and its deadline passes.
    pub request_lost: f64,
    /// A request is carried out, its answer gets lost: the deadline passes.
    pub answer_lost: f64,
    /// A request takes a while before it is delivered.
    pub request_delay: f64,
    /// A request is delivered a second time, a while later; only the first answer counts.
    pub request_duplicate: f64,
    /// A server is not begun.
    pub serve_error: f64,
}

/// What goes wrong, and how badly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How often.
    pub rates: Rates,
    /// Delays are up to this long.
    pub delay_max: Duration,
    /// Stale reads miss up to this many records.
    pub stale_records_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rates: Rates::default(),
            delay_max: Duration::from_millis(500),
            stale_records_max: 4,
        }
    }
}

/// The handle by which a test decides what goes wrong. Clones share their state.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    cut_off_changed: Arc<Sender<()>>,
}

struct State {
    random: StdRng,
    settings: Settings,
    cut_off: BTreeSet<NodeId>,
    /// Which node was the last to serve a subject.
    servers: HashMap<Subject, NodeId>,
    /// Of every connection to the bus, to tell it that it was cut off.
    receivers: Vec<(NodeId, Weak<dyn Receiver>)>,
    injected: u64,
}

impl Faults {
    /// Nothing goes wrong until it is set to.
    pub fn new(seed: u64) -> Faults {
        Faults {
            state: Arc::new(Mutex::new(State {
                random: StdRng::seed_from_u64(seed),
                settings: Settings::default(),
                cut_off: BTreeSet::new(),
                servers: HashMap::new(),
                receivers: Vec::new(),
                injected: 0,
            })),
            cut_off_changed: Arc::default(),
        }
    }

    /// From now on this goes wrong.
    pub fn set(&self, settings: Settings) {
        self.state().settings = settings;
    }

    /// Like [`set`](Faults::set), with default delays.
    pub fn set_rates(&self, rates: Rates) {
        self.state().settings.rates = rates;
    }

    /// From now on nothing goes wrong by chance. What is under way may still.
    pub fn clear(&self) {
        self.set_rates(Rates::default());
    }

    /// Cuts a node off from the broker, or lets it back: nothing gets in or out. What has left it already may still land.
    /// Once it is back, its receivers are told that they were interrupted.
    pub fn cut_off(&self, node: NodeId, cut_off: bool) {
        let mut state = self.state();
        let mut back = Vec::new();
        if cut_off {
            state.cut_off.insert(node);
        } else if state.cut_off.remove(&node) {
            let of_node = state.receivers.iter().filter(|(of, _)| *of == node);
            back.extend(of_node.filter_map(|(_, receiver)| receiver.upgrade()));
        }
        drop(state);
        self.cut_off_changed.send_replace(());
        for receiver in back {
            receiver.interrupted();
        }
    }

    fn watch_cut_off(&self) -> tokio::sync::watch::Receiver<()> {
        self.cut_off_changed.subscribe()
    }

    fn note_receiver(&self, node: NodeId, receiver: Weak<dyn Receiver>) {
        let mut state = self.state();
        state.receivers.retain(|(_, receiver)| receiver.strong_count() > 0);
        state.receivers.push((node, receiver));
    }

    /// Whether a node is cut off.
    pub fn is_cut_off(&self, node: NodeId) -> bool {
        self.state().cut_off.contains(&node)
    }

    /// How many faults were injected so far, so that a test can tell that it met any.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A draw that panics changes nothing that others rely on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws several answers at once, so that the draws of one call stay together.
    fn draw<T>(&self, draw: impl FnOnce(&mut Draw<'_>) -> T) -> T {
        draw(&mut Draw { state: &mut self.state() })
    }

    fn is_server_cut_off(&self, subject: &Subject) -> bool {
        let state = self.state();
        state.servers.get(subject).is_some_and(|node| state.cut_off.contains(node))
    }

    fn note_server(&self, subject: Subject, node: NodeId) {
        self.state().servers.insert(subject, node);
    }

    fn forget_server(&self, subject: &Subject, node: NodeId) {
        let mut state = self.state();
        if state.servers.get(subject) == Some(&node) {
            state.servers.remove(subject);
        }
    }
}

/// Draws under the lock.
struct Draw<'a> {
    state: &'a mut State,
}

impl Draw<'_> {
    fn happens(&mut self, rate: impl Fn(&Rates) -> f64) -> bool {
        let probability = rate(&self.state.settings.rates).clamp(0.0, 1.0);
        // A rate of 0 draws nothing: switching one fault off leaves the draws of the others as they were.
        let happens = probability > 0.0 && self.state.random.random_bool(probability);
        self.state.injected += u64::from(happens);
        happens
    }

    fn delay(&mut self, rate: impl Fn(&Rates) -> f64) -> Option<Duration> {
        self.happens(rate).then(|| self.some_delay())
    }

    fn some_delay(&mut self) -> Duration {
        let max = self.state.settings.delay_max.as_millis().clamp(1, u128::from(u32::MAX)) as u64;
        Duration::from_millis(self.state.random.random_range(1..=max))
    }

    fn missed_records(&mut self) -> usize {
        if !self.happens(|rates| rates.read_stale) {
            return 0;
        }
        let max = self.state.settings.stale_records_max.max(1);
        self.state.random.random_range(1..=max)
    }
}

async fn pause(delay: Option<Duration>) {
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
}
