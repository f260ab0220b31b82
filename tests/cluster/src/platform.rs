//! All processes of a platform.

use std::path::PathBuf;

use servers::cassandra::{Cassandra, CassandraOptions, DATACENTER};
use servers::nats::{Nats, NatsOptions};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::node::ChatNode;

/// How large a platform is.
#[derive(Clone, Copy, Debug)]
pub struct PlatformOptions {
    /// NATS servers: 1 or 3.
    pub nats: usize,
    /// Chat nodes.
    pub nodes: usize,
}

/// A platform. Everything ends when it is dropped.
pub struct Platform {
    /// Chat nodes.
    pub nodes: Vec<ChatNode>,
    /// Log and bus.
    pub nats: Nats,
    /// The store.
    pub cassandra: Cassandra,
    _directory: TempDir,
}

impl Platform {
    /// Starts everything, the chat nodes all at once on an empty cluster, and waits until all are ready. Blocks.
    pub fn start(options: PlatformOptions) -> Platform {
        let directory = tempfile::tempdir().expect("a directory for the platform");
        let nats = match options.nats {
            1 => Nats::single(&NatsOptions::default()),
            3 => Nats::cluster(&NatsOptions::default()),
            other => panic!("1 or 3 NATS servers, not {other}"),
        };
        let cassandra = Cassandra::single(&CassandraOptions::default());
        let flags = flags(&nats, &cassandra, directory.path().join("keys.json"));
        let node = |number: usize| {
            let log = directory.path().join(format!("node-{number}.log"));
            let clock = Clock::new(directory.path(), number);
            ChatNode::start(&format!("node-{number}"), &flags, clock, &log)
        };
        let nodes: Vec<ChatNode> = (0..options.nodes).map(node).collect();
        nodes.iter().for_each(ChatNode::wait_until_ready);
        Platform { nodes, nats, cassandra, _directory: directory }
    }
}

fn flags(nats: &Nats, cassandra: &Cassandra, keys: PathBuf) -> Vec<String> {
    vec![
        format!("--broker={}", nats.url()),
        format!("--nats-replicas={}", nats.count()),
        "--nats-stream-bytes-max=268435456".to_owned(),
        format!("--store=scylla://{}/chat", cassandra.addresses().join(",")),
        format!("--scylla-datacenter={DATACENTER}"),
        "--scylla-replication-factor=1".to_owned(),
        format!("--token-key-file={}", keys.display()),
    ]
}
