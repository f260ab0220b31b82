//! Passes against an API server in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::ApiServer;
use async_trait::async_trait;
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use operator::build::Revision;
use operator::metrics::Metrics;
use operator::nats::{Monitor, Report};
use operator::nodes::{Nodes, Peer};
use operator::reconcile::{Context, pass};
use operator::rollout::{Action, Node, NodeMode, View};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Nodes that are well, and remember what they were told.
#[derive(Default)]
struct Told(Mutex<Vec<Action>>);

#[async_trait]
impl Nodes for Told {
    async fn ask(&self, peers: &[Peer], token: &str) -> BTreeMap<String, View> {
        assert!(!token.is_empty(), "nodes ask for the admin token");
        let actions = self.0.lock().unwrap();
        let owner = actions.iter().find_map(|action| match action {
            Action::Own { revision, .. } => Some(revision.clone()),
            _ => None,
        });
        let view = |peer: &Peer| {
            let rollout = prepared(&actions, &peer.name);
            let mode = if rollout.is_some() { NodeMode::Prepared } else { NodeMode::Serving };
            let owner_revision = owner.clone();
            let (is_caught_up, accepts) = (true, true);
            View::Known(Node {
                is_caught_up,
                accepts,
                owner_revision,
                mode,
                rollout,
                ..Node::default()
            })
        };
        peers.iter().map(|peer| (peer.name.clone(), view(peer))).collect()
    }

    async fn tell(
        &self,
        _: &[Peer],
        _: &str,
        epoch: i64,
        actions: &[Action],
    ) -> Result<(), String> {
        assert_eq!(epoch, 7);
        self.0.lock().unwrap().extend_from_slice(actions);
        Ok(())
    }
}

/// NATS servers that are well, led by the first.
struct Well;

#[async_trait]
impl Monitor for Well {
    async fn ask(&self, servers: &[Peer]) -> BTreeMap<String, Report> {
        let leader = servers.first().map(|server| server.name.clone());
        let report = Report { trouble: None, leader };
        servers.iter().map(|server| (server.name.clone(), report.clone())).collect()
    }
}

/// The rollout that a node was told of last, unless that was taken back.
fn prepared(actions: &[Action], name: &str) -> Option<String> {
    let told = actions.iter().rev().find_map(|action| match action {
        Action::Prepare { pod, rollout } if pod == name => Some(Some(rollout.clone())),
        Action::Cancel { pod, .. } if pod == name => Some(None),
        _ => None,
    });
    told.flatten()
}

struct Bench {
    server: ApiServer,
    context: Context,
    nodes: Arc<Told>,
    created: Mutex<usize>,
    now: Arc<Mutex<Timestamp>>,
}

impl Bench {
    fn new() -> Bench {
        let server = ApiServer::default();
        let client = server.client();
        let nodes = Arc::new(Told::default());
        let now = Arc::new(Mutex::new("2026-11-28T09:00:00Z".parse().unwrap()));
        let clock = now.clone();
        let reporter = Reporter { controller: "chat-operator".to_owned(), instance: None };
        let context = Context {
            client: client.clone(),
            nodes: nodes.clone(),
            monitor: Arc::new(Well),
            machines: Arc::default(),
            metrics: Metrics::new(&mut Registry::default()),
            recorder: Recorder::new(client, reporter),
            epoch: 7,
            operator_namespace: "chat-system".to_owned(),
            now: Arc::new(move || *clock.lock().unwrap()),
        };
        Bench { server, context, nodes, created: Mutex::default(), now }
    }

    /// The repository's example is applied.
    fn apply_example(&self) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/chatcluster.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let mut value: Value = serde_saphyr::from_str(&text).unwrap();
        value["metadata"]["generation"] = 1.into();
        self.server.put("chatclusters", value);
    }

    async fn pass(&self) -> Duration {
        pass(&self.context, "chat", "demo").await.unwrap()
    }

    /// Passes with time in between, with what Kubernetes does in between.
    async fn run(&self, passes: usize) {
        for _ in 0..passes {
            self.pass().await;
            self.kubernetes();
            let mut now = self.now.lock().unwrap();
            *now = now.checked_add(jiff::SignedDuration::from_secs(3)).unwrap();
        }
    }

    /// What Kubernetes' own controllers would do: servers become ready, sets get their pods.
    fn kubernetes(&self) {
        for name in self.server.names("statefulsets") {
            self.server.change("statefulsets", &name, |set| {
                let replicas = set["spec"]["replicas"].clone();
                set["status"] = json!({"replicas": replicas, "readyReplicas": replicas});
            });
        }
        for name in self.server.names("replicasets") {
            let set = self.server.get("replicasets", &name).unwrap();
            self.resize(&name, &set);
        }
        // A node that is prepared is not ready.
        let told = self.nodes.0.lock().unwrap().clone();
        for name in self.server.names("pods") {
            let ready = if prepared(&told, &name).is_some() { "False" } else { "True" };
            self.server.change("pods", &name, |pod| {
                pod["status"]["conditions"][0]["status"] = ready.into();
            });
        }
    }

    /// What the controller of ReplicaSets does: it takes pods that are not ready first, and no name twice.
    fn resize(&self, name: &str, set: &Value) {
        let wanted = usize::try_from(set["spec"]["replicas"].as_u64().unwrap()).unwrap();
        let mut pods = self.server.names("pods");
        pods.retain(|pod| pod.starts_with(&format!("{name}-")));
        pods.sort_by_key(|pod| {
            let pod = self.server.get("pods", pod).unwrap();
            pod["status"]["conditions"][0]["status"] == "False"
        });
        while pods.len() > wanted {
            self.server.remove("pods", &pods.pop().unwrap());
        }
        while pods.len() < wanted {
            let mut created = self.created.lock().unwrap();
            let pod = format!("{name}-{created}");
            *created += 1;
            self.server.put("pods", new_pod(&pod, &set["spec"]["template"]["metadata"]["labels"]));
            pods.push(pod);
        }
    }

    fn cluster(&self) -> Value {
        self.server.get("chatclusters", "chat").unwrap()
    }

    /// The budget of the only revision: pods at once, and what becomes of pods that are not ready.
    fn budget(&self) -> (i64, String) {
        let name = self.server.names("replicasets")[0].clone();
        let budget = self.server.get("poddisruptionbudgets", &name).unwrap();
        let unready = budget["spec"]["unhealthyPodEvictionPolicy"].as_str().unwrap().to_owned();
        (budget["spec"]["maxUnavailable"].as_i64().unwrap(), unready)
    }

    fn condition(&self, type_: &str) -> Value {
        let cluster = self.cluster();
        let conditions = cluster["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == type_).unwrap().clone()
    }
}

fn new_pod(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "chat-node", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                "state": {"running": {}},
            }],
        },
    })
}

#[tokio::test]
async fn a_chatcluster_becomes_a_platform_and_a_pass_at_rest_writes_nothing() {
    let bench = Bench::new();
    bench.apply_example();
    bench.pass().await;
    assert_eq!(bench.cluster()["status"]["phase"], "Starting");
    assert_eq!(bench.server.names("statefulsets"), ["chat-nats", "chat-scylla-a"]);
    assert!(bench.server.names("replicasets").is_empty(), "chat nodes wait for what they stand on");
    assert_eq!(bench.server.names("secrets").len(), 3);

    bench.kubernetes();
    bench.run(10).await;
    assert_eq!(bench.cluster()["status"]["phase"], "Steady");
    assert_eq!(bench.condition("Ready")["status"], "True", "{}", bench.condition("Ready"));
    assert_eq!(bench.cluster()["status"]["replicas"], 2);
    assert_eq!(bench.server.names("pods").len(), 2);

    bench.server.take_writes();
    for _ in 0..3 {
        bench.pass().await;
    }
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_deleted_comes_back_and_what_is_changed_is_changed_back() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    for (plural, name) in [
        ("services", "chat-chat"),
        ("configmaps", "chat-nats"),
        ("networkpolicies", "chat-chat"),
        ("poddisruptionbudgets", "chat-nats"),
        ("statefulsets", "chat-nats"),
        ("replicasets", set.as_str()),
    ] {
        bench.server.remove(plural, name);
        bench.pass().await;
        assert!(bench.server.get(plural, name).is_some(), "{plural} {name} did not come back");
    }
    bench.run(3).await;
    bench.server.change("services", "chat-chat", |service| {
        service["spec"]["selector"]["chatcluster.dev/revision"] = "nonsense".into();
    });
    bench.server.change("replicasets", &set, |set| set["spec"]["replicas"] = 9.into());
    bench.pass().await;
    let service = bench.server.get("services", "chat-chat").unwrap();
    assert_ne!(service["spec"]["selector"]["chatcluster.dev/revision"], "nonsense");
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_invalid_spec_is_told_in_its_sentence_and_changes_nothing() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["nats"]["managed"]["replicas"] = 2.into();
    });
    bench.pass().await;
    let accepted = bench.condition("Accepted");
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(
        accepted["message"].as_str().unwrap().starts_with("Set nats.managed.replicas to 1, 3 or 5")
    );
    assert!(bench.server.names("statefulsets").is_empty());
}

#[tokio::test]
async fn a_new_image_is_rolled_out_and_the_old_revision_goes() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let before = bench.server.names("replicasets");
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["chat"]["image"] = "chat-node:2".into();
    });
    bench.run(1).await;
    assert_eq!(bench.server.names("replicasets").len(), 2);
    assert!(
        bench.server.get("configmaps", &before[0]).is_some(),
        "the old revision keeps what its pods mount"
    );
    bench.run(30).await;
    let status = bench.cluster()["status"].clone();
    assert_eq!(status["phase"], "Steady", "{status}");
    let after = bench.server.names("replicasets");
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert!(bench.server.get("configmaps", &before[0]).is_none());
    assert_eq!(status["history"][0]["outcome"], "Completed");
    let actions = bench.nodes.0.lock().unwrap().clone();
    let new = Revision::new(status["activeRevision"].as_str().unwrap());
    assert!(actions.iter().any(
        |action| matches!(action, Action::Prepare { pod, .. } if pod.starts_with(&before[0]))
    ));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Own { revision, .. } if *revision == new))
    );
}

#[tokio::test]
async fn a_commands_annotation_is_removed_and_what_came_of_it_is_told() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["metadata"]["annotations"] = json!({"chatcluster.dev/abort": "old-1"});
    });
    bench.pass().await;
    let cluster = bench.cluster();
    assert!(cluster["metadata"]["annotations"]["chatcluster.dev/abort"].is_null());
    let result = cluster["status"]["lastCommand"]["result"].as_str().unwrap();
    assert_eq!(result, "There is no rollout old-1 to abort.");
}

#[tokio::test]
async fn objects_of_others_are_left_alone() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.put(
        "services",
        json!({"metadata": {"name": "chat-nats"}, "spec": {"selector": {"a": "b"}}}),
    );
    let error = pass(&bench.context, "chat", "demo").await.unwrap_err();
    assert!(error.to_string().contains("Service chat-nats exists"), "{error}");
    let ready = bench.condition("Ready");
    assert!(ready["message"].as_str().unwrap().contains("does not belong to this ChatCluster"));
    assert!(
        bench.server.get("services", "chat-nats").unwrap()["metadata"]["annotations"].is_null()
    );
}

#[tokio::test]
async fn another_version_of_the_operator_restarts_nobody() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    // As another version would have rendered it: other digest, other probe, the same inputs.
    bench.server.change("statefulsets", "chat-nats", |set| {
        set["metadata"]["annotations"]["chatcluster.dev/applied"] = "older".into();
        set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSeconds"] =
            77.into();
    });
    bench.server.take_writes();
    bench.pass().await;
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn deletion_keeps_or_deletes_secrets_by_the_policy() {
    for (policy, left) in [("Retain", 3), ("Delete", 0)] {
        let bench = Bench::new();
        bench.apply_example();
        bench.run(3).await;
        bench.server.change("chatclusters", "chat", |cluster| {
            cluster["spec"]["deletionPolicy"] = policy.into();
            cluster["metadata"]["deletionTimestamp"] = "2026-11-28T10:00:00Z".into();
        });
        bench.pass().await;
        assert_eq!(bench.server.names("secrets").len(), left, "{policy}");
        assert_eq!(bench.cluster()["metadata"]["finalizers"], json!([]));
    }
}

#[tokio::test]
async fn a_paused_chatcluster_is_only_watched() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.change("chatclusters", "chat", |cluster| cluster["spec"]["paused"] = true.into());
    bench.pass().await;
    assert!(bench.server.names("statefulsets").is_empty());
    assert_eq!(bench.condition("Paused")["status"], "True");
}

#[tokio::test]
async fn pods_with_clients_are_held_when_machines_can_be_seen() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    assert_eq!(bench.budget(), (1, "AlwaysAllow".to_owned()), "nobody sees who has to go");
    bench.context.machines.set(Some(BTreeSet::new()));
    bench.pass().await;
    assert_eq!(bench.budget(), (0, "AlwaysAllow".to_owned()));
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["disruption"] = json!({"evictions": "Terminate", "maxUnavailable": 2});
    });
    bench.pass().await;
    assert_eq!(bench.budget(), (2, "AlwaysAllow".to_owned()));
}

#[tokio::test]
async fn a_cordoned_machine_loses_its_pod_after_another_one_is_ready() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    let leaving = format!("{set}-0");
    bench.server.change("pods", &leaving, |pod| pod["spec"] = json!({"nodeName": "worker-7"}));
    bench.context.machines.set(Some(BTreeSet::from(["worker-7".to_owned()])));
    bench.server.take_writes();
    bench.run(1).await;
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 3);
    assert_eq!(bench.condition("Progressing")["reason"], "PodsLeave");
    bench.run(2).await;
    assert_eq!(
        bench.budget(),
        (0, "IfHealthyBudget".to_owned()),
        "it is not ready, and may have clients"
    );
    bench.run(5).await;
    let writes = bench.server.take_writes();
    let deleted: Vec<_> = writes.iter().filter(|write| write.starts_with("DELETE pods")).collect();
    assert_eq!(deleted, [&format!("DELETE pods {leaving}")]);
    assert_eq!(bench.cluster()["status"]["phase"], "Steady", "{}", bench.cluster()["status"]);
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 2);
    let told = bench.nodes.0.lock().unwrap().clone();
    let mut prepared = told.iter().filter_map(|action| match action {
        Action::Prepare { pod, .. } => Some(pod),
        _ => None,
    });
    assert!(prepared.all(|pod| *pod == leaving), "{told:?}");
    bench.server.take_writes();
    bench.pass().await;
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_somebody_wants_to_be_gone_is_replaced() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    let leaving = format!("{set}-1");
    bench.server.change("pods", &leaving, |pod| {
        pod["metadata"]["annotations"] = json!({"chatcluster.dev/drain": "please"});
    });
    bench.run(8).await;
    let status = bench.cluster()["status"].clone();
    assert_eq!((&status["phase"], &status["moves"]), (&json!("Steady"), &json!(1)), "{status}");
    assert_eq!(bench.server.names("pods"), [format!("{set}-0"), format!("{set}-2")]);
}

#[tokio::test]
async fn a_node_that_a_rollout_left_prepared_serves_again() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let left = bench.server.names("pods")[0].clone();
    // It did not hear of the end, and is not ready until it does.
    let rollout = "an-earlier-one".to_owned();
    bench.nodes.0.lock().unwrap().push(Action::Prepare { pod: left.clone(), rollout });
    bench.kubernetes();
    bench.run(2).await;
    let told = bench.nodes.0.lock().unwrap().clone();
    assert_eq!(prepared(&told, &left), None, "{told:?}");
}

#[tokio::test]
async fn nats_servers_start_again_one_at_a_time_and_the_leader_last() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let put = |ordinal: i64, hash: &str| {
        let name = format!("chat-nats-{ordinal}");
        let labels = json!({
            "chatcluster.dev/cluster": "chat", "app.kubernetes.io/component": "nats",
            "controller-revision-hash": hash,
        });
        bench.server.put("pods", new_pod(&name, &labels));
    };
    (0..3).for_each(|ordinal| put(ordinal, "old"));
    let set = |ready: i64, updated: i64| {
        bench.server.change("statefulsets", "chat-nats", |set| {
            set["status"] = json!({
                "replicas": 3, "readyReplicas": ready, "updatedReplicas": updated,
                "currentRevision": "old", "updateRevision": "new",
            });
        });
    };
    bench.server.take_writes();
    for (updated, ordinal) in [2, 1, 0].into_iter().enumerate() {
        set(3, i64::try_from(updated).unwrap());
        bench.pass().await;
        let writes = bench.server.take_writes();
        let deleted: Vec<_> = writes.iter().filter(|write| write.starts_with("DELETE")).collect();
        assert_eq!(deleted, [&format!("DELETE pods chat-nats-{ordinal}")]);
        let message = bench.condition("NatsReady")["message"].clone();
        assert!(message.as_str().unwrap().contains("starts again"), "{message}");
        set(2, 0);
        bench.pass().await;
        assert!(bench.server.get("pods", &format!("chat-nats-{ordinal}")).is_none());
        let more = bench.server.take_writes();
        assert!(!more.iter().any(|write| write.starts_with("DELETE")), "one is away: {more:?}");
        put(ordinal, "new");
    }
    set(3, 3);
    bench.pass().await;
    assert_eq!(bench.condition("NatsReady")["status"], "True");
}

#[tokio::test]
async fn volumes_grow_and_templates_of_claims_stay() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let name = "data-chat-nats-0";
    bench.server.put(
        "persistentvolumeclaims",
        json!({
            "metadata": {"name": name, "labels": {
                "chatcluster.dev/cluster": "chat", "app.kubernetes.io/component": "nats",
            }},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        }),
    );
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["nats"]["managed"]["storage"]["size"] = "2Gi".into();
    });
    bench.pass().await;
    let claim = bench.server.get("persistentvolumeclaims", name).unwrap();
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "2Gi");
    let set = bench.server.get("statefulsets", "chat-nats").unwrap();
    let template = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"];
    assert_eq!(template["storage"], "1Gi", "Kubernetes refuses another template");
    bench.pass().await;
    let message = bench.condition("VolumesReady")["message"].clone();
    assert_eq!(message, "Volume data-chat-nats-0 is being made larger.");
    bench.server.change("persistentvolumeclaims", name, |claim| {
        claim["status"]["capacity"]["storage"] = "2Gi".into();
    });
    bench.pass().await;
    assert_eq!(bench.condition("VolumesReady")["status"], "True");
}

#[tokio::test]
async fn an_older_definition_is_told_and_nothing_is_done_that_would_be_forgotten() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    bench.server.forget("rollout");
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["chat"]["image"] = "chat-node:2".into();
    });
    let error = pass(&bench.context, "chat", "demo").await.unwrap_err();
    assert!(error.to_string().contains("apply crds/chatcluster.yaml"), "{error}");
    assert_eq!(bench.server.names("replicasets").len(), 1, "no rollout begins");
}
