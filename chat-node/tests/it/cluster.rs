//! Nodes on NATS and a CQL database, as real processes.

use std::path::PathBuf;
use std::sync::Arc;

use servers::cassandra::{Cassandra, DATACENTER};
use servers::nats::Nats;

use crate::client::{PATIENCE, Person, api, history, text};
use crate::process::NodeProcess;

/// Servers that tests share, and names of one test's own on them.
struct Platform {
    nats: Arc<Nats>,
    cassandra: Arc<Cassandra>,
    name: String,
    directory: tempfile::TempDir,
}

impl Platform {
    /// An empty platform. Starts the servers if no other test has.
    async fn new() -> Platform {
        let start = tokio::task::spawn_blocking(|| (Nats::shared(), Cassandra::shared()));
        let (nats, cassandra) = start.await.unwrap();
        let name = format!("test_{:016x}", rand::random::<u64>());
        Platform { nats, cassandra, name, directory: tempfile::tempdir().unwrap() }
    }

    /// What every node of the platform is told.
    fn flags(&self) -> Vec<String> {
        vec![
            format!("--broker={}", self.nats.url()),
            format!("--nats-prefix={}", self.name),
            "--nats-replicas=1".to_owned(),
            "--nats-stream-bytes-max=67108864".to_owned(),
            format!("--store=scylla://{}/{}", self.cassandra.addresses().join(","), self.name),
            format!("--scylla-datacenter={DATACENTER}"),
            "--scylla-replication-factor=1".to_owned(),
            format!("--token-key-file={}", self.keys().display()),
        ]
    }

    fn keys(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// A node that is not started yet.
    fn stopped(&self) -> NodeProcess {
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // It keeps nothing there.
        NodeProcess::stopped(&self.directory.path().join("unused"), &flags)
    }

    /// A node that is ready.
    async fn node(&self) -> NodeProcess {
        let mut node = self.stopped();
        node.restart().await;
        node
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_keeps_everything_in_nats_and_cassandra() {
    let platform = Platform::new().await;
    let mut node = platform.node().await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let mut sent = Vec::new();
    for number in 0..20 {
        let message = text(&format!("before {number}"));
        sent.push(api(&node).send(ann.token(), group, &message).await.unwrap().message_id);
    }
    node.kill();
    node.restart().await;
    for number in 0..20 {
        let message = text(&format!("after {number}"));
        sent.push(api(&node).send(ben.token(), group, &message).await.unwrap().message_id);
    }
    let all = history(&api(&node), ann.token(), group).await;
    let texts = all.iter().filter(|message| message.kind == "text");
    assert_eq!(texts.map(|message| message.message_id).collect::<Vec<_>>(), sent);
    let stopped = tokio::time::timeout(PATIENCE, node.stop());
    stopped.await.expect("a graceful end is not held up");
    assert!(!platform.directory.path().join("unused").exists(), "it needs no data directory");
}
