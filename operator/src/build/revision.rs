//! Which revision of the chat nodes a resource asks for.

use std::collections::BTreeMap;
use std::fmt;

use crds::ChatCluster;
use serde::Serialize;
use serde_json::{Value, json};

use super::{digest, place, secrets};

/// A revision of the chat nodes: a digest of what they are made from.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Revision(String);

impl Revision {
    /// The revision of this name.
    pub fn new(name: impl Into<String>) -> Revision {
        Revision(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The revision that a resource asks for, given the digests of the Secrets that its nodes use.
///
/// It is made of the resource and not of the rendered pod, so that another version of the operator, which may render it
/// in another way, asks for the same revision. A field that is added to the resource must therefore be left out here
/// while it has its default.
pub fn wanted_revision(cluster: &ChatCluster, digests: &BTreeMap<String, String>) -> Revision {
    Revision(digest(&inputs(cluster, digests)))
}

/// What makes two revisions different.
fn inputs(cluster: &ChatCluster, digests: &BTreeMap<String, String>) -> Value {
    let spec = &cluster.spec;
    let chat = &spec.chat;
    let mut used = secrets(cluster).used();
    used.sort();
    let used: Vec<(String, Option<&String>)> =
        used.into_iter().map(|name| (name.clone(), digests.get(&name))).collect();
    json!({
        "cluster": place(cluster),
        "image": chat.image,
        "resources": chat.resources,
        "config": chat.config,
        "publicUrl": chat.public_url,
        "connectionsMax": chat.connections_max,
        "discovery": chat.discovery,
        "grace": chat.termination_grace_seconds,
        "nodeSelector": chat.node_selector,
        "nats": {
            "external": spec.nats.external,
            "prefix": spec.nats.prefix,
            "streamReplicas": spec.nats.stream_replicas,
            "streamBytesMax": spec.nats.stream_bytes_max,
        },
        "scylla": {
            "external": spec.scylla.external,
            "keyspace": spec.scylla.keyspace,
            "datacenter": spec.scylla.managed.as_ref().map(|managed| &managed.datacenter),
        },
        "secrets": used,
    })
}
