//! Rollouts between real processes: clients are handed over in batches while they chat.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_client::{Api, Client, Config, Credentials, Draft, Event, State};
use chat_protocol::admin::{
    AdminCode, AdminProblem, Amount, Batch, Grant, Jitter, NodeStatus, Order, OwnerRevision, Phase,
    Target,
};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{Outcome, Reconnect, ServerFrame, Welcome};
use chat_protocol::{ConversationId, MessageId};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::client::{Gone, PATIENCE, Person, Socket, api, history};
use crate::cluster::Platform;
use crate::process::{NodeProcess, http};

const ADMIN_TOKEN: &str = "correct-horse-battery";
const CLIENTS: usize = 12;

/// A configuration file with the admin token, which is no flag.
fn secrets(directory: &std::path::Path) -> String {
    let file = directory.join("secrets.toml");
    std::fs::write(&file, format!("admin_token = \"{ADMIN_TOKEN}\"\n")).unwrap();
    format!("--config={}", file.display())
}

async fn call<T: DeserializeOwned>(
    node: &NodeProcess,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, AdminProblem> {
    let url = format!("{}/v1/admin/{path}", node.admin_url());
    let mut request = http().request(method, url).bearer_auth(ADMIN_TOKEN);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    match status.is_success() {
        true => Ok(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))),
        false => Err(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))),
    }
}

async fn post<T: DeserializeOwned>(
    node: &NodeProcess,
    path: &str,
    body: &impl Serialize,
) -> Result<T, AdminProblem> {
    call(node, Method::POST, path, Some(body)).await
}

async fn status(node: &NodeProcess) -> NodeStatus {
    call(node, Method::GET, "status", None::<&Order>).await.unwrap()
}

fn order(rollout: &str, epoch: u64) -> Order {
    Order { rollout: rollout.to_owned(), epoch }
}

fn grant(batch: u32, sessions: Amount) -> Grant {
    Grant {
        rollout: "to-green".to_owned(),
        epoch: 2,
        batch,
        sessions,
        rate_per_second: 20,
        jitter: Jitter { min_ms: 200, max_ms: 800 },
        target: Some(Target { revision: "green".to_owned(), generation: 1 }),
    }
}

/// Waits until the node says so.
async fn until(node: &NodeProcess, what: &str, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    let deadline = Instant::now() + PATIENCE * 3;
    loop {
        let found = status(node).await;
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn last(status: &NodeStatus) -> Batch {
    *status.batches.last().unwrap()
}

/// One address in front of the nodes. New connections go to the node of the moment; those that stand stay.
struct Balancer {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Balancer {
    async fn start(target: SocketAddr) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let now = target.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = *now.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut node) = TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut client, &mut node).await);
                    }
                });
            }
        });
        Balancer { address, target }
    }

    fn point_to(&self, node: &NodeProcess) {
        *self.target.lock().unwrap() = node.address();
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// What a client was told.
#[derive(Default)]
struct Seen {
    /// How often each message came.
    messages: BTreeMap<MessageId, usize>,
    /// What the device sent itself: it is told by the acknowledgement, and comes as a message only after a resume.
    own: BTreeSet<MessageId>,
    connected: usize,
    /// What a person would have seen as an outage.
    outages: Vec<String>,
}

/// A client of the Rust library behind the balancer.
struct Device {
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

impl Device {
    async fn start(balancer: &Balancer, person: &Person) -> Device {
        let url = balancer.url();
        let credentials = Credentials::new(Api::new(&url).unwrap(), person.tokens.clone());
        let config = Config::new(format!("{}/v1/socket", url.replacen("http", "ws", 1)));
        let (client, mut events) = Client::start(config, credentials, State::default());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let heard = seen.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let mut seen = heard.lock().unwrap();
                match event {
                    Event::Connected(_) => seen.connected += 1,
                    Event::Disconnected { reason, .. } => seen.outages.push(reason),
                    Event::Message(message) if message.kind == "text" => {
                        *seen.messages.entry(message.message_id).or_default() += 1;
                    }
                    Event::Sent { sent: Some(sent), .. } => {
                        seen.own.insert(sent.message_id);
                    }
                    _ => {}
                }
            }
        });
        let deadline = Instant::now() + PATIENCE;
        while seen.lock().unwrap().connected == 0 {
            assert!(Instant::now() < deadline, "a client connects");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Device { client, seen }
    }
}

/// Says something all the time, on every device in turn, until told to stop.
fn chat(
    devices: &[Device],
    group: ConversationId,
    stop: Arc<Mutex<bool>>,
) -> tokio::task::JoinHandle<usize> {
    let clients: Vec<Client> = devices.iter().map(|device| device.client.clone()).collect();
    tokio::spawn(async move {
        let mut sent = 0;
        while !*stop.lock().unwrap() {
            let draft = Draft::text(group, &format!("number {sent}"));
            clients[sent % clients.len()].send(draft).await.unwrap();
            sent += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sent
    })
}

/// Polls all the time; how many messages came, each counted once.
fn poll(
    balancer: &Balancer,
    person: &Person,
    cursor: String,
    stop: Arc<Mutex<bool>>,
) -> tokio::task::JoinHandle<usize> {
    let (api, token) = (Api::new(&balancer.url()).unwrap(), person.token().to_owned());
    tokio::spawn(async move {
        let mut cursor = cursor;
        let mut seen = BTreeSet::new();
        loop {
            let is_last = *stop.lock().unwrap();
            let Ok(answer) = api.sync(&token, Some(&cursor), 1_000).await else { continue };
            cursor = answer.cursor;
            let quiet = answer.frames.is_empty() && !answer.catching_up;
            for frame in answer.frames {
                if let ServerFrame::Message(message) = frame
                    && message.kind == "text"
                {
                    seen.insert(message.message_id);
                }
            }
            if is_last && quiet {
                return seen.len();
            }
            tokio::time::sleep(Duration::from_millis(answer.retry_after_ms)).await;
        }
    })
}

/// Stays until it is closed, and then goes on at another node from the cursor that it was told.
async fn leave(
    mut socket: Socket,
    url: String,
    token: String,
) -> (Gone, Reconnect, (Socket, Welcome)) {
    let mut told: Option<Reconnect> = None;
    let gone = loop {
        match socket.next().await {
            Ok(ServerFrame::Reconnect(reconnect)) => told = Some(reconnect),
            Ok(_) => {}
            Err(gone) => break gone,
        }
    };
    let told = told.expect("the event comes before the close");
    let connected = Socket::connect(&url, &token, Some(&told.cursor), Encoding::Json).await;
    (gone, told, connected.unwrap())
}

async fn pair() -> (Platform, NodeProcess, NodeProcess) {
    let platform = Platform::new().await;
    let [mut blue, mut green] = [platform.stopped(), platform.stopped()];
    for (node, revision) in [(&mut blue, "--revision=blue"), (&mut green, "--revision=green")] {
        let mut flags = platform.flags();
        flags.push(secrets(platform.keys().parent().unwrap()));
        flags.push(revision.to_owned());
        node.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    }
    tokio::join!(Box::pin(blue.restart()), Box::pin(green.restart()));
    (platform, blue, green)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_handed_over_in_batches_while_they_chat() {
    let (_platform, mut blue, mut green) = pair().await;
    let balancer = Balancer::start(blue.address()).await;
    let mut people = Vec::new();
    for number in 0..CLIENTS {
        people.push(Person::new(&blue, &format!("p{number}")).await);
    }
    let others: Vec<&Person> = people[1..].iter().collect();
    let group = people[0].group(&blue, &others).await;
    let mut devices = Vec::new();
    for person in &people {
        devices.push(Device::start(&balancer, person).await);
    }
    // Two who know no more than the protocol: one that stays until it is closed, and one that polls.
    let watcher = people[0].other_device(&blue).await;
    let socket = Socket::of(&blue, &watcher, None).await;
    let leaving = tokio::spawn(leave(socket, green.url(), watcher.token().to_owned()));
    let poller = people[1].other_device(&blue).await;
    let stop = Arc::new(Mutex::new(false));
    let poll = poll(&balancer, &poller, poller.first_cursor(&blue).await, stop.clone());
    let chatting = chat(&devices, group, stop.clone());

    let wanted = OwnerRevision { revision: "green".to_owned(), epoch: 2, generation: 1 };
    for node in [&blue, &green] {
        let set: OwnerRevision = post(node, "owner-revision", &wanted).await.unwrap();
        assert_eq!(set, wanted);
    }
    let old = OwnerRevision { revision: "blue".to_owned(), epoch: 1, generation: 9 };
    let refused = post::<OwnerRevision>(&blue, "owner-revision", &old).await.unwrap_err();
    assert_eq!(refused.code, AdminCode::StaleEpoch);
    until(&blue, "partitions go to green", |s| s.partitions == 0 && s.owner_revision == wanted)
        .await;
    let verified = status(&green).await;
    assert!(verified.safe_watermark_known && verified.not_ready.is_empty(), "{verified:?}");

    let prepared: NodeStatus = post(&blue, "prepare", &order("to-green", 2)).await.unwrap();
    assert_eq!((prepared.phase, prepared.not_ready.len()), (Phase::Prepared, 1));
    assert_eq!(prepared.sessions.websocket as usize, CLIENTS + 1);
    balancer.point_to(&green);

    post::<NodeStatus>(&blue, "drain", &grant(1, Amount::Count(3))).await.unwrap();
    let first =
        until(&blue, "the first batch is settled", |s| last(s).settled && last(s).here == 0).await;
    let again: NodeStatus = post(&blue, "drain", &grant(1, Amount::Count(3))).await.unwrap();
    assert_eq!(again.batches, first.batches, "a batch that is granted again asks nobody");
    // Who polls may have gone between the choice and the question.
    assert_eq!((last(&first).granted, last(&first).asked + last(&first).skipped), (3, 3));
    let stale = Grant { epoch: 1, ..grant(2, Amount::PerMille(1_000)) };
    let refused = post::<NodeStatus>(&blue, "drain", &stale).await.unwrap_err();
    assert_eq!(refused.code, AdminCode::StaleEpoch);

    post::<NodeStatus>(&blue, "drain", &grant(2, Amount::PerMille(1_000))).await.unwrap();
    let (gone, told, connected) = leaving.await.unwrap();
    assert_eq!(gone, Gone::Closed(1012));
    assert!((200..=800).contains(&told.delay_ms) && told.token.is_some(), "{told:?}");
    assert_eq!(connected.1.outcome, Outcome::Resumed);

    // That a client is back is told by the other node, a moment after the client has left this one.
    let handed_over = until(&blue, "all have left and are back", |s| {
        s.handed_over && s.batches.iter().all(|batch| batch.here == 0 && batch.settled)
    })
    .await;
    let (counted, resumed) =
        handed_over.batches.iter().fold((0, 0), |(counted, resumed), batch| {
            (counted + batch.counted, resumed + batch.resumed)
        });
    println!("{:#?}", handed_over.batches);
    assert_eq!(handed_over.abrupt_closes, 0);
    assert!(counted as usize > CLIENTS, "all clients of both kinds: {counted}");
    assert!(resumed as usize > CLIENTS && resumed <= counted, "{resumed} of {counted}");

    *stop.lock().unwrap() = true;
    let sent = chatting.await.unwrap();
    let _: NodeStatus = post(&blue, "stop", &order("to-green", 2)).await.unwrap();
    assert_eq!(blue.wait().await.code(), Some(0));
    compare(&green, &people[0], group, &devices, sent).await;
    assert_eq!(poll.await.unwrap(), sent, "polls lost nothing");
    for device in &devices {
        let seen = device.seen.lock().unwrap();
        assert!(seen.outages.is_empty(), "a person saw {:?}", seen.outages);
        assert_eq!(seen.connected, 2, "each moved once");
    }
    green.stop().await;
}

/// Every message is in the history once, and came to everyone once.
async fn compare(
    node: &NodeProcess,
    person: &Person,
    group: ConversationId,
    devices: &[Device],
    sent: usize,
) {
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        let all = history(&api(node), person.token(), group).await;
        let texts: Vec<MessageId> =
            all.iter().filter(|m| m.kind == "text").map(|m| m.message_id).collect();
        let have = |device: &Device| {
            let seen = device.seen.lock().unwrap();
            texts
                .iter()
                .filter(|id| seen.messages.contains_key(id) || seen.own.contains(id))
                .count()
        };
        if texts.len() == sent && devices.iter().all(|device| have(device) == sent) {
            for device in devices {
                let seen = device.seen.lock().unwrap();
                assert!(seen.messages.values().all(|times| *times == 1), "doubled");
            }
            println!("{sent} messages, each once, at {} devices", devices.len());
            return;
        }
        let counts: Vec<usize> = devices.iter().map(have).collect();
        assert!(Instant::now() < deadline, "{} of {sent} in the history, {counts:?}", texts.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_cancelled_rollout_leaves_a_node_that_is_ready_and_has_its_clients() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(&[&secrets(directory.path())]).await;
    let ann = Person::new(&node, "ann").await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(Socket::of(&node, &ann, None).await);
    }
    let slow = Grant { rate_per_second: 1, ..grant(1, Amount::Count(4)) };
    let draining: NodeStatus = post(&node, "drain", &slow).await.unwrap();
    assert_eq!((draining.phase, draining.batches[0].asked), (Phase::Draining, 1));
    let answer = http().get(format!("{}/ready", node.admin_url())).send().await.unwrap();
    assert_eq!(answer.status(), 503, "a balancer sends nobody");
    let kept: NodeStatus = post(&node, "cancel", &order("to-green", 2)).await.unwrap();
    assert_eq!(kept.phase, Phase::Serving);
    assert_eq!((kept.not_ready.len(), kept.sessions.websocket), (0, 4), "{kept:?}");
    let late = post::<NodeStatus>(&node, "drain", &grant(2, Amount::Count(1))).await.unwrap_err();
    assert_eq!(late.code, AdminCode::RolloutCancelled);
    let nobody = post::<OwnerRevision>(&node, "owner-revision", &OwnerRevision::default()).await;
    assert_eq!(nobody.unwrap_err().code, AdminCode::SingleNode);
    let stranger =
        http().get(format!("{}/v1/admin/status", node.admin_url())).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    // SIGTERM without a grant is the same drain, of everyone.
    node.terminate();
    for mut socket in sockets {
        let mut told = 0;
        let gone = loop {
            match socket.next().await {
                Ok(ServerFrame::Reconnect(_)) => told += 1,
                Ok(_) => {}
                Err(gone) => break gone,
            }
        };
        assert_eq!(gone, Gone::Closed(1012));
        assert!(told >= 1, "it was told before");
    }
    assert_eq!(node.wait().await.code(), Some(0));
    assert!(node.log_text().contains("cut_off=0"), "{}", node.log_text());
}
