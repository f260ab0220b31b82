//! The objects that a ChatCluster is made of, as pure functions of the resource and of facts.

mod chat;
mod configuration;
mod nats;
mod object;
mod pod;
mod policy;
mod revision;
mod scylla;
mod secret;

use std::collections::{BTreeMap, BTreeSet};

use crds::ChatCluster;
use kube::ResourceExt;

pub use configuration::{configuration, replication_factor};
pub use object::{Concern, Intent, digest};
pub use revision::{Revision, wanted_revision};
pub use secret::{PREVIOUS, SecretPlan, Wanted, generate, secrets};

/// What building has to know beside the resource.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Digests of the contents of the Secrets that the chat nodes use, by name.
    pub secrets: BTreeMap<String, String>,
    /// The members of the database, by its plan.
    pub members: Members,
    /// Sizes in the templates of the StatefulSets' claims, by the sets' names. They cannot change.
    pub claim_sizes: BTreeMap<String, String>,
    /// Digest of the names and passwords of the managed NATS servers, while they take those from before, too.
    pub nats_rotation: Option<String>,
    /// Revisions that have a ReplicaSet.
    pub revisions: BTreeSet<Revision>,
    /// Namespace of the operator, whose pods ask the nodes' admin ports.
    pub operator_namespace: String,
}

/// Which members of the database there are to be, and what they are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    /// How many members of each rack. One that is not named has none yet.
    pub replicas: BTreeMap<String, i32>,
    /// How members start that have not joined the ring yet, by their names.
    pub starts: BTreeMap<String, Start>,
    /// Unique ids of the pods whose members have joined it, by their names.
    pub joined: BTreeMap<String, String>,
    /// Name of the pod whose member is to leave the ring, and the pod's unique id: one that comes after it is not meant.
    pub leaving: Option<(String, String)>,
}

/// How a member starts that has not joined the ring yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    /// Members that it asks; itself if it is the first.
    pub seeds: Vec<String>,
    /// The member whose place it takes.
    pub replaces: Option<LostMember>,
}

/// A member whose volume is lost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LostMember {
    /// Its id in the ring.
    pub host: String,
    /// Its last address.
    pub address: String,
}

/// Which revisions there are to be, by the rollout's plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// Revision that the active Service selects.
    pub active: Option<Revision>,
    /// Revision that the preview Service selects.
    pub preview: Option<Revision>,
    /// The revision that the resource asks for. It is the only one whose template may be written.
    pub wanted: Revision,
    /// How many pods of each revision.
    pub replicas: BTreeMap<Revision, i32>,
    /// What evictions may take away of each revision.
    pub budgets: BTreeMap<Revision, Budget>,
}

/// What evictions may take away of a revision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// Pods at once.
    pub max_unavailable: i32,
    /// Whether pods that are not ready may always go.
    pub unready_go: bool,
}

/// NATS, the database, and what the chat nodes share.
pub fn foundation(cluster: &ChatCluster, facts: &Facts) -> Vec<Intent> {
    let mut intents = vec![pod::service_account(cluster)];
    intents.extend(nats::intents(cluster, facts));
    intents.extend(scylla::intents(cluster, facts));
    intents.extend(policy::network_policies(cluster, facts));
    intents.extend(policy::autoscaler(cluster));
    intents
}

/// The chat nodes' revisions and Services.
pub fn fleet(cluster: &ChatCluster, facts: &Facts, fleet: &Fleet) -> Vec<Intent> {
    chat::intents(cluster, facts, fleet)
}

/// Name and namespace of a resource.
pub fn place(cluster: &ChatCluster) -> (String, String) {
    (cluster.name_any(), cluster.namespace().unwrap_or_default())
}

/// How many NATS servers are managed, and how many members of the database.
pub fn sizes(cluster: &ChatCluster) -> (Option<i32>, Option<i32>) {
    let nats = cluster.spec.nats.managed.as_ref().map(|managed| managed.replicas);
    let scylla = cluster.spec.scylla.managed.as_ref();
    (nats, scylla.map(|managed| managed.racks.iter().map(|rack| rack.members).sum()))
}

#[cfg(test)]
mod tests;
