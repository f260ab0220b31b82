//! The chat nodes: a ReplicaSet for each revision, and the Services in front of them.

use std::collections::BTreeMap;

use crds::{ChatCluster, ServiceType};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PodSpec, PodTemplateSpec, SecretVolumeSource, Service, ServiceSpec,
    Volume, VolumeMount,
};
use kube::api::ObjectMeta;

use super::configuration::{ADMIN_PORT, CLIENT_PORT, DIRECTORY};
use super::object::{Concern, Intent, entry, metadata};
use super::pod::SERVERS;
use super::{Facts, Fleet, Revision, SecretPlan, configuration, place, pod, secrets};
use crate::names::{self, Component};

/// Name of the container, for `kubectl logs`.
const CONTAINER: &str = "chat-node";

pub(super) fn intents(cluster: &ChatCluster, facts: &Facts, fleet: &Fleet) -> Vec<Intent> {
    let (own, _) = place(cluster);
    let mut intents = Vec::new();
    if let Some(active) = fleet.active.as_ref().or(fleet.preview.as_ref()) {
        intents.push(service(cluster, names::active_service(&own), active, true));
    }
    if let Some(preview) = &fleet.preview {
        intents.push(service(cluster, names::preview_service(&own), preview, false));
    }
    for (revision, replicas) in &fleet.replicas {
        if *revision == fleet.wanted {
            intents.extend(template(cluster, revision));
        } else if !facts.revisions.contains(revision) {
            // Nobody knows any more what it was made of.
            continue;
        }
        intents.push(scale(cluster, revision, *replicas));
        intents.push(pod::disruption_budget(
            cluster,
            names::revision(&own, revision.as_str()),
            Component::Chat,
            &names::revision_selector(&own, revision.as_str()),
            fleet.budgets.get(revision).copied().unwrap_or(SERVERS),
        ));
    }
    intents
}

/// What a revision is. It is written while the resource asks for it; later the resource says something else.
fn template(cluster: &ChatCluster, revision: &Revision) -> Vec<Intent> {
    vec![
        config_map(cluster, revision),
        headless(cluster, revision),
        replica_set(cluster, revision).made_from(revision.as_str()),
    ]
}

fn revision_metadata(cluster: &ChatCluster, revision: &Revision) -> ObjectMeta {
    let (own, _) = place(cluster);
    let name = names::revision(&own, revision.as_str());
    let mut metadata = metadata(cluster, name, Component::Chat);
    metadata.labels = Some(labels(cluster, revision));
    metadata
}

fn labels(cluster: &ChatCluster, revision: &Revision) -> BTreeMap<String, String> {
    let mut labels = pod::pod_labels(cluster, Component::Chat);
    labels.insert(names::REVISION.to_owned(), revision.to_string());
    labels
}

fn config_map(cluster: &ChatCluster, revision: &Revision) -> Intent {
    Intent::new(&ConfigMap {
        metadata: revision_metadata(cluster, revision),
        data: Some(entry("chat-node.toml", configuration(cluster, revision))),
        ..ConfigMap::default()
    })
    .made_from(revision.as_str())
}

/// For the operator: addresses of pods also while they are not ready.
fn headless(cluster: &ChatCluster, revision: &Revision) -> Intent {
    let (own, _) = place(cluster);
    Intent::new(&Service {
        metadata: revision_metadata(cluster, revision),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::revision_selector(&own, revision.as_str())),
            ports: Some(vec![pod::service_port("admin", ADMIN_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

fn service(cluster: &ChatCluster, name: String, revision: &Revision, public: bool) -> Intent {
    let (own, _) = place(cluster);
    let chat = &cluster.spec.chat;
    let mut metadata = metadata(cluster, name, Component::Chat);
    if public && !chat.service_annotations.is_empty() {
        metadata.annotations = Some(chat.service_annotations.clone());
    }
    let type_ = if public { chat.service_type } else { ServiceType::ClusterIp };
    Intent::new(&Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.as_str().to_owned()),
            selector: Some(names::revision_selector(&own, revision.as_str())),
            ports: Some(vec![pod::service_port("http", CLIENT_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
    .of(Concern::Traffic)
}

/// The number of pods alone, so that it can change while the resource asks for another revision.
fn scale(cluster: &ChatCluster, revision: &Revision, replicas: i32) -> Intent {
    let (own, namespace) = place(cluster);
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(names::revision(&own, revision.as_str())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
        ..ReplicaSet::default()
    };
    let mut intent = Intent::new(&set).of(Concern::Scale);
    // The types write a selector that is not meant here.
    if let Some(spec) = intent.value.get_mut("spec").and_then(|spec| spec.as_object_mut()) {
        spec.retain(|key, _| key == "replicas");
    }
    intent
}

fn replica_set(cluster: &ChatCluster, revision: &Revision) -> Intent {
    let (own, _) = place(cluster);
    let selector = names::revision_selector(&own, revision.as_str());
    Intent::new(&ReplicaSet {
        metadata: revision_metadata(cluster, revision),
        spec: Some(ReplicaSetSpec {
            selector: pod::labelled(&selector),
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(cluster, revision)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod_spec(cluster, revision, &selector)),
            }),
            // Replicas belong to another concern.
            ..ReplicaSetSpec::default()
        }),
        ..ReplicaSet::default()
    })
}

fn pod_spec(
    cluster: &ChatCluster,
    revision: &Revision,
    selector: &BTreeMap<String, String>,
) -> PodSpec {
    let (own, _) = place(cluster);
    let chat = &cluster.spec.chat;
    let plan = secrets(cluster);
    let mut volumes = vec![pod::config_volume("config", &names::revision(&own, revision.as_str()))];
    volumes.extend(files(&plan).into_iter().map(|(volume, secret)| secret_volume(volume, secret)));
    PodSpec {
        volumes: Some(volumes),
        topology_spread_constraints: Some(pod::spread(selector)),
        affinity: Some(pod::apart(selector)),
        termination_grace_period_seconds: Some(chat.termination_grace_seconds),
        node_selector: Some(chat.node_selector.clone()).filter(|labels| !labels.is_empty()),
        ..pod::pod_spec(cluster, vec![container(cluster, &plan)])
    }
}

/// Secrets that the node reads as files.
fn files(plan: &SecretPlan) -> Vec<(&'static str, &str)> {
    let optional = [("nats", &plan.nats_authority), ("scylla", &plan.scylla_authority)];
    let optional = optional
        .into_iter()
        .filter_map(|(name, wanted)| Some((name, wanted.as_ref()?.name.as_str())));
    std::iter::once(("keys", plan.token_keys.name.as_str())).chain(optional).collect()
}

fn container(cluster: &ChatCluster, plan: &SecretPlan) -> Container {
    let chat = &cluster.spec.chat;
    let mut mounts = vec![VolumeMount {
        read_only: Some(true),
        ..pod::mount("config", &format!("{DIRECTORY}/config"))
    }];
    mounts.extend(files(plan).into_iter().map(|(name, _)| VolumeMount {
        read_only: Some(true),
        ..pod::mount(name, &format!("{DIRECTORY}/{name}"))
    }));
    let mut env = vec![
        pod::own_field("CHAT_NODE_NAME", "metadata.name"),
        pod::from_secret("CHAT_ADMIN_TOKEN", &plan.admin_token.name, "token"),
    ];
    let logins = [("CHAT_NATS", &plan.nats), ("CHAT_SCYLLA", &plan.scylla)];
    for (prefix, secret) in logins {
        let Some(secret) = secret else { continue };
        env.push(pod::from_secret(&format!("{prefix}_USER"), &secret.name, "user"));
        env.push(pod::from_secret(&format!("{prefix}_PASSWORD"), &secret.name, "password"));
    }
    Container {
        name: CONTAINER.to_owned(),
        image: Some(chat.image.clone()),
        image_pull_policy: Some(chat.image_pull_policy.as_str().to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{DIRECTORY}/config/chat-node.toml")]),
        env: Some(env),
        ports: Some(vec![
            pod::container_port("http", CLIENT_PORT),
            pod::container_port("admin", ADMIN_PORT),
        ]),
        // The first node of a platform makes its tables before it answers.
        startup_probe: Some(pod::http_probe("/live", "admin", 2, 150)),
        readiness_probe: Some(pod::http_probe("/ready", "admin", 2, 2)),
        liveness_probe: Some(pod::http_probe("/live", "admin", 10, 3)),
        resources: Some(pod::resources(&chat.resources)),
        security_context: Some(pod::confined()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn secret_volume(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            // The group of the pod reads it.
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}
