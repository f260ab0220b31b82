use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;

fn resource(spec: &Value) -> ChatCluster {
    let value = json!({
        "apiVersion": "chatcluster.dev/v1alpha1",
        "kind": "ChatCluster",
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": spec,
    });
    serde_json::from_value(value).unwrap()
}

fn least() -> Value {
    json!({
        "chat": {"image": "chat-node:1"},
        "scylla": {"managed": {"image": "scylladb/scylla:2025.1"}},
    })
}

/// The least spec with one value set at a path.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = serde_json::to_value(&resource(&least()).spec).unwrap();
    let mut at = &mut spec;
    for part in pointer.split('.') {
        let object = at.as_object_mut().unwrap();
        at = object.entry(part).or_insert_with(|| json!({}));
    }
    *at = value;
    spec
}

fn problems(spec: &Value) -> Vec<String> {
    resource(spec).problems()
}

#[test]
fn the_least_spec_gets_its_defaults_and_is_valid() {
    let cluster = resource(&least());
    let spec = &cluster.spec;
    assert_eq!(cluster.problems(), Vec::<String>::new());
    assert_eq!(spec.chat.replicas, 2);
    assert_eq!(spec.nats.managed.as_ref().unwrap().replicas, 3);
    assert_eq!(spec.nats.managed.as_ref().unwrap().sync_interval, "always");
    assert_eq!(spec.scylla.managed.as_ref().unwrap().racks[0].members, 3);
    assert_eq!(spec.rollout.drain.min_resume_percent, 80);
    assert_eq!(spec.deletion_policy, DeletionPolicy::Retain);
    assert!(spec.network_policy.enabled && spec.rollout.auto_promote && !spec.paused);
}

#[test]
fn a_resource_survives_the_round_trip() {
    let mut cluster = resource(&least());
    let at: jiff::Timestamp = "2026-11-28T09:00:00Z".parse().unwrap();
    cluster.status = Some(ChatClusterStatus {
        active_revision: Some("chat-1".to_owned()),
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: "AllReady".to_owned(),
            message: "All is ready.".to_owned(),
            last_transition_time: at,
            observed_generation: Some(1),
        }],
        ..ChatClusterStatus::default()
    });
    let text = serde_json::to_string(&cluster).unwrap();
    assert_eq!(serde_json::from_str::<ChatCluster>(&text).unwrap(), cluster);
}

/// Each rule: a spec that breaks it, and how its sentence begins.
fn broken() -> Vec<(Value, &'static str)> {
    let external = json!({"servers": ["nats://a:4222"]});
    vec![
        (with("nats.external", external), "Set either nats.managed or nats.external."),
        (with("nats.managed.replicas", json!(2)), "Set nats.managed.replicas to 1, 3 or 5"),
        (with("nats.streamReplicas", json!(5)), "Set nats.streamReplicas to at most"),
        (with("nats.streamReplicas", json!(2)), "Set nats.streamReplicas to 1, 3 or 5."),
        (with("nats.managed.storage.size", json!("much")), "Write the storage size"),
        (with("nats.managed.syncInterval", json!("never")), "Set nats.managed.syncInterval"),
        (with("scylla.replicationFactor", json!(4)), "Set scylla.replicationFactor to at most"),
        (
            with(
                "scylla.managed.racks",
                json!([{"name": "a", "members": 1}, {"name": "a", "members": 2}]),
            ),
            "Give each rack",
        ),
        (with("scylla.external", json!({"contactPoints": ["a"]})), "Set either scylla.managed"),
        (
            with("chat.config", json!([{"name": "listen", "value": "0.0.0.0:1"}])),
            "Remove from chat.config",
        ),
        (
            with("chat.config", json!([{"name": "nats.user", "value": "a"}])),
            "Remove from chat.config",
        ),
        (with("chat.publicUrl", json!("chat.example.org")), "Write chat.publicUrl"),
        (
            with("chat.discovery.hostTemplate", json!("{node}.{region}.x")),
            "Set chat.discovery.region",
        ),
        (with("rollout.drain.jitter", json!({"minMs": 9000})), "Set rollout.drain.jitter.minMs"),
        (
            with(
                "autoscaling",
                json!({"minReplicas": 3, "maxReplicas": 2, "targetCpuPercent": 50}),
            ),
            "Set autoscaling.minReplicas",
        ),
        (
            with("autoscaling", json!({"minReplicas": 1, "maxReplicas": 2})),
            "Set autoscaling.targetCpuPercent or",
        ),
    ]
}

#[test]
fn each_broken_rule_is_told_in_its_sentence() {
    for (spec, sentence) in broken() {
        let found = problems(&spec);
        assert!(
            found.len() == 1 && found[0].starts_with(sentence),
            "expected one sentence that begins with {sentence:?}, found {found:?}"
        );
    }
}

#[test]
fn names_that_services_cannot_have_are_refused() {
    let mut cluster = resource(&least());
    cluster.metadata.name = Some("1chat".to_owned());
    assert_eq!(cluster.problems().len(), 1);
    cluster.metadata.name = Some("a".repeat(41));
    assert_eq!(cluster.problems().len(), 1);
}

#[test]
fn what_holds_messages_cannot_be_edited_away() {
    let old = resource(&least());
    let edits = [
        (with("nats.prefix", json!("other")), "Keep nats.prefix"),
        (with("nats.managed.replicas", json!(1)), "Keep at least as many NATS servers"),
        (with("nats.managed.storage.size", json!("9Gi")), "Keep the storage at least as large"),
        (
            with("nats.managed.storage", json!({"size": "10Gi", "storageClassName": "fast"})),
            "Keep the storage class",
        ),
        (with("scylla.keyspace", json!("other")), "Keep scylla.keyspace"),
        (with("scylla.managed.racks", json!([{"name": "b", "members": 3}])), "Keep every rack"),
        (
            with("scylla.managed.racks", json!([{"name": "a", "members": 2}])),
            "Keep at least 3 members",
        ),
        (with("scylla.managed.datacenter", json!("dc2")), "Keep scylla.managed.datacenter"),
    ];
    for (spec, sentence) in edits {
        let errors = resource(&spec).validate_cel_update(&old).unwrap_err();
        assert!(errors.iter().any(|error| error.message.starts_with(sentence)), "{errors:?}");
    }
    let grown = with(
        "scylla.managed.racks",
        json!([{"name": "a", "members": 3}, {"name": "b", "members": 1}]),
    );
    assert!(resource(&grown).validate_cel_update(&old).is_ok());
    let shrunk = with(
        "scylla.managed.racks",
        json!([{"name": "a", "members": 2}, {"name": "b", "members": 1}]),
    );
    assert!(resource(&shrunk).validate_cel_update(&resource(&grown)).is_ok());
    let larger = with("nats.managed.storage.size", json!("0.02Ti"));
    assert!(resource(&larger).validate_cel_update(&old).is_ok());
    assert!(resource(&with("chat.image", json!("chat-node:2"))).validate_cel_update(&old).is_ok());
}

#[test]
fn the_rule_on_settings_names_what_the_operator_writes() {
    for key in MANAGED_SETTINGS {
        let spec = with("chat.config", json!([{"name": key, "value": "x"}]));
        assert_eq!(problems(&spec).len(), 1, "{key}");
    }
}

#[test]
fn the_definition_is_small_enough_to_be_applied_and_serves_status_and_scale() {
    let text = definition_yaml();
    assert!(text.len() < 128 * 1024, "{} bytes", text.len());
    let crd = ChatCluster::crd();
    let subresources = crd.spec.versions[0].subresources.as_ref().unwrap();
    assert!(subresources.status.is_some());
    assert_eq!(subresources.scale.as_ref().unwrap().spec_replicas_path, ".spec.chat.replicas");
    assert_eq!(
        crd.spec.names.short_names.as_deref(),
        Some(&["cc".to_owned(), "chat".to_owned()][..])
    );
}
