//! The database as it is.

use std::collections::{BTreeMap, BTreeSet};

use crds::LeavingMember;
use jiff::Timestamp;

use super::View;
use crate::build::Members;
use crate::nodes::Peer;
use crate::restart::{Server, is_settled};

/// All racks, and what the resource asks for.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its racks, in the order of the specification.
    pub racks: Vec<Rack>,
    /// Copies of each row that the resource asks for.
    pub copies: i32,
    /// Ids of the members that have joined the ring, by their names and the status.
    pub hosts: BTreeMap<String, String>,
    /// The member that is on its way out of the ring, by the status.
    pub leaving: Option<LeavingMember>,
    /// The time.
    pub now: Timestamp,
}

/// A rack.
#[derive(Clone, Debug)]
pub struct Rack {
    /// Its name.
    pub name: String,
    /// Name of its StatefulSet, with which its members' names begin.
    pub set: String,
    /// How many members the resource asks for.
    pub wanted: i32,
    /// How many members its StatefulSet is to have, if there is one.
    pub replicas: Option<i32>,
    /// How many of them are ready.
    pub ready: i32,
    /// Whether Kubernetes has not seen yet what the StatefulSet should be.
    pub stale: bool,
    /// Whether one of its members is told how to join. Who it is in the ring then has to be asked when it has joined.
    pub joining: bool,
    /// Pods by their numbers.
    pub members: BTreeMap<i32, Member>,
    /// Volume claims by the numbers of their members.
    pub claims: BTreeMap<i32, Claim>,
}

/// A member's volume claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Whether it goes when its pod goes.
    pub ending: bool,
}

/// A member's pod.
#[derive(Clone, Debug)]
pub struct Member {
    /// What all servers have in common.
    pub server: Server,
    /// The pod's unique id.
    pub uid: String,
    /// The pod's address.
    pub address: Option<String>,
    /// Whether somebody says that its volume is lost.
    pub is_lost: bool,
    /// What it says.
    pub view: Option<View>,
}

impl Rack {
    /// How many members there are, whether they run or not. A volume is a member, too: of a set that somebody made smaller
    /// by hand, or of a ChatCluster of the same name that was deleted.
    pub(super) fn present(&self) -> i32 {
        let volumes = (0..).take_while(|ordinal| self.claims.contains_key(ordinal)).count();
        let volumes = i32::try_from(volumes).unwrap_or(i32::MAX);
        self.replicas.unwrap_or(0).max(volumes)
    }

    /// Name of a member.
    pub(super) fn member(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.set)
    }

    fn is_at_rest(&self) -> bool {
        let at_rest =
            |member: &Member| !(member.is_lost || member.server.ending || member.server.outdated);
        !self.joining
            && self.replicas == Some(self.wanted)
            && self.present() == self.wanted
            && self.ready == self.wanted
            && self.members.values().all(at_rest)
            && self.claims.values().all(|claim| !claim.ending)
    }
}

impl Member {
    /// Its view, if it is part of the ring and serves.
    pub(super) fn serving(&self) -> Option<&View> {
        let serves = self.server.ready_since.is_some() && !self.server.ending;
        self.view.as_ref().filter(|view| serves && view.has_joined)
    }
}

impl Database {
    /// Whether nothing is to be done, so that nobody has to be asked.
    pub fn is_at_rest(&self) -> bool {
        self.leaving.is_none()
            && self.racks.iter().all(Rack::is_at_rest)
            && self.expected().iter().all(|(name, _)| self.hosts.contains_key(name))
    }

    /// Members that can be asked.
    pub fn peers(&self) -> Vec<Peer> {
        let members = self.racks.iter().flat_map(|rack| rack.members.values());
        let peers = members.filter_map(|member| {
            let name = member.server.name.clone();
            Some(Peer { name, address: member.address.clone()? })
        });
        peers.collect()
    }

    /// Adds what members say.
    pub fn hear(&mut self, mut views: BTreeMap<String, View>) {
        for member in self.racks.iter_mut().flat_map(|rack| rack.members.values_mut()) {
            member.view = views.remove(&member.server.name);
        }
    }

    /// The members as they are now: none comes, none goes.
    pub(super) fn as_it_is(&self) -> Members {
        let present = self.racks.iter().filter(|rack| rack.present() > 0);
        let replicas = present.map(|rack| (rack.name.clone(), rack.present())).collect();
        let members = self.racks.iter().flat_map(|rack| rack.members.values());
        // It listens for CQL once it has joined.
        let ready = members.filter(|member| member.server.ready_since.is_some());
        let joined = ready.map(|member| (member.server.name.clone(), member.uid.clone())).collect();
        Members { replicas, joined, ..Members::default() }
    }

    /// How many members there are.
    pub(super) fn present(&self) -> i32 {
        self.racks.iter().map(Rack::present).sum()
    }

    /// How many members the resource asks for.
    pub(super) fn wanted(&self) -> i32 {
        self.racks.iter().map(|rack| rack.wanted).sum()
    }

    /// Copies of each row: as the keyspace has them, or as it is to be made.
    pub(super) fn copies(&self) -> i32 {
        let members = self.racks.iter().flat_map(|rack| rack.members.values());
        let known = members.filter_map(|member| member.view.as_ref()?.copies).max();
        known.unwrap_or(self.copies)
    }

    /// All members that there should be now, rack by rack, and their pods.
    pub(super) fn expected(&self) -> Vec<(String, Option<&Member>)> {
        let racks = self.racks.iter();
        let members = racks.flat_map(|rack| {
            let ordinals = 0..rack.present();
            ordinals.map(|ordinal| (rack.member(ordinal), rack.members.get(&ordinal)))
        });
        members.collect()
    }

    /// The rack of a member, and its number there.
    pub(super) fn place(&self, member: &str) -> Option<(&Rack, i32)> {
        self.racks.iter().find_map(|rack| {
            let ordinal = member.strip_prefix(&rack.set)?.strip_prefix('-')?;
            Some((rack, ordinal.parse().ok()?))
        })
    }

    /// The volume claim of a member.
    pub(super) fn claim(&self, member: &str) -> Option<&Claim> {
        let (rack, ordinal) = self.place(member)?;
        rack.claims.get(&ordinal)
    }

    /// The members that have joined the ring, with what they say now.
    pub(super) fn joined(&self) -> BTreeMap<String, String> {
        let expected = self.expected().into_iter();
        let hosts = expected.filter_map(|(name, member)| {
            let said = member.and_then(Member::serving).map(|view| view.host.clone());
            let host = said.or_else(|| self.hosts.get(&name).cloned())?;
            Some((name, host))
        });
        hosts.collect()
    }

    /// Whether all members in the ring are well, but for one that is not asked: ready for a while, of one schema, and of one
    /// opinion about who is in the ring. If so, addresses by id of those in the ring that are none of them; else why not, as a
    /// sentence.
    pub(super) fn others(&self, except: &str) -> Result<BTreeMap<String, String>, String> {
        let mut views: Vec<(String, &View)> = Vec::new();
        let mut outside = None;
        let leaving = self.leaving.as_ref().filter(|leaving| leaving.pod != except);
        for (name, member) in self.expected().into_iter().filter(|(name, _)| name != except) {
            let serves = member.is_some_and(|member| member.server.ready_since.is_some());
            match self.well(&name, member) {
                Ok(view) => views.push((name, view)),
                Err(_) if leaving.is_some_and(|leaving| leaving.pod == name) => {}
                Err(_) if !serves && !self.hosts.contains_key(&name) => outside = Some(name),
                Err(why) => return Err(format!("{name} {why}.")),
            }
        }
        let unclaimed = unclaimed(&views)?;
        if let Some(leaving) = leaving.filter(|leaving| {
            leaving.host.as_ref().is_some_and(|host| unclaimed.contains_key(host))
        }) {
            return Err(format!("{} is still in the ring.", leaving.pod));
        }
        // Who never joined is of no account, as long as it is certain that it did not.
        let known = self.hosts.get(except);
        match (outside, unclaimed.keys().find(|host| Some(*host) != known)) {
            (Some(name), Some(_)) => Err(format!("{name} may have joined the ring just now.")),
            _ => Ok(unclaimed),
        }
    }

    fn well<'a>(&self, name: &str, member: Option<&'a Member>) -> Result<&'a View, &'static str> {
        let member = member.ok_or("is not there")?;
        // It serves from it until its pod goes; its rows are as good as gone.
        if self.claim(name).is_some_and(|claim| claim.ending) {
            return Err("is to lose its volume");
        }
        if member.server.ending {
            return Err("ends");
        }
        if member.server.ready_since.is_none() {
            return Err("is not ready yet");
        }
        if !is_settled(member.server.ready_since, self.now) {
            return Err("has just become ready");
        }
        let view = member.view.as_ref().ok_or("does not tell of its ring")?;
        view.has_joined.then_some(view).ok_or("has not joined the ring")
    }

    /// Why not all members are well, or why the ring is not made of them alone.
    pub(super) fn trouble(&self) -> Option<String> {
        for (name, member) in self.expected() {
            if let Err(why) = self.well(&name, member) {
                return Some(format!("{name} {why}."));
            }
        }
        match self.others("") {
            Err(why) => Some(why),
            Ok(unclaimed) => {
                let (host, address) = unclaimed.first_key_value()?;
                Some(format!(
                    "The ring has {host} at {address}, which is none of the members: if it is gone for good, run \
                     `nodetool removenode {host}` in a member."
                ))
            }
        }
    }
}

/// Who is in the ring of these members and is none of them, if they agree.
fn unclaimed(views: &[(String, &View)]) -> Result<BTreeMap<String, String>, String> {
    let Some((one, first)) = views.first() else { return Ok(BTreeMap::new()) };
    for (other, view) in views {
        if view.schema != first.schema {
            return Err(format!("{one} and {other} do not have the same schema yet."));
        }
        if ring(view) != ring(first) {
            return Err(format!("{one} and {other} do not agree on who is in the ring."));
        }
    }
    let claimed: BTreeSet<&String> = views.iter().map(|(_, view)| &view.host).collect();
    if claimed.len() < views.len() {
        return Err("Two members say that they are the same one.".to_owned());
    }
    let unclaimed = first.others.iter().filter(|(host, _)| !claimed.contains(host));
    Ok(unclaimed.map(|(host, address)| (host.clone(), address.clone())).collect())
}

/// Ids of all that a member knows to be in the ring.
fn ring(view: &View) -> BTreeSet<&String> {
    view.others.keys().chain([&view.host]).collect()
}
