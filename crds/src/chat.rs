//! The chat nodes of a specification.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Resources, SecretReference};

/// Settings of a chat node that the operator writes itself, and that `spec.chat.config` therefore must not name. A test
/// compares this list with the rule on [`ChatSpec::config`].
pub const MANAGED_SETTINGS: &[&str] = &[
    "listen",
    "admin_listen",
    "admin_token",
    "data_dir",
    "broker",
    "store",
    "revision",
    "region",
    "public_url",
    "node_name",
    "roles",
    "advertise_host_template",
    "connections_max",
    "log.format",
    "token.key_file",
    "shutdown.grace_ms",
];

/// The chat nodes.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatSpec {
    /// Image with `chat-node`. A change starts a rollout.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Secrets to pull images with, also those of NATS and ScyllaDB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<SecretReference>,
    /// How many nodes.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    /// CPU and memory of a node.
    #[serde(default)]
    pub resources: Resources,
    /// Settings of chat-node; docs/config.md lists them. A change starts a rollout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.all(setting, !(setting.name in ['listen', 'admin_listen', 'admin_token', 'data_dir', 'broker', 'store', 'revision', 'region', 'public_url', 'node_name', 'roles', 'advertise_host_template', 'connections_max', 'log.format', 'token.key_file', 'shutdown.grace_ms'] || setting.name.startsWith('nats.') || setting.name.startsWith('scylla.')))").message("Remove from chat.config what the operator sets itself: addresses, names, broker, store, nats.*, scylla.*, token.key_file, connections_max, log.format and shutdown.grace_ms follow from other fields of the spec."))]
    pub config: Vec<Setting>,
    /// Address under which clients reach the platform, such as `https://chat.example.org`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/]+$')").message("Write chat.publicUrl with its scheme and without a slash at its end, such as https://chat.example.org."))]
    pub public_url: Option<String>,
    /// Connections of clients that one node takes: its capacity in service discovery.
    #[serde(default = "connections_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: i32,
    /// How a client finds the best node.
    #[serde(default)]
    pub discovery: DiscoverySpec,
    /// Longest time of a pod's graceful end in seconds. Its clients are told to go elsewhere meanwhile.
    #[serde(default = "grace_seconds")]
    #[schemars(range(min = 15, max = 3600))]
    pub termination_grace_seconds: i64,
    /// Type of the Service that clients connect to.
    #[serde(default)]
    pub service_type: ServiceType,
    /// Annotations of that Service, such as those that a cloud's load balancer reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub service_annotations: BTreeMap<String, String>,
    /// Labels that a Kubernetes node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
}

/// One setting of chat-node.
#[derive(JsonSchema, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Its name with that of its section, such as `rate_limits.enabled`.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z_]+([.][a-z_]+)?$"))]
    pub name: String,
    /// Its value. Numbers, `true` and `false`, and lists as in `["a", "b"]`, are written as text here.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// Service discovery.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.hostTemplate) || !self.hostTemplate.contains('{region}') || has(self.region)").message("Set chat.discovery.region, because chat.discovery.hostTemplate uses it."))]
pub struct DiscoverySpec {
    /// Region of these nodes, such as `eu-central`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub region: Option<String>,
    /// Host under which clients reach one node, such as `{node}.{region}.chat.example.org`. Without it discovery answers
    /// `publicUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub host_template: Option<String>,
    /// Networks of clients and the regions they are in, such as `10.0.0.0/8=eu-central`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub networks: Vec<String>,
}

/// When an image is pulled.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum PullPolicy {
    /// If the Kubernetes node does not have it.
    #[default]
    IfNotPresent,
    /// At each start.
    Always,
    /// Never.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Always => "Always",
            PullPolicy::Never => "Never",
        }
    }
}

/// Type of a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ServiceType {
    /// An address inside the cluster, for an Ingress or a Gateway.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// A port on each Kubernetes node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        }
    }
}

fn two() -> i32 {
    2
}

fn connections_max() -> i32 {
    50_000
}

fn grace_seconds() -> i64 {
    60
}
