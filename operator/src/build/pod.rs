//! What pods of all parts have in common.

use std::collections::BTreeMap;

use crds::{ChatCluster, Resources, Storage};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference, ObjectFieldSelector,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecretKeySelector,
    SecurityContext, ServiceAccount, ServicePort, TCPSocketAction, TopologySpreadConstraint,
    Volume, VolumeMount, VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use super::object::{Intent, metadata};
use super::{Budget, Facts, place};
use crate::names::{self, Component};

/// User and group of all processes: nobody's.
pub(super) const USER: i64 = 65532;

/// Name of the pods' service account, which may do nothing.
pub(super) fn service_account_name(cluster: &ChatCluster) -> String {
    place(cluster).0
}

pub(super) fn service_account(cluster: &ChatCluster) -> Intent {
    Intent::new(&ServiceAccount {
        metadata: metadata(cluster, service_account_name(cluster), Component::Chat),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}

/// A pod that passes the restricted profile of Kubernetes' pod security.
pub(super) fn pod_spec(cluster: &ChatCluster, containers: Vec<Container>) -> PodSpec {
    let secrets = &cluster.spec.chat.image_pull_secrets;
    let secrets = secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    PodSpec {
        containers,
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets.collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: Some(service_account_name(cluster)),
        ..PodSpec::default()
    }
}

/// What a container must not do.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

/// Spread over machines; where that is not possible, pods start all the same. Zones have no place here: the scheduler heeds
/// none of these constraints on a machine that lacks the label of one of them.
pub(super) fn spread(selector: &BTreeMap<String, String>) -> Vec<TopologySpreadConstraint> {
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(labelled(selector)),
        ..TopologySpreadConstraint::default()
    }]
}

/// Spread over zones, where there are any.
pub(super) fn apart(selector: &BTreeMap<String, String>) -> Affinity {
    let other_zone = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(labelled(selector)),
            topology_key: "topology.kubernetes.io/zone".to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![other_zone]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

pub(super) fn labelled(labels: &BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() }
}

pub(super) fn resources(wanted: &Resources) -> ResourceRequirements {
    let quantities = |map: &BTreeMap<String, String>| {
        let map: BTreeMap<_, _> =
            map.iter().map(|(name, text)| (name.clone(), Quantity(text.clone()))).collect();
        Some(map).filter(|map| !map.is_empty())
    };
    ResourceRequirements {
        requests: quantities(&wanted.requests),
        limits: quantities(&wanted.limits),
        ..ResourceRequirements::default()
    }
}

/// The claims of a StatefulSet. Its template keeps the size that it was made with.
pub(super) fn claim(storage: &Storage, set: &str, facts: &Facts) -> PersistentVolumeClaim {
    let size = facts.claim_sizes.get(set).unwrap_or(&storage.size);
    let request = BTreeMap::from([("storage".to_owned(), Quantity(size.clone()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(request),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// An environment variable with a field of the pod itself.
pub(super) fn own_field(name: &str, path: &str) -> EnvVar {
    let field =
        ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

/// An environment variable from a Secret.
pub(super) fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let key = SecretKeySelector {
        name: secret.to_owned(),
        key: key.to_owned(),
        ..SecretKeySelector::default()
    };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref: Some(key), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

pub(super) fn container_port(name: &str, port: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: port, ..ContainerPort::default() }
}

pub(super) fn service_port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

/// A probe by HTTP: asked every `period` seconds, failed after `failures` in a row.
pub(super) fn http_probe(path: &str, port: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// A probe by a connection.
pub(super) fn tcp_probe(port: &str, period: i32, failures: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(port.to_owned()),
            ..TCPSocketAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

pub(super) fn config_volume(name: &str, config_map: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn empty_volume(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// One at a time, and what is not ready never holds up the drain of a machine.
pub(super) const SERVERS: Budget = Budget { max_unavailable: 1, unready_go: true };

/// A limit of voluntary evictions.
pub(super) fn disruption_budget(
    cluster: &ChatCluster,
    name: String,
    component: Component,
    selector: &BTreeMap<String, String>,
    budget: Budget,
) -> Intent {
    let unready = if budget.unready_go { "AlwaysAllow" } else { "IfHealthyBudget" };
    Intent::new(&PodDisruptionBudget {
        metadata: metadata(cluster, name, component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(budget.max_unavailable)),
            selector: Some(labelled(selector)),
            unhealthy_pod_eviction_policy: Some(unready.to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

/// Labels of the pods of a part.
pub(super) fn pod_labels(cluster: &ChatCluster, component: Component) -> BTreeMap<String, String> {
    names::labels(&place(cluster).0, component)
}
