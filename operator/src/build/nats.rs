//! The NATS servers: one StatefulSet with JetStream.

use crds::{ChatCluster, DeletionPolicy, ManagedNats};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ExecAction, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec,
    Service, ServiceSpec,
};
use kube::api::ObjectMeta;

use super::object::{Intent, digest, entry, metadata};
use super::{Facts, place, pod, secrets};
use crate::names::{self, Component};

/// A server in lame duck mode hands over its leaders, waits, then closes clients one after another: the least that it
/// accepts for that is 30 s. The grace is that, and time to end.
const LAME_DUCK_SECONDS: i64 = 30;
const GRACE_SECONDS: i64 = LAME_DUCK_SECONDS + 30;

pub(super) fn intents(cluster: &ChatCluster, facts: &Facts) -> Vec<Intent> {
    let Some(managed) = &cluster.spec.nats.managed else { return Vec::new() };
    let (own, _) = place(cluster);
    let selector = names::selector(&own, Component::Nats);
    let name = names::nats(&own);
    vec![
        Intent::new(&ConfigMap {
            metadata: metadata(cluster, name.clone(), Component::Nats),
            data: Some(entry("nats.conf", configuration(cluster, managed, facts))),
            ..ConfigMap::default()
        }),
        Intent::new(&Service {
            metadata: metadata(cluster, names::nats_headless(&own), Component::Nats),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                // Servers have to find each other before any of them is ready.
                publish_not_ready_addresses: Some(true),
                selector: Some(selector.clone()),
                ports: Some(
                    PORTS.iter().map(|(name, port)| pod::service_port(name, *port)).collect(),
                ),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }),
        Intent::new(&Service {
            metadata: metadata(cluster, name.clone(), Component::Nats),
            spec: Some(ServiceSpec {
                selector: Some(selector.clone()),
                ports: Some(vec![pod::service_port("client", 4222)]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }),
        pod::disruption_budget(cluster, name, Component::Nats, &selector, pod::SERVERS),
        stateful_set(cluster, managed, facts),
    ]
}

const PORTS: &[(&str, i32)] = &[("client", 4222), ("cluster", 6222), ("monitor", 8222)];

fn stateful_set(cluster: &ChatCluster, managed: &ManagedNats, facts: &Facts) -> Intent {
    let (own, _) = place(cluster);
    let selector = names::selector(&own, Component::Nats);
    let text = configuration(cluster, managed, facts);
    let mut template = ObjectMeta {
        labels: Some(pod::pod_labels(cluster, Component::Nats)),
        ..ObjectMeta::default()
    };
    // A server does not read its file again: another file is another pod.
    template.annotations = Some(entry("chatcluster.dev/configuration", digest(&text)));
    let inputs = digest(&(managed, &text, cluster.spec.deletion_policy));
    Intent::new(&StatefulSet {
        metadata: metadata(cluster, names::nats(&own), Component::Nats),
        spec: Some(StatefulSetSpec {
            service_name: Some(names::nats_headless(&own)),
            replicas: Some(managed.replicas),
            // One after the other they never reach a quorum.
            pod_management_policy: Some("Parallel".to_owned()),
            // Which pod goes next depends on streams and on who leads: crate::nats decides it.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            selector: pod::labelled(&selector),
            persistent_volume_claim_retention_policy: Some(retention(cluster)),
            volume_claim_templates: Some(vec![pod::claim(
                &managed.storage,
                &names::nats(&own),
                facts,
            )]),
            template: PodTemplateSpec {
                metadata: Some(template),
                spec: Some(PodSpec {
                    volumes: Some(vec![
                        pod::config_volume("config", &names::nats(&own)),
                        pod::empty_volume("run"),
                    ]),
                    topology_spread_constraints: Some(pod::spread(&selector)),
                    affinity: Some(pod::apart(&selector)),
                    termination_grace_period_seconds: Some(GRACE_SECONDS),
                    ..pod::pod_spec(cluster, vec![container(cluster, managed, facts)])
                }),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
    .made_from(&inputs)
}

/// What becomes of volumes. Shrinking never deletes one.
pub(super) fn retention(cluster: &ChatCluster) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let deleted = match cluster.spec.deletion_policy {
        DeletionPolicy::Retain => "Retain",
        DeletionPolicy::Delete => "Delete",
    };
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(deleted.to_owned()),
        when_scaled: Some("Retain".to_owned()),
    }
}

fn container(cluster: &ChatCluster, managed: &ManagedNats, facts: &Facts) -> Container {
    let signal = ["nats-server", "--signal", "ldm=/run/nats/nats.pid"];
    let mut env = vec![pod::own_field("POD_NAME", "metadata.name")];
    if let Some(secret) = secrets(cluster).nats {
        env.push(pod::from_secret("NATS_USER", &secret.name, "user"));
        env.push(pod::from_secret("NATS_PASSWORD", &secret.name, "password"));
        if facts.nats_rotation.is_some() {
            let previous = [("USER", "previous-user"), ("PASSWORD", "previous-password")];
            env.extend(previous.map(|(variable, key)| {
                pod::from_secret(&format!("NATS_PREVIOUS_{variable}"), &secret.name, key)
            }));
        }
    }
    // A probe that looks at streams would let one broken stream hold up a pod, and then the whole roll.
    let health = "/healthz?js-server-only=true";
    Container {
        name: "nats".to_owned(),
        image: Some(managed.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(["nats-server", "--config", "/etc/nats/nats.conf"].map(str::to_owned).into()),
        env: Some(env),
        ports: Some(PORTS.iter().map(|(name, port)| pod::container_port(name, *port)).collect()),
        startup_probe: Some(pod::http_probe(health, "monitor", 2, 150)),
        readiness_probe: Some(pod::http_probe(health, "monitor", 5, 3)),
        liveness_probe: Some(pod::http_probe("/healthz?js-enabled-only=true", "monitor", 30, 3)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction { command: Some(signal.map(str::to_owned).into()) }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(pod::resources(&managed.resources)),
        security_context: Some(pod::confined()),
        volume_mounts: Some(vec![
            pod::mount("data", "/data"),
            pod::mount("config", "/etc/nats"),
            pod::mount("run", "/run/nats"),
        ]),
        ..Container::default()
    }
}

/// Who may connect. While names and passwords are changed servers take both, and start again when they become others; else
/// the text does not tell which they are, and a server that starts takes those of the Secret.
fn authorization(rotation: Option<&str>) -> String {
    match rotation {
        None => "authorization {\n  user: $NATS_USER\n  password: $NATS_PASSWORD\n}\n".to_owned(),
        Some(digest) => format!(
            "# {digest}\n\
             authorization {{\n  users: [\n    \
             {{ user: $NATS_USER, password: $NATS_PASSWORD }}\n    \
             {{ user: $NATS_PREVIOUS_USER, password: $NATS_PREVIOUS_PASSWORD }}\n  ]\n}}\n"
        ),
    }
}

fn configuration(cluster: &ChatCluster, managed: &ManagedNats, facts: &Facts) -> String {
    let (own, namespace) = place(cluster);
    let (name, headless) = (names::nats(&own), names::nats_headless(&own));
    let store = bytes(&managed.storage.size).unwrap_or_default();
    let routes: String = (0..managed.replicas)
        .map(|ordinal| format!("    nats://{name}-{ordinal}.{headless}.{namespace}.svc:6222\n"))
        .collect();
    let clustered = match managed.replicas {
        1 => String::new(),
        _ => format!(
            "cluster {{\n  name: {name}\n  port: 6222\n  no_advertise: true\n  routes: [\n{routes}  ]\n}}\n"
        ),
    };
    let authorization = authorization(facts.nats_rotation.as_deref());
    format!(
        "server_name: $POD_NAME\n\
         port: 4222\n\
         http_port: 8222\n\
         pid_file: /run/nats/nats.pid\n\
         lame_duck_grace_period: 10s\n\
         lame_duck_duration: {LAME_DUCK_SECONDS}s\n\
         {authorization}\
         jetstream {{\n  store_dir: /data\n  max_memory_store: 0\n  max_file_store: {store}\n  sync_interval: {}\n}}\n\
         {clustered}",
        managed.sync_interval
    )
}

/// The bytes of a quantity such as `10Gi`.
pub(super) fn bytes(quantity: &str) -> Option<i64> {
    let split = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => f64::from(1 << 10),
        "Mi" => f64::from(1 << 20),
        "Gi" => f64::from(1 << 30),
        "Ti" => f64::from(1 << 30) * 1024.0,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * factor;
    (1.0..1e18).contains(&value).then_some(value as i64)
}
