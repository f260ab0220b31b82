//! What one node knows of the others, and what follows from it: whose leases have ended, and who should own what. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use chat_protocol::id::PARTITIONS;
use chat_protocol::{NodeId, Partition};

use super::entry::NodeEntry;
use crate::conversation::owners::Holding;
use crate::partition::Lease;

/// Times of leases. All nodes of a platform must agree on them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A lease that was not renewed for this long is no longer held by its node.
    pub period: Duration,
    /// What a watcher waits on top, because its watch may be silent for so long without saying so.
    pub watch_silence: Duration,
    /// A set of nodes with a new one in it counts once it has not changed for this long.
    pub stable: Duration,
    /// Partitions that are taken at a time.
    pub takes_max: usize,
    /// Partitions that are released at a time. Each waits for the others that are on their way.
    pub releases_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_secs(3),
            watch_silence: chat_broker::WATCH_SILENCE_MAX,
            stable: Duration::from_secs(5),
            takes_max: 32,
            releases_max: 8,
        }
    }
}

/// A watcher that stood still for this long itself heard nobody meanwhile.
const STALL_MAX: Duration = Duration::from_secs(1);

/// A partition stays at least this long where it was opened, so that two views that differ for a moment do not throw it
/// to and fro.
const SETTLE: Duration = Duration::from_secs(2);

/// Between two attempts to take a partition that is not free. A release is told, so this is for what is lost.
const RETRY: Duration = Duration::from_secs(1);

/// How long an offer is good.
const OFFER: Duration = Duration::from_secs(2);

/// The entry of a dead node is removed after this time.
const BURIAL: Duration = Duration::from_secs(60);

/// Leases remembered as ended, or waited for; more than any fleet starts in a day.
const LEASES_MAX: usize = 10_000;

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Partitions to try to take, if their logs say that they are free; and whether their owners said so.
    pub take: Vec<(Partition, bool)>,
    /// Partitions to give up, and who should take them.
    pub release: Vec<(Partition, Option<NodeId>)>,
}

struct Known {
    entry: NodeEntry,
    revision: u64,
    heard: Duration,
}

/// What one node knows.
pub struct View {
    settings: Settings,
    own: Lease,
    nodes: BTreeMap<NodeId, Known>,
    owner_revision: String,
    /// Since when nothing can have been missed; none while the watch is interrupted.
    unbroken_since: Option<Duration>,
    ticked: Duration,
    /// Leases whose entries were removed: they ended well, or long ago.
    removed: HashSet<Lease>,
    /// Leases without an entry, and since when they are waited for.
    unknown: HashMap<Lease, Duration>,
    /// Nodes that could own now, and since when these are they.
    candidates: BTreeSet<NodeId>,
    candidates_since: Duration,
    /// Nodes that the partitions are spread over.
    active: BTreeSet<NodeId>,
    was_active: bool,
    assignment: Vec<Option<NodeId>>,
    next_try: HashMap<Partition, Duration>,
    offered_until: HashMap<Partition, Duration>,
}

impl View {
    /// Nothing is known yet.
    pub fn new(settings: Settings, own: Lease) -> View {
        View {
            settings,
            own,
            nodes: BTreeMap::new(),
            owner_revision: String::new(),
            unbroken_since: None,
            ticked: Duration::ZERO,
            removed: HashSet::new(),
            unknown: HashMap::new(),
            candidates: BTreeSet::new(),
            candidates_since: Duration::ZERO,
            active: BTreeSet::new(),
            was_active: false,
            assignment: vec![None; PARTITIONS as usize],
            next_try: HashMap::new(),
            offered_until: HashMap::new(),
        }
    }

    /// An entry was told, in this revision of its key. Told again after an interruption it is no sign of life.
    pub fn heard(&mut self, entry: NodeEntry, revision: u64, now: Duration) {
        self.removed.remove(&entry.lease());
        self.unknown.remove(&entry.lease());
        if let Some(known) = self.nodes.get(&entry.node)
            && known.revision >= revision
        {
            return;
        }
        self.nodes.insert(entry.node, Known { entry, revision, heard: now });
        self.update(now);
    }

    /// A node's entry is gone: it left, or was dead for long.
    pub fn gone(&mut self, node: NodeId, now: Duration) {
        if let Some(known) = self.nodes.remove(&node) {
            if self.removed.len() >= LEASES_MAX {
                self.removed.clear();
            }
            self.removed.insert(known.entry.lease());
            self.next_try.clear();
        }
        self.update(now);
    }

    /// Whose nodes own partitions; empty: all.
    pub fn set_owner_revision(&mut self, revision: String, now: Duration) {
        self.owner_revision = revision;
        self.update(now);
    }

    /// Every entry there is was told, and changes follow.
    pub fn current(&mut self, now: Duration) {
        self.unbroken_since.get_or_insert(now);
        self.update(now);
    }

    /// Changes may be missed: silence proves nothing until everything was told again, and then from its beginning.
    pub fn interrupted(&mut self) {
        self.unbroken_since = None;
    }

    /// Whether everything is known at the moment.
    pub fn is_current(&self) -> bool {
        self.unbroken_since.is_some()
    }

    /// The nodes that are alive, this one included.
    pub fn alive(&self, now: Duration) -> impl Iterator<Item = &NodeEntry> {
        let nodes = self.nodes.values().filter(move |known| !self.is_silent(known.heard, now));
        nodes.map(|known| &known.entry)
    }

    /// Keys of nodes that have been dead for so long that nobody waits for them, with their revisions.
    pub fn to_bury(&self, now: Duration) -> Vec<(NodeId, u64)> {
        let dead = |known: &&Known| {
            self.is_silent(known.heard, now)
                && now.saturating_sub(known.heard.max(self.unbroken_since.unwrap_or(now))) > BURIAL
        };
        let dead = self.nodes.values().filter(dead);
        dead.map(|known| (known.entry.node, known.revision)).collect()
    }

    /// Whether a lease has certainly ended: its entry was removed, or it was silent for a full period, watched without
    /// a gap.
    pub fn has_ended(&mut self, lease: Lease, now: Duration) -> bool {
        self.notice_stall(now);
        if lease == self.own || self.removed.contains(&lease) {
            return true;
        }
        if let Some(known) = self.nodes.get(&lease.node)
            && known.entry.start == lease.start
        {
            return self.is_silent(known.heard, now);
        }
        // A node that has just begun may not have been told of yet.
        if self.unknown.len() >= LEASES_MAX {
            self.unknown.clear();
        }
        let asked = *self.unknown.entry(lease).or_insert(now);
        self.is_silent(asked, now)
    }

    fn is_silent(&self, heard: Duration, now: Duration) -> bool {
        let Some(unbroken) = self.unbroken_since else { return false };
        let wait = self.settings.period + self.settings.watch_silence;
        now.saturating_sub(heard.max(unbroken)) >= wait
    }

    /// This process stood still: what came meanwhile may still wait to be told.
    fn notice_stall(&mut self, now: Duration) {
        if now.saturating_sub(self.ticked) > STALL_MAX && self.unbroken_since.is_some() {
            self.unbroken_since = Some(now);
        }
        self.ticked = now;
    }

    /// Time passes: who counts as alive, and who owns what.
    pub fn update(&mut self, now: Duration) {
        self.notice_stall(now);
        if self.unbroken_since.is_none() {
            return;
        }
        let candidates = self.find_candidates(now);
        if candidates != self.candidates {
            self.candidates = candidates;
            self.candidates_since = now;
        }
        let before = self.active.clone();
        self.active.retain(|node| self.candidates.contains(node));
        let is_stable = now.saturating_sub(self.candidates_since) >= self.settings.stable;
        // Nobody of those who owned is left: whoever is there goes on at once.
        let is_orphaned = self.active.is_empty() && self.was_active;
        if is_stable || is_orphaned {
            self.active.clone_from(&self.candidates);
        }
        self.was_active |= !self.active.is_empty();
        if self.active != before {
            let owner = |partition| rendezvous(partition, &self.active);
            self.assignment = Partition::all().map(owner).collect();
            self.next_try.clear();
            // Owners that are alive close their logs first, and say so. Looking at all of them before would take time from
            // that.
            let is_dead = |node: &NodeId| {
                self.nodes.get(node).is_none_or(|known| self.is_silent(known.heard, now))
            };
            if !before.is_empty() && !before.iter().any(is_dead) {
                let open = Partition::all().filter(|p| !self.offered_until.contains_key(p));
                self.next_try.extend(open.map(|partition| (partition, now + RETRY)));
            }
        }
    }

    fn find_candidates(&self, now: Duration) -> BTreeSet<NodeId> {
        let able: Vec<&NodeEntry> =
            self.alive(now).filter(|entry| entry.owns && !entry.draining).collect();
        let preferred = |entry: &&&NodeEntry| entry.revision == self.owner_revision;
        let some_preferred =
            !self.owner_revision.is_empty() && able.iter().any(|entry| preferred(&entry));
        let chosen = able.iter().filter(|entry| !some_preferred || preferred(entry));
        chosen.map(|entry| entry.node).collect()
    }

    /// Who should own a partition; none: nobody known could.
    pub fn assigned(&self, partition: Partition) -> Option<NodeId> {
        self.assignment.get(partition.0 as usize).copied().flatten()
    }

    /// Its owner says that it has just closed this partition for this node.
    pub fn offered(&mut self, partition: Partition, now: Duration) {
        self.offered_until.insert(partition, now + OFFER);
        self.next_try.remove(&partition);
    }

    /// What to do with the partitions that this node has or should have. `may_own`: its clock is right, and it stays.
    pub fn moves(&mut self, may_own: bool, holdings: &[Holding], now: Duration) -> Moves {
        self.update(now);
        self.offered_until.retain(|_, until| *until > now);
        let count = |wanted: fn(&Holding) -> bool| holdings.iter().filter(|h| wanted(h)).count();
        let mut takes = self.settings.takes_max;
        takes = takes.saturating_sub(count(|holding| *holding == Holding::Opening));
        let mut releases = self.settings.releases_max;
        releases = releases.saturating_sub(count(|holding| *holding == Holding::Releasing));
        let mut moves = Moves::default();
        for (partition, holding) in Partition::all().zip(holdings) {
            match holding {
                Holding::Idle if may_own && takes > 0 && self.is_wanted(partition, now) => {
                    self.next_try.insert(partition, now + RETRY);
                    takes -= 1;
                    moves.take.push((partition, self.offered_until.contains_key(&partition)));
                }
                Holding::Open(since) if releases > 0 => {
                    let heir = self.heir(partition, may_own);
                    let has_settled = now.saturating_sub(*since) >= SETTLE;
                    let moves_on = self.is_current() && has_settled && heir.is_some();
                    if !may_own || moves_on {
                        releases -= 1;
                        moves.release.push((partition, heir));
                    }
                }
                _ => {}
            }
        }
        moves
    }

    fn is_wanted(&self, partition: Partition, now: Duration) -> bool {
        let is_mine = self.is_current() && self.assigned(partition) == Some(self.own.node);
        let is_due = self.next_try.get(&partition).is_none_or(|due| *due <= now);
        is_due && (is_mine || self.offered_until.contains_key(&partition))
    }

    /// Which other node should have it. One that leaves gives to others whatever the assignment says yet.
    fn heir(&self, partition: Partition, may_own: bool) -> Option<NodeId> {
        match self.assigned(partition) {
            Some(node) if node != self.own.node => Some(node),
            _ if may_own => None,
            _ => {
                let others = self.active.iter().copied().filter(|node| *node != self.own.node);
                rendezvous(partition, &others.collect())
            }
        }
    }
}

/// The node with the highest weight: one that goes or comes moves no partition between the others (rendezvous hashing).
fn rendezvous(partition: Partition, nodes: &BTreeSet<NodeId>) -> Option<NodeId> {
    nodes.iter().copied().max_by_key(|node| (weight(partition, *node), *node))
}

/// The same in every version of the program: nodes must agree on it.
fn weight(partition: Partition, node: NodeId) -> u64 {
    let (high, low) = node.0.as_u64_pair();
    mixed(mixed(mixed(high) ^ low) ^ u64::from(partition.0))
}

/// The finaliser of SplitMix64.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
