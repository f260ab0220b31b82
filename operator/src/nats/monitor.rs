//! HTTP to the servers' monitoring ports.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::{Monitor, Report};
use crate::limits;
use crate::nodes::{Peer, client};

const PORT: u16 = 8222;

/// Servers that are reached by HTTP.
pub struct HttpMonitor {
    client: reqwest::Client,
}

/// The answer of `/healthz`.
#[derive(Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    error: String,
}

/// What is needed of `/jsz`.
#[derive(Deserialize)]
struct JetStream {
    #[serde(default)]
    disabled: bool,
    meta_cluster: Option<MetaCluster>,
}

#[derive(Deserialize)]
struct MetaCluster {
    leader: Option<String>,
}

impl HttpMonitor {
    /// A client of monitoring ports.
    pub fn new() -> Result<HttpMonitor, reqwest::Error> {
        Ok(HttpMonitor { client: client()? })
    }

    async fn ask_one(&self, server: &Peer) -> Option<Report> {
        let asked = async {
            // Its code says the same as its body.
            let health = self.client.get(server.url(PORT, "healthz")).send().await?;
            let health: Health = health.json().await?;
            let streams = self.client.get(server.url(PORT, "jsz")).send().await?;
            Ok::<_, reqwest::Error>((health, streams.json::<JetStream>().await?))
        };
        match asked.await {
            Ok((health, streams)) => Some(report(health, streams)),
            Err(error) => {
                tracing::debug!(server = server.name, %error, "a NATS server does not tell how it is");
                None
            }
        }
    }
}

fn report(health: Health, streams: JetStream) -> Report {
    let leader = streams.meta_cluster.and_then(|meta| meta.leader);
    let trouble = match (health.status.as_str(), streams.disabled) {
        // A server whose disk is full goes on without JetStream, and says that it is well.
        ("ok", true) => Some("JetStream is disabled".to_owned()),
        ("ok", false) => None,
        _ if health.error.is_empty() => Some(health.status),
        _ => Some(health.error),
    };
    Report { trouble, leader: leader.filter(|name| !name.is_empty()) }
}

#[async_trait]
impl Monitor for HttpMonitor {
    async fn ask(&self, servers: &[Peer]) -> BTreeMap<String, Report> {
        let asked: Vec<_> = servers.iter().map(|server| self.ask_one(server)).collect();
        let answers = stream::iter(asked).buffered(limits::NODES_AT_ONCE);
        let answers: Vec<Option<Report>> = answers.collect().await;
        let names = servers.iter().map(|server| server.name.clone());
        names.zip(answers).filter_map(|(name, report)| Some((name, report?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(health: &str, streams: &str) -> Report {
        report(serde_json::from_str(health).unwrap(), serde_json::from_str(streams).unwrap())
    }

    #[test]
    fn answers_of_a_server_are_understood() {
        let streams = r#"{"server_id": "X", "memory": 0, "meta_cluster": {"name": "n", "leader": "chat-nats-2", "cluster_size": 3}}"#;
        let well = read(r#"{"status": "ok"}"#, streams);
        assert_eq!(well, Report { trouble: None, leader: Some("chat-nats-2".to_owned()) });
        let error = "JetStream stream 'A > S' is not current";
        let ill = format!(r#"{{"status": "unavailable", "status_code": 503, "error": "{error}"}}"#);
        assert_eq!(
            read(&ill, r#"{"meta_cluster": {"leader": ""}}"#),
            Report { trouble: Some(error.to_owned()), leader: None }
        );
        let alone = read(r#"{"status": "ok"}"#, "{}");
        assert_eq!(alone, Report::default(), "a single server has no group");
        assert!(read(r#"{"status": "ok"}"#, r#"{"disabled": true}"#).trouble.is_some());
    }
}
