//! HTTP and JSON to the admin ports.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chat_protocol::admin::{
    AdminCode, AdminProblem, Amount, Grant, Jitter, NodeStatus, Order, OwnerRevision, Phase, Target,
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{Nodes, Peer, client};
use crate::build::Revision;
use crate::limits;
use crate::rollout::{Action, BatchGrant, Node, NodeBatch, NodeMode, View};

const PORT: u16 = 9090;

/// Nodes that are reached by HTTP.
pub struct HttpNodes {
    client: reqwest::Client,
}

/// Handshakes of a hundred that may fail while a node still counts as well.
const FAILED_PERCENT_MAX: i64 = 1;

/// Why a node's answer is of no use.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Transport(#[from] reqwest::Error),
    #[error("{0}")]
    Refused(AdminProblem),
    #[error("it answers {0}")]
    Status(reqwest::StatusCode),
    #[error("its answer is longer than {} bytes", limits::NODE_ANSWER_BYTES)]
    TooLong,
    #[error("its answer is none: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Failure {
    /// Whether the node has another token.
    fn is_of_token(&self) -> bool {
        match self {
            Failure::Refused(problem) => problem.code == AdminCode::Unauthenticated,
            Failure::Status(status) => *status == reqwest::StatusCode::UNAUTHORIZED,
            _ => false,
        }
    }
}

impl HttpNodes {
    /// A client of admin ports.
    pub fn new() -> Result<HttpNodes, reqwest::Error> {
        Ok(HttpNodes { client: client()? })
    }

    async fn ask_one(&self, peer: &Peer, tokens: &[String]) -> View {
        let answer = async {
            let bytes = said(|| self.client.get(url(peer, "status")), tokens).await?;
            Ok::<NodeStatus, Failure>(serde_json::from_slice(&bytes)?)
        };
        match answer.await {
            Ok(status) => View::Known(node(status)),
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
        tokens: &[String],
        epoch: i64,
        action: &Action,
    ) -> Option<String> {
        let Call { pod, path, body: wanted } = call(action, epoch);
        let peer = match pod {
            Some(pod) => peers.iter().find(|peer| peer.name == pod),
            None => peers.first(),
        };
        let Some(peer) = peer else { return Some(format!("no pod can be told to {path}")) };
        let failure = said(|| self.client.post(url(peer, path)).json(&wanted), tokens).await.err();
        failure.map(|error| format!("{} did not take {path}: {error}", peer.name))
    }
}

fn url(peer: &Peer, path: &str) -> String {
    peer.url(PORT, &format!("v1/admin/{path}"))
}

/// The answer to the first token that is not refused.
async fn said(
    request: impl Fn() -> reqwest::RequestBuilder,
    tokens: &[String],
) -> Result<Vec<u8>, Failure> {
    let Some((last, earlier)) = tokens.split_last() else { return body(request()).await };
    for token in earlier {
        match body(request().bearer_auth(token)).await {
            Err(failure) if failure.is_of_token() => {}
            answer => return answer,
        }
    }
    body(request().bearer_auth(last)).await
}

/// The body of a good answer; of a bad one why it is bad.
async fn body(request: reqwest::RequestBuilder) -> Result<Vec<u8>, Failure> {
    let mut response = request.send().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limits::NODE_ANSWER_BYTES {
            return Err(Failure::TooLong);
        }
        bytes.extend_from_slice(&chunk);
    }
    if response.status().is_success() {
        return Ok(bytes);
    }
    let problem = serde_json::from_slice(&bytes);
    Err(problem.map_or(Failure::Status(response.status()), Failure::Refused))
}

/// Counts of the status are signed, as all integers of Kubernetes are.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn small(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

fn node(status: NodeStatus) -> Node {
    let sessions = status.sessions;
    let (accepted, failed) = (signed(status.handshakes.accepted), signed(status.handshakes.failed));
    let owner = Some(status.owner_revision.revision).filter(|name| !name.is_empty());
    let batches = status.batches.into_iter().map(|batch| NodeBatch {
        number: i64::from(batch.batch),
        is_ended: batch.asked + batch.skipped >= batch.granted && batch.here == 0,
        told: signed(batch.asked),
        counted: signed(batch.counted),
        resumed: signed(batch.resumed),
    });
    Node {
        connections: signed(sessions.websocket + sessions.events + sessions.polls),
        unasked: signed(sessions.not_asked),
        rollout: status.rollout,
        mode: match status.phase {
            Phase::Serving => NodeMode::Serving,
            Phase::Prepared | Phase::Draining | Phase::Stopping => NodeMode::Prepared,
        },
        is_caught_up: status.safe_watermark_known,
        accepts: status.not_ready.is_empty() && failed * 100 <= accepted * FAILED_PERCENT_MAX,
        owner_revision: owner.map(Revision::new),
        batches: batches.collect(),
    }
}

/// A call of the admin port.
#[derive(Debug, PartialEq)]
struct Call<'a> {
    /// The pod that hears it; none if any may.
    pod: Option<&'a str>,
    /// Its path below `/v1/admin/`.
    path: &'static str,
    /// What it says.
    body: Body,
}

/// What a call says.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Body {
    Order(Order),
    Grant(Grant),
    OwnerRevision(OwnerRevision),
}

/// The call that says an action.
fn call(action: &Action, epoch: i64) -> Call<'_> {
    let epoch = unsigned(epoch);
    let order = |rollout: &str| Body::Order(Order { rollout: rollout.to_owned(), epoch });
    match action {
        Action::Prepare { pod, rollout } => {
            Call { pod: Some(pod), path: "prepare", body: order(rollout) }
        }
        Action::Cancel { pod, rollout } => {
            Call { pod: Some(pod), path: "cancel", body: order(rollout) }
        }
        Action::Grant(batch) => {
            Call { pod: Some(&batch.pod), path: "drain", body: Body::Grant(grant(batch, epoch)) }
        }
        Action::Own { revision, generation, .. } => {
            let revision = revision.to_string();
            let generation = unsigned(*generation);
            let body = Body::OwnerRevision(OwnerRevision { revision, epoch, generation });
            Call { pod: None, path: "owner-revision", body }
        }
    }
}

fn grant(batch: &BatchGrant, epoch: u64) -> Grant {
    Grant {
        rollout: batch.rollout.clone(),
        epoch,
        batch: small(batch.batch),
        sessions: Amount::Count(unsigned(batch.connections)),
        rate_per_second: small(batch.rate),
        jitter: Jitter {
            min_ms: unsigned(batch.jitter.min_ms),
            max_ms: unsigned(batch.jitter.max_ms),
        },
        target: Some(Target {
            revision: batch.target.to_string(),
            generation: unsigned(batch.generation),
        }),
    }
}

#[async_trait]
impl Nodes for HttpNodes {
    async fn ask(&self, peers: &[Peer], tokens: &[String]) -> BTreeMap<String, View> {
        let asked: Vec<_> = peers.iter().map(|peer| self.ask_one(peer, tokens)).collect();
        let answers = stream::iter(asked).buffered(limits::NODES_AT_ONCE).collect::<Vec<View>>();
        let names = peers.iter().map(|peer| peer.name.clone());
        names.zip(answers.await).collect()
    }

    async fn tell(
        &self,
        peers: &[Peer],
        tokens: &[String],
        epoch: i64,
        actions: &[Action],
    ) -> Result<(), String> {
        let told: Vec<_> =
            actions.iter().map(|action| self.tell_one(peers, tokens, epoch, action)).collect();
        let failures = stream::iter(told).buffered(limits::NODES_AT_ONCE);
        let failures: Vec<Option<String>> = failures.collect().await;
        let failures: Vec<String> = failures.into_iter().flatten().collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An example of the document that tells the calls.
    fn example<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let document = include_str!("../../../docs/drain.md");
        let text = document.split(&format!("```json {name}\n")).nth(1).unwrap();
        serde_json::from_str(text.split("\n```").next().unwrap()).unwrap()
    }

    /// Answers requests that show this token, one at a time.
    async fn serve(listener: tokio::net::TcpListener, token: &str) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let passes = String::from_utf8(head).unwrap().contains(&format!("Bearer {token}\r\n"));
            let status = if passes { "200 OK" } else { "401 Unauthorized" };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_node_that_refuses_a_token_is_shown_the_one_from_before() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, "old"));
        // An error means that there is a provider already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = client().unwrap();
        let tokens = ["new".to_owned(), "old".to_owned()];
        assert_eq!(said(|| client.get(&url), &tokens).await.unwrap(), b"{}");
        let refused = said(|| client.get(&url), &tokens[..1]).await.unwrap_err();
        assert!(refused.is_of_token(), "{refused}");
        server.abort();
    }

    #[test]
    fn a_documented_status_is_what_the_planner_sees() {
        let node = node(example("status"));
        assert_eq!((node.connections, node.unasked), (950, 941));
        assert_eq!((node.rollout.as_deref(), node.mode), (Some("green-7"), NodeMode::Prepared));
        assert!(node.is_caught_up && !node.accepts, "a node that hands over takes nobody");
        assert_eq!(node.owner_revision, Some(Revision::new("green")));
        let batch = NodeBatch { number: 1, is_ended: true, told: 9, counted: 8, resumed: 8 };
        assert_eq!(node.batches, [batch]);
    }

    #[test]
    fn a_batch_ends_when_all_were_asked_and_are_gone() {
        let mut status: NodeStatus = example("status");
        status.batches[0].here = 1;
        assert!(!node(status.clone()).batches[0].is_ended);
        (status.batches[0].here, status.batches[0].skipped) = (0, 0);
        assert!(!node(status).batches[0].is_ended);
    }

    #[test]
    fn actions_are_the_documented_calls() {
        let rollout = "green-7".to_owned();
        let pod = "blue-1".to_owned();
        let prepare = Action::Prepare { pod: pod.clone(), rollout: rollout.clone() };
        let order = Body::Order(example("order"));
        assert_eq!(call(&prepare, 12), Call { pod: Some("blue-1"), path: "prepare", body: order });

        let grant = Action::Grant(BatchGrant {
            pod,
            rollout: rollout.clone(),
            batch: 3,
            connections: 50,
            rate: 200,
            jitter: crds::Jitter { min_ms: 0, max_ms: 5000 },
            target: Revision::new("green"),
            generation: 7,
        });
        let documented = Grant { sessions: Amount::Count(50), ..example("grant") };
        assert_eq!(documented.check(), Ok(()));
        let body = Body::Grant(documented);
        assert_eq!(call(&grant, 12), Call { pod: Some("blue-1"), path: "drain", body });

        let own = Action::Own { revision: Revision::new("green"), rollout, generation: 7 };
        let body = Body::OwnerRevision(example("owner_revision"));
        assert_eq!(call(&own, 12), Call { pod: None, path: "owner-revision", body });
    }
}
