//! An object as it should be, and what is needed to apply it.

use std::collections::BTreeMap;

use crds::ChatCluster;
use kube::Resource;
use kube::api::{ApiResource, ObjectMeta};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::place;
use crate::names::{self, Component};

/// Who answers for a set of fields: its name as a field manager.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Concern {
    /// What an object is.
    Template,
    /// How many pods a revision has.
    Scale,
    /// Which revision a Service selects.
    Traffic,
}

impl Concern {
    /// Name of the field manager.
    pub fn manager(self) -> &'static str {
        match self {
            Concern::Template => "chat-operator",
            Concern::Scale => "chat-operator-scale",
            Concern::Traffic => "chat-operator-traffic",
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// Its fields.
    pub value: Value,
    /// Who answers for them.
    pub concern: Concern,
    /// Digest of what its pod template was made from. While it stays, a live template that another version of the
    /// operator wrote is left as it is: an upgrade of the operator restarts nobody's pods.
    pub inputs: Option<String>,
}

impl Intent {
    /// An object of a kind that Kubernetes has.
    ///
    /// # Panics
    ///
    /// Never: objects are plain values.
    pub fn new<K>(object: &K) -> Intent
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let resource = ApiResource::erase::<K>(&());
        let mut value = serde_json::to_value(object).expect("objects are plain values");
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            fields.insert("kind".to_owned(), resource.kind.clone().into());
        }
        let name = object.meta().name.clone().unwrap_or_default();
        Intent { resource, name, value, concern: Concern::Template, inputs: None }
    }

    /// The same object, whose pod template was made from `inputs`.
    pub fn made_from(mut self, inputs: &str) -> Intent {
        self.inputs = Some(inputs.to_owned());
        self
    }

    /// The same object, for which another concern answers.
    pub fn of(mut self, concern: Concern) -> Intent {
        self.concern = concern;
        self
    }
}

/// Metadata of an object that goes with its ChatCluster.
pub(super) fn metadata(cluster: &ChatCluster, name: String, component: Component) -> ObjectMeta {
    let (own, namespace) = place(cluster);
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        labels: Some(names::labels(&own, component)),
        owner_references: cluster.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// A digest of a value, short enough for a label.
///
/// # Panics
///
/// Never: what is digested are plain values.
pub fn digest(value: &impl Serialize) -> String {
    let text = serde_json::to_vec(value).expect("plain values are JSON");
    let hash = Sha256::digest(&text);
    hash.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// A map of one entry.
pub(super) fn entry(key: &str, value: impl Into<String>) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.into())])
}
