//! One run: a platform, people who chat, faults, and the check at the end.

use std::sync::Arc;
use std::time::Duration;

use chat_client::Api;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::balancer::Balancer;
use crate::crowd::{Crowd, CrowdOptions, seed};
use crate::log::Entry;
use crate::platform::{Platform, PlatformOptions, Surroundings};

/// A node that has more has a leak: these platforms are small.
const MEMORY_BYTES_MAX: u64 = 600 << 20;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Processes.
    pub platform: PlatformOptions,
    /// People.
    pub users: usize,
    /// Devices of each.
    pub devices: usize,
    /// Groups; each has all the people whose number divided by the number of groups leaves its own.
    pub groups: usize,
    /// Between two messages of a group.
    pub pause_ms: u64,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            platform: PlatformOptions { nats: 1, nodes: 3 },
            users: 12,
            devices: 2,
            groups: 4,
            pause_ms: 60,
        }
    }
}

/// A run under way.
pub struct Run {
    /// The processes, for faults.
    pub platform: Arc<Platform>,
    /// Choices of faults.
    pub random: StdRng,
    crowd: Crowd,
    _balancer: Balancer,
}

impl Run {
    /// Starts the processes, lets everyone sign up and connect, and begins to send.
    pub async fn start(scenario: &str, options: RunOptions) -> Run {
        Run::start_in(scenario, options, Surroundings::default()).await
    }

    /// The same, in other surroundings.
    pub async fn start_in(scenario: &str, options: RunOptions, surroundings: Surroundings) -> Run {
        let seed = seed();
        println!("{scenario}: CHAT_TEST_SEED={seed}");
        let starting =
            tokio::task::spawn_blocking(move || Platform::start_in(options.platform, surroundings));
        let platform = Arc::new(starting.await.expect("the platform starts"));
        let addresses = platform.nodes.iter().map(|node| node.address()).collect();
        let balancer = Balancer::start(addresses).await;
        let api = Api::new(&balancer.url()).expect("an address");
        let RunOptions { users, devices, groups, pause_ms, .. } = options;
        let people = CrowdOptions { users, devices, groups, pause_ms, polls_every: 0 };
        let crowd = Crowd::start(scenario, seed, api, people).await;
        Run { platform, random: StdRng::seed_from_u64(seed), crowd, _balancer: balancer }
    }

    /// Takes a fault down, and does it. It may block.
    pub async fn fault(&self, what: &str, work: impl FnOnce(&Platform) + Send + 'static) {
        self.crowd.note(Entry::Fault { fault: what.to_owned() });
        let platform = self.platform.clone();
        tokio::task::spawn_blocking(move || work(&platform)).await.expect("the fault is made");
        self.look_at_memory();
    }

    /// Lets things go on for a while.
    pub async fn wait(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
        self.look_at_memory();
    }

    fn look_at_memory(&self) {
        for (node, process) in self.platform.nodes.iter().enumerate() {
            if let Some(bytes) = process.memory_bytes() {
                self.crowd.note(Entry::Memory { node, bytes });
                assert!(bytes < MEMORY_BYTES_MAX, "node {node} has {bytes} bytes");
            }
        }
    }

    /// How many messages were acknowledged, and how often a device got one.
    pub fn progress(&self) -> (usize, usize) {
        self.crowd.progress()
    }

    /// Waits until so many more messages are acknowledged. Panics if that takes longer than `patience`.
    pub async fn until_more(&self, messages: usize, patience: Duration) {
        self.crowd.until_more(messages, patience).await;
    }

    /// Connects one more device, and waits until it has everything from before. Panics if that takes longer than `patience`.
    pub async fn until_caught_up(&self, patience: Duration) {
        self.crowd.until_caught_up(patience).await;
    }

    /// How far the ids that were acknowledged are ahead of the right time at most.
    pub fn furthest_ahead(&self) -> Duration {
        self.crowd.furthest_ahead()
    }

    /// Waits until in every conversation a message that was sent after this call is acknowledged. Panics if that takes
    /// longer than `patience`.
    pub async fn until_each_goes_on(&self, patience: Duration) {
        self.crowd.until_each_goes_on(patience).await;
    }

    /// Ends the load, waits until everything has arrived, and checks all of it.
    pub async fn finish(self) {
        self.look_at_memory();
        let outcome = self.crowd.finish().await;
        if !outcome.wrong.is_empty() {
            let logs: Vec<String> = self.platform.nodes.iter().map(|node| node.log()).collect();
            let (wrong, logs) = (outcome.wrong.join("\n"), logs.join("\n---\n"));
            panic!("{wrong}\nthe run: {}\n{logs}", outcome.path);
        }
        assert!(outcome.acknowledged > 0, "nothing was sent");
        let complaints: Vec<String> =
            self.platform.nodes.iter().flat_map(|node| node.complaints()).collect();
        assert!(complaints.is_empty(), "the nodes complained:\n{}", complaints.join("\n"));
    }
}
