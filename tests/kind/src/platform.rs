//! A platform that an operator runs: its ChatCluster, as a person sees it.

use std::time::Duration;

use crds::{
    ChatCluster, ChatClusterSpec, ChatClusterStatus, ExternalNats, ExternalScylla, Phase,
    SecretReference, Setting,
};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::{Space, until};

/// Name of the ChatCluster.
const NAME: &str = "chat";

/// A small platform on the database's double.
const MANIFEST: &str = include_str!("../manifests/platform.yaml");

/// One NATS server and one CQL server that no operator runs.
pub const SERVERS: &str = include_str!("../manifests/servers.yaml");

/// Conditions that are true of a platform at rest.
const GOOD: [&str; 7] =
    ["Ready", "Accepted", "SecretsReady", "VolumesReady", "NatsReady", "ScyllaReady", "Available"];

/// The image of the chat node under a second name.
pub const NEXT_IMAGE: &str = "chatcluster/chat-node:next";

/// A change of a spec.
pub type Edit<'a> = &'a dyn Fn(&mut ChatClusterSpec);

/// The ChatCluster of a namespace.
#[derive(Clone)]
pub struct Platform {
    /// Its namespace.
    pub space: Space,
    api: Api<ChatCluster>,
}

/// Applies the definition of the ChatCluster, as `kubectl apply --server-side -f crds/` does it.
pub async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let yaml = crds::definition_yaml();
    let definition: serde_json::Value = serde_saphyr::from_str(&yaml).expect("a definition");
    let name = definition["metadata"]["name"].as_str().expect("a name").to_owned();
    let apply = PatchParams::apply("kind-tests").force();
    definitions.patch(&name, &apply, &Patch::Apply(&definition)).await.expect("it is defined");
    until("ChatClusters are served", async || {
        let definition = definitions.get(&name).await.ok()?;
        let conditions = definition.status?.conditions?;
        conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
    })
    .await;
}

/// The small platform's specification.
pub fn small() -> ChatClusterSpec {
    serde_saphyr::from_str::<ChatCluster>(MANIFEST).expect("a ChatCluster").spec
}

/// The small platform with three NATS servers.
pub fn three_servers() -> ChatClusterSpec {
    let mut spec = small();
    spec.nats.managed.as_mut().expect("managed servers").replicas = 3;
    // A publication is lost while servers tell each other where a node has connected again. Its devices find it when they
    // look what they have missed: by default within a minute, which is longer than the tests allow.
    let audit = Setting { name: "audit_interval_ms".to_owned(), value: "10000".to_owned() };
    spec.chat.config.push(audit);
    spec
}

/// The small platform on [`SERVERS`], with signing keys in the Secret `given-keys`.
pub fn on_servers(login: Option<SecretReference>) -> ChatClusterSpec {
    let mut spec = small();
    spec.nats.managed = None;
    spec.nats.external = Some(ExternalNats {
        servers: vec!["nats://nats:4222".to_owned()],
        credentials: login,
        certificate_authority: None,
    });
    spec.nats.stream_replicas = Some(1);
    spec.nats.stream_bytes_max = Some(64 << 20);
    spec.scylla.managed = None;
    spec.scylla.external = Some(ExternalScylla {
        contact_points: vec!["cql:9042".to_owned()],
        datacenter: "dc1".to_owned(),
        credentials: None,
        certificate_authority: None,
    });
    spec.scylla.replication_factor = Some(1);
    spec.secrets.token_keys = Some(SecretReference { name: "given-keys".to_owned() });
    spec
}

/// Asks for another revision.
pub fn next_image(spec: &mut ChatClusterSpec) {
    spec.chat.image = NEXT_IMAGE.to_owned();
}

impl Platform {
    /// Makes the ChatCluster. The operator need not be there yet.
    pub async fn create(space: &Space, spec: ChatClusterSpec) -> Platform {
        let api: Api<ChatCluster> = space.api();
        let cluster = ChatCluster::new(NAME, spec);
        api.create(&PostParams::default(), &cluster).await.expect("the ChatCluster is taken");
        Platform { space: space.clone(), api }
    }

    /// Makes the definition, an operator for this namespace, and a platform, and waits until all is ready.
    pub async fn start(space: &Space, spec: ChatClusterSpec) -> Platform {
        define(&space.client).await;
        space.operator().await;
        let platform = Platform::create(space, spec).await;
        platform.until_ready().await;
        platform
    }

    /// Changes the specification. Another writer in between is no error.
    pub async fn edit(&self, change: impl Fn(&mut ChatClusterSpec)) {
        until("the spec is changed", async || {
            let mut cluster = self.get().await;
            change(&mut cluster.spec);
            match self.api.replace(NAME, &PostParams::default(), &cluster).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 409 => None,
                Err(error) => panic!("the spec is not taken: {error}"),
            }
        })
        .await;
    }

    /// Tries to change the specification, and returns why it is refused.
    pub async fn refusal(&self, change: impl Fn(&mut ChatClusterSpec)) -> String {
        let mut cluster = self.get().await;
        change(&mut cluster.spec);
        match self
            .api
            .replace(NAME, &PostParams { dry_run: true, ..PostParams::default() }, &cluster)
            .await
        {
            Ok(_) => panic!("the spec is taken"),
            Err(error) => error.to_string(),
        }
    }

    /// The resource.
    pub async fn get(&self) -> ChatCluster {
        self.api.get(NAME).await.expect("the ChatCluster")
    }

    /// Its status.
    pub async fn status(&self) -> ChatClusterStatus {
        self.get().await.status.unwrap_or_default()
    }

    /// Gives the running rollout a command.
    pub async fn command(&self, command: &str) {
        let rollout = self.status().await.rollout.expect("a rollout runs");
        self.annotate(command, &rollout.id).await;
    }

    /// Gives a command with a target.
    pub async fn annotate(&self, command: &str, target: &str) {
        let annotation = format!("chatcluster.dev/{command}");
        let patch = json!({"metadata": {"annotations": {annotation: target}}});
        let changed = self.api.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await;
        changed.expect("the annotation is taken");
    }

    /// Waits until all is as the specification says.
    pub async fn until_ready(&self) {
        until("all conditions are true", async || {
            let cluster = self.get().await;
            let status = cluster.status?;
            let is = |type_: &str| {
                status.conditions.iter().any(|c| {
                    c.type_ == type_
                        && c.status == "True"
                        && c.observed_generation == cluster.metadata.generation
                })
            };
            let rests = status.phase == Phase::Steady && status.rollout.is_none();
            (rests && GOOD.iter().all(|type_| is(type_))).then_some(())
        })
        .await;
    }

    /// Waits until the operator has seen the newest specification, and is in one of these phases.
    pub async fn until_phase(&self, phases: &[Phase]) {
        until(&format!("phase {phases:?}"), async || {
            let cluster = self.get().await;
            let status = cluster.status?;
            let is_seen = status.observed_generation == cluster.metadata.generation;
            (is_seen && phases.contains(&status.phase)).then_some(())
        })
        .await;
    }

    /// Waits until a drain has come to its second batch, so that some clients have moved and others have not.
    pub async fn until_half_drained(&self) {
        until("the second batch", async || {
            let batch = self.status().await.rollout?.batch?;
            (batch.number >= 2).then_some(())
        })
        .await;
    }

    /// Waits until no rollout runs and the history has so many entries, and returns it, newest first.
    pub async fn until_ended(&self, entries: usize) -> Vec<crds::HistoryEntry> {
        until(&format!("{entries} rollouts have ended"), async || {
            let status = self.status().await;
            (status.rollout.is_none() && status.history.len() >= entries).then_some(status.history)
        })
        .await
    }

    /// Reasons and sentences of the events about the ChatCluster, oldest first.
    pub async fn events(&self) -> Vec<String> {
        let mut events =
            self.space.api::<Event>().list(&ListParams::default()).await.expect("events").items;
        events.retain(|event| event.involved_object.kind.as_deref() == Some("ChatCluster"));
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        let text = |event: Event| {
            let reason = event.reason.unwrap_or_default();
            format!("{reason}: {}", event.message.unwrap_or_default())
        };
        events.into_iter().map(text).collect()
    }

    /// Pods of a part of the platform: `chat`, `nats` or `scylla`.
    pub async fn pods(&self, component: &str) -> Vec<Pod> {
        self.space.pods(&format!("app.kubernetes.io/component={component}")).await
    }

    /// Pods of the active revision, or of the others.
    pub async fn chat_pods(&self, active: bool) -> Vec<Pod> {
        let revision = self.status().await.active_revision;
        let mut pods = self.pods("chat").await;
        pods.retain(|pod| {
            (pod.labels().get("chatcluster.dev/revision") == revision.as_ref()) == active
        });
        pods
    }

    /// Address of the platform for clients on this machine.
    pub async fn url(&self) -> String {
        self.space.url("chat-chat").await
    }

    /// Deletes the ChatCluster, and waits until it and its pods are gone.
    pub async fn delete(&self) {
        self.api.delete(NAME, &DeleteParams::foreground()).await.expect("the end begins");
        until("the ChatCluster is gone", async || {
            let found = self.api.get_opt(NAME).await.expect("the API answers");
            let pods = self.space.pods("chatcluster.dev/cluster").await;
            (found.is_none() && pods.is_empty()).then_some(())
        })
        .await;
    }
}

/// Removes the ChatClusters of a namespace: by the operator if it does so in time, and without it otherwise.
pub(crate) async fn remove_all(space: &Space) {
    let api: Api<ChatCluster> = space.api();
    let Ok(clusters) = api.list(&ListParams::default()).await else { return };
    for cluster in clusters {
        let name = cluster.name_any();
        drop(api.delete(&name, &DeleteParams::default()).await);
        let gone = async {
            while !matches!(api.get_opt(&name).await, Ok(None)) {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), gone).await.is_err() {
            println!("the operator does not let go of {name}");
            let nothing = json!({"metadata": {"finalizers": null}});
            drop(api.patch(&name, &PatchParams::default(), &Patch::Merge(nothing)).await);
        }
    }
}
