//! All processes of a platform.

use std::path::PathBuf;

use servers::cassandra::{Cassandra, CassandraOptions, DATACENTER};
use servers::nats::{Nats, NatsOptions};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::node::ChatNode;

/// Of each log stream.
pub(crate) const STREAM_BYTES_MAX: u64 = 256 << 20;

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
        Platform::start_with(options, &NatsOptions::default())
    }

    /// The same, with other NATS servers.
    pub fn start_with(options: PlatformOptions, servers: &NatsOptions) -> Platform {
        let directory = tempfile::tempdir().expect("a directory for the platform");
        let nats = match options.nats {
            1 => Nats::single(servers),
            3 => Nats::cluster(servers),
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

    /// Every process that runs: its name and id.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let nodes = self.nodes.iter().map(|node| (node.name().to_owned(), node.process_id()));
        let nats = (1..).map(|number| format!("nats-{number}")).zip(self.nats.process_ids());
        let databases =
            (1..).map(|number| format!("cassandra-{number}")).zip(self.cassandra.process_ids());
        nodes.chain(nats).chain(databases).collect()
    }

    /// The CPU time that each process has used, in seconds.
    pub fn cpu_seconds(&self) -> Vec<(String, f64)> {
        let used = |(name, id): (String, u32)| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // The name in field 2 may hold spaces; user and system time are fields 14 and 15, in hundredths (`USER_HZ`).
            let fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11).take(2);
            Some((name, fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0))
        };
        self.processes().into_iter().filter_map(used).collect()
    }
}

fn flags(nats: &Nats, cassandra: &Cassandra, keys: PathBuf) -> Vec<String> {
    vec![
        format!("--broker={}", nats.url()),
        format!("--nats-replicas={}", nats.count()),
        format!("--nats-stream-bytes-max={STREAM_BYTES_MAX}"),
        format!("--store=scylla://{}/chat", cassandra.addresses().join(",")),
        format!("--scylla-datacenter={DATACENTER}"),
        "--scylla-replication-factor=1".to_owned(),
        format!("--token-key-file={}", keys.display()),
    ]
}
