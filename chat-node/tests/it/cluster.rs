//! Nodes on NATS and a CQL database, as real processes.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_client::Api;
use chat_protocol::frame::{ClientFrame, ServerFrame};
use chat_protocol::id::PARTITIONS;
use chat_protocol::{ConversationId, MessageId, UserId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use servers::cassandra::{Cassandra, DATACENTER};
use servers::nats::{Nats, NatsOptions};

use crate::client::{PATIENCE, Person, Socket, api, history, text};
use crate::process::{NodeProcess, program};

/// Servers that tests share, and names of one test's own on them.
pub(crate) struct Platform {
    pub(crate) nats: Arc<Nats>,
    pub(crate) cassandra: Arc<Cassandra>,
    pub(crate) name: String,
    directory: tempfile::TempDir,
}

impl Platform {
    /// An empty platform. Starts the servers if no other test has.
    pub(crate) async fn new() -> Platform {
        let start = tokio::task::spawn_blocking(|| (Nats::shared(), Cassandra::shared()));
        let (nats, cassandra) = start.await.unwrap();
        Platform::on(nats, cassandra)
    }

    /// The same on servers of a test's own.
    pub(crate) fn on(nats: Arc<Nats>, cassandra: Arc<Cassandra>) -> Platform {
        let name = format!("test_{:016x}", rand::random::<u64>());
        Platform { nats, cassandra, name, directory: tempfile::tempdir().unwrap() }
    }

    /// What every node of the platform is told.
    pub(crate) fn flags(&self) -> Vec<String> {
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

    pub(crate) fn keys(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// A node that is not started yet.
    pub(crate) fn stopped(&self) -> NodeProcess {
        self.stopped_with(&self.flags())
    }

    /// The same with these flags in place of the platform's.
    pub(crate) fn stopped_with(&self, flags: &[String]) -> NodeProcess {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // It keeps nothing there.
        NodeProcess::stopped(&self.directory.path().join("unused"), &flags)
    }

    /// A node that is ready.
    pub(crate) async fn node(&self) -> NodeProcess {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_started_before_its_servers_waits_for_them() {
    let start = || (Arc::new(Nats::single(&NatsOptions::default())), Cassandra::shared());
    let (nats, cassandra) = tokio::task::spawn_blocking(start).await.unwrap();
    let platform = Platform::on(nats.clone(), cassandra);
    nats.kill(0);
    let late = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(3));
        nats.restart(0);
    });
    let mut node = platform.stopped();
    node.expect("No NATS server answers");
    node.restart().await;
    late.await.unwrap();

    // One that waits ends when it is told to.
    node.kill();
    platform.nats.kill(0);
    let mut command = program();
    command.args(platform.flags()).args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Trying on")));
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        child.wait().unwrap()
    });
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// Conversations that messages are sent to all the time, so that every node owns some of them.
const CONVERSATIONS: usize = 16;

/// Sends to many conversations through one node, one message after another in each.
struct Senders {
    tasks: JoinSet<(ConversationId, Vec<MessageId>)>,
    ends: Arc<AtomicBool>,
    /// When each acknowledged message was first sent, and how long that took.
    taken: Arc<Mutex<Vec<(Instant, Duration)>>>,
}

impl Senders {
    fn start(url: &str, person: &Person, groups: &[ConversationId]) -> Senders {
        let ends = Arc::new(AtomicBool::new(false));
        let taken: Arc<Mutex<Vec<_>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for group in groups.iter().copied() {
            let (api, token) = (Api::new(url).unwrap(), person.token().to_owned());
            let (ends, taken) = (ends.clone(), taken.clone());
            tasks.spawn(async move {
                let mut acknowledged = Vec::new();
                while !ends.load(Ordering::Relaxed) {
                    let mut message = text(&format!("number {}", acknowledged.len()));
                    let started = Instant::now();
                    let sent = loop {
                        match api.send(&token, group, &message).await {
                            Ok(sent) => break sent,
                            Err(error) => assert!(error.is_retryable(), "{error}"),
                        }
                        message.retry = true;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        assert!(started.elapsed() < PATIENCE * 2, "{group} takes no message");
                    };
                    acknowledged.push(sent.message_id);
                    taken.lock().unwrap().push((started, started.elapsed()));
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                (group, acknowledged)
            });
        }
        Senders { tasks, ends, taken }
    }

    /// The longest that any message sent since then took.
    fn longest_since(&self, since: Instant) -> Duration {
        let taken = self.taken.lock().unwrap();
        let since = taken.iter().filter(|(started, took)| *started + *took >= since);
        since.map(|(_, took)| *took).max().unwrap_or_default()
    }

    /// Ends, and compares what was acknowledged with the histories.
    async fn finish(mut self, api: &Api, person: &Person) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        let mut total = 0;
        while let Some(done) = self.tasks.join_next().await {
            let (group, acknowledged) = done.unwrap();
            let all = history(api, person.token(), group).await;
            let texts = all.iter().filter(|message| message.kind == "text");
            let texts: Vec<MessageId> = texts.map(|message| message.message_id).collect();
            assert_eq!(texts, acknowledged, "{group} holds each message once, in order");
            let seqs: Vec<u64> = all.iter().map(|message| message.seq).collect();
            assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>());
            total += acknowledged.len();
        }
        total
    }
}

/// Waits until these nodes own all partitions, each a fair share of them.
async fn shared_by(nodes: &[&NodeProcess]) -> Vec<f64> {
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        let mut owned = Vec::new();
        for node in nodes {
            owned.push(node.figure("chat_partitions_owned").await.unwrap_or(0.0));
        }
        let least = f64::from(PARTITIONS) / nodes.len() as f64 / 2.0;
        if owned.iter().sum::<f64>() == f64::from(PARTITIONS) && owned.iter().all(|o| *o > least) {
            return owned;
        }
        assert!(Instant::now() < deadline, "the nodes own {owned:?} partitions");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Three nodes of an empty platform, started at once.
async fn three(platform: &Platform) -> [NodeProcess; 3] {
    let mut nodes = [platform.stopped(), platform.stopped(), platform.stopped()];
    for node in &mut nodes {
        node.expect("cannot");
        node.expect("could not");
    }
    let [one, two, three] = &mut nodes;
    tokio::join!(Box::pin(one.restart()), Box::pin(two.restart()), Box::pin(three.restart()));
    println!("partitions owned after the start: {:?}", shared_by(&[one, two, three]).await);
    nodes
}

/// Two people and their groups.
async fn people(one: &NodeProcess, two: &NodeProcess) -> (Person, Vec<ConversationId>) {
    let (ann, ben) = (Person::new(one, "ann").await, Person::new(two, "ben").await);
    let mut groups = Vec::new();
    for _ in 0..CONVERSATIONS {
        groups.push(ann.group(one, &[&ben]).await);
    }
    (ann, groups)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_the_partitions_through_an_end_and_a_death() {
    let platform = Platform::new().await;
    let [mut one, mut two, mut three] = three(&platform).await;
    let (ann, groups) = people(&one, &two).await;
    let senders = Senders::start(&one.url(), &ann, &groups);
    tokio::time::sleep(Duration::from_secs(1)).await;
    three.stop().await;
    shared_by(&[&one, &two]).await;
    two.kill();
    shared_by(&[&one]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let total = senders.finish(&api(&one), &ann).await;
    println!("{total} messages, each once and in order");
    assert!(total > CONVERSATIONS * 20);
    one.stop().await;
}

/// What measures times, or takes minutes: `cargo xtask test --long` runs it.
mod long {
    use super::*;

    /// What a node that leaves may cost a sender, beyond what a send of the same run takes anyway.
    const HAND_OVER_MAX: Duration = Duration::from_millis(200);
    /// About as long as a hand-over takes.
    const QUIET: Duration = Duration::from_secs(2);
    const HAND_OVERS: usize = 11;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn a_node_that_leaves_costs_no_sender_more_than_a_moment() {
        let platform = Platform::new().await;
        let [mut one, mut two, mut three] = three(&platform).await;
        let (ann, groups) = people(&one, &two).await;
        let senders = Senders::start(&one.url(), &ann, &groups);
        let (mut quiet, mut longest) = (Vec::new(), Vec::new());
        for _ in 0..HAND_OVERS {
            // What the node's return has cost is over.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let since = Instant::now();
            tokio::time::sleep(QUIET).await;
            let rest = senders.longest_since(since);
            quiet.push(rest);
            let since = Instant::now();
            three.stop().await;
            shared_by(&[&one, &two]).await;
            let took = since.elapsed();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let cost = senders.longest_since(since);
            println!("longest send {cost:?} while a node left in {took:?}; {rest:?} before");
            longest.push(cost);
            let since = Instant::now();
            three.restart().await;
            shared_by(&[&one, &two, &three]).await;
            println!("longest send while it joined: {:?}", senders.longest_since(since));
        }
        longest.sort_unstable();
        quiet.sort_unstable();
        let (median, worst) = (longest[HAND_OVERS / 2], longest[HAND_OVERS - 1]);
        // A busy machine makes every send slow.
        let rest = quiet[HAND_OVERS / 2];
        println!("hand-over: median {median:?}, worst {worst:?}; median {rest:?} without one");
        let total = senders.finish(&api(&one), &ann).await;
        println!("{total} messages, each once and in order");
        assert!(median.saturating_sub(rest) < HAND_OVER_MAX, "{longest:?}, {quiet:?}");
        for node in [&mut three, &mut two, &mut one] {
            node.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn the_others_take_over_from_a_node_that_dies_or_hangs() {
        let platform = Platform::new().await;
        let [mut one, mut two, mut three] = three(&platform).await;
        let (ann, groups) = people(&one, &two).await;
        let senders = Senders::start(&one.url(), &ann, &groups);
        tokio::time::sleep(Duration::from_secs(1)).await;

        let since = Instant::now();
        three.kill();
        shared_by(&[&one, &two]).await;
        println!("the others own everything {:?} after a kill", since.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let longest = senders.longest_since(since);
        println!("longest send after a kill: {longest:?}");
        assert!(longest < Duration::from_secs(8), "{longest:?}");

        let since = Instant::now();
        two.signal("-STOP");
        shared_by(&[&one]).await;
        println!("the other owns everything {:?} after a stop", since.elapsed());
        two.signal("-CONT");
        shared_by(&[&one, &two]).await;
        println!("longest send around a stop: {:?}", senders.longest_since(since));

        let total = senders.finish(&api(&one), &ann).await;
        println!("{total} messages, each once and in order");
        two.stop().await;
        one.stop().await;
    }

    const OFFLINE_AFTER: Duration = Duration::from_secs(10);
    const FRIENDS: usize = 30;

    /// Which friends are offline, after what the watcher has heard until the limit or until nobody is missing.
    async fn watch(
        watcher: &mut Socket,
        missing: &mut HashSet<UserId>,
        online: bool,
        limit: Duration,
    ) {
        let deadline = Instant::now() + limit;
        while !missing.is_empty() && Instant::now() < deadline {
            watcher.send(&ClientFrame::Heartbeat(Default::default())).await.unwrap();
            let next = Instant::now() + Duration::from_millis(500);
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                match watcher.next_within(left).await {
                    Some(Ok(ServerFrame::Presence(heard))) if heard.online == online => {
                        missing.remove(&heard.user_id);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(gone)) => panic!("the watcher is {gone:?}"),
                    None => break,
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn people_at_a_node_that_dies_are_seen_as_offline_in_time() {
        let platform = Platform::new().await;
        let mut flags = platform.flags();
        flags.push("--heartbeat-interval-ms=2000".to_owned());
        flags.push(format!("--offline-after-ms={}", OFFLINE_AFTER.as_millis()));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let [mut one, mut two] = [platform.stopped(), platform.stopped()];
        for node in [&mut one, &mut two] {
            node.set_flags(&flags);
            node.expect("cannot");
            node.expect("could not");
        }
        tokio::join!(Box::pin(one.restart()), Box::pin(two.restart()));
        shared_by(&[&one, &two]).await;
        let ann = Person::new(&one, "ann").await;
        let mut friends = Vec::new();
        for number in 0..FRIENDS {
            let friend = Person::new(&two, &format!("friend_{number}")).await;
            api(&one).befriend(ann.token(), friend.id()).await.unwrap();
            api(&one).befriend(friend.token(), ann.id()).await.unwrap();
            friends.push(friend);
        }
        let everyone: HashSet<UserId> = friends.iter().map(Person::id).collect();
        let mut watcher = Socket::of(&one, &ann, None).await;
        let mut sockets = Vec::new();
        for friend in &friends {
            sockets.push(Socket::of(&two, friend, None).await);
        }
        let mut missing = everyone.clone();
        watch(&mut watcher, &mut missing, true, OFFLINE_AFTER).await;
        assert!(missing.is_empty(), "{} did not come", missing.len());
        for socket in &mut sockets {
            socket.send(&ClientFrame::Heartbeat(Default::default())).await.unwrap();
        }
        two.kill();
        let since = Instant::now();
        let mut missing = everyone;
        // The silence, the take-over of what the node owned, and what a busy machine adds.
        watch(&mut watcher, &mut missing, false, OFFLINE_AFTER + Duration::from_secs(15)).await;
        println!("{FRIENDS} people are offline {:?} after their node died", since.elapsed());
        assert!(missing.is_empty(), "{} of {FRIENDS} are still online", missing.len());
        one.stop().await;
    }
}
