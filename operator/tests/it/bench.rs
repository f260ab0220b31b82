//! The operator's passes against an API server in memory, with nodes and servers that do as they are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::ApiServer;
use async_trait::async_trait;
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use operator::metrics::Metrics;
use operator::nats::{Monitor, Report};
use operator::nodes::{Nodes, Peer};
use operator::reconcile::{Context, pass};
use operator::rollout::{Action, Node, NodeMode, View};
use operator::scylla::{self, Ring};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Nodes that are well, and remember what they were told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<Action>>);

#[async_trait]
impl Nodes for Told {
    async fn ask(&self, peers: &[Peer], tokens: &[String]) -> BTreeMap<String, View> {
        assert!(!tokens.is_empty(), "nodes ask for the admin token");
        let actions = self.0.lock().unwrap();
        let view = |peer: &Peer| {
            let rollout = prepared(&actions, &peer.name);
            let mode = if rollout.is_some() { NodeMode::Prepared } else { NodeMode::Serving };
            let owner_revision = actions.iter().rev().find_map(|action| match action {
                Action::Own { revision, .. } if peer.name.contains(revision.as_str()) => {
                    Some(revision.clone())
                }
                _ => None,
            });
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
        _: &[String],
        epoch: i64,
        actions: &[Action],
    ) -> Result<(), String> {
        assert_eq!(epoch, 7);
        self.0.lock().unwrap().extend_from_slice(actions);
        Ok(())
    }
}

/// NATS servers that are well, led by the first.
pub(crate) struct Well;

#[async_trait]
impl Monitor for Well {
    async fn ask(&self, servers: &[Peer]) -> BTreeMap<String, Report> {
        let leader = servers.first().map(|server| server.name.clone());
        let report = Report { trouble: None, leader };
        servers.iter().map(|server| (server.name.clone(), report.clone())).collect()
    }
}

/// The ring of the database as its members see it.
#[derive(Default)]
pub(crate) struct FakeRing {
    /// Ids by the members' names.
    pub(crate) hosts: Mutex<BTreeMap<String, String>>,
    /// Copies of each row; 0 if there is no keyspace yet.
    pub(crate) copies: Mutex<i32>,
}

#[async_trait]
impl Ring for FakeRing {
    async fn ask(&self, members: &[Peer], keyspace: &str) -> BTreeMap<String, scylla::View> {
        assert_eq!(keyspace, "chat");
        let hosts = self.hosts.lock().unwrap();
        let copies = Some(*self.copies.lock().unwrap()).filter(|copies| *copies > 0);
        let view = |host: &String| {
            let others = hosts.values().filter(|other| *other != host);
            scylla::View {
                host: host.clone(),
                has_joined: true,
                schema: "one".to_owned(),
                others: others.map(|other| (other.clone(), "10.0.0.9".to_owned())).collect(),
                copies,
            }
        };
        let known = members
            .iter()
            .filter_map(|member| Some((member.name.clone(), view(hosts.get(&member.name)?))));
        known.collect()
    }
}

/// The rollout that a node was told of last, unless that was taken back.
pub(crate) fn prepared(actions: &[Action], name: &str) -> Option<String> {
    let told = actions.iter().rev().find_map(|action| match action {
        Action::Prepare { pod, rollout } if pod == name => Some(Some(rollout.clone())),
        Action::Cancel { pod, .. } if pod == name => Some(None),
        _ => None,
    });
    told.flatten()
}

pub(crate) struct Bench {
    pub(crate) server: ApiServer,
    pub(crate) context: Context,
    pub(crate) nodes: Arc<Told>,
    pub(crate) ring: Arc<FakeRing>,
    created: Mutex<usize>,
    now: Arc<Mutex<Timestamp>>,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let server = ApiServer::default();
        let client = server.client();
        let nodes = Arc::new(Told::default());
        let ring = Arc::new(FakeRing::default());
        let now = Arc::new(Mutex::new("2026-11-28T09:00:00Z".parse().unwrap()));
        let clock = now.clone();
        let reporter = Reporter { controller: "chat-operator".to_owned(), instance: None };
        let context = Context {
            client: client.clone(),
            nodes: nodes.clone(),
            monitor: Arc::new(Well),
            ring: ring.clone(),
            machines: Arc::default(),
            metrics: Metrics::new(&mut Registry::default()),
            recorder: Recorder::new(client, reporter),
            epoch: 7,
            operator_namespace: "chat-system".to_owned(),
            now: Arc::new(move || *clock.lock().unwrap()),
        };
        Bench { server, context, nodes, ring, created: Mutex::default(), now }
    }

    /// The repository's example is applied.
    pub(crate) fn apply_example(&self) {
        self.apply_example_as("chat");
    }

    /// The repository's example is applied under another name.
    pub(crate) fn apply_example_as(&self, name: &str) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/chatcluster.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let mut value: Value = serde_saphyr::from_str(&text).unwrap();
        value["metadata"]["name"] = name.into();
        value["metadata"]["generation"] = 1.into();
        self.server.put("chatclusters", value);
    }

    pub(crate) async fn pass(&self) -> Duration {
        self.pass_of("chat").await
    }

    pub(crate) async fn pass_of(&self, name: &str) -> Duration {
        pass(&self.context, name, "demo").await.unwrap()
    }

    /// Passes with time in between, with what Kubernetes does in between.
    pub(crate) async fn run(&self, passes: usize) {
        for _ in 0..passes {
            self.pass().await;
            self.go_on();
        }
    }

    /// Time passes, with what Kubernetes does meanwhile.
    pub(crate) fn go_on(&self) {
        self.kubernetes();
        let mut now = self.now.lock().unwrap();
        *now = now.checked_add(jiff::SignedDuration::from_secs(3)).unwrap();
    }

    /// What Kubernetes' own controllers would do: servers become ready, sets get their pods.
    pub(crate) fn kubernetes(&self) {
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

    pub(crate) fn cluster(&self) -> Value {
        self.server.get("chatclusters", "chat").unwrap()
    }

    /// The budget of the only revision: pods at once, and what becomes of pods that are not ready.
    pub(crate) fn budget(&self) -> (i64, String) {
        let name = self.server.names("replicasets")[0].clone();
        let budget = self.server.get("poddisruptionbudgets", &name).unwrap();
        let unready = budget["spec"]["unhealthyPodEvictionPolicy"].as_str().unwrap().to_owned();
        (budget["spec"]["maxUnavailable"].as_i64().unwrap(), unready)
    }

    pub(crate) fn condition(&self, type_: &str) -> Value {
        let cluster = self.cluster();
        let conditions = cluster["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == type_).unwrap().clone()
    }
}

pub(crate) fn new_pod(name: &str, labels: &Value) -> Value {
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
