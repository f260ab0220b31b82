//! Emptying a node as `kubectl drain` does it.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams};
use kube::{Api, Client, Error, ResourceExt};

use crate::until;

/// HTTP 429: a disruption budget does not allow it now.
const NOT_NOW: u16 = 429;

/// Lets no new pod on a node, and evicts those that are there. Returns when they are gone.
pub async fn drain(client: &Client, node: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.cordon(node).await.expect("the node takes no more pods");
    let pods: Api<Pod> = Api::all(client.clone());
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    for pod in pods.list(&there).await.expect("the pods of the node") {
        if is_evicted(&pod) {
            evict(client, &pod).await;
        }
    }
    until(&format!("node {node} is empty"), async || {
        let left = pods.list(&there).await.expect("the pods of the node");
        (!left.iter().any(is_evicted)).then_some(())
    })
    .await;
}

/// Pods of a DaemonSet would come back, and those of the kubelet's own files are not the API's to end.
fn is_evicted(pod: &Pod) -> bool {
    !pod.owner_references().iter().any(|owner| ["DaemonSet", "Node"].contains(&owner.kind.as_str()))
}

async fn evict(client: &Client, pod: &Pod) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    until(&format!("{name} may be evicted"), async || {
        match pods.evict(&name, &EvictParams::default()).await {
            Ok(_) => Some(()),
            Err(Error::Api(status)) if status.code == NOT_NOW => None,
            Err(Error::Api(status)) if status.is_not_found() => Some(()),
            Err(error) => panic!("{name} cannot be evicted: {error}"),
        }
    })
    .await;
}
