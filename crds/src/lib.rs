//! The `ChatCluster` resource: what a platform team asks for, and what the operator tells about it.
//!
//! Rules that a schema cannot say are CEL expressions beside the types. The API server runs them when a resource is
//! applied, and the operator runs the same expressions before it acts ([`ChatCluster::problems`]).

#![allow(
    unreachable_pub,
    reason = "the derive of a schema with rules copies each struct into a function"
)]

mod chat;
mod command;
mod common;
mod nats;
mod rollout;
mod scylla;
mod status;

pub use chat::{ChatSpec, DiscoverySpec, MANAGED_SETTINGS, PullPolicy, ServiceType, Setting};
pub use command::{
    CLUSTER_LABEL, COMPONENT_LABEL, Command, DRAIN_ANNOTATION, OPERATOR, Order, REPLACE_ANNOTATION,
    REVISION_LABEL,
};
pub use common::{Resources, SecretReference, Storage};
pub use nats::{ExternalNats, ManagedNats, NatsSpec};
pub use rollout::{DrainSpec, Jitter, OnDeadline, OnLowResume, OnProgressDeadline, RolloutSpec};
pub use scylla::{Engine, ExternalScylla, ManagedScylla, Rack, ScyllaSpec};
pub use status::{
    BatchStatus, ChatClusterStatus, Condition, Grant, HandledCommand, HistoryEntry, LeavingMember,
    MemberStatus, Outcome, Phase, RolloutStatus,
};

use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A chat platform: chat nodes, and the NATS and ScyllaDB that they stand on.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "chatcluster.dev",
    version = "v1alpha1",
    kind = "ChatCluster",
    namespaced,
    cel,
    shortname = "cc",
    shortname = "chat",
    category = "all",
    annotation("helm.sh/resource-policy", "keep"),
    doc = "A chat platform: chat nodes, and the NATS and ScyllaDB that they stand on.",
    status = "ChatClusterStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.chat.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".spec.chat.replicas"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.activeRevision"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.chat.image", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.rollout.message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message(
        "Give the ChatCluster a name of at most 40 characters: names of its pods are made from it."
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "Give the ChatCluster a name of small letters, digits and dashes that begins with a letter: names of Services are made from it."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ChatClusterSpec {
    /// Whether the operator leaves everything as it is and only reports.
    #[serde(default)]
    pub paused: bool,
    /// The chat nodes.
    pub chat: ChatSpec,
    /// The NATS servers with the log and the bus.
    #[serde(default)]
    pub nats: NatsSpec,
    /// The database.
    pub scylla: ScyllaSpec,
    /// Secrets that exist already. What is not named here is generated once and never overwritten.
    #[serde(default)]
    pub secrets: SecretsSpec,
    /// How a new version replaces the old one.
    #[serde(default)]
    pub rollout: RolloutSpec,
    /// What a drain of Kubernetes nodes may take away at once.
    #[serde(default)]
    pub disruption: DisruptionSpec,
    /// Let the load decide how many chat nodes there are. It then writes spec.chat.replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Who may connect to the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// What happens to volumes and generated secrets when the ChatCluster is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Secrets by reference.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretsSpec {
    /// Secret whose key `keys.json` is the JSON Web Key Set that signs access tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_keys: Option<SecretReference>,
    /// Secret whose key `token` is the bearer token of the nodes' admin ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<SecretReference>,
}

/// Limits of voluntary disruptions.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DisruptionSpec {
    /// What becomes of the clients of a pod that somebody wants to evict.
    pub evictions: Evictions,
    /// Chat nodes of one revision that may be taken away at once: emptied, or evicted.
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: i32,
}

impl Default for DisruptionSpec {
    fn default() -> DisruptionSpec {
        DisruptionSpec { evictions: Evictions::DrainFirst, max_unavailable: 1 }
    }
}

/// What becomes of the clients of a pod that somebody wants to evict.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Evictions {
    /// Evictions are refused. When a machine is cordoned, other pods start, the clients of its pods move there batch by
    /// batch, and the pods go. An operator that may not read Kubernetes nodes does as with `Terminate`.
    #[default]
    DrainFirst,
    /// Evictions are granted, `maxUnavailable` at a time; a pod moves its clients while it ends.
    Terminate,
}

/// A HorizontalPodAutoscaler on the ChatCluster itself: it counts the active revision's pods only.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("Set autoscaling.minReplicas to at most autoscaling.maxReplicas."),
    validation = Rule::new("has(self.targetCpuPercent) || has(self.targetConnections)").message("Set autoscaling.targetCpuPercent or autoscaling.targetConnections, so that there is something to scale by.")
)]
pub struct AutoscalingSpec {
    /// Fewest chat nodes.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Most chat nodes.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// CPU in percent of what the nodes request, on average. Needs the metrics server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_percent: Option<i32>,
    /// Connections per node on average: the pods' metric `chat_connections`. Needs an adapter of custom metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub target_connections: Option<i32>,
}

/// Network policies of the pods.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there are any. Clients then reach only the clients' port; NATS and ScyllaDB hear only the chat nodes, each
    /// other and the operator; admin ports hear only the operator's namespace and `monitoringNamespace`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Namespace whose pods may read metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub monitoring_namespace: Option<String>,
}

impl Default for NetworkPolicySpec {
    fn default() -> NetworkPolicySpec {
        NetworkPolicySpec { enabled: true, monitoring_namespace: None }
    }
}

/// What is kept.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Volumes and generated secrets stay, and a ChatCluster of the same name finds them again.
    #[default]
    Retain,
    /// Everything goes, messages included.
    Delete,
}

fn yes() -> bool {
    true
}

impl ChatCluster {
    /// What is wrong with this resource by the rules of the definition, each a sentence that says what to do. The
    /// operator asks again because a definition in a cluster can be older than the operator.
    pub fn problems(&self) -> Vec<String> {
        match self.validate_cel() {
            Ok(()) => Vec::new(),
            Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
        }
    }
}

/// The definition as YAML, for `kubectl apply`.
///
/// # Panics
///
/// Never: the definition is built of plain values.
pub fn definition_yaml() -> String {
    let value = serde_json::to_value(ChatCluster::crd()).expect("a definition is plain values");
    let text = serde_saphyr::to_string(&value).expect("plain values are YAML");
    format!("# Generated from the source by `cargo xtask codegen`; do not edit.\n{text}")
}

#[cfg(test)]
mod tests;
