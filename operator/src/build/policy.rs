//! Who may connect to whom, and who decides how many nodes there are.

use std::collections::BTreeMap;

use crds::{AutoscalingSpec, ChatCluster};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
    MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource, ResourceMetricSource,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResourceExt as _, Resource as _};

use super::configuration::{ADMIN_PORT, CLIENT_PORT};
use super::object::{Intent, entry, metadata};
use super::{Facts, place, pod};
use crate::names::{self, Component};

/// Label that Kubernetes puts on each namespace.
const NAMESPACE: &str = "kubernetes.io/metadata.name";

pub(super) fn network_policies(cluster: &ChatCluster, facts: &Facts) -> Vec<Intent> {
    if !cluster.spec.network_policy.enabled {
        return Vec::new();
    }
    let (own, _) = place(cluster);
    let parts = |parts: &[Component]| -> Vec<NetworkPolicyPeer> {
        parts.iter().map(|part| pods(&names::selector(&own, *part))).collect()
    };
    let monitoring = cluster.spec.network_policy.monitoring_namespace.iter();
    let mut admins: Vec<NetworkPolicyPeer> = monitoring.map(|name| namespace(name)).collect();
    if !facts.operator_namespace.is_empty() {
        admins.push(namespace(&facts.operator_namespace));
    }
    let mut policies = vec![policy(
        cluster,
        Component::Chat,
        vec![rule(&[CLIENT_PORT], None), rule(&[ADMIN_PORT], Some(admins.clone()))],
    )];
    if cluster.spec.nats.managed.is_some() {
        // The operator asks servers whether their streams are complete before the next one starts again.
        let readers = admins.into_iter().chain(parts(&[Component::Nats])).collect();
        policies.push(policy(
            cluster,
            Component::Nats,
            vec![
                rule(&[4222], Some(parts(&[Component::Chat]))),
                rule(&[6222], Some(parts(&[Component::Nats]))),
                rule(&[8222], Some(readers)),
            ],
        ));
    }
    if cluster.spec.scylla.managed.is_some() {
        let metrics =
            cluster.spec.network_policy.monitoring_namespace.iter().map(|name| namespace(name));
        let metrics: Vec<_> = metrics.chain(parts(&[Component::Scylla])).collect();
        policies.push(policy(
            cluster,
            Component::Scylla,
            vec![
                rule(&[9042, 19042], Some(parts(&[Component::Chat, Component::Scylla]))),
                // The operator asks members who is in their ring. Members ask for no password, so no other pod may.
                rule(&[9042], Some(operator(facts))),
                rule(&[7000, 7001], Some(parts(&[Component::Scylla]))),
                rule(&[9180], Some(metrics)),
            ],
        ));
    }
    policies
}

fn policy(
    cluster: &ChatCluster,
    component: Component,
    ingress: Vec<NetworkPolicyIngressRule>,
) -> Intent {
    let (own, _) = place(cluster);
    Intent::new(&NetworkPolicy {
        metadata: metadata(cluster, format!("{own}-{}", component.as_str()), component),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pod::labelled(&names::selector(&own, component))),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            ..NetworkPolicySpec::default()
        }),
    })
}

/// These may connect to these ports; everyone if nobody is named, and nobody if the list is empty.
fn rule(ports: &[i32], from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let ports = match from.as_ref().is_some_and(Vec::is_empty) {
        // A rule with an empty list of peers would let everyone in. It gets a peer that is nobody.
        true => return rule(ports, Some(vec![pods(&entry("chatcluster.dev/nobody", "true"))])),
        false => ports,
    };
    let ports = ports.iter().map(|port| NetworkPolicyPort {
        port: Some(IntOrString::Int(*port)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    });
    NetworkPolicyIngressRule { ports: Some(ports.collect()), from }
}

fn pods(labels: &BTreeMap<String, String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(pod::labelled(labels)), ..NetworkPolicyPeer::default() }
}

/// Pods of the operator itself.
fn operator(facts: &Facts) -> Vec<NetworkPolicyPeer> {
    if facts.operator_namespace.is_empty() {
        return Vec::new();
    }
    let labels = entry("app.kubernetes.io/name", names::OPERATOR);
    let peer = namespace(&facts.operator_namespace);
    vec![NetworkPolicyPeer { pod_selector: Some(pod::labelled(&labels)), ..peer }]
}

fn namespace(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(pod::labelled(&entry(NAMESPACE, name))),
        ..NetworkPolicyPeer::default()
    }
}

/// It scales the resource itself, whose selector names the active revision alone.
pub(super) fn autoscaler(cluster: &ChatCluster) -> Option<Intent> {
    let wanted = cluster.spec.autoscaling.as_ref()?;
    let (own, _) = place(cluster);
    let resource = crds::ChatCluster::api_resource();
    Some(Intent::new(&HorizontalPodAutoscaler {
        metadata: metadata(cluster, names::active_service(&own), Component::Chat),
        spec: Some(HorizontalPodAutoscalerSpec {
            min_replicas: Some(wanted.min_replicas),
            max_replicas: wanted.max_replicas,
            metrics: Some(metrics(wanted)),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(resource.api_version),
                kind: ChatCluster::kind(&()).into_owned(),
                name: own,
            },
            ..HorizontalPodAutoscalerSpec::default()
        }),
        ..HorizontalPodAutoscaler::default()
    }))
}

fn metrics(wanted: &AutoscalingSpec) -> Vec<MetricSpec> {
    let cpu = wanted.target_cpu_percent.map(|percent| MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    });
    let connections = wanted.target_connections.map(|count| MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource {
            metric: MetricIdentifier {
                name: "chat_connections".to_owned(),
                ..MetricIdentifier::default()
            },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(count.to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    });
    cpu.into_iter().chain(connections).collect()
}
