//! What the planner sees.

use std::collections::BTreeMap;

use crds::RolloutStatus;
use jiff::Timestamp;

use super::Order;
use crate::build::Revision;

/// What was seen in one pass.
#[derive(Clone, Debug)]
pub struct World {
    /// The time.
    pub now: Timestamp,
    /// The revision that the resource asks for.
    pub wanted: Revision,
    /// How many nodes it asks for.
    pub replicas: i32,
    /// Revisions that have a ReplicaSet, or pods.
    pub revisions: BTreeMap<Revision, Observed>,
    /// The revision that the active Service selects.
    pub selected: Option<Revision>,
    /// Why nothing is started or granted just now, each reason a sentence.
    pub obstacles: Vec<String>,
    /// A command that somebody gave.
    pub order: Option<Order>,
    /// What evictions may take away.
    pub disruption: Disruption,
}

/// What evictions may take away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Disruption {
    /// Pods at once.
    pub max_unavailable: i32,
    /// Whether pods with clients are held, because it is seen which machines are being emptied.
    pub holds: bool,
}

/// One revision as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// How many pods its ReplicaSet is to have.
    pub replicas: i32,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Whether Kubernetes sends it traffic.
    pub ready: bool,
    /// Whether its process runs, so that it may have clients.
    pub running: bool,
    /// Whether it is on its way out.
    pub ending: bool,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Why somebody wants it to go, as the end of a sentence.
    pub leaves: Option<String>,
    /// What its node says.
    pub view: View,
}

/// What a node says, if it does.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// It was not asked, or did not answer.
    Unknown,
    /// Its answer.
    Known(Node),
}

/// A node's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Clients' connections.
    pub connections: i64,
    /// Those of them that were not asked to move.
    pub unasked: i64,
    /// The rollout that it is part of.
    pub rollout: Option<String>,
    /// What it does with clients.
    pub mode: NodeMode,
    /// Whether it knows the safe watermark, so that resuming clients learn all they missed.
    pub is_caught_up: bool,
    /// Whether its handshakes succeed.
    pub accepts: bool,
    /// The revision whose nodes own the partitions, as it sees it.
    pub owner_revision: Option<Revision>,
    /// Batches of its rollout that it was granted.
    pub batches: Vec<NodeBatch>,
}

/// What a node does with clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NodeMode {
    /// It takes new ones.
    #[default]
    Serving,
    /// It serves those it has.
    Prepared,
}

/// A batch as its node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeBatch {
    /// Its number.
    pub number: i64,
    /// Whether all of its clients were told and have left.
    pub is_ended: bool,
    /// Clients told to move.
    pub told: i64,
    /// Those of them that were active and confirmed.
    pub counted: i64,
    /// Those of the counted that were seen again, on any node.
    pub resumed: i64,
}

impl Pod {
    /// Its node's answer.
    pub fn node(&self) -> Option<&Node> {
        match &self.view {
            View::Known(node) => Some(node),
            View::Unknown => None,
        }
    }

    /// Whether it certainly has no client.
    pub(super) fn is_empty(&self) -> bool {
        !self.running || self.node().is_some_and(|node| node.connections == 0)
    }
}

impl World {
    pub(super) fn pods(&self, revision: &Revision) -> &[Pod] {
        self.revisions.get(revision).map_or(&[], |observed| &observed.pods)
    }

    /// Pods of a revision that get traffic.
    pub(super) fn ready(&self, revision: &Revision) -> i32 {
        let ready = self.pods(revision).iter().filter(|pod| pod.ready && !pod.ending);
        i32::try_from(ready.count()).unwrap_or(i32::MAX)
    }

    /// Revisions with pods, beside one.
    pub(super) fn sources<'a>(
        &'a self,
        target: &'a Revision,
    ) -> impl Iterator<Item = (&'a Revision, &'a Observed)> {
        self.revisions.iter().filter(move |(revision, _)| *revision != target)
    }

    /// Pods of all revisions beside one.
    pub(super) fn source_pods<'a>(&'a self, target: &'a Revision) -> impl Iterator<Item = &'a Pod> {
        self.sources(target).flat_map(|(_, observed)| &observed.pods)
    }

    /// Pods whose clients a rollout moves: those that it names, else all beside its target.
    pub(super) fn givers(&self, run: &RolloutStatus) -> Vec<&Pod> {
        let target = Revision::new(run.to.as_str());
        if run.pods.is_empty() {
            let others = self.revisions.iter().filter(|(revision, _)| **revision != target);
            return others.flat_map(|(_, observed)| &observed.pods).collect();
        }
        self.pods(&target).iter().filter(|pod| run.pods.contains(&pod.name)).collect()
    }

    /// The pod of this name.
    pub(super) fn pod(&self, name: &str) -> Option<&Pod> {
        self.revisions.values().flat_map(|observed| &observed.pods).find(|pod| pod.name == name)
    }
}
