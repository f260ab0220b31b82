//! What a node tells the others of itself: the value of its key.

use bytes::Bytes;
use chat_protocol::NodeId;
use serde::{Deserialize, Serialize};

use crate::partition::Lease;

/// In front of the keys of nodes.
pub const NODE_KEY_PREFIX: &str = "node/";

/// The key that says whose nodes own partitions: a revision as text.
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
