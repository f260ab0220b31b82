//! All processes of a platform.

use servers::cassandra::{Cassandra, CassandraOptions, DATACENTER};
use servers::nats::{Nats, NatsOptions};
use servers::network::Network;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::link::Link;
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

/// What the chat nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// What people run.
    #[default]
    ChatNode,
    /// The same, and it kills itself when [`ChatNode::order_death`] says so.
    MortalNode,
}

impl Program {
    /// The name of its file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::ChatNode => "chat-node",
            Program::MortalNode => "mortal-node",
        }
    }
}

/// What is between the processes, and how they are set up.
#[derive(Default)]
pub struct Surroundings {
    /// The program of the chat nodes.
    pub program: Program,
    /// NATS.
    pub servers: NatsOptions,
    /// Further flags of the chat nodes.
    pub flags: Vec<String>,
    /// The first node reaches the only NATS server through [`Platform::nats_link`].
    pub has_nats_link: bool,
    /// The nodes reach the store through [`Platform::store_link`].
    pub has_store_link: bool,
    /// Each NATS server is at a place of its own in this network.
    pub network: Option<Network>,
}

/// A platform. Everything ends when it is dropped.
pub struct Platform {
    /// Chat nodes.
    pub nodes: Vec<ChatNode>,
    /// Log and bus.
    pub nats: Nats,
    /// The store.
    pub cassandra: Cassandra,
    nats_link: Option<Link>,
    store_link: Option<Link>,
    network: Option<Network>,
    _directory: TempDir,
}

impl Platform {
    /// Starts everything, the chat nodes all at once on an empty cluster, and waits until all are ready. Blocks.
    pub fn start(options: PlatformOptions) -> Platform {
        Platform::start_with(options, &NatsOptions::default())
    }

    /// The same, with other NATS servers.
    pub fn start_with(options: PlatformOptions, servers: &NatsOptions) -> Platform {
        let servers = servers.clone();
        Platform::start_in(options, Surroundings { servers, ..Surroundings::default() })
    }

    /// The same, in other surroundings. With links it must be called in a runtime.
    pub fn start_in(options: PlatformOptions, surroundings: Surroundings) -> Platform {
        let Surroundings { program, servers, network, .. } = surroundings;
        let directory = tempfile::tempdir().expect("a directory for the platform");
        let nats = match (options.nats, &network) {
            (1, None) => Nats::single(&servers),
            (3, None) => Nats::cluster(&servers),
            (3, Some(network)) => Nats::cluster_in(&servers, network),
            (other, _) => panic!("1 or 3 NATS servers, not {other}"),
        };
        let cassandra = Cassandra::single(&CassandraOptions::default());
        let nats_link = surroundings.has_nats_link.then(|| {
            assert_eq!(options.nats, 1, "a node learns of other servers, and goes round the link");
            Link::start(&nats.addresses()[0])
        });
        let store_link =
            surroundings.has_store_link.then(|| Link::start(&cassandra.addresses()[0]));
        let node = |number: usize| {
            let link = nats_link.as_ref().filter(|_| number == 0);
            let broker =
                link.map_or_else(|| nats.url(), |link| format!("nats://{}", link.address()));
            let store = store_link.as_ref().map(Link::address);
            let mut flags = vec![
                format!("--broker={broker}"),
                format!("--nats-replicas={}", nats.count()),
                format!(
                    "--store=scylla://{}/chat",
                    store.unwrap_or(cassandra.addresses().join(","))
                ),
                format!("--token-key-file={}", directory.path().join("keys.json").display()),
            ];
            flags.push(format!("--nats-stream-bytes-max={STREAM_BYTES_MAX}"));
            flags.push("--scylla-replication-factor=1".to_owned());
            flags.push(format!("--scylla-datacenter={DATACENTER}"));
            flags.extend(surroundings.flags.iter().cloned());
            let log = directory.path().join(format!("node-{number}.log"));
            let clock = Clock::new(directory.path(), number);
            ChatNode::start(program, &format!("node-{number}"), &flags, clock, &log)
        };
        let nodes: Vec<ChatNode> = (0..options.nodes).map(node).collect();
        nodes.iter().for_each(ChatNode::wait_until_ready);
        Platform { nodes, nats, cassandra, nats_link, store_link, network, _directory: directory }
    }

    /// The way of the first node to NATS.
    pub fn nats_link(&self) -> &Link {
        self.nats_link.as_ref().expect("the surroundings have one")
    }

    /// The way of the nodes to the store.
    pub fn store_link(&self) -> &Link {
        self.store_link.as_ref().expect("the surroundings have one")
    }

    /// The network of the NATS servers.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the surroundings have one")
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
