//! What was acknowledged survives the process, however it ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chat_broker::Broker;
use chat_client::Api;
use chat_protocol::api::{NewMessage, Sent};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use chat_protocol::message::Message;
use chat_protocol::record::{Record, RecordKind};
use chat_protocol::{ClientMessageId, ConversationId, MessageId, Partition};
use chat_store::Store;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::client::{Gone, PATIENCE, Person, Socket, api, drain, history, send, text};
use crate::process::NodeProcess;

const KILLS: usize = 6;

/// What the senders and readers share with the one who kills.
#[derive(Clone)]
struct Stage {
    /// The node's address now.
    url: watch::Receiver<String>,
    group: ConversationId,
    is_over: Arc<AtomicBool>,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn url(&self) -> String {
        self.url.borrow().clone()
    }
}

/// Acknowledgements of one sender.
type Acknowledged = HashMap<ClientMessageId, Sent>;

/// A device as the documentation wants it: what came is kept together with the cursor behind it, or not at all.
struct Device {
    person: Person,
    cursor: String,
    stored: BTreeMap<MessageId, Message>,
    pending: BTreeMap<MessageId, Message>,
}

impl Device {
    async fn new(node: &NodeProcess, person: &Person) -> Device {
        let person = person.other_device(node).await;
        let cursor = person.first_cursor(node).await;
        Device { person, cursor, stored: BTreeMap::new(), pending: BTreeMap::new() }
    }

    fn receive(&mut self, frame: ServerFrame) {
        match frame {
            ServerFrame::Message(message) => {
                self.pending.insert(message.message_id, message);
            }
            ServerFrame::Cursor(cursor) => self.store(cursor.cursor),
            _ => {}
        }
    }

    fn store(&mut self, cursor: String) {
        self.cursor = cursor;
        self.stored.append(&mut self.pending);
    }

    /// Receives over WebSocket until everything is over, and forgets what no cursor stood behind at each loss.
    async fn follow(mut self, stage: Stage, encoding: Encoding) -> Device {
        while !stage.is_over() {
            self.pending.clear();
            let url = stage.url();
            let cursor = Some(self.cursor.as_str());
            let connected = Socket::connect(&url, self.person.token(), cursor, encoding).await;
            let Ok((mut socket, _)) = connected else {
                tokio::time::sleep(Duration::from_millis(30)).await;
                continue;
            };
            while !stage.is_over() {
                match socket.next_within(Duration::from_millis(300)).await {
                    Some(Ok(frame)) => self.receive(frame),
                    Some(Err(_)) => break,
                    None => {}
                }
            }
        }
        self.pending.clear();
        self
    }

    /// The same by long polls.
    async fn poll(mut self, stage: Stage) -> Device {
        while !stage.is_over() {
            let api = Api::new(&stage.url()).unwrap();
            match api.sync(self.person.token(), Some(&self.cursor), 300).await {
                Ok(sync) => {
                    sync.frames.into_iter().for_each(|frame| self.receive(frame));
                    self.store(sync.cursor);
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        }
        self
    }

    /// Resumes at rest: what the device lacks comes in the order of the ids.
    async fn catch_up(&mut self, node: &NodeProcess) {
        let (frames, cursor) = drain(&api(node), self.person.token(), &self.cursor).await;
        let mut last = MessageId::ZERO;
        for frame in &frames {
            let ServerFrame::Message(message) = frame else { continue };
            if !self.stored.contains_key(&message.message_id) {
                assert!(message.message_id >= last, "what is new comes in order");
                last = message.message_id;
            }
        }
        frames.into_iter().for_each(|frame| self.receive(frame));
        self.store(cursor);
    }
}

/// Sends one message after another, each until it is acknowledged.
async fn send_by_http(stage: Stage, person: Person) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let mut number = 0;
    while !stage.is_over() {
        number += 1;
        let mut message = text(&format!("http {number}"));
        let sent = loop {
            let api = Api::new(&stage.url()).unwrap();
            match api.send(person.token(), stage.group, &message).await {
                Ok(sent) => break sent,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            message.retry = true;
            tokio::time::sleep(Duration::from_millis(30)).await;
        };
        acknowledged.insert(message.client_message_id, sent);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// The same over WebSocket, several under way at once.
async fn send_by_socket(stage: Stage, person: Person, encoding: Encoding) -> Acknowledged {
    const AT_ONCE: usize = 4;
    let mut acknowledged = Acknowledged::new();
    let mut queue: Vec<NewMessage> = Vec::new();
    let mut number = 0;
    loop {
        if stage.is_over() && queue.is_empty() {
            return acknowledged;
        }
        let connected = Socket::connect(&stage.url(), person.token(), None, encoding).await;
        let Ok((mut socket, _)) = connected else {
            tokio::time::sleep(Duration::from_millis(30)).await;
            continue;
        };
        while !stage.is_over() || !queue.is_empty() {
            while !stage.is_over() && queue.len() < AT_ONCE {
                number += 1;
                queue.push(text(&format!("socket {number}")));
            }
            if send_all(&stage, &mut socket, &mut queue, &mut acknowledged).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Sends what is queued, and takes out what is acknowledged.
async fn send_all(
    stage: &Stage,
    socket: &mut Socket,
    queue: &mut Vec<NewMessage>,
    acknowledged: &mut Acknowledged,
) -> Result<(), Gone> {
    let mut open: HashMap<u64, ClientMessageId> = HashMap::new();
    for (request_id, message) in (0..).zip(queue.iter_mut()) {
        let frame = send(stage.group, request_id, message);
        // Stored before the attempt: from now on it may have been sent.
        message.retry = true;
        open.insert(request_id, message.client_message_id);
        socket.send(&frame).await?;
    }
    while !open.is_empty() {
        match socket.next().await? {
            ServerFrame::Ack(ack) => {
                let id = open.remove(&ack.request_id).expect("an answer to an open request");
                let sent = Sent {
                    message_id: ack.message_id.unwrap(),
                    seq: ack.seq.unwrap(),
                    created_at: ack.created_at.unwrap(),
                };
                acknowledged.insert(id, sent);
                queue.retain(|message| message.client_message_id != id);
            }
            ServerFrame::Error(error) => {
                assert!(error.code.is_retryable(), "{error:?}");
                open.remove(&error.request_id.unwrap());
            }
            _ => {}
        }
    }
    Ok(())
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    seed
}

/// Kills the process at random moments while people send and devices receive; what was acknowledged to each of four
/// senders, and the devices with what they stored.
async fn run_under_fire(
    node: &mut NodeProcess,
    [ann, ben, cleo, dan]: [&Person; 4],
    group: ConversationId,
    mut random: StdRng,
) -> ([Acknowledged; 4], [Device; 3]) {
    let (address, url) = watch::channel(node.url());
    let stage = Stage { url, group, is_over: Arc::default() };
    let json = Device::new(node, cleo).await.follow(stage.clone(), Encoding::Json);
    let packed = Device::new(node, ann).await.follow(stage.clone(), Encoding::MessagePack);
    let polled = Device::new(node, ben).await.poll(stage.clone());
    let killer = async {
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(random.random_range(50..1_000))).await;
            node.kill();
            node.restart().await;
            address.send(node.url()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.is_over.store(true, Ordering::Relaxed);
    };
    let senders = async {
        tokio::join!(
            send_by_http(stage.clone(), ann.clone()),
            send_by_http(stage.clone(), ben.clone()),
            send_by_socket(stage.clone(), cleo.clone(), Encoding::Json),
            send_by_socket(stage.clone(), dan.clone(), Encoding::MessagePack),
        )
    };
    let devices = async { tokio::join!(json, packed, polled) };
    let all = async { tokio::join!(Box::pin(senders), Box::pin(killer), Box::pin(devices)) };
    let done = tokio::time::timeout(Duration::from_secs(60), Box::pin(all)).await;
    let (sent, (), devices) = done.expect("everything sent is acknowledged in the end");
    (sent.into(), devices.into())
}

/// Each acknowledged message is in the history once, at its place, and nothing else is.
fn assert_exactly_once(all: &[Message], acknowledged: &[Acknowledged]) {
    let seqs: Vec<u64> = all.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>(), "seq has neither hole nor repeat");
    assert!(all.is_sorted_by_key(|message| message.message_id));
    let mut by_client_id: HashMap<ClientMessageId, Vec<&Message>> = HashMap::new();
    for message in all.iter().filter(|message| message.kind == "text") {
        by_client_id.entry(message.client_message_id).or_default().push(message);
    }
    for (id, sent) in acknowledged.iter().flatten() {
        let found = by_client_id.get(id).map(Vec::as_slice).unwrap_or_default();
        let [message] = found else { panic!("{id} is there {} times", found.len()) };
        assert_eq!((message.message_id, message.seq), (sent.message_id, sent.seq));
    }
    let sent: usize = acknowledged.iter().map(HashMap::len).sum();
    assert_eq!(sent, by_client_id.len(), "every message was sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_when_the_process_is_killed() {
    let random = StdRng::seed_from_u64(seed());
    let mut node = NodeProcess::start(&[]).await;
    let ann = Person::new(&node, "ann").await;
    let ben = Person::new(&node, "ben").await;
    let cleo = Person::new(&node, "cleo").await;
    let dan = Person::new(&node, "dan").await;
    let group = ann.group(&node, &[&ben, &cleo, &dan]).await;
    let mut sleeper = Device::new(&node, &dan).await;
    let people = [&ann, &ben, &cleo, &dan];
    let (acknowledged, mut devices) = run_under_fire(&mut node, people, group, random).await;
    for sent in &acknowledged {
        println!("{} acknowledged", sent.len());
        assert!(sent.len() > KILLS, "each sender had a part in this");
    }

    let all = history(&api(&node), ann.token(), group).await;
    assert_exactly_once(&all, &acknowledged);
    let texts = all.iter().filter(|message| message.kind == "text");
    let texts: Vec<MessageId> = texts.map(|message| message.message_id).collect();
    for device in devices.iter_mut().chain([&mut sleeper]) {
        device.catch_up(&node).await;
        let stored = device.stored.values().filter(|message| message.kind == "text");
        let stored: Vec<MessageId> = stored.map(|message| message.message_id).collect();
        assert_eq!(stored, texts, "{} has everything", device.person.handle);
    }
    // Repeats are answered like the first time, also after restarts.
    for (message, sent) in acknowledged[0].iter().take(20) {
        let mut repeat = text("the body of a repeat does not count");
        (repeat.client_message_id, repeat.retry) = (*message, true);
        assert_eq!(api(&node).send(ann.token(), group, &repeat).await.unwrap(), *sent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_end_tells_every_client_and_leaves_nothing_to_replay() {
    let mut node = NodeProcess::start(&[]).await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let mut sockets = Vec::new();
    for person in [&ann, &ben, &ben] {
        sockets.push(Socket::of(&node, person, None).await);
    }
    let packed = Socket::connect(&node.url(), ann.token(), None, Encoding::MessagePack).await;
    sockets.push(packed.unwrap().0);
    for number in 0..30 {
        let message = text(&format!("before the end {number}"));
        sockets[0].send(&send(group, number, &message)).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < 30 {
        acknowledged += usize::from(matches!(sockets[0].next().await, Ok(ServerFrame::Ack(_))));
    }

    // One client is late to answer the close frame: the node is still there to be asked while it waits.
    let mut late = Socket::of(&node, &ben, None).await;
    node.terminate();
    for socket in &mut sockets {
        let mut reconnect = None;
        let gone = loop {
            match socket.next().await {
                Ok(ServerFrame::Reconnect(frame)) => reconnect = Some(frame),
                Ok(_) => assert!(reconnect.is_none(), "`reconnect` is the last frame"),
                Err(gone) => break gone,
            }
        };
        assert_eq!(gone, Gone::Closed(1012));
        assert_eq!(reconnect.expect("`reconnect` comes before the close").delay_ms, 0);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let closed = r#"chat_closes_total{code="1012"} "#;
    loop {
        let metrics = node.metrics().await.expect("the node waits for the late client");
        let told = metrics.lines().find_map(|line| line.strip_prefix(closed));
        assert!(metrics.contains("chat_abrupt_closes_total 0\n"), "{metrics}");
        if told == Some("4") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
    }
    while late.next().await.is_ok() {}
    let status = node.wait().await;
    assert_eq!(status.code(), Some(0));
    assert!(node.log_text().contains("ended told=5 cut_off=0"), "{}", node.log_text());

    assert_eq!(unwritten_records(&node).await, 0, "the store has all of the log");
    node.restart().await;
    let all = history(&api(&node), ben.token(), group).await;
    assert_eq!(all.iter().filter(|message| message.kind == "text").count(), 30);
}

/// Records that the next start would have to write to the store.
async fn unwritten_records(node: &NodeProcess) -> usize {
    use chat_broker::embedded::EmbeddedBroker;
    use chat_store::embedded::EmbeddedStore;
    let broker = EmbeddedBroker::open(&node.data().join("log.db"), Default::default()).unwrap();
    let store = EmbeddedStore::open(&node.data().join("store.db"), Default::default()).unwrap();
    let mut unwritten = 0;
    let mut batches = 0;
    for partition in Partition::all() {
        let written = store.checkpoint(partition).await.unwrap().sequence;
        let records = broker.read_log(partition, chat_broker::Sequence(0), 64 << 20).await.unwrap();
        let last = records.last().map(|stored| Record::from_bytes(&stored.payload).unwrap().kind);
        assert_eq!(last, Some(RecordKind::Closing as i32), "the log of {partition:?} is closed");
        for stored in records {
            let record = Record::from_bytes(&stored.payload).unwrap();
            let is_batch = record.kind == RecordKind::Batch as i32;
            batches += usize::from(is_batch);
            unwritten += usize::from(is_batch && stored.sequence.0 > written);
        }
    }
    assert!(batches > 0, "the log holds what was sent");
    unwritten
}
