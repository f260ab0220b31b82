//! Objects from YAML, as `kubectl apply` does it.

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, ResourceExt};

use crate::Space;

/// Who has set the fields of these objects.
const MANAGER: &str = "kind-tests";

impl Space {
    /// Creates or changes the objects of a file, those with a namespace in this one.
    pub async fn apply(&self, yaml: &str) {
        let objects: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(yaml).expect("a manifest of YAML documents");
        for object in objects {
            self.apply_object(serde_json::from_value(object).expect("an object")).await;
        }
    }

    async fn apply_object(&self, object: DynamicObject) {
        let name = object.name_any();
        let types = object.types.as_ref().expect("an object with a kind");
        let kind = GroupVersionKind::try_from(types).expect("a kind with a version");
        let (resource, capabilities) = pinned_kind(&self.client, &kind)
            .await
            .unwrap_or_else(|error| panic!("the cluster does not know {kind:?}: {error}"));
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.name, &resource),
        };
        let apply = PatchParams::apply(MANAGER).force();
        api.patch(&name, &apply, &Patch::Apply(&object))
            .await
            .unwrap_or_else(|error| panic!("{} {name} is not taken: {error}", kind.kind));
    }
}
