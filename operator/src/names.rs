//! Names and labels of everything that belongs to a ChatCluster.

use std::collections::BTreeMap;

pub use crds::{
    CLUSTER_LABEL as CLUSTER, COMPONENT_LABEL as COMPONENT, OPERATOR, REVISION_LABEL as REVISION,
};

/// Label with the rack of a member of the database.
pub const RACK: &str = "chatcluster.dev/rack";

/// Annotation with the digest of what was last applied.
pub const APPLIED: &str = "chatcluster.dev/applied";

/// Annotation with the digest of what a pod template was made from.
pub const INPUTS: &str = "chatcluster.dev/inputs";

/// Finalizer of a ChatCluster.
pub const FINALIZER: &str = "chatcluster.dev/cleanup";

/// Label that every object has.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", OPERATOR);

/// A part of the platform.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// The chat nodes.
    Chat,
    /// NATS.
    Nats,
    /// The database.
    Scylla,
}

impl Component {
    /// Its value of the label [`COMPONENT`].
    pub fn as_str(self) -> &'static str {
        match self {
            Component::Chat => "chat",
            Component::Nats => "nats",
            Component::Scylla => "scylla",
        }
    }
}

/// Labels of an object.
pub fn labels(cluster: &str, component: Component) -> BTreeMap<String, String> {
    let mut labels = selector(cluster, component);
    labels.insert("app.kubernetes.io/name".to_owned(), "chatcluster".to_owned());
    labels.insert("app.kubernetes.io/instance".to_owned(), cluster.to_owned());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

/// Labels by which the pods of a part are selected. They never change.
pub fn selector(cluster: &str, component: Component) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CLUSTER.to_owned(), cluster.to_owned()),
        (COMPONENT.to_owned(), component.as_str().to_owned()),
    ])
}

/// Labels by which the chat nodes of a revision are selected.
pub fn revision_selector(cluster: &str, revision: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster, Component::Chat);
    labels.insert(REVISION.to_owned(), revision.to_owned());
    labels
}

/// The Service that clients connect to.
pub fn active_service(cluster: &str) -> String {
    format!("{cluster}-chat")
}

/// The Service of the revision that is being tried.
pub fn preview_service(cluster: &str) -> String {
    format!("{cluster}-chat-preview")
}

/// ReplicaSet, headless Service and ConfigMap of a revision.
pub fn revision(cluster: &str, revision: &str) -> String {
    format!("{cluster}-chat-{revision}")
}

/// StatefulSet, ConfigMap, client Service of NATS.
pub fn nats(cluster: &str) -> String {
    format!("{cluster}-nats")
}

/// Headless Service of NATS.
pub fn nats_headless(cluster: &str) -> String {
    format!("{cluster}-nats-headless")
}

/// Client Service of the database.
pub fn scylla(cluster: &str) -> String {
    format!("{cluster}-scylla")
}

/// StatefulSet, headless Service and ConfigMap of a rack.
pub fn rack(cluster: &str, rack: &str) -> String {
    format!("{cluster}-scylla-{rack}")
}

/// Generated Secret with the keys that sign access tokens.
pub fn token_keys(cluster: &str) -> String {
    format!("{cluster}-token-keys")
}

/// Generated Secret with the token of admin ports.
pub fn admin_token(cluster: &str) -> String {
    format!("{cluster}-admin-token")
}

/// Generated Secret with the name and password of managed NATS servers.
pub fn nats_credentials(cluster: &str) -> String {
    format!("{cluster}-nats-credentials")
}
