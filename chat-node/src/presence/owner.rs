//! The owner of one partition's presence, as a pure state machine: announcements and time in, transitions out.
//!
//! Presence is a set of sessions. A departure names the connection it ends, so that a late one cannot end a newer
//! connection, and no clocks are compared. A connection counts as long as its node is heard and does not say that it
//! ended; so nobody stays online for ever, whatever gets lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chat_protocol::frame::Presence;
use chat_protocol::{Millis, NodeId, SessionId, UserId};
use chat_store::PresenceRow;

use super::command::{Announcement, Digest, PresenceReply, Scope};

/// Sessions written to one row. A new owner must learn that someone was online; nodes announce the rest.
const ROW_SESSIONS_MAX: usize = 16;

/// Something to write, and perhaps to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The row as it is now.
    pub row: PresenceRow,
    /// The user came or went: friends learn of it. Otherwise only `last_active_at` is new.
    pub flipped: bool,
}

impl Transition {
    /// The frame for friends.
    pub fn presence(&self) -> Presence {
        Presence {
            user_id: self.row.user_id,
            online: !self.row.sessions.is_empty(),
            last_active_at: self.row.last_active_at,
        }
    }
}

/// Presence of one partition's users.
pub struct Owner {
    epoch: u64,
    offline_after: Duration,
    /// Everyone with at least one session.
    people: HashMap<UserId, Person>,
    nodes: HashMap<NodeId, Roll>,
    /// Until when sessions from the store wait for a node to announce them.
    unclaimed_until: Option<Duration>,
    /// Users heard of before the rows of the store came: what the rows say of them is old. `None`: the rows are here.
    heard_before_rows: Option<HashSet<UserId>>,
    ticked: Duration,
}

struct Person {
    sessions: Vec<Session>,
    last_active_at: Option<Millis>,
}

struct Session {
    connection: SessionId,
    /// Who announced it; `None`: only the store has.
    node: Option<NodeId>,
}

/// One node's connections.
struct Roll {
    heard: Duration,
    number: u64,
    /// Grows with every whole announcement.
    generation: u64,
    connections: HashMap<SessionId, Mention>,
    digest: Digest,
}

struct Mention {
    user: UserId,
    generation: u64,
}

impl Roll {
    fn new(now: Duration) -> Roll {
        let digest = Digest::default();
        Roll { heard: now, number: 0, generation: 0, connections: HashMap::new(), digest }
    }

    fn mention(&mut self, user: UserId, connection: SessionId) {
        let mention = Mention { user, generation: self.generation };
        if self.connections.insert(connection, mention).is_none() {
            self.digest.add(connection);
        }
    }

    fn strike(&mut self, connection: SessionId) {
        if self.connections.remove(&connection).is_some() {
            self.digest.remove(connection);
        }
    }
}

/// How the users that an input touches stood before it.
#[derive(Default)]
struct Before(HashMap<UserId, (bool, Option<Millis>)>);

impl Owner {
    /// An owner that knows nothing yet. `epoch` is above that of every earlier owner of the partition.
    pub fn new(epoch: u64, offline_after: Duration, now: Duration) -> Owner {
        Owner {
            epoch,
            offline_after,
            people: HashMap::new(),
            nodes: HashMap::new(),
            unclaimed_until: None,
            heard_before_rows: Some(HashSet::new()),
            ticked: now,
        }
    }

    /// This owner's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the store's rows have been taken in.
    pub fn has_rows(&self) -> bool {
        self.heard_before_rows.is_none()
    }

    /// Users online.
    pub fn online_users(&self) -> usize {
        self.people.len()
    }

    /// What the store says of who was online. They stay online, and are declared offline if no node announces them again
    /// within the time of silence.
    pub fn opened(&mut self, rows: Vec<PresenceRow>, now: Duration) {
        let heard = self.heard_before_rows.take().unwrap_or_default();
        for row in rows {
            let known = heard.contains(&row.user_id) || self.people.contains_key(&row.user_id);
            if known || row.sessions.is_empty() {
                continue;
            }
            let session = |&connection: &SessionId| Session { connection, node: None };
            let sessions = row.sessions.iter().map(session).collect();
            let person = Person { sessions, last_active_at: row.last_active_at };
            self.people.insert(row.user_id, person);
        }
        self.unclaimed_until = Some(now + self.offline_after);
    }

    /// Takes in a node's announcement. Late and doubled ones change nothing.
    pub fn announce(
        &mut self,
        announcement: &Announcement,
        now: Duration,
        wall: Millis,
    ) -> (PresenceReply, Vec<Transition>) {
        if announcement.epoch > self.epoch {
            return (PresenceReply::Moved, Vec::new());
        }
        let node = announcement.node;
        let mut before = Before::default();
        let roll = self.nodes.entry(node).or_insert_with(|| Roll::new(now));
        if announcement.number <= roll.number {
            return (self.heard(announcement), Vec::new());
        }
        roll.number = announcement.number;
        roll.heard = now;
        if let Scope::Whole { first: true, .. } = announcement.scope {
            roll.generation += 1;
        }
        for arrived in &announcement.arrived {
            self.touch(&mut before, arrived.user);
            self.arrive(node, arrived.user, arrived.connection, arrived.new, wall);
        }
        for departed in &announcement.departed {
            self.touch(&mut before, departed.user);
            self.end(departed.user, departed.connection);
        }
        if let Scope::Whole { last: true, .. } = announcement.scope {
            self.end_unmentioned(&mut before, node);
        }
        (self.heard(announcement), self.settle(before))
    }

    fn heard(&self, announcement: &Announcement) -> PresenceReply {
        let known = self.nodes.get(&announcement.node).map(|roll| roll.digest).unwrap_or_default();
        let in_step = announcement.digest.is_none_or(|digest| digest == known);
        PresenceReply::Heard { epoch: self.epoch, in_step }
    }

    /// A node is known to be dead: what it announced has ended.
    pub fn node_gone(&mut self, node: NodeId) -> Vec<Transition> {
        let mut before = Before::default();
        self.end_node(&mut before, node);
        self.settle(before)
    }

    /// Time passes: nodes not heard for too long are gone, and so are sessions that only the store knew.
    pub fn tick(&mut self, now: Duration) -> Vec<Transition> {
        self.forgive_stall(now);
        let mut before = Before::default();
        let silent = |roll: &Roll| now.saturating_sub(roll.heard) >= self.offline_after;
        let gone: Vec<NodeId> =
            self.nodes.iter().filter(|(_, roll)| silent(roll)).map(|(node, _)| *node).collect();
        for node in gone {
            self.end_node(&mut before, node);
        }
        if self.unclaimed_until.is_some_and(|until| now >= until) {
            self.unclaimed_until = None;
            self.end_unclaimed(&mut before);
        }
        self.settle(before)
    }

    /// While this process itself stood still it could hear nobody.
    fn forgive_stall(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.ticked);
        self.ticked = now;
        if gap < self.offline_after / 3 {
            return;
        }
        for roll in self.nodes.values_mut() {
            roll.heard = (roll.heard + gap).min(now);
        }
        self.unclaimed_until = self.unclaimed_until.map(|until| until + gap);
    }

    /// Presence of those users that have a session.
    pub fn snapshot(&self, users: &[UserId]) -> Vec<Presence> {
        let presence = |user: &UserId| {
            let person = self.people.get(user)?;
            let last_active_at = person.last_active_at;
            Some(Presence { user_id: *user, online: true, last_active_at })
        };
        users.iter().filter_map(presence).collect()
    }

    fn arrive(
        &mut self,
        node: NodeId,
        user: UserId,
        connection: SessionId,
        new: bool,
        wall: Millis,
    ) {
        let nobody = || Person { sessions: Vec::new(), last_active_at: None };
        let person = self.people.entry(user).or_insert_with(nobody);
        let known = person.sessions.iter_mut().find(|session| session.connection == connection);
        match known {
            Some(session) => {
                let former = session.node.replace(node).filter(|former| *former != node);
                if let Some(roll) = former.and_then(|former| self.nodes.get_mut(&former)) {
                    roll.strike(connection);
                }
            }
            None => {
                if new || person.sessions.is_empty() {
                    person.last_active_at = Some(wall);
                }
                person.sessions.push(Session { connection, node: Some(node) });
            }
        }
        if let Some(roll) = self.nodes.get_mut(&node) {
            roll.mention(user, connection);
        }
    }

    fn end(&mut self, user: UserId, connection: SessionId) {
        let Some(person) = self.people.get_mut(&user) else { return };
        let at = person.sessions.iter().position(|session| session.connection == connection);
        let Some(at) = at else { return };
        let node = person.sessions.swap_remove(at).node;
        if let Some(roll) = node.and_then(|node| self.nodes.get_mut(&node)) {
            roll.strike(connection);
        }
    }

    fn end_unmentioned(&mut self, before: &mut Before, node: NodeId) {
        let Some(roll) = self.nodes.get(&node) else { return };
        let old = |(connection, mention): (&SessionId, &Mention)| {
            (mention.generation < roll.generation).then_some((mention.user, *connection))
        };
        let ended: Vec<_> = roll.connections.iter().filter_map(old).collect();
        for (user, connection) in ended {
            self.touch(before, user);
            self.end(user, connection);
        }
    }

    fn end_node(&mut self, before: &mut Before, node: NodeId) {
        let Some(roll) = self.nodes.remove(&node) else { return };
        for (connection, mention) in roll.connections {
            self.touch(before, mention.user);
            self.end(mention.user, connection);
        }
    }

    fn end_unclaimed(&mut self, before: &mut Before) {
        let unclaimed = |session: &Session| session.node.is_none();
        for (user, person) in &mut self.people {
            if person.sessions.iter().any(unclaimed) {
                before.0.entry(*user).or_insert((true, person.last_active_at));
                person.sessions.retain(|session| !unclaimed(session));
            }
        }
    }

    fn touch(&mut self, before: &mut Before, user: UserId) {
        if let Some(heard) = &mut self.heard_before_rows {
            heard.insert(user);
        }
        let state = || match self.people.get(&user) {
            Some(person) => (true, person.last_active_at),
            None => (false, None),
        };
        before.0.entry(user).or_insert_with(state);
    }

    /// Compares with how it was, and forgets who is offline.
    fn settle(&mut self, before: Before) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for (user, was) in before.0 {
            let Some(person) = self.people.get(&user) else { continue };
            let online = !person.sessions.is_empty();
            if (online, person.last_active_at) != was {
                let sessions = person.sessions.iter().take(ROW_SESSIONS_MAX);
                let row = PresenceRow {
                    user_id: user,
                    sessions: sessions.map(|session| session.connection).collect(),
                    last_active_at: person.last_active_at,
                };
                transitions.push(Transition { row, flipped: online != was.0 });
            }
            if !online {
                self.people.remove(&user);
            }
        }
        transitions
    }
}
