//! The NATS servers of a specification.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Resources, SecretReference, Storage};

/// The NATS servers: managed by the operator, or existing ones.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.managed) != has(self.external)").message("Set either nats.managed or nats.external."),
    validation = Rule::new("has(self.managed) == has(oldSelf.managed)").message("Keep NATS managed or external as it was: the messages do not move by themselves. Make a new ChatCluster."),
    validation = Rule::new("self.prefix == oldSelf.prefix").message("Keep nats.prefix as it was: the messages are under it."),
    validation = Rule::new("!has(self.managed) || !has(self.streamReplicas) || self.streamReplicas <= self.managed.replicas").message("Set nats.streamReplicas to at most nats.managed.replicas: each copy is on a server of its own.")
)]
pub struct NatsSpec {
    /// Servers that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedNats>,
    /// Servers that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalNats>,
    /// In front of the names of all streams and subjects, so that platforms can share servers.
    #[serde(default = "prefix")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[A-Za-z0-9_-]+$"))]
    pub prefix: String,
    /// Copies of each stream: 1, 3 or 5. Up to 3, as many as there are managed servers, if absent; 3 on external ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in [1, 3, 5]").message("Set nats.streamReplicas to 1, 3 or 5."))]
    pub stream_replicas: Option<i32>,
    /// What each of the 4 streams may take of the servers' disks in bytes; a fifth of the storage of managed servers if
    /// absent, else chat-node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576))]
    pub stream_bytes_max: Option<i64>,
}

impl Default for NatsSpec {
    fn default() -> NatsSpec {
        NatsSpec {
            managed: Some(ManagedNats::default()),
            external: None,
            prefix: prefix(),
            stream_replicas: None,
            stream_bytes_max: None,
        }
    }
}

/// NATS servers that the operator runs.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedNats {
    /// Image with `nats-server`, 2.12 or newer.
    #[serde(default = "image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// How many servers: 1, 3 or 5.
    #[serde(default = "three")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5]").message("Set nats.managed.replicas to 1, 3 or 5: an even number survives no more failures than the odd one below it."),
        validation = Rule::new("self >= oldSelf").message("Keep at least as many NATS servers as there were: taking one away can lose messages.")
    )]
    pub replicas: i32,
    /// Volume of each server.
    #[serde(default)]
    pub storage: Storage,
    /// When a server syncs to its disk: `always` before it acknowledges, or a time such as `2m`, with which a power cut of
    /// all servers loses acknowledged messages.
    #[serde(default = "always")]
    #[x_kube(validation = Rule::new("self.matches('^(always|[0-9]+(ms|s|m))$')").message("Set nats.managed.syncInterval to always, or to a time such as 2m."))]
    #[schemars(length(max = 16))]
    pub sync_interval: String,
    /// CPU and memory of a server.
    #[serde(default)]
    pub resources: Resources,
}

impl Default for ManagedNats {
    fn default() -> ManagedNats {
        ManagedNats {
            image: image(),
            replicas: three(),
            storage: Storage::default(),
            sync_interval: always(),
            resources: Resources::default(),
        }
    }
}

/// NATS servers that exist.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalNats {
    /// Their addresses, such as `nats://nats.example.org:4222`.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(max = 512), regex(pattern = "^(nats|tls)://[^/@,]+$"))
    )]
    pub servers: Vec<String>,
    /// Secret with `user` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretReference>,
    /// Secret whose key `ca.crt` vouches for the servers. If set, connections use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<SecretReference>,
}

fn prefix() -> String {
    "chat".to_owned()
}

fn image() -> String {
    "nats:2.12.3".to_owned()
}

fn three() -> i32 {
    3
}

fn always() -> String {
    "always".to_owned()
}
