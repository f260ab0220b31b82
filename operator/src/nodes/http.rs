//! HTTP and JSON to the admin ports.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nodes, Peer};
use crate::build::Revision;
use crate::limits;
use crate::rollout::{Action, Node, NodeBatch, NodeMode, View};

const PORT: u16 = 9090;

/// Nodes that are reached by HTTP.
pub struct HttpNodes {
    client: reqwest::Client,
}

/// A node's answer to `GET /v1/admin/status`: what of it is needed here.
#[derive(Deserialize)]
struct Answer {
    phase: String,
    rollout: Option<String>,
    not_ready: Vec<String>,
    sessions: Sessions,
    batches: Vec<Batch>,
    owner_revision: OwnerRevision,
    safe_watermark_known: bool,
    handshakes: Handshakes,
}

#[derive(Deserialize)]
struct Sessions {
    websocket: i64,
    events: i64,
    polls: i64,
    not_asked: i64,
}

#[derive(Deserialize)]
struct Batch {
    batch: i64,
    granted: i64,
    asked: i64,
    skipped: i64,
    here: i64,
    counted: i64,
    resumed: i64,
}

#[derive(Deserialize)]
struct OwnerRevision {
    revision: String,
}

#[derive(Deserialize)]
struct Handshakes {
    accepted: i64,
    failed: i64,
}

/// Handshakes of a hundred that may fail while a node still counts as well.
const FAILED_PERCENT_MAX: i64 = 1;

impl HttpNodes {
    /// A client of admin ports.
    pub fn new() -> Result<HttpNodes, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(limits::NODE_ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(HttpNodes { client })
    }

    async fn ask_one(&self, peer: &Peer, token: &str) -> View {
        let url = url(&peer.address, "status");
        let answer = async {
            let response = self.client.get(url).bearer_auth(token).send().await?;
            response.error_for_status()?.json::<Answer>().await
        };
        match answer.await {
            Ok(answer) => View::Known(node(answer)),
            Err(error) => {
                tracing::debug!(pod = peer.name, %error, "a node does not tell how it is");
                View::Unknown
            }
        }
    }

    /// Says one thing. Returns why it was not taken.
    async fn tell_one(
        &self,
        peers: &[Peer],
        token: &str,
        epoch: i64,
        action: &Action,
    ) -> Option<String> {
        let (pod, path, body) = request(action, epoch);
        let peer = match pod {
            Some(pod) => peers.iter().find(|peer| peer.name == pod),
            None => peers.first(),
        };
        let Some(peer) = peer else { return Some(format!("no pod can be told to {path}")) };
        let request = self.client.post(url(&peer.address, path)).bearer_auth(token).json(&body);
        let sent = request.send().await.and_then(reqwest::Response::error_for_status);
        sent.err().map(|error| format!("{} did not take {path}: {error}", peer.name))
    }
}

fn url(address: &str, path: &str) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("http://{host}:{PORT}/v1/admin/{path}")
}

fn node(answer: Answer) -> Node {
    let Sessions { websocket, events, polls, not_asked } = answer.sessions;
    let Handshakes { accepted, failed } = answer.handshakes;
    let owner = Some(answer.owner_revision.revision).filter(|name| !name.is_empty());
    let batches = answer.batches.into_iter().map(|batch| NodeBatch {
        number: batch.batch,
        is_ended: batch.asked + batch.skipped >= batch.granted && batch.here == 0,
        told: batch.asked,
        counted: batch.counted,
        resumed: batch.resumed,
    });
    Node {
        connections: websocket + events + polls,
        unasked: not_asked,
        rollout: answer.rollout,
        mode: if answer.phase == "serving" { NodeMode::Serving } else { NodeMode::Prepared },
        is_caught_up: answer.safe_watermark_known,
        accepts: answer.not_ready.is_empty() && failed * 100 <= accepted * FAILED_PERCENT_MAX,
        owner_revision: owner.map(Revision::new),
        batches: batches.collect(),
    }
}

/// The request that says an action, and the pod that hears it; none for those that any node may hear.
fn request(action: &Action, epoch: i64) -> (Option<&str>, &'static str, Value) {
    match action {
        Action::Prepare { pod, rollout } => {
            (Some(pod), "prepare", json!({"rollout": rollout, "epoch": epoch}))
        }
        Action::Cancel { pod, rollout } => {
            (Some(pod), "cancel", json!({"rollout": rollout, "epoch": epoch}))
        }
        Action::Grant(grant) => (
            Some(&grant.pod),
            "drain",
            json!({
                "rollout": grant.rollout,
                "epoch": epoch,
                "batch": grant.batch,
                "sessions": {"count": grant.connections},
                "rate_per_second": grant.rate,
                "jitter": {"min_ms": grant.jitter.min_ms, "max_ms": grant.jitter.max_ms},
                "target": {"revision": grant.target.as_str(), "generation": grant.generation},
            }),
        ),
        Action::Own { revision, generation, .. } => (
            None,
            "owner-revision",
            json!({"revision": revision.as_str(), "epoch": epoch, "generation": generation}),
        ),
    }
}

#[async_trait]
impl Nodes for HttpNodes {
    async fn ask(&self, peers: &[Peer], token: &str) -> BTreeMap<String, View> {
        let asked: Vec<_> = peers.iter().map(|peer| self.ask_one(peer, token)).collect();
        let answers = stream::iter(asked).buffered(limits::NODES_AT_ONCE).collect::<Vec<View>>();
        let names = peers.iter().map(|peer| peer.name.clone());
        names.zip(answers.await).collect()
    }

    async fn tell(
        &self,
        peers: &[Peer],
        token: &str,
        epoch: i64,
        actions: &[Action],
    ) -> Result<(), String> {
        let told: Vec<_> =
            actions.iter().map(|action| self.tell_one(peers, token, epoch, action)).collect();
        let failures = stream::iter(told).buffered(limits::NODES_AT_ONCE);
        let failures: Vec<Option<String>> = failures.collect().await;
        let failures: Vec<String> = failures.into_iter().flatten().collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}
