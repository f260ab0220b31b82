//! Announcers of several nodes and a sequence of owners, over a network that loses, doubles, delays and reorders.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chat_protocol::{Millis, NodeId, SessionId, UserId};
use chat_store::PresenceRow;
use proptest::prelude::*;
use uuid::Uuid;

use super::announcer::Announcer;
use super::command::{Announcement, PresenceReply};
use super::owner::{Owner, Transition};

const OFFLINE_AFTER: Duration = Duration::from_secs(30);
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How long a node waits for an answer.
const ANSWER_WAIT_MS: u64 = 2_000;
const USERS: u64 = 5;
const NODES: usize = 3;

fn user(number: u64) -> UserId {
    UserId(Uuid::from_u64_pair(number + 1, 0))
}

fn connection(number: u64) -> SessionId {
    // Spread over both halves, as random ids are.
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SessionId(Uuid::from_u64_pair(mixed, number))
}

/// What happens; numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Arrive {
        node: usize,
        user: u64,
    },
    Depart {
        which: usize,
    },
    /// The network carries an announcement to the owner, again if `keep`.
    Deliver {
        which: usize,
        keep: bool,
        answer: bool,
    },
    Lose {
        which: usize,
    },
    Pass {
        ms: u64,
    },
    NewOwner {
        rows: bool,
    },
    /// A node's process dies, and another starts in its place.
    Die {
        node: usize,
        noticed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..NODES, 0..USERS).prop_map(|(node, user)| Step::Arrive { node, user }),
        3 => any::<usize>().prop_map(|which| Step::Depart { which }),
        8 => (any::<usize>(), prop::bool::weighted(0.2), prop::bool::weighted(0.8))
            .prop_map(|(which, keep, answer)| Step::Deliver { which, keep, answer }),
        2 => any::<usize>().prop_map(|which| Step::Lose { which }),
        4 => (1u64..4_000).prop_map(|ms| Step::Pass { ms }),
        1 => any::<bool>().prop_map(|rows| Step::NewOwner { rows }),
        1 => (0..NODES, any::<bool>()).prop_map(|(node, noticed)| Step::Die { node, noticed }),
    ]
}

struct Node {
    id: NodeId,
    announcer: Announcer,
    /// Connections that stand.
    standing: BTreeMap<u64, u64>,
    /// The announcement that it waits for.
    waits: Option<(u64, Duration)>,
}

struct World {
    now: Duration,
    epoch: u64,
    owner: Owner,
    nodes: Vec<Node>,
    network: Vec<Announcement>,
    store: HashMap<UserId, PresenceRow>,
    /// As friends were told.
    told: HashMap<UserId, bool>,
    /// Offline transitions of users.
    went: Vec<UserId>,
    nodes_made: u64,
    connections_made: u64,
}

impl World {
    fn new() -> World {
        let mut owner = Owner::new(1, OFFLINE_AFTER, Duration::ZERO);
        owner.opened(Vec::new(), Duration::ZERO);
        let mut world = World {
            now: Duration::ZERO,
            epoch: 1,
            owner,
            nodes: Vec::new(),
            network: Vec::new(),
            store: HashMap::new(),
            told: HashMap::new(),
            went: Vec::new(),
            nodes_made: 0,
            connections_made: 0,
        };
        world.nodes = (0..NODES).map(|_| world.make_node()).collect();
        world
    }

    fn make_node(&mut self) -> Node {
        self.nodes_made += 1;
        let id = NodeId(Uuid::from_u128(u128::from(self.nodes_made)));
        let announcer = Announcer::new(id, BEAT_EVERY);
        Node { id, announcer, standing: BTreeMap::new(), waits: None }
    }

    fn arrive(&mut self, node: usize, number: u64) -> u64 {
        let made = self.connections_made;
        self.connections_made += 1;
        let node = &mut self.nodes[node];
        node.standing.insert(made, number);
        node.announcer.arrive(user(number), connection(made));
        made
    }

    fn depart(&mut self, made: u64) {
        for node in &mut self.nodes {
            if node.standing.remove(&made).is_some() {
                node.announcer.depart(connection(made));
            }
        }
    }

    fn take(&mut self, transitions: Vec<Transition>) {
        for transition in transitions {
            let presence = transition.presence();
            if transition.flipped {
                if !presence.online {
                    self.went.push(presence.user_id);
                }
                self.told.insert(presence.user_id, presence.online);
            }
            self.store.insert(presence.user_id, transition.row);
        }
    }

    fn send(&mut self) {
        for node in &mut self.nodes {
            if let Some((number, _)) = node.waits.filter(|(_, until)| *until <= self.now) {
                node.announcer.answered(number, None, self.now);
                node.waits = None;
            }
            if let Some(announcement) = node.announcer.next(self.now) {
                let until = self.now + Duration::from_millis(ANSWER_WAIT_MS);
                node.waits = Some((announcement.number, until));
                self.network.push(announcement);
            }
        }
    }

    fn deliver(&mut self, which: usize, keep: bool, answer: bool) {
        if self.network.is_empty() {
            return;
        }
        let which = which % self.network.len();
        let announcement = match keep {
            true => self.network[which].clone(),
            false => self.network.swap_remove(which),
        };
        let wall = Millis(1_000_000 + self.now.as_millis() as u64);
        let (reply, transitions) = self.owner.announce(&announcement, self.now, wall);
        self.take(transitions);
        if answer {
            self.answer(&announcement, &reply);
        }
    }

    fn answer(&mut self, announcement: &Announcement, reply: &PresenceReply) {
        let now = self.now;
        let node = self.nodes.iter_mut().find(|node| node.id == announcement.node);
        // Only who still waits for it gets an answer.
        let waits =
            |node: &&mut Node| node.waits.is_some_and(|(number, _)| number == announcement.number);
        if let Some(node) = node.filter(waits) {
            node.announcer.answered(announcement.number, Some(reply), now);
            node.waits = None;
        }
    }

    fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let part = left.min(500);
            left -= part;
            self.now += Duration::from_millis(part);
            let transitions = self.owner.tick(self.now);
            self.take(transitions);
            self.send();
        }
    }

    fn new_owner(&mut self, with_rows: bool) {
        self.epoch += 1;
        self.owner = Owner::new(self.epoch, OFFLINE_AFTER, self.now);
        let rows = if with_rows { self.store.values().cloned().collect() } else { Vec::new() };
        self.owner.opened(rows, self.now);
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Arrive { node, user } => {
                self.arrive(node, user);
            }
            Step::Depart { which } => {
                let standing: Vec<u64> =
                    self.nodes.iter().flat_map(|node| node.standing.keys().copied()).collect();
                if !standing.is_empty() {
                    self.depart(standing[which % standing.len()]);
                }
            }
            Step::Deliver { which, keep, answer } => self.deliver(which, keep, answer),
            Step::Lose { which } => {
                if !self.network.is_empty() {
                    let which = which % self.network.len();
                    self.network.swap_remove(which);
                }
            }
            Step::Pass { ms } => self.pass(ms),
            Step::NewOwner { rows } => self.new_owner(rows),
            Step::Die { node, noticed } => {
                let fresh = self.make_node();
                let dead = std::mem::replace(&mut self.nodes[node], fresh);
                if noticed {
                    let transitions = self.owner.node_gone(dead.id);
                    self.take(transitions);
                }
            }
        }
        self.send();
    }

    /// The network works, for so long. What was late still arrives late.
    fn calm(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.pass(100);
            while !self.network.is_empty() {
                self.deliver(0, false, true);
                self.send();
            }
        }
    }

    fn standing_users(&self) -> BTreeSet<UserId> {
        self.nodes.iter().flat_map(|node| node.standing.values().copied()).map(user).collect()
    }

    fn online_users(&self) -> BTreeSet<UserId> {
        let all: Vec<UserId> = (0..USERS).map(user).collect();
        self.owner.snapshot(&all).iter().map(|presence| presence.user_id).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever got lost, doubled or late, whoever died: the owner ends with what the live connections say, within the
    /// time of silence, and so do friends and the store. Rows of the store are always handed over here; an owner that
    /// does not get them cannot tell friends about those who left meanwhile.
    #[test]
    fn in_the_end_who_has_a_connection_is_online_and_nobody_else(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        let mut rows_lost = false;
        for step in &steps {
            rows_lost |= matches!(step, Step::NewOwner { rows: false });
            world.apply(step);
        }
        world.calm(40_000);
        let standing = world.standing_users();
        prop_assert_eq!(&world.online_users(), &standing);
        if !rows_lost {
            for number in 0..USERS {
                let online = standing.contains(&user(number));
                prop_assert_eq!(world.told.get(&user(number)).copied().unwrap_or(false), online);
                let stored = world.store.get(&user(number)).is_some_and(|row| !row.sessions.is_empty());
                prop_assert_eq!(stored, online);
            }
        }
    }

    /// A user who always has a connection at some node is never declared offline: not over resumes from node to node,
    /// not when owners change, not while announcements are lost for shorter than the time of silence.
    #[test]
    fn a_user_who_is_connected_all_the_time_never_flaps(
        rounds in prop::collection::vec(
            (0..NODES, prop::collection::vec(step(), 0..12), 0u64..3_000, any::<bool>()),
            1..20,
        ),
    ) {
        const STEADY: u64 = USERS + 7;
        let mut world = World::new();
        let mut current = world.arrive(0, STEADY);
        world.calm(3_000);
        for (node, steps, silence_ms, new_owner) in rounds {
            let next = world.arrive(node, STEADY);
            // Losses last shorter than the silence. Nobody dies, and the steady user's connections end in order.
            let bad_times_end = world.now + Duration::from_secs(12);
            for step in &steps {
                match step {
                    Step::Depart { .. } | Step::Die { .. } | Step::NewOwner { .. } => {}
                    _ if world.now > bad_times_end => {}
                    step => world.apply(step),
                }
            }
            world.calm(8_000);
            if new_owner {
                world.new_owner(true);
            }
            // The old socket is found silent only now.
            world.depart(current);
            current = next;
            world.pass(silence_ms);
            world.calm(8_000);
        }
        let went = world.went.contains(&user(STEADY));
        prop_assert!(!went, "declared offline");
    }
}

#[test]
fn a_whole_of_many_parts_ends_only_what_no_part_names() {
    let node = NodeId::random();
    let mut announcer = Announcer::new(node, BEAT_EVERY);
    let mut owner = Owner::new(1, OFFLINE_AFTER, Duration::ZERO);
    owner.opened(Vec::new(), Duration::ZERO);
    let people: Vec<(UserId, SessionId)> =
        (0..5_000).map(|_| (UserId::random(), SessionId::random())).collect();
    people.iter().for_each(|&(user, connection)| announcer.arrive(user, connection));
    let now = Duration::from_secs(1);
    let exchange = |owner: &mut Owner, announcer: &mut Announcer| {
        let mut transitions = Vec::new();
        while let Some(announcement) = announcer.next(now) {
            assert!(announcement.arrived.len() <= super::command::ANNOUNCEMENT_ENTRIES_MAX);
            let (reply, more) = owner.announce(&announcement, now, Millis(1));
            transitions.extend(more);
            announcer.answered(announcement.number, Some(&reply), now);
        }
        transitions
    };
    let arrivals = exchange(&mut owner, &mut announcer);
    assert_eq!(arrivals.iter().filter(|transition| transition.flipped).count(), 5_000);
    announcer.announce_again();
    assert!(exchange(&mut owner, &mut announcer).is_empty(), "nobody flaps when all is told again");
    // More departures than are remembered one by one.
    people[..4_500].iter().for_each(|&(_, connection)| announcer.depart(connection));
    let departures = exchange(&mut owner, &mut announcer);
    assert_eq!(departures.len(), 4_500);
    assert_eq!(owner.online_users(), 500);
}

#[test]
fn a_late_departure_of_an_old_connection_does_not_end_a_newer_one() {
    let mut world = World::new();
    let old = world.arrive(0, 0);
    world.calm(1_000);
    world.arrive(1, 0);
    world.calm(1_000);
    world.depart(old);
    world.calm(1_000);
    assert_eq!(world.online_users(), BTreeSet::from([user(0)]));
    assert!(world.went.is_empty());
}

#[test]
fn an_owner_that_was_replaced_takes_in_nothing() {
    let mut owner = Owner::new(3, OFFLINE_AFTER, Duration::ZERO);
    owner.opened(Vec::new(), Duration::ZERO);
    let mut announcer = Announcer::new(NodeId::random(), BEAT_EVERY);
    announcer.arrive(user(0), connection(0));
    let announcement = announcer.next(Duration::from_secs(1)).unwrap();
    let later = Announcement { epoch: 4, ..announcement };
    let (reply, transitions) = owner.announce(&later, Duration::from_secs(1), Millis(1));
    assert_eq!(reply, PresenceReply::Moved);
    assert!(transitions.is_empty());
    assert_eq!(owner.online_users(), 0);
}

#[test]
fn a_second_device_raises_last_active_at_and_tells_nobody() {
    let mut owner = Owner::new(1, OFFLINE_AFTER, Duration::ZERO);
    owner.opened(Vec::new(), Duration::ZERO);
    let mut announcer = Announcer::new(NodeId::random(), BEAT_EVERY);
    let hear = |owner: &mut Owner, announcer: &mut Announcer, at: u64| {
        let now = Duration::from_secs(at);
        let mut transitions = Vec::new();
        while let Some(announcement) = announcer.next(now) {
            let (reply, more) = owner.announce(&announcement, now, Millis(at));
            transitions.extend(more);
            announcer.answered(announcement.number, Some(&reply), now);
        }
        transitions
    };
    announcer.arrive(user(0), connection(0));
    assert!(hear(&mut owner, &mut announcer, 1)[0].flipped);
    announcer.arrive(user(0), connection(1));
    let second = hear(&mut owner, &mut announcer, 2);
    assert_eq!(second.len(), 1);
    assert!(!second[0].flipped);
    assert_eq!(second[0].row.last_active_at, Some(Millis(2)));
    announcer.depart(connection(0));
    announcer.depart(connection(1));
    let last = hear(&mut owner, &mut announcer, 9);
    assert_eq!(last.len(), 1);
    assert!(last[0].flipped && last[0].row.sessions.is_empty());
    assert_eq!(last[0].row.last_active_at, Some(Millis(2)), "going offline leaves it");
}

#[test]
fn rows_that_come_late_do_not_bring_back_who_left_meanwhile() {
    let mut owner = Owner::new(2, OFFLINE_AFTER, Duration::ZERO);
    let mut announcer = Announcer::new(NodeId::random(), BEAT_EVERY);
    announcer.arrive(user(0), connection(0));
    let now = Duration::from_secs(1);
    let first = announcer.next(now).unwrap();
    let (reply, _) = owner.announce(&first, now, Millis(1));
    announcer.answered(first.number, Some(&reply), now);
    announcer.depart(connection(0));
    while let Some(announcement) = announcer.next(now) {
        let (reply, _) = owner.announce(&announcement, now, Millis(1));
        announcer.answered(announcement.number, Some(&reply), now);
    }
    let row = |number, session| PresenceRow {
        user_id: user(number),
        sessions: vec![connection(session)],
        last_active_at: Some(Millis(5)),
    };
    owner.opened(vec![row(0, 0), row(1, 1)], now);
    let online: Vec<UserId> =
        owner.snapshot(&[user(0), user(1)]).iter().map(|presence| presence.user_id).collect();
    assert_eq!(online, [user(1)]);
}

#[test]
fn a_living_node_taken_for_dead_is_believed_again_at_its_next_beat() {
    let mut world = World::new();
    world.arrive(0, 0);
    world.calm(1_000);
    let taken_for_dead = world.nodes[0].id;
    let transitions = world.owner.node_gone(taken_for_dead);
    world.take(transitions);
    assert!(world.online_users().is_empty());
    world.calm(6_000);
    assert_eq!(world.online_users(), BTreeSet::from([user(0)]));
}

#[test]
fn a_whole_that_arrives_late_does_not_end_connections_made_since() {
    let mut world = World::new();
    world.arrive(0, 0);
    world.calm(1_000);
    world.nodes[0].announcer.announce_again();
    world.send();
    let late = world.network[0].clone();
    assert!(matches!(late.scope, super::command::Scope::Whole { .. }));
    world.calm(1_000);
    world.arrive(0, 1);
    world.calm(1_000);
    world.network.push(late);
    world.deliver(0, false, false);
    assert_eq!(world.online_users(), BTreeSet::from([user(0), user(1)]));
}
