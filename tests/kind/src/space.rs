//! A namespace for each test.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use uuid::Uuid;

use crate::{diagnosis, platform, until};

/// A namespace that is there for one test.
#[derive(Clone)]
pub struct Space {
    /// The cluster.
    pub client: Client,
    /// The namespace.
    pub name: String,
}

/// Runs a test in a namespace of its own. If the test fails, all that the cluster knows about it is printed. In the end the
/// namespace is removed, and every node takes pods again.
pub async fn in_space(test: &str, body: impl AsyncFnOnce(Space)) {
    // An error means that there is a provider already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::try_default()
        .await
        .expect("a cluster; `cargo xtask test --kind` makes one and sets KUBECONFIG");
    let name = format!("{test}-{}", std::process::id());
    let space = Space { client, name };
    space.create().await;
    let done = AssertUnwindSafe(body(space.clone())).catch_unwind().await;
    if done.is_err() {
        diagnosis::print(&space).await;
    }
    space.remove().await;
    if let Err(failure) = done {
        resume_unwind(failure);
    }
}

impl Space {
    /// The objects of one type in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Pods are held to the strictest standard: no root, no added rights.
    async fn create(&self) {
        let namespace = serde_json::from_value(json!({
            "metadata": {
                "name": self.name,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespace.expect("a namespace");
        namespaces.create(&PostParams::default(), &namespace).await.expect("a new namespace");
    }

    async fn remove(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for node in nodes.list(&ListParams::default()).await.expect("the nodes") {
            self.uncordon(&node.name_any()).await;
        }
        // A ChatCluster is let go of by its operator.
        platform::remove_all(self).await;
        self.helm_uninstall().await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await.expect("the end begins");
        until("the namespace is gone", async || {
            namespaces.get_opt(&self.name).await.expect("the API answers").is_none().then_some(())
        })
        .await;
    }

    /// The pods with a label.
    pub async fn pods(&self, label: &str) -> Vec<Pod> {
        let labelled = ListParams::default().labels(label);
        self.api::<Pod>().list(&labelled).await.expect("the pods").items
    }

    /// Ends a pod, and waits until it is gone.
    pub async fn delete_pod(&self, pod: &Pod) {
        self.end_pod(pod, &DeleteParams::default()).await;
    }

    /// Kills a pod's processes, and waits until it is gone.
    pub async fn kill_pod(&self, pod: &Pod) {
        self.end_pod(pod, &DeleteParams::default().grace_period(0)).await;
    }

    async fn end_pod(&self, pod: &Pod, how: &DeleteParams) {
        let pods = self.api::<Pod>();
        let name = pod.name_any();
        pods.delete(&name, how).await.expect("the pod's end begins");
        until(&format!("pod {name} is gone"), async || {
            let found = pods.get_opt(&name).await.expect("the API answers");
            found.is_none_or(|other| other.uid() != pod.uid()).then_some(())
        })
        .await;
    }

    /// Waits until all pods of a deployment are of its newest template and ready.
    pub async fn until_available(&self, deployment: &str) {
        let deployments = self.api::<Deployment>();
        until(&format!("deployment {deployment} is available"), async || {
            let found = deployments.get(deployment).await.expect("the deployment");
            let wanted = found.spec.as_ref()?.replicas;
            let status = found.status.as_ref()?;
            let current = status.observed_generation == found.metadata.generation
                && status.updated_replicas == wanted
                && status.available_replicas == wanted
                && status.replicas == wanted;
            current.then_some(())
        })
        .await;
    }

    /// Where this machine reaches a Service of the type `NodePort`: through the node of the control plane, which no test
    /// drains. Nodes are containers, whose addresses are reached from the machine that they run on.
    pub async fn url(&self, service: &str) -> String {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let label = ListParams::default().labels("node-role.kubernetes.io/control-plane");
        let node = nodes.list(&label).await.expect("the nodes").items.remove(0);
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let address = addresses.into_iter().find(|address| address.type_ == "InternalIP");
        let service = self.api::<Service>().get(service).await.expect("the Service");
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports.iter().find_map(|port| port.node_port).expect("a node port");
        format!("http://{}:{port}", address.expect("an address of the node").address)
    }

    /// Makes the Secret of signing keys that the nodes of a platform share.
    pub async fn create_keys(&self, name: &str) {
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let keys = json!({"keys": [{"kty": "oct", "kid": "test", "k": secret}]});
        let secret = serde_json::from_value(json!({
            "metadata": {"name": name},
            "stringData": {"keys.json": keys.to_string()},
        }));
        let secrets = self.api::<Secret>();
        let secret = secret.expect("a secret");
        secrets.create(&PostParams::default(), &secret).await.expect("a new secret");
    }
}
