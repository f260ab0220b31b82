//! What a person does to a platform, by and beside the operator.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cluster::crowd::{Crowd, CrowdOptions, seed};
use crds::Outcome;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kind::platform::{Edit, Platform, SERVERS, define, on_servers, small};
use kind::{PATIENCE, Space, in_space, until};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

pub(crate) const PEOPLE: CrowdOptions =
    CrowdOptions { users: 8, devices: 2, groups: 4, pause_ms: 200, polls_every: 8 };

async fn crowd(platform: &Platform, scenario: &str) -> Crowd {
    let api = chat_client::Api::new(&platform.url().await).unwrap();
    let crowd = Crowd::start(scenario, seed(), api, PEOPLE).await;
    crowd.until_more(50, PATIENCE).await;
    crowd
}

async fn finish(crowd: Crowd) {
    crowd.until_more(50, PATIENCE).await;
    let outcome = crowd.finish().await;
    assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);
}

async fn uids(platform: &Platform) -> BTreeSet<String> {
    let mut uids = BTreeSet::new();
    for component in ["chat", "nats", "scylla"] {
        uids.extend(platform.pods(component).await.into_iter().filter_map(|pod| pod.uid()));
    }
    uids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn what_is_deleted_or_changed_by_hand_comes_back() {
    in_space("drift", async |space: Space| {
        let platform = Platform::start(&space, small()).await;
        let crowd = crowd(&platform, "kind-drift").await;
        let pods = uids(&platform).await;

        let services = space.api::<Service>();
        let before = services.get("chat-nats").await.unwrap();
        services.delete("chat-nats", &DeleteParams::default()).await.unwrap();
        until("the Service is back", async || {
            let found = services.get_opt("chat-nats").await.unwrap()?;
            (found.uid() != before.uid()).then_some(())
        })
        .await;
        let budgets = space.api::<PodDisruptionBudget>();
        budgets.delete("chat-scylla", &DeleteParams::default()).await.unwrap();
        until("the budget is back", async || budgets.get_opt("chat-scylla").await.unwrap()).await;

        let wrong = json!({"spec": {"selector": {"chatcluster.dev/revision": "none"}}});
        services.patch("chat-chat", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
        until("the Service selects the active revision", async || {
            let service = services.get("chat-chat").await.unwrap();
            let selected = service.spec?.selector?.remove("chatcluster.dev/revision");
            (selected == platform.status().await.active_revision).then_some(())
        })
        .await;
        let maps = space.api::<ConfigMap>();
        let wrong = json!({"data": {"nats.conf": "port: 1"}});
        maps.patch("chat-nats", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
        until("the configuration is as it was", async || {
            maps.get("chat-nats").await.unwrap().data?["nats.conf"].contains("4222").then_some(())
        })
        .await;
        let sets = space.api::<ReplicaSet>();
        let set = sets.list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
        let wrong = json!({"spec": {"replicas": 3}});
        sets.patch(&set, &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
        until("there are two nodes", async || {
            let replicas = sets.get(&set).await.unwrap().spec?.replicas;
            (replicas == Some(2)).then_some(())
        })
        .await;

        platform.until_ready().await;
        let events = platform.events().await.join("\n");
        assert!(events.contains("DriftCorrected: Service chat-chat"), "{events}");
        assert!(uids(&platform).await.is_superset(&pods), "no pod was replaced");
        finish(crowd).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_wrong_spec_is_refused_with_a_sentence() {
    in_space("refused", async |space: Space| {
        define(&space.client).await;
        // The API server refuses by itself: no operator runs.
        let platform = Platform::create(&space, small()).await;
        let edits: [(&str, Edit); 6] = [
            ("Set nats.managed.replicas to 1, 3 or 5", &|spec| {
                spec.nats.managed.as_mut().unwrap().replicas = 2;
            }),
            ("Remove from chat.config", &|spec| {
                let setting = crds::Setting { name: "listen".to_owned(), value: "1".to_owned() };
                spec.chat.config.push(setting);
            }),
            ("Write chat.publicUrl", &|spec| spec.chat.public_url = Some("chat".to_owned())),
            ("Keep every rack", &|spec| {
                spec.scylla.managed.as_mut().unwrap().racks[0].name = "b".to_owned();
            }),
            ("Keep the storage at least as large", &|spec| {
                spec.nats.managed.as_mut().unwrap().storage.size = "500Mi".to_owned();
            }),
            ("Set rollout.drain.jitter.minMs", &|spec| spec.rollout.drain.jitter.min_ms = 9000),
        ];
        for (sentence, edit) in edits {
            let refusal = platform.refusal(edit).await;
            assert!(refusal.contains(sentence), "expected {sentence:?}: {refusal}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn the_operator_is_upgraded_nodes_come_and_go_and_secrets_change() {
    in_space("operate", async |space: Space| {
        let platform = Platform::start(&space, small()).await;
        let crowd = crowd(&platform, "kind-operate").await;

        let pods = uids(&platform).await;
        let namespace = format!("namespace={}", space.name);
        let values = [&namespace, "crds.install=false", "replicas=1", "podAnnotations.version=two"];
        space.helm(&values).await;
        platform.until_ready().await;
        assert_eq!(uids(&platform).await, pods, "an upgrade of the operator restarts no pod");

        platform.edit(|spec| spec.chat.replicas = 3).await;
        platform.until_ready().await;
        assert_eq!(platform.chat_pods(true).await.len(), 3);
        platform.edit(|spec| spec.chat.replicas = 1).await;
        until("one node is left", async || (platform.pods("chat").await.len() == 1).then_some(()))
            .await;
        platform.until_ready().await;

        // The old key stays in the set, so that tokens signed with it are good.
        let secrets = space.api::<Secret>();
        let secret = secrets.get("chat-token-keys").await.unwrap();
        let keys = secret.data.unwrap().remove("keys.json").unwrap();
        let mut keys: serde_json::Value = serde_json::from_slice(&keys.0).unwrap();
        let key =
            json!({"kty": "oct", "kid": "new", "k": "bmV3LWtleS1vZi10aGlydHktdHdvLWJ5dGVzLWxvbmc"});
        keys["keys"].as_array_mut().unwrap().insert(0, key);
        let data = BASE64_STANDARD.encode(keys.to_string());
        let patch = Patch::Merge(json!({"data": {"keys.json": data}}));
        secrets.patch("chat-token-keys", &PatchParams::default(), &patch).await.unwrap();
        // The first entry is about the installation.
        let history = platform.until_ended(2).await;
        assert_eq!(history[0].outcome, Outcome::Completed, "another Secret is another revision");
        platform.until_ready().await;
        finish(crowd).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn servers_may_be_somebody_elses() {
    in_space("external", async |space: Space| {
        space.apply(SERVERS).await;
        space.until_available("nats").await;
        space.until_available("cql").await;
        define(&space.client).await;
        space.operator().await;
        let platform = Platform::create(&space, on_servers(None)).await;
        until("the missing Secret is told", async || {
            let status = platform.status().await;
            let secrets = status.conditions.into_iter().find(|c| c.type_ == "SecretsReady")?;
            (secrets.status == "False" && secrets.message.contains("given-keys")).then_some(())
        })
        .await;
        space.create_keys("given-keys").await;
        platform.until_ready().await;
        let crowd = crowd(&platform, "kind-external").await;
        finish(crowd).await;
    })
    .await;
}
