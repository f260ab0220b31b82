//! The database of a specification.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Resources, SecretReference, Storage};

/// The database: managed by the operator, or an existing one.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.managed) != has(self.external)").message("Set either scylla.managed or scylla.external."),
    validation = Rule::new("has(self.managed) == has(oldSelf.managed)").message("Keep the database managed or external as it was: the messages do not move by themselves. Make a new ChatCluster."),
    validation = Rule::new("self.keyspace == oldSelf.keyspace").message("Keep scylla.keyspace as it was: the messages are in it."),
    validation = Rule::new("!has(self.managed) || !has(self.replicationFactor) || self.managed.racks.map(rack, rack.members).sum() >= self.replicationFactor").message("Set scylla.replicationFactor to at most the number of members in all racks."),
    validation = Rule::new("!has(self.managed) || !has(oldSelf.managed) || has(self.replicationFactor) || self.managed.racks.map(rack, rack.members).sum() >= 3 || self.managed.racks.map(rack, rack.members).sum() >= oldSelf.managed.racks.map(rack, rack.members).sum()").message("Keep at least 3 members in all racks together, or as many as there were: each row has that many copies.")
)]
pub struct ScyllaSpec {
    /// A database that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedScylla>,
    /// A database that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalScylla>,
    /// Keyspace of the platform.
    #[serde(default = "keyspace")]
    #[schemars(length(min = 1, max = 48), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub keyspace: String,
    /// Copies of each row, if the keyspace is not there yet. Up to 3, as many as there are managed members, if absent; 3
    /// on an external database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub replication_factor: Option<i32>,
}

/// A database that the operator runs: one StatefulSet for each rack.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("oldSelf.racks.all(old, self.racks.exists(rack, rack.name == old.name))").message("Keep every rack: its members are the only ones that have its copies of the rows. It may have fewer members, and at least one."),
    validation = Rule::new("self.datacenter == oldSelf.datacenter && self.engine == oldSelf.engine").message("Keep scylla.managed.datacenter and scylla.managed.engine as they were: the data are made for them.")
)]
pub struct ManagedScylla {
    /// What the image holds.
    #[serde(default)]
    pub engine: Engine,
    /// Image with the database.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Name of the data centre.
    #[serde(default = "datacenter")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z][a-z0-9-]*$"))]
    pub datacenter: String,
    /// Racks, such as one for each zone.
    #[serde(default = "one_rack")]
    #[schemars(length(min = 1, max = 9))]
    #[x_kube(validation = Rule::new("self.all(rack, self.exists_one(other, other.name == rack.name))").message("Give each rack of scylla.managed.racks a name of its own."))]
    pub racks: Vec<Rack>,
    /// Volume of each member.
    #[serde(default)]
    pub storage: Storage,
    /// CPU and memory of a member.
    #[serde(default)]
    pub resources: Resources,
    /// Whether it starts on machines that are not tuned for it. Only for tests: it then promises no speed.
    #[serde(default)]
    pub developer_mode: bool,
}

/// A database that speaks CQL.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Engine {
    /// ScyllaDB.
    #[default]
    #[serde(rename = "ScyllaDB")]
    ScyllaDb,
    /// Apache Cassandra in an image that takes ScyllaDB's arguments: the double of the tests.
    Cassandra,
}

/// Members that share a power supply, a zone, or whatever fails at once.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rack {
    /// Its name.
    #[schemars(length(min = 1, max = 16), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// How many members. They join and leave one at a time; the last one leaves first, and its volume goes with it.
    #[schemars(range(min = 1, max = 99))]
    pub members: i32,
    /// Labels that a Kubernetes node must have, such as a zone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
}

/// A database that exists.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalScylla {
    /// First nodes to ask, such as `scylla.example.org:9042`.
    #[schemars(length(min = 1, max = 16), inner(length(max = 512), regex(pattern = "^[^/@,]+$")))]
    pub contact_points: Vec<String>,
    /// The data centre near the chat nodes.
    #[serde(default = "external_datacenter")]
    #[schemars(length(min = 1, max = 64))]
    pub datacenter: String,
    /// Secret with `user` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretReference>,
    /// Secret whose key `ca.crt` vouches for the database. If set, connections use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<SecretReference>,
}

fn keyspace() -> String {
    "chat".to_owned()
}

fn datacenter() -> String {
    "dc1".to_owned()
}

fn external_datacenter() -> String {
    "datacenter1".to_owned()
}

fn one_rack() -> Vec<Rack> {
    vec![Rack { name: "a".to_owned(), members: 3, node_selector: BTreeMap::new() }]
}
