//! The operator installed by its chart, a platform made and removed.

use cluster::crowd::{Crowd, CrowdOptions, seed};
use crds::DeletionPolicy;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use kind::machines::on_machine;
use kind::platform::{Platform, small};
use kind::{PATIENCE, Space, in_space};
use kube::ResourceExt;
use kube::api::ListParams;

const TWO: CrowdOptions =
    CrowdOptions { users: 2, devices: 1, groups: 1, pause_ms: 50, polls_every: 2 };

/// Names of the objects of a kind that belong to the platform.
async fn names<K>(space: &Space) -> Vec<String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let ours = ListParams::default().labels("chatcluster.dev/cluster=chat");
    let found = space.api::<K>().list(&ours).await.unwrap();
    found.items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_platform_is_installed_serves_two_clients_and_goes() {
    in_space("platform", async |space: Space| {
        // As `helm install` does it by default: for all namespaces, with the definition, two processes.
        space.helm(&[]).await;
        let spec = crds::ChatClusterSpec { deletion_policy: DeletionPolicy::Retain, ..small() };
        let platform = Platform::create(&space, spec).await;
        platform.until_ready().await;
        let nodes = platform.pods("chat").await;
        let machines = space.workers().await;
        assert!(machines.iter().all(|machine| on_machine(&nodes, machine).len() == 1), "{nodes:?}");

        let api = chat_client::Api::new(&platform.url().await).unwrap();
        let crowd = Crowd::start("kind-platform", seed(), api, TWO).await;
        crowd.until_more(50, PATIENCE).await;
        let outcome = crowd.finish().await;
        assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);

        platform.delete().await;
        let mut secrets = names::<Secret>(&space).await;
        secrets.sort();
        assert_eq!(secrets, ["chat-admin-token", "chat-nats-credentials", "chat-token-keys"]);
        assert_eq!(names::<PersistentVolumeClaim>(&space).await.len(), 2, "volumes stay");
        assert_eq!(names::<Service>(&space).await, Vec::<String>::new());
        assert_eq!(names::<ConfigMap>(&space).await, Vec::<String>::new());

        // One of the same name finds them again, and takes them with it by the other policy.
        let platform = Platform::create(&space, small()).await;
        platform.until_ready().await;
        platform.delete().await;
        assert_eq!(names::<Secret>(&space).await, Vec::<String>::new());
        assert_eq!(names::<PersistentVolumeClaim>(&space).await, Vec::<String>::new());
    })
    .await;
}
