//! An API server in memory: enough of one for passes to read and write, and a count of what they write.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};

type Key = (String, String, String);

/// The server.
#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// A field of statuses that the definition does not know.
    unknown: Option<&'static str>,
    writes: Vec<String>,
}

/// A request's path in parts.
struct Target {
    plural: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let at = parts.iter().position(|part| *part == "namespaces").expect("all is namespaced");
    let part = |index: usize| parts.get(at + index).map(|part| (*part).to_owned());
    Target {
        namespace: part(1).unwrap_or_default(),
        plural: part(2).unwrap_or_default(),
        name: part(3),
        subresource: part(4),
    }
}

impl ApiServer {
    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "demo")
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    /// From now on the definition does not know this field of statuses.
    pub(crate) fn forget(&self, field: &'static str) {
        self.inside().unknown = Some(field);
    }

    /// What was written since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.inside().writes)
    }

    /// An object.
    pub(crate) fn get(&self, plural: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), "demo".to_owned(), name.to_owned());
        self.inside().objects.get(&key).cloned()
    }

    /// Names of the objects of a kind.
    pub(crate) fn names(&self, plural: &str) -> Vec<String> {
        let inside = self.inside();
        inside.objects.keys().filter(|key| key.0 == plural).map(|key| key.2.clone()).collect()
    }

    /// Puts an object there, as another client would.
    pub(crate) fn put(&self, plural: &str, value: Value) {
        let mut inside = self.inside();
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (plural.to_owned(), "demo".to_owned(), name);
        inside.store(key, value);
    }

    /// Changes an object, as another client would.
    pub(crate) fn change(&self, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.get(plural, name).unwrap_or_else(|| panic!("{plural} {name}"));
        change(&mut value);
        self.put(plural, value);
    }

    /// Removes an object, as another client would.
    pub(crate) fn remove(&self, plural: &str, name: &str) {
        let key = (plural.to_owned(), "demo".to_owned(), name.to_owned());
        assert!(self.inside().objects.remove(&key).is_some(), "{plural} {name}");
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%3D", "=").replace("%2F", "/")))
            .collect();
        let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let is_apply = kind.is_some_and(|kind| kind.contains("apply-patch"));
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let (code, value) =
            self.inside().handle(&parts.method, &target(parts.uri.path()), &query, body, is_apply);
        let text = serde_json::to_vec(&value).unwrap();
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(Body::from(text))
            .unwrap()
    }
}

impl Inside {
    fn handle(
        &mut self,
        method: &Method,
        target: &Target,
        query: &BTreeMap<String, String>,
        body: Value,
        is_apply: bool,
    ) -> (StatusCode, Value) {
        let name =
            target.name.clone().or_else(|| body["metadata"]["name"].as_str().map(str::to_owned));
        let key = (target.plural.clone(), target.namespace.clone(), name.unwrap_or_default());
        if *method == Method::GET && target.name.is_none() {
            return (StatusCode::OK, self.list(target, query));
        }
        let present = self.objects.get(&key).cloned();
        if *method == Method::GET {
            return present
                .map_or_else(|| failure(404, "NotFound"), |value| (StatusCode::OK, value));
        }
        if key.0 == "events" {
            return (StatusCode::CREATED, body);
        }
        self.writes.push(format!("{method} {} {}", key.0, key.2));
        match (method.as_str(), present) {
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("POST", None) => (StatusCode::CREATED, self.store(key, secret_data(body))),
            ("PATCH", None) if !is_apply => failure(404, "NotFound"),
            ("PATCH", present) => {
                let mut next = present.unwrap_or_else(|| defaults(&key.0));
                merge(&mut next, &body);
                (StatusCode::OK, self.store(key, next))
            }
            ("PUT", Some(present)) => {
                let (seen, now) =
                    (&body["metadata"]["resourceVersion"], &present["metadata"]["resourceVersion"]);
                if !seen.is_null() && seen != now {
                    return failure(409, "Conflict");
                }
                let next = match target.subresource.as_deref() {
                    Some("status") => {
                        let mut next = present.clone();
                        next["status"] = body["status"].clone();
                        if let (Some(field), Some(status)) =
                            (self.unknown, next["status"].as_object_mut())
                        {
                            status.remove(field);
                        }
                        next
                    }
                    _ => body,
                };
                (StatusCode::OK, self.store(key, next))
            }
            ("DELETE", Some(_)) => {
                let gone = self.objects.remove(&key).unwrap();
                (StatusCode::OK, gone)
            }
            _ => failure(404, "NotFound"),
        }
    }

    fn list(&self, target: &Target, query: &BTreeMap<String, String>) -> Value {
        let wanted: Vec<(&str, &str)> = query
            .get("labelSelector")
            .map(String::as_str)
            .unwrap_or_default()
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(key, _)| key.0 == target.plural && key.1 == target.namespace)
            .map(|(_, value)| value)
            .filter(|value| {
                let labels = &value["metadata"]["labels"];
                wanted.iter().all(|(name, text)| labels[*name].as_str() == Some(*text))
            })
            .map(|value| without_types(value.clone()))
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn store(&mut self, key: Key, mut value: Value) -> Value {
        if self.objects.get(&key) == Some(&value) {
            return value;
        }
        self.version += 1;
        let metadata = &mut value["metadata"];
        metadata["resourceVersion"] = self.version.to_string().into();
        metadata["namespace"] = key.1.as_str().into();
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("uid-{}", self.version).into();
        }
        self.objects.insert(key, value.clone());
        value
    }
}

/// Secrets are written as text and read as base64.
fn secret_data(mut value: Value) -> Value {
    use base64::Engine as _;
    let Some(fields) = value.as_object_mut() else { return value };
    if let Some(Value::Object(texts)) = fields.remove("stringData") {
        let data: Map<String, Value> = texts
            .into_iter()
            .map(|(name, text)| {
                let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
                (name, base64::prelude::BASE64_STANDARD.encode(bytes).into())
            })
            .collect();
        fields.insert("data".to_owned(), Value::Object(data));
    }
    value
}

/// What the API server fills in.
fn defaults(plural: &str) -> Value {
    match plural {
        "replicasets" => json!({"spec": {"replicas": 1}, "metadata": {}}),
        _ => json!({"metadata": {}}),
    }
}

/// A merge as of RFC 7396: also what a server-side apply by one manager comes to, but for removed fields.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn failure(code: u16, reason: &str) -> (StatusCode, Value) {
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), value)
}

/// Items of a list have no kind and version of their own, but for those of definitions.
fn without_types(mut item: Value) -> Value {
    let is_custom =
        item["apiVersion"].as_str().is_some_and(|text| text.starts_with("chatcluster.dev/"));
    if let (false, Some(fields)) = (is_custom, item.as_object_mut()) {
        fields.retain(|key, _| !["apiVersion", "kind"].contains(&key.as_str()));
    }
    item
}
