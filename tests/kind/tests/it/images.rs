//! The images and the program in pods, without an operator.

use std::collections::HashSet;

use chat_client::Api;
use cluster::crowd::{Crowd, CrowdOptions, seed};
use cluster::log::Entry;
use kind::platform::SERVERS;
use kind::pod::{Lines, restarts};
use kind::{PATIENCE, Space, drain, in_space};

const CHAT: &str = include_str!("../../manifests/chat.yaml");
const ALONE: &str = include_str!("../../manifests/alone.yaml");

const ADMIN_PORT: u16 = 9090;

const PEOPLE: CrowdOptions =
    CrowdOptions { users: 8, devices: 2, groups: 4, pause_ms: 100, polls_every: 0 };

/// The nodes of chat pods, each once.
async fn nodes(space: &Space) -> HashSet<String> {
    let pods = space.pods("app=chat").await;
    pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn two_pods_chat_and_draining_a_node_loses_nothing() {
    in_space("drain", async |space: Space| {
        space.apply(SERVERS).await;
        space.create_keys("chat-keys").await;
        space.until_available("nats").await;
        space.until_available("cql").await;
        space.apply(CHAT).await;
        space.until_available("chat").await;

        let pods = space.pods("app=chat").await;
        let lines = Lines::default();
        pods.iter().for_each(|pod| space.listen(pod, &lines));
        assert_eq!(nodes(&space).await.len(), 2, "one pod on each worker");

        let api = Api::new(&space.url("chat").await).unwrap();
        let crowd = Crowd::start("kind-drain", seed(), api, PEOPLE).await;
        crowd.until_more(100, PATIENCE).await;
        for pod in &pods {
            let sockets = space.metric(pod, ADMIN_PORT, "chat_connections").await;
            assert!(sockets > Some(0.0), "{:?} has {sockets:?} sockets", pod.metadata.name);
        }

        let drained = nodes(&space).await.into_iter().next().unwrap();
        crowd.note(Entry::Fault { fault: format!("drain {drained}") });
        drain::drain(&space.client, &drained).await;
        space.until_available("chat").await;
        assert!(!nodes(&space).await.contains(&drained), "a pod is left on {drained}");
        crowd.until_more(100, PATIENCE).await;

        let outcome = crowd.finish().await;
        assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);
        for pod in space.pods("app=chat").await {
            assert_eq!(restarts(&pod), 0, "{:?} was started again", pod.metadata.name);
        }
        let complaints = lines.complaints();
        assert!(complaints.is_empty(), "the nodes complained:\n{}", complaints.join("\n"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_pod_by_itself_keeps_its_data_on_a_volume() {
    in_space("alone", async |space: Space| {
        space.apply(ALONE).await;
        space.until_available("alone").await;
        let api = Api::new(&space.url("alone").await).unwrap();
        let crowd = Crowd::start("kind-alone", seed(), api, PEOPLE).await;
        crowd.until_more(20, PATIENCE).await;

        let pod = space.pods("app=alone").await.remove(0);
        crowd.note(Entry::Fault { fault: "delete the pod".to_owned() });
        space.delete_pod(&pod).await;
        space.until_available("alone").await;
        crowd.until_more(20, PATIENCE).await;

        let outcome = crowd.finish().await;
        assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);
    })
    .await;
}
