//! What a node tells the others of itself: the value of its key.

use bytes::Bytes;
use chat_protocol::NodeId;
use chat_protocol::admin::{AdminCode, AdminProblem, OwnerRevision};
use serde::{Deserialize, Serialize};

use crate::partition::Lease;

/// In front of the keys of nodes.
pub const NODE_KEY_PREFIX: &str = "node/";

/// The key that says whose nodes own partitions: a revision as text, or an [`OwnerRevision`] as JSON.
pub const OWNER_REVISION_KEY: &str = "owner_revision";

/// One start of one node, as all others see it. Fields that a newer node adds are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// The node.
    pub node: NodeId,
    /// Drawn at random when its process started: a lease belongs to one start.
    pub start: u64,
    /// Its name, for people.
    pub name: String,
    /// Where clients reach it.
    #[serde(default)]
    pub address: Option<String>,
    /// Its region.
    #[serde(default)]
    pub region: Option<String>,
    /// The version of the program it belongs to; empty if nobody said.
    #[serde(default)]
    pub revision: String,
    /// What it does.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Connections that stand.
    #[serde(default)]
    pub connections: u64,
    /// Connections it takes at most.
    #[serde(default)]
    pub capacity: u64,
    /// It may own partitions now: it has the role, its clock is right, and it stays.
    pub owns: bool,
    /// It is leaving.
    pub draining: bool,
    /// It hands its clients over to others, and gets no new ones. It may own partitions all the same.
    #[serde(default)]
    pub prepared: bool,
    /// Grows with every renewal.
    pub counter: u64,
}

impl NodeEntry {
    /// The key that holds it.
    pub fn key(node: NodeId) -> String {
        format!("{NODE_KEY_PREFIX}{node}")
    }

    /// The node whose key this is, if it is one.
    pub fn node_of_key(key: &str) -> Option<NodeId> {
        key.strip_prefix(NODE_KEY_PREFIX)?.parse().ok()
    }

    /// The lease it renews.
    pub fn lease(&self) -> Lease {
        Lease { node: self.node, start: self.start }
    }

    /// The value of its key.
    pub fn to_value(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers and texts become JSON").into()
    }

    /// The entry in a value, if it is one.
    pub fn from_value(value: &[u8]) -> Option<NodeEntry> {
        serde_json::from_slice(value).ok()
    }
}

/// What the key [`OWNER_REVISION_KEY`] says. A plain text, as a person may have written it, is of no operator.
pub fn owner_revision_of(value: &[u8]) -> OwnerRevision {
    serde_json::from_slice(value).unwrap_or_else(|_| OwnerRevision {
        revision: String::from_utf8_lossy(value).trim().to_owned(),
        ..OwnerRevision::default()
    })
}

/// What is to be written in its place, if anything: an older operator changes nothing, and the generation never falls.
pub fn owner_revision_after(
    known: &OwnerRevision,
    wanted: &OwnerRevision,
) -> Result<OwnerRevision, AdminProblem> {
    if wanted.epoch < known.epoch {
        let detail = format!(
            "Epoch {} has spoken to this platform: the operator with epoch {} is not the leader any more.",
            known.epoch, wanted.epoch
        );
        return Err(AdminProblem::new(AdminCode::StaleEpoch, detail));
    }
    Ok(OwnerRevision { generation: wanted.generation.max(known.generation), ..wanted.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn revision(revision: &str, epoch: u64, generation: u64) -> OwnerRevision {
        OwnerRevision { revision: revision.to_owned(), epoch, generation }
    }

    #[test]
    fn a_person_writes_plain_text_and_an_operator_json() {
        assert_eq!(owner_revision_of(b" green\n"), revision("green", 0, 0));
        assert_eq!(owner_revision_of(b""), OwnerRevision::default());
        let written = revision("green", 4, 2);
        assert_eq!(owner_revision_of(&serde_json::to_vec(&written).unwrap()), written);
    }

    proptest! {
        #[test]
        fn an_older_operator_changes_nothing_and_no_generation_falls(
            known in (0u64..4, 0u64..4), wanted in (0u64..4, 0u64..4)
        ) {
            let known = revision("blue", known.0, known.1);
            let wanted = revision("green", wanted.0, wanted.1);
            match owner_revision_after(&known, &wanted) {
                Err(problem) => {
                    prop_assert_eq!(problem.code, AdminCode::StaleEpoch);
                    prop_assert!(wanted.epoch < known.epoch);
                }
                Ok(after) => {
                    prop_assert!(after.epoch >= known.epoch && after.generation >= known.generation);
                    prop_assert_eq!(owner_revision_after(&after, &wanted), Ok(after.clone()), "again");
                }
            }
        }
    }
}
