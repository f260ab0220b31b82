//! What one node tells one partition's owner, as a pure state machine: connections and answers in, announcements out.
//!
//! The set of connections is the truth and announcements follow from it: nothing queues, so nothing can overflow. One
//! announcement is under way at a time. An empty one, every few seconds, says that the node is still there; its digest
//! shows whether owner and node agree, and if not, everything is announced again.

use std::collections::HashMap;
use std::time::Duration;

use chat_protocol::{NodeId, SessionId, UserId};

use super::command::{
    ANNOUNCEMENT_ENTRIES_MAX, Announcement, Arrived, Departed, Digest, PresenceReply, Scope,
};

/// Departures remembered one by one. Beyond it the whole is announced: what it does not name has ended.
const DEPARTED_MAX: usize = 4_096;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(3);

/// A node's connections of one partition, and what its owner knows of them.
pub struct Announcer {
    node: NodeId,
    beat_every: Duration,
    present: HashMap<SessionId, UserId>,
    digest: Digest,
    /// Not acknowledged by any owner.
    fresh: HashMap<SessionId, UserId>,
    /// Ended, and not acknowledged.
    departed: HashMap<SessionId, UserId>,
    /// Highest epoch heard.
    epoch: u64,
    number: u64,
    whole: Whole,
    under_way: Option<UnderWay>,
    /// Earliest time of the next announcement.
    not_before: Duration,
    /// Latest time of the next announcement, if any connection stands.
    beat_at: Duration,
    failures: u32,
}

/// Whether everything is to be announced again.
enum Whole {
    Done,
    Wanted,
    /// What is left to say of it.
    Partly(Vec<(SessionId, UserId)>),
}

struct UnderWay {
    number: u64,
    arrived: Vec<SessionId>,
    departed: Vec<SessionId>,
    scope: Scope,
}

impl Announcer {
    /// No connections.
    pub fn new(node: NodeId, beat_every: Duration) -> Announcer {
        Announcer {
            node,
            beat_every,
            present: HashMap::new(),
            digest: Digest::default(),
            fresh: HashMap::new(),
            departed: HashMap::new(),
            epoch: 0,
            number: 0,
            whole: Whole::Done,
            under_way: None,
            not_before: Duration::ZERO,
            beat_at: Duration::ZERO,
            failures: 0,
        }
    }

    /// A connection stands.
    pub fn arrive(&mut self, user: UserId, connection: SessionId) {
        if self.present.insert(connection, user).is_none() {
            self.digest.add(connection);
            self.fresh.insert(connection, user);
        }
    }

    /// A connection ended. Once is enough.
    pub fn depart(&mut self, connection: SessionId) {
        let Some(user) = self.present.remove(&connection) else { return };
        self.digest.remove(connection);
        self.fresh.remove(&connection);
        self.departed.insert(connection, user);
        if self.departed.len() > DEPARTED_MAX {
            self.departed.clear();
            self.whole = Whole::Wanted;
        }
    }

    /// Announces everything again: a new owner was heard of.
    pub fn announce_again(&mut self) {
        self.whole = Whole::Wanted;
        self.not_before = Duration::ZERO;
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.present.len()
    }

    /// When the next announcement is due; none while one is under way, or if there is nothing to say.
    pub fn due(&self) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let wanted = !matches!(self.whole, Whole::Done);
        match wanted || !self.fresh.is_empty() || !self.departed.is_empty() {
            true => Some(self.not_before),
            false => (!self.present.is_empty()).then_some(self.beat_at.max(self.not_before)),
        }
    }

    /// The announcement to send now. None while another is under way.
    pub fn next(&mut self, now: Duration) -> Option<Announcement> {
        if self.under_way.is_some() || now < self.not_before {
            return None;
        }
        let changed = !self.fresh.is_empty() || !self.departed.is_empty();
        let beat = now >= self.beat_at && !self.present.is_empty();
        let announcement = match self.whole {
            Whole::Done if changed || beat => self.change(),
            Whole::Done => return None,
            Whole::Wanted | Whole::Partly(_) => self.part_of_whole(),
        };
        self.beat_at = now + self.beat_every;
        self.under_way = Some(UnderWay {
            number: announcement.number,
            arrived: announcement.arrived.iter().map(|arrived| arrived.connection).collect(),
            departed: announcement.departed.iter().map(|departed| departed.connection).collect(),
            scope: announcement.scope,
        });
        Some(announcement)
    }

    fn change(&mut self) -> Announcement {
        let arrived: Vec<Arrived> = self
            .fresh
            .iter()
            .take(ANNOUNCEMENT_ENTRIES_MAX)
            .map(|(&connection, &user)| Arrived { user, connection, new: true })
            .collect();
        let departed: Vec<Departed> = self
            .departed
            .iter()
            .take(ANNOUNCEMENT_ENTRIES_MAX - arrived.len())
            .map(|(&connection, &user)| Departed { user, connection })
            .collect();
        let complete = arrived.len() == self.fresh.len() && departed.len() == self.departed.len();
        let digest = complete.then_some(self.digest);
        self.announcement(Scope::Change, arrived, departed, digest)
    }

    fn part_of_whole(&mut self) -> Announcement {
        let (first, mut rest) = match std::mem::replace(&mut self.whole, Whole::Done) {
            Whole::Partly(rest) => (false, rest),
            _ => (true, self.present.iter().map(|(id, user)| (*id, *user)).collect()),
        };
        let part = rest.split_off(rest.len().saturating_sub(ANNOUNCEMENT_ENTRIES_MAX));
        let last = rest.is_empty();
        if !last {
            self.whole = Whole::Partly(rest);
        }
        // What ended since the first part must not be named as standing.
        let standing = |(connection, user): (SessionId, UserId)| {
            let new = self.fresh.contains_key(&connection);
            let stands = self.present.contains_key(&connection);
            stands.then_some(Arrived { user, connection, new })
        };
        let arrived = part.into_iter().filter_map(standing).collect();
        self.announcement(Scope::Whole { first, last }, arrived, Vec::new(), None)
    }

    fn announcement(
        &mut self,
        scope: Scope,
        arrived: Vec<Arrived>,
        departed: Vec<Departed>,
        digest: Option<Digest>,
    ) -> Announcement {
        self.number += 1;
        let (node, number, epoch) = (self.node, self.number, self.epoch);
        Announcement { node, number, epoch, scope, arrived, departed, digest }
    }

    /// What came of the announcement with this number; `None`: no answer. Returns whether everything has to be announced
    /// again because of it.
    pub fn answered(&mut self, number: u64, reply: Option<&PresenceReply>, now: Duration) -> bool {
        let Some(under_way) = self.under_way.take_if(|under_way| under_way.number == number) else {
            return false;
        };
        match reply {
            Some(&PresenceReply::Heard { epoch, in_step }) if epoch >= self.epoch => {
                self.acknowledged(&under_way, epoch, in_step)
            }
            _ => {
                self.failed(&under_way, now);
                false
            }
        }
    }

    fn acknowledged(&mut self, under_way: &UnderWay, epoch: u64, in_step: bool) -> bool {
        self.failures = 0;
        for connection in &under_way.arrived {
            self.fresh.remove(connection);
        }
        for connection in &under_way.departed {
            self.departed.remove(connection);
        }
        let new_owner = epoch > self.epoch;
        self.epoch = epoch;
        let told_all = under_way.scope == Scope::Whole { first: true, last: true };
        let again = (new_owner && !told_all) || !in_step;
        if again {
            self.whole = Whole::Wanted;
        }
        again
    }

    fn failed(&mut self, under_way: &UnderWay, now: Duration) {
        if let Scope::Whole { .. } = under_way.scope {
            self.whole = Whole::Wanted;
        }
        let backoff = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_LAST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + backoff;
    }
}
