//! A small world: a ring, its volumes and pods, what Kubernetes does with them, and an operator that may die in each step.

use std::collections::{BTreeMap, BTreeSet};

use crds::LeavingMember;
use jiff::{SignedDuration, Timestamp};

use crate::build::Members;
use crate::restart::Server;
use crate::scylla::*;

/// A pod of the small world.
#[derive(Clone, Debug)]
pub(super) struct SimPod {
    uid: u32,
    template: u32,
    ready_since: Option<Timestamp>,
    unready_since: Timestamp,
    /// Whether its machine is gone, and its volume with it.
    pub(super) dead: bool,
    /// Whether somebody has annotated it.
    pub(super) is_lost: bool,
    /// What it reads: files in pods lag behind.
    files: Members,
}

/// A volume of the small world.
#[derive(Clone, Debug, Default)]
struct Volume {
    /// The member whose rows are on it.
    host: Option<u32>,
    has_left: bool,
    ending: bool,
}

/// A rack of the small world.
#[derive(Clone, Debug)]
pub(super) struct SimRack {
    pub(super) name: String,
    pub(super) wanted: i32,
    pub(super) replicas: Option<i32>,
}

/// All of it.
pub(super) struct Sim {
    pub(super) racks: Vec<SimRack>,
    pub(super) pods: BTreeMap<String, SimPod>,
    volumes: BTreeMap<String, Volume>,
    /// Who is in the ring.
    pub(super) ring: BTreeSet<u32>,
    pub(super) copies: i32,
    /// The template that pods are to be made from. Pods of an odd one never start.
    pub(super) template: u32,
    pub(super) leaving: Option<LeavingMember>,
    hosts: BTreeMap<String, String>,
    pub(super) files: Members,
    pub(super) waits: Option<String>,
    pub(super) events: Vec<Event>,
    now: Timestamp,
    next_id: u32,
    /// Members whose pods' ids are multiples of it do not answer; all answer if it is 0.
    pub(super) noise: u32,
}

impl Sim {
    pub(super) fn new(wanted: &[i32], copies: i32) -> Sim {
        let rack = |(index, wanted): (usize, &i32)| SimRack {
            name: ["a", "b", "c"][index].to_owned(),
            wanted: *wanted,
            replicas: None,
        };
        Sim {
            racks: wanted.iter().enumerate().map(rack).collect(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            ring: BTreeSet::new(),
            copies,
            template: 0,
            leaving: None,
            hosts: BTreeMap::new(),
            files: Members::default(),
            waits: None,
            events: Vec::new(),
            now: "2026-11-28T09:00:00Z".parse().unwrap(),
            next_id: 1,
            noise: 0,
        }
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// What the operator sees.
    pub(super) fn database(&self) -> Database {
        let rack = |rack: &SimRack| {
            let set = format!("chat-scylla-{}", rack.name);
            let ordinal = |name: &String| -> Option<i32> {
                name.strip_prefix(&set)?.strip_prefix('-')?.parse().ok()
            };
            let members = self
                .pods
                .iter()
                .filter_map(|(name, pod)| Some((ordinal(name)?, self.member(name, pod))));
            let members: BTreeMap<i32, Member> = members.collect();
            let ready = members.values().filter(|member| member.server.ready_since.is_some());
            Rack {
                name: rack.name.clone(),
                wanted: rack.wanted,
                replicas: rack.replicas,
                ready: i32::try_from(ready.count()).unwrap(),
                stale: false,
                joining: self.files.starts.keys().any(|name| ordinal(name).is_some()),
                claims: self
                    .volumes
                    .iter()
                    .filter_map(|(name, volume)| {
                        let claim = Claim { name: format!("data-{name}"), ending: volume.ending };
                        Some((ordinal(name)?, claim))
                    })
                    .collect(),
                members,
                set,
            }
        };
        Database {
            racks: self.racks.iter().map(rack).collect(),
            copies: self.copies,
            leaving: self.leaving.clone(),
            hosts: self.hosts.clone(),
            now: self.now,
        }
    }

    fn member(&self, name: &str, pod: &SimPod) -> Member {
        let host = self.host(name).filter(|host| self.ring.contains(host));
        let answers = pod.ready_since.is_some() && !pod.uid.is_multiple_of(self.noise);
        let view = host.filter(|_| answers).map(|host| View {
            host: host.to_string(),
            has_joined: true,
            schema: "one".to_owned(),
            others: self
                .ring
                .iter()
                .filter(|other| **other != host)
                .map(|other| (other.to_string(), format!("10.0.0.{other}")))
                .collect(),
            copies: Some(self.copies),
        });
        Member {
            server: Server {
                name: name.to_owned(),
                outdated: pod.template != self.template,
                ready_since: pod.ready_since,
                unready_since: pod.ready_since.is_none().then_some(pod.unready_since),
                ending: false,
            },
            uid: pod.uid.to_string(),
            address: None,
            is_lost: pod.is_lost,
            view,
        }
    }

    pub(super) fn host(&self, name: &str) -> Option<u32> {
        self.volumes.get(name)?.host
    }

    /// A pass of the operator, which dies after `steps` of its four steps.
    pub(super) fn operate(&mut self, steps: usize) {
        let plan = next_step(&self.database());
        self.waits = plan.waits;
        if steps > 0 {
            let began = plan.leaving.is_some() && self.leaving.is_none();
            assert!(!began || self.all_are_well(), "somebody leaves while others are away");
            (self.leaving, self.hosts) = (plan.leaving, plan.hosts);
        }
        if steps > 1 {
            self.files = plan.members;
            for rack in &mut self.racks {
                rack.replicas = self.files.replicas.get(&rack.name).copied().or(rack.replicas);
            }
            self.check_sizes();
        }
        if steps > 2 {
            for claim in plan.claims {
                let name = claim.strip_prefix("data-").unwrap().to_owned();
                let host = self.host(&name).filter(|host| self.ring.contains(host));
                let is_lost = self.pods.get(&name).is_some_and(|pod| pod.is_lost)
                    || self.volumes[&name].ending;
                assert!(host.is_none() || is_lost, "the volume of {name} goes with its rows");
                assert!(host.is_none() || self.copies > 1, "the only copy of rows goes");
                let volume = self.volumes.get_mut(&name).unwrap();
                let is_new = !std::mem::replace(&mut volume.ending, true);
                assert!(!is_new || self.lost() <= 1, "{name} goes while another one is lost");
            }
        }
        if steps > 3 {
            for name in plan.pods {
                let serves = self.pods[&name].ready_since.is_some();
                assert!(
                    !serves || self.others_are_well(&name),
                    "{name} ends while others are away"
                );
                self.pods.remove(&name);
            }
            self.events.extend(plan.events);
        }
    }

    pub(super) fn all_are_well(&self) -> bool {
        self.others_are_well("")
    }

    /// Whether all of the ring but one member serves.
    fn others_are_well(&self, except: &str) -> bool {
        let serves = |host: &u32| {
            self.pods.iter().any(|(name, pod)| {
                self.host(name) == Some(*host) && (pod.ready_since.is_some() || name == except)
            })
        };
        self.ring.iter().all(serves)
    }

    /// How many of the ring have lost their rows, or will.
    pub(super) fn lost(&self) -> usize {
        let is_kept = |host: &&u32| {
            self.volumes.iter().any(|(name, volume)| {
                let is_dead = self.pods.get(name).is_some_and(|pod| pod.dead);
                volume.host == Some(**host) && !volume.ending && !is_dead
            })
        };
        self.ring.len() - self.ring.iter().filter(is_kept).count()
    }

    /// Pods that a set is too small for are not in the ring.
    fn check_sizes(&self) {
        for rack in &self.racks {
            let Some(replicas) = rack.replicas else { continue };
            for ordinal in replicas..20 {
                let name = format!("chat-scylla-{}-{ordinal}", rack.name);
                let host = self.host(&name).filter(|host| self.ring.contains(host));
                assert!(host.is_none(), "{name} ends and is still in the ring");
            }
        }
    }

    /// What Kubernetes and the members do in a second or more.
    pub(super) fn go_on(&mut self, is_slow: bool) {
        self.now = self.now.checked_add(SignedDuration::from_secs(7)).unwrap();
        self.sets();
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in &names {
            if !is_slow {
                self.pods.get_mut(name).unwrap().files = self.files.clone();
            }
            self.start(name);
            if !is_slow {
                self.leave(name);
            }
        }
    }

    /// The controller of StatefulSets.
    pub(super) fn sets(&mut self) {
        let mut wanted = BTreeSet::new();
        for rack in &self.racks {
            let ordinals = 0..rack.replicas.unwrap_or(0);
            wanted.extend(ordinals.map(|ordinal| format!("chat-scylla-{}-{ordinal}", rack.name)));
        }
        self.pods.retain(|name, _| wanted.contains(name));
        let pods = &self.pods;
        self.volumes.retain(|name, volume| !volume.ending || pods.contains_key(name));
        for name in wanted {
            if self.pods.contains_key(&name) || self.volumes.get(&name).is_some_and(|v| v.ending) {
                continue;
            }
            self.volumes.entry(name.clone()).or_default();
            let pod = SimPod {
                uid: self.id(),
                template: self.template,
                ready_since: None,
                unready_since: self.now,
                dead: false,
                is_lost: false,
                files: self.files.clone(),
            };
            self.pods.insert(name, pod);
        }
    }

    /// The image's start script, and ours in front of it.
    fn start(&mut self, name: &str) {
        let pod = self.pods[name].clone();
        let volume = self.volumes[name].clone();
        if pod.ready_since.is_some() || pod.dead || pod.template % 2 == 1 || volume.has_left {
            return;
        }
        let host = match volume.host {
            Some(host) => host,
            None => {
                let Some(start) = pod.files.starts.get(name) else { return };
                let Some(host) = self.join(name, start) else { return };
                host
            }
        };
        assert!(self.ring.contains(&host), "{name} serves and is not in the ring");
        self.volumes.get_mut(name).unwrap().host = Some(host);
        self.pods.get_mut(name).unwrap().ready_since = Some(self.now);
    }

    fn join(&mut self, name: &str, start: &crate::build::Start) -> Option<u32> {
        if start.seeds == [name] {
            assert!(self.ring.is_empty(), "{name} makes a second ring");
        } else {
            let serves =
                |seed: &String| self.pods.get(seed).is_some_and(|pod| pod.ready_since.is_some());
            start.seeds.iter().find(|seed| serves(seed))?;
        }
        let lost = start.replaces.as_ref().map(|lost| lost.host.parse::<u32>().unwrap());
        let alive = |host: &u32| {
            let mut pods = self.pods.iter();
            pods.any(|(name, pod)| pod.ready_since.is_some() && self.host(name) == Some(*host))
        };
        // A ring with a dead member lets nobody join but who takes its place.
        if self.ring.iter().any(|host| !alive(host) && Some(*host) != lost) {
            return None;
        }
        if let Some(lost) = lost {
            // What it was told is from before.
            if alive(&lost) || !self.ring.remove(&lost) {
                return None;
            }
        }
        let host = self.id();
        self.ring.insert(host);
        Some(host)
    }

    fn leave(&mut self, name: &str) {
        let pod = &self.pods[name];
        let uid = pod.uid.to_string();
        let told = pod.files.leaving.as_ref() == Some(&(name.to_owned(), uid));
        let Some(host) = self.host(name).filter(|_| told && pod.ready_since.is_some()) else {
            return;
        };
        // Some engines let nobody leave while another one is dead.
        if self.all_are_well() && self.ring.remove(&host) {
            let left = i32::try_from(self.ring.len()).unwrap();
            assert!(left >= self.copies, "{left} members are left for {} copies", self.copies);
            self.volumes.get_mut(name).unwrap().has_left = true;
            let pod = self.pods.get_mut(name).unwrap();
            (pod.ready_since, pod.unready_since) = (None, self.now);
        }
    }

    /// A pod goes, as by an eviction.
    pub(super) fn evict(&mut self, name: &str) {
        self.pods.remove(name);
    }

    /// A machine goes, and the volume on it.
    pub(super) fn lose(&mut self, name: &str) {
        if let Some(pod) = self.pods.get_mut(name) {
            (pod.dead, pod.ready_since, pod.unready_since) = (true, None, self.now);
        }
    }

    pub(super) fn run(&mut self, passes: usize) {
        for _ in 0..passes {
            self.operate(4);
            self.go_on(false);
        }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        let names = self.pods.keys().map(|name| name.strip_prefix("chat-scylla-").unwrap());
        names.collect()
    }

    /// Whether everything is as it should be, and the status says so.
    pub(super) fn is_settled(&self) -> bool {
        let known =
            |name: &String| self.hosts.get(name).cloned() == self.host(name).map(|h| h.to_string());
        self.database().is_at_rest()
            && self.pods.keys().all(known)
            && self.ring.len() == self.pods.len()
            && self.volumes.len() == self.pods.len()
            && self.all_are_well()
    }
}
