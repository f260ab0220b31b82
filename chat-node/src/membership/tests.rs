//! The pure part over random histories of nodes that start, die, stand still and lose their watches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chat_protocol::id::PARTITIONS;
use chat_protocol::{NodeId, Partition};
use proptest::prelude::*;
use uuid::Uuid;

use super::entry::NodeEntry;
use super::view::{Settings, View};
use crate::conversation::owners::Holding;
use crate::partition::Lease;

const STEP: Duration = Duration::from_millis(100);
const RENEW_STEPS: u64 = 8;
/// A renewal is told within so many steps.
const TOLD_STEPS: u64 = 4;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(number: u64) -> Lease {
    Lease { node: NodeId(Uuid::from_u128(u128::from(number))), start: number }
}

fn entry(lease: Lease, counter: u64) -> NodeEntry {
    NodeEntry {
        node: lease.node,
        start: lease.start,
        name: "node".to_owned(),
        address: None,
        region: None,
        revision: String::new(),
        roles: vec![],
        connections: 0,
        capacity: 0,
        owns: true,
        draining: false,
        prepared: false,
        counter,
    }
}

/// A view of these nodes, in which their set is stable.
fn settled(own: Lease, others: &[Lease]) -> View {
    let mut view = View::new(Settings::default(), own);
    for lease in others.iter().chain([&own]) {
        view.heard(entry(*lease, 1), 1, Duration::ZERO);
    }
    view.current(Duration::ZERO);
    for tenths in 1..=60 {
        for lease in others.iter().chain([&own]) {
            view.heard(entry(*lease, tenths + 1), tenths + 1, STEP * tenths as u32);
        }
        view.update(STEP * tenths as u32);
    }
    view
}

#[test]
fn a_node_that_comes_or_goes_moves_only_its_own_partitions() {
    let leases: Vec<Lease> = (1..=5).map(lease).collect();
    let four = settled(leases[0], &leases[1..4]);
    let five = settled(leases[0], &leases[1..5]);
    let mut moved = 0;
    for partition in Partition::all() {
        let (before, after) = (four.assigned(partition), five.assigned(partition));
        if before != after {
            assert_eq!(after, Some(leases[4].node), "{partition} moved between nodes that stayed");
            moved += 1;
        }
    }
    assert!((32..=110).contains(&moved), "a fair share moves: {moved}");
}

#[test]
fn silence_over_a_broken_watch_proves_nothing() {
    let (own, other) = (lease(1), lease(2));
    let mut view = settled(own, &[other]);
    let mut now = seconds(6);
    let mut pass = |view: &mut View, time: Duration| {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            now += STEP;
            view.update(now);
        }
        now
    };
    let at = pass(&mut view, seconds(4));
    assert!(!view.has_ended(other, at), "the period and the watch's own silence are not over");
    view.interrupted();
    let at = pass(&mut view, seconds(60));
    assert!(!view.has_ended(other, at));
    view.heard(entry(other, 61), 61, at);
    view.current(at);
    let at = pass(&mut view, seconds(4));
    assert!(!view.has_ended(other, at), "it counts from the beginning again");
    let at = pass(&mut view, seconds(1));
    assert!(view.has_ended(other, at));
    view.heard(entry(other, 62), 62, at);
    assert!(!view.has_ended(other, at), "it has only stood still");
    view.gone(other.node, at);
    assert!(view.has_ended(other, at), "it has left");
    assert!(!view.has_ended(lease(3), at), "nobody has heard of it yet");
    let at = pass(&mut view, seconds(5));
    assert!(view.has_ended(lease(3), at));
    let stalled = at + seconds(10);
    view.heard(entry(other, 63), 63, at);
    assert!(!view.has_ended(other, stalled), "the watcher itself stood still");
}

#[test]
fn only_nodes_of_the_owner_revision_own_while_any_is_alive() {
    let (blue, green) = (lease(1), lease(2));
    let mut view = settled(blue, &[]);
    let at = seconds(7);
    let told = NodeEntry { revision: "green".to_owned(), ..entry(green, 1) };
    view.set_owner_revision("green".to_owned(), at);
    assert_eq!(view.assigned(Partition(0)), Some(blue.node), "none of it is alive");
    view.heard(told, 1, at);
    assert!(Partition::all().all(|partition| view.assigned(partition) == Some(green.node)));
    view.gone(green.node, at + STEP);
    assert!(Partition::all().all(|partition| view.assigned(partition) == Some(blue.node)));
}

#[test]
fn what_a_node_leaves_is_taken_when_it_says_so_and_what_a_dead_one_had_at_once() {
    let (own, other) = (lease(1), lease(2));
    let holdings = |view: &View| -> Vec<Holding> {
        let is_own = |partition| view.assigned(partition) == Some(own.node);
        let holding = |partition| match is_own(partition) {
            true => Holding::Open(seconds(1)),
            false => Holding::Idle,
        };
        Partition::all().map(holding).collect()
    };
    let mut view = settled(own, &[other]);
    let held = holdings(&view);
    let at = seconds(6) + STEP;
    let leaving = NodeEntry { owns: false, draining: true, ..entry(other, 100) };
    view.heard(leaving, 100, at);
    assert_eq!(view.moves(true, &held, at).take, vec![], "their owner has yet to close them");
    let free = Partition::all().find(|partition| held[partition.0 as usize] == Holding::Idle);
    let free = free.unwrap();
    view.offered(free, at);
    assert_eq!(view.moves(true, &held, at).take, vec![(free, true)]);
    let later = at + seconds(1);
    assert!(view.moves(true, &held, later).take.len() > 1, "its word may be lost");

    let mut view = settled(own, &[other]);
    let held = holdings(&view);
    view.gone(other.node, at);
    assert!(view.moves(true, &held, at).take.len() > 1);
}

/// A node of a run.
struct Simulated {
    lease: Lease,
    view: View,
    held_until: Duration,
    /// Since when its lease has not lapsed.
    held_since: Duration,
    holdings: Vec<Holding>,
    paused_until: Duration,
    broken_until: Option<Duration>,
    /// Entries on their way: when they arrive.
    arriving: Vec<(Duration, NodeEntry, u64)>,
    counter: u64,
}

/// Nodes, their keys, and the last record of each partition.
struct World {
    now: Duration,
    nodes: BTreeMap<u64, Simulated>,
    keys: BTreeMap<u64, (NodeEntry, u64)>,
    revision: u64,
    /// Who wrote it, and whether it is a closing record.
    log: Vec<Option<(Lease, bool)>>,
    started: u64,
    random: proptest::test_runner::TestRng,
}

impl World {
    fn new(random: proptest::test_runner::TestRng) -> World {
        World {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            keys: BTreeMap::new(),
            revision: 0,
            log: vec![None; PARTITIONS as usize],
            started: 0,
            random,
        }
    }

    fn start(&mut self) {
        self.started += 1;
        let lease = lease(self.started);
        let mut view = View::new(Settings::default(), lease);
        for (entry, revision) in self.keys.values() {
            view.heard(entry.clone(), *revision, self.now);
        }
        view.current(self.now);
        let node = Simulated {
            lease,
            view,
            held_until: Duration::ZERO,
            held_since: Duration::ZERO,
            holdings: vec![Holding::Idle; PARTITIONS as usize],
            paused_until: Duration::ZERO,
            broken_until: None,
            arriving: vec![],
            counter: 0,
        };
        self.nodes.insert(self.started, node);
    }

    fn pick(&mut self) -> Option<u64> {
        let index = self.random.next_u64() as usize % self.nodes.len().max(1);
        self.nodes.keys().nth(index).copied()
    }

    fn happen(&mut self, event: u8) {
        let Some(number) = self.pick() else { return self.start() };
        let length = STEP * (1 + self.random.next_u64() % 100) as u32;
        let now = self.now;
        if event == 1 && self.nodes.len() < 6 {
            return self.start();
        }
        let node = self.nodes.get_mut(&number).expect("picked");
        match event {
            0 => _ = self.nodes.remove(&number),
            2 => node.paused_until = now + length,
            3 => {
                node.view.interrupted();
                node.arriving.clear();
                node.broken_until = Some(now + length);
            }
            _ => {}
        }
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        self.now += STEP;
        let now = self.now;
        self.renew();
        let numbers: Vec<u64> = self.nodes.keys().copied().collect();
        for number in numbers {
            let node = self.nodes.get_mut(&number).expect("it is there");
            if node.paused_until > now {
                continue;
            }
            match node.broken_until {
                Some(until) if until <= now => {
                    node.broken_until = None;
                    for (entry, revision) in self.keys.values() {
                        node.view.heard(entry.clone(), *revision, now);
                    }
                    node.view.current(now);
                }
                _ => {}
            }
            let arrived = node.arriving.extract_if(.., |(at, ..)| *at <= now);
            for (_, entry, revision) in arrived.collect::<Vec<_>>() {
                node.view.heard(entry, revision, now);
            }
            self.act(number)?;
        }
        Ok(())
    }

    fn renew(&mut self) {
        let now = self.now;
        let steps = (now.as_millis() / STEP.as_millis()) as u64;
        let mut told = vec![];
        for (number, node) in &mut self.nodes {
            let is_due = node.counter == 0 || (steps + number).is_multiple_of(RENEW_STEPS);
            if node.paused_until > now || !is_due {
                continue;
            }
            node.counter += 1;
            self.revision += 1;
            if node.held_until <= now {
                node.held_since = now;
            }
            node.held_until = now + Settings::default().period;
            let entry = entry(node.lease, node.counter);
            self.keys.insert(*number, (entry.clone(), self.revision));
            told.push((entry, self.revision));
        }
        for (entry, revision) in told {
            for node in self.nodes.values_mut().filter(|node| node.broken_until.is_none()) {
                let delay = STEP * (self.random.next_u64() % TOLD_STEPS) as u32;
                node.arriving.push((now + delay, entry.clone(), revision));
            }
        }
    }

    fn act(&mut self, number: u64) -> Result<(), TestCaseError> {
        let now = self.now;
        let held: BTreeSet<u64> =
            self.nodes.iter().filter(|(_, n)| n.held_until > now).map(|(n, _)| *n).collect();
        // A lease that had lapsed is renewed in vain for as long as nobody has heard of it: there the log decides.
        let told = STEP * TOLD_STEPS as u32;
        let is_steady = |node: &Simulated| node.held_until > now && node.held_since + told < now;
        let steady: BTreeSet<u64> =
            self.nodes.iter().filter(|(_, node)| is_steady(node)).map(|(n, _)| *n).collect();
        let node = self.nodes.get_mut(&number).expect("it is there");
        for (holding, record) in node.holdings.iter_mut().zip(&self.log) {
            // The log has deposed it.
            if *holding != Holding::Idle
                && !matches!(record, Some((lease, false)) if *lease == node.lease)
            {
                *holding = Holding::Idle;
            }
        }
        if !held.contains(&number) {
            return Ok(());
        }
        let moves = node.view.moves(true, &node.holdings, now);
        let mut offers = vec![];
        for (partition, _) in moves.take {
            let at = partition.0 as usize;
            if let Some((lease, false)) = self.log[at] {
                if !node.view.has_ended(lease, now) {
                    continue;
                }
                let is_own = lease == node.lease;
                prop_assert!(
                    is_own || !steady.contains(&lease.start),
                    "{partition} was taken from a live lease"
                );
            }
            self.log[at] = Some((node.lease, false));
            node.holdings[at] = Holding::Open(now);
        }
        for (partition, heir) in moves.release {
            let at = partition.0 as usize;
            self.log[at] = Some((node.lease, true));
            node.holdings[at] = Holding::Idle;
            offers.push((partition, heir));
        }
        for (partition, heir) in offers {
            let Some(heir) = heir else { continue };
            if let Some(heir) = self.nodes.values_mut().find(|node| node.lease.node == heir) {
                heir.view.offered(partition, now);
            }
        }
        Ok(())
    }

    fn owners(&self) -> Vec<Option<NodeId>> {
        let owner = |at: usize| {
            let mut open =
                self.nodes.values().filter(|n| matches!(n.holdings[at], Holding::Open(_)));
            let first = open.next().map(|node| node.lease.node);
            first.filter(|_| open.next().is_none())
        };
        (0..PARTITIONS as usize).map(owner).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn no_live_lease_loses_a_partition_and_everything_is_owned_in_the_end(
        events in prop::collection::vec((0u8..8, 1u32..40), 5..24),
        random in any::<[u8; 32]>(),
    ) {
        let algorithm = proptest::test_runner::RngAlgorithm::ChaCha;
        let mut world = World::new(proptest::test_runner::TestRng::from_seed(algorithm, &random));
        world.start();
        for (event, steps) in events {
            world.happen(event);
            for _ in 0..steps {
                world.step()?;
            }
        }
        if world.nodes.is_empty() {
            world.start();
        }
        for _ in 0..300 {
            world.step()?;
        }
        let first = world.nodes.values().next().expect("one is there");
        for (partition, owner) in Partition::all().zip(world.owners()) {
            prop_assert!(owner.is_some(), "{partition} has no owner");
            prop_assert_eq!(owner, first.view.assigned(partition), "as all views agree");
        }
    }
}
