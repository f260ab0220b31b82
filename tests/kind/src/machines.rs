//! The machines of the cluster: its Kubernetes nodes.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::Space;

impl Space {
    /// Names of the two machines that take pods.
    pub async fn workers(&self) -> [String; 2] {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let label = ListParams::default().labels("!node-role.kubernetes.io/control-plane");
        let found = nodes.list(&label).await.expect("the nodes").items;
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        names.try_into().expect("two workers, as in tests/kind/cluster.yaml")
    }

    /// Lets no new pod on a machine.
    pub async fn cordon(&self, machine: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.cordon(machine).await.expect("the machine takes no more pods");
    }

    /// Lets pods on a machine again.
    pub async fn uncordon(&self, machine: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.uncordon(machine).await.expect("the machine takes pods again");
    }
}

/// Which of these pods are on a machine, by name.
pub fn on_machine(pods: &[Pod], machine: &str) -> Vec<String> {
    let there = pods.iter().filter(|pod| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(machine)
    });
    there.map(ResourceExt::name_any).collect()
}
