//! Makes objects what they should be, by server-side apply, and writes nothing where nothing differs.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::Status;
use serde_json::{Value, json};

use crate::build::{Concern, Intent, digest};
use crate::error::{Error, doing};
use crate::names;
use crate::volumes::Growth;

/// What has to be done about one object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is as it should be.
    Leave,
    /// It is not there, or should be something else now.
    Write,
    /// Somebody changed it.
    Repair,
    /// It is on its way out, and comes back when it is gone.
    Wait,
    /// It is somebody else's.
    Refuse,
}

/// Compares an object with what it should be.
pub fn decide(live: Option<&Value>, intent: &Intent, cluster: &str) -> Decision {
    let Some(live) = live else { return Decision::Write };
    let metadata = &live["metadata"];
    if metadata["labels"][names::CLUSTER].as_str() != Some(cluster) {
        return Decision::Refuse;
    }
    if !metadata["deletionTimestamp"].is_null() {
        return Decision::Wait;
    }
    let holds = contains(live, &intent.value);
    if intent.concern == Concern::Scale {
        return if holds { Decision::Leave } else { Decision::Write };
    }
    let annotation = |name| metadata["annotations"][name].as_str();
    let is_applied = annotation(names::APPLIED) == Some(digest(&intent.value).as_str());
    let same_inputs =
        intent.inputs.is_some() && annotation(names::INPUTS) == intent.inputs.as_deref();
    match (is_applied, holds) {
        (true, true) => Decision::Leave,
        (true, false) => Decision::Repair,
        // Another version of the operator made it from the same.
        (false, _) if same_inputs => Decision::Leave,
        (false, _) => Decision::Write,
    }
}

/// Whether `live` has everything that `wanted` says. It may have more: defaults, and what others wrote.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            live.get(key).map_or_else(|| is_nothing(value), |live| contains(live, value))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(l, w)| contains(l, w))
        }
        (Value::String(live), Value::String(wanted)) => {
            live == wanted || is_same_quantity(live, wanted)
        }
        _ => live == wanted,
    }
}

/// What the API server leaves out.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The API server writes quantities in its own way: `1000m` is `1` there.
fn is_same_quantity(one: &str, other: &str) -> bool {
    match (quantity(one), quantity(other)) {
        (Some(one), Some(other)) => {
            (one - other).abs() <= f64::EPSILON * one.abs().max(other.abs())
        }
        _ => false,
    }
}

/// The number that a quantity such as `10Gi` or `500m` stands for.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// Writes objects of one namespace.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    namespace: String,
}

impl Applier {
    /// A writer to this namespace.
    pub fn new(client: Client, namespace: &str) -> Applier {
        Applier { client, namespace: namespace.to_owned() }
    }

    /// Access to objects of a kind.
    pub fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    /// The object of this name, whoever it belongs to.
    pub async fn read(&self, intent: &Intent) -> Result<Option<Value>, Error> {
        let doing = doing(format!("read {} {}", intent.resource.kind, intent.name));
        let found = self.api(&intent.resource).get_opt(&intent.name).await.map_err(doing)?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// Applies an object. Fields that others own are taken over: the operator answers for what it writes.
    pub async fn apply(&self, intent: &Intent) -> Result<(), Error> {
        let mut value = intent.value.clone();
        if intent.concern != Concern::Scale {
            value["metadata"]["annotations"][names::APPLIED] = digest(&intent.value).into();
            if let Some(inputs) = &intent.inputs {
                value["metadata"]["annotations"][names::INPUTS] = inputs.as_str().into();
            }
        }
        let parameters = PatchParams::apply(intent.concern.manager()).force();
        let doing = doing(format!("apply {} {}", intent.resource.kind, intent.name));
        self.api(&intent.resource)
            .patch(&intent.name, &parameters, &Patch::Apply(&value))
            .await
            .map_err(doing)?;
        Ok(())
    }

    /// Creates an object that must never be overwritten. One that exists already is left as it is.
    pub async fn create(&self, intent: &Intent) -> Result<(), Error> {
        let object: DynamicObject = serde_json::from_value(intent.value.clone())
            .map_err(|error| doing("make an object")(kube::Error::SerdeError(error)))?;
        match self.api(&intent.resource).create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if is_already_there(&status) => Ok(()),
            Err(error) => {
                Err(doing(format!("create {} {}", intent.resource.kind, intent.name))(error))
            }
        }
    }

    /// Deletes an object, unless it has become another one.
    pub async fn delete(&self, resource: &ApiResource, name: &str, uid: &str) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.api(resource).delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(doing(format!("delete {} {name}", resource.kind))(error)),
        }
    }

    /// Lets a volume claim ask for more.
    pub async fn grow(&self, growth: &Growth) -> Result<(), Error> {
        let patch = json!({"spec": {"resources": {"requests": {"storage": growth.size}}}});
        self.api(&ApiResource::erase::<PersistentVolumeClaim>(&()))
            .patch(&growth.claim, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(doing(format!("make volume {} larger", growth.claim)))?;
        Ok(())
    }

    /// Changes metadata of an object: finalizers, annotations.
    pub async fn patch_metadata(
        &self,
        resource: &ApiResource,
        name: &str,
        metadata: Value,
    ) -> Result<(), Error> {
        let patch = json!({"metadata": metadata});
        self.api(resource)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(doing(format!("change metadata of {} {name}", resource.kind)))?;
        Ok(())
    }
}

fn is_already_there(status: &Status) -> bool {
    status.code == 409
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_what_others_wrote_are_no_difference() {
        let live = json!({"a": {"b": 1, "c": 2}, "list": [{"x": 1, "y": 2}], "cpu": "1"});
        assert!(contains(&live, &json!({"a": {"b": 1}, "list": [{"x": 1}], "cpu": "1000m"})));
        assert!(contains(&live, &json!({"a": {"b": 1, "none": {}}, "empty": []})));
        assert!(!contains(&live, &json!({"a": {"b": 2}})));
        assert!(!contains(&live, &json!({"list": []})));
        assert!(!contains(&live, &json!({"missing": true})));
        assert!(!contains(&live, &json!({"cpu": "2"})));
    }
}
