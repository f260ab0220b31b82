//! One conversation over every transport, and over all of them in turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{Ack, ClientFrame, Edit, Mark, React, ServerFrame, Target};
use chat_protocol::message::{Conversation, Message};
use chat_protocol::{Body, ConversationId, MessageId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{PATIENCE, Person, Socket, api, drain, send, text};
use crate::process::{NodeProcess, http};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Json,
    MessagePack,
    LongPoll,
    Poll,
    Events,
}

const ALL: [Transport; 5] = [
    Transport::Json,
    Transport::MessagePack,
    Transport::LongPoll,
    Transport::Poll,
    Transport::Events,
];

/// What a device receives by.
enum Link {
    Socket(Box<Socket>),
    Poll { wait_ms: u64 },
    Events { response: reqwest::Response, read: Vec<u8> },
}

/// A device on one transport, which keeps its cursor as the documentation says.
struct Device<'a> {
    node: &'a NodeProcess,
    person: Person,
    link: Link,
    waiting: VecDeque<ServerFrame>,
    cursor: Option<String>,
    requests: u64,
}

impl<'a> Device<'a> {
    async fn connect(
        node: &'a NodeProcess,
        person: &Person,
        transport: Transport,
        cursor: Option<String>,
    ) -> Device<'a> {
        let link = match transport {
            Transport::Json | Transport::MessagePack => {
                let encoding = match transport {
                    Transport::Json => Encoding::Json,
                    _ => Encoding::MessagePack,
                };
                let url = node.url();
                let cursor = cursor.as_deref();
                let connected = Socket::connect(&url, person.token(), cursor, encoding).await;
                Link::Socket(Box::new(connected.unwrap().0))
            }
            Transport::LongPoll => Link::Poll { wait_ms: 300 },
            Transport::Poll => Link::Poll { wait_ms: 0 },
            Transport::Events => {
                let mut request =
                    http().get(format!("{}/v1/events", node.url())).bearer_auth(person.token());
                if let Some(cursor) = &cursor {
                    request = request.header("last-event-id", cursor);
                }
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 200);
                Link::Events { response, read: Vec::new() }
            }
        };
        let (waiting, requests) = (VecDeque::new(), 0);
        let mut device = Device { node, person: person.clone(), link, waiting, cursor, requests };
        // A first poll begins the device; the others have begun with `welcome`.
        if device.cursor.is_none() {
            match &device.link {
                Link::Socket(_) => {}
                Link::Poll { .. } => device.poll(0).await,
                Link::Events { .. } => {
                    let first = device.next().await;
                    assert!(matches!(first, ServerFrame::Welcome(_)), "{first:?}");
                }
            }
        }
        device
    }

    async fn poll(&mut self, wait_ms: u64) {
        let cursor = self.cursor.as_deref();
        let sync = api(self.node).sync(self.person.token(), cursor, wait_ms).await.unwrap();
        self.waiting.extend(sync.frames);
        self.cursor = Some(sync.cursor);
    }

    /// The next frame.
    async fn next(&mut self) -> ServerFrame {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return frame;
            }
            assert!(Instant::now() < deadline, "a frame comes in time");
            self.fill().await;
        }
    }

    /// Waits a while for frames.
    async fn fill(&mut self) {
        let limit = Duration::from_millis(300);
        let frames = match &mut self.link {
            Link::Poll { wait_ms } => {
                let wait_ms = *wait_ms;
                if wait_ms == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return self.poll(wait_ms).await;
            }
            Link::Socket(socket) => {
                let next = socket.next_within(limit).await;
                Vec::from_iter(next.map(|frame| frame.expect("the connection stands")))
            }
            Link::Events { response, read } => {
                match tokio::time::timeout(limit, response.chunk()).await {
                    Ok(chunk) => read.extend(chunk.unwrap().expect("the stream goes on")),
                    Err(_) => return,
                }
                events(read)
            }
        };
        for frame in &frames {
            if let ServerFrame::Cursor(cursor) = frame {
                self.cursor = Some(cursor.cursor.clone());
            }
        }
        self.waiting.extend(frames);
    }

    /// Reads on until a frame is this.
    async fn until<T>(&mut self, what: &str, found: impl Fn(&ServerFrame) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(&self.next().await) {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what}");
        }
    }

    /// The message's version that passes.
    async fn message(&mut self, what: &str, passes: impl Fn(&Message) -> bool) -> Message {
        self.until(what, |frame| match frame {
            ServerFrame::Message(message) if passes(message) => Some(message.clone()),
            _ => None,
        })
        .await
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Sends a request as a frame, or the same by HTTP.
    async fn request(&mut self, frame: ClientFrame, (method, path, body): Http) -> Answer {
        if let Link::Socket(socket) = &mut self.link {
            let mut besides = Vec::new();
            let answer = socket.ask(self.requests, &frame, &mut besides).await.unwrap();
            self.waiting.extend(besides);
            return Answer::Ack(answer.unwrap());
        }
        let url = format!("{}/v1/conversations/{path}", self.node.url());
        let request = http().request(method, url).bearer_auth(self.person.token());
        let response = request.json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        Answer::Body(response.json().await.unwrap_or_default())
    }
}

type Http = (Method, String, Value);

enum Answer {
    Ack(Ack),
    Body(Value),
}

impl Answer {
    /// The id of the message, or of the change.
    fn id(&self) -> MessageId {
        match self {
            Answer::Ack(ack) => ack.message_id.unwrap(),
            Answer::Body(body) => {
                let id = body.get("message_id").or(body.get("version")).expect("an id");
                id.as_str().unwrap().parse().unwrap()
            }
        }
    }
}

/// Takes the complete events out of what was read.
fn events(read: &mut Vec<u8>) -> Vec<ServerFrame> {
    let mut frames = Vec::new();
    while let Some(end) = read.windows(2).position(|pair| pair == b"\n\n") {
        let event: Vec<u8> = read.drain(..end + 2).collect();
        let event = String::from_utf8(event).unwrap();
        let field = |name: &str| {
            let lines = event.lines().filter_map(|line| line.strip_prefix(name));
            lines.collect::<Vec<_>>().join("\n")
        };
        let data = field("data: ");
        if data.is_empty() {
            assert!(event.starts_with(':') || event.starts_with("retry:"), "{event}");
            continue;
        }
        let frame: ServerFrame = serde_json::from_str(&data).unwrap();
        if let ServerFrame::Cursor(cursor) = &frame {
            assert_eq!(field("id: "), cursor.cursor, "the event's id is the cursor");
        }
        frames.push(frame);
    }
    frames
}

/// Two people and one of them on a second device, all on the same transport, from the first message to its deletion.
async fn tell_story(node: &NodeProcess, transport: Transport) {
    let (ann, ben) = (Person::new(node, "ann").await, Person::new(node, "ben").await);
    let second = ben.other_device(node).await;
    let group = ann.group(node, &[&ben]).await;
    let mut ann_at = Device::connect(node, &ann, transport, None).await;
    let mut ben_at = Device::connect(node, &ben, transport, None).await;
    let mut second_at = Device::connect(node, &second, transport, None).await;

    let new = text("Shall we meet at eight? 🧗");
    let frame = send(group, ann_at.next_request(), &new);
    let by_http = (Method::POST, format!("{group}/messages"), serde_json::to_value(&new).unwrap());
    let id = ann_at.request(frame, by_http).await.id();
    for device in [&mut ben_at, &mut second_at] {
        let message = device.message("message", |message| message.message_id == id).await;
        assert_eq!(message.body, Some(new.body.clone()), "{transport:?}");
        assert_eq!((message.sender_id, message.version), (ann.id(), id));
    }

    let path = format!("{group}/messages/{id}");
    let request_id = ben_at.next_request();
    let emoji = "👍".to_owned();
    let frame = ClientFrame::React(React {
        request_id,
        conversation_id: group,
        message_id: id,
        emoji,
        remove: false,
    });
    let by_http = (Method::PUT, format!("{path}/reactions/👍"), json!({}));
    let version = ben_at.request(frame, by_http).await.id();
    for device in [&mut ann_at, &mut second_at] {
        let reactions = device
            .until("reaction", |frame| match frame {
                ServerFrame::Reactions(changed) if changed.message_id == id => {
                    Some(changed.reactions.clone())
                }
                ServerFrame::Message(message) if !message.reactions.is_empty() => {
                    Some(message.reactions.clone())
                }
                _ => None,
            })
            .await;
        assert_eq!(reactions.version, version);
        assert_eq!(
            (&*reactions.items[0].emoji, &*reactions.items[0].user_ids),
            ("👍", &[ben.id()][..])
        );
    }

    let request_id = ann_at.next_request();
    let body = Body::text("At nine.");
    let edit = Edit {
        request_id,
        conversation_id: group,
        message_id: id,
        body: body.clone(),
        mentions: vec![],
    };
    let by_http = (Method::PATCH, path.clone(), json!({"body": {"text": "At nine."}}));
    let version = ann_at.request(ClientFrame::Edit(edit), by_http).await.id();
    for device in [&mut ben_at, &mut second_at] {
        let edited = device.message("edit", |message| message.version == version).await;
        assert_eq!((edited.message_id, edited.body), (id, Some(body.clone())));
        assert!(edited.edited_at.is_some());
    }

    let seq = 2;
    let request_id = ben_at.next_request();
    let mark = Mark { request_id, conversation_id: group, seq };
    let by_http = (Method::PUT, format!("{group}/read"), json!({"seq": seq}));
    ben_at.request(ClientFrame::Read(mark), by_http).await;
    let mark_at_second = second_at
        .until("own read mark", |frame| match frame {
            ServerFrame::Read(receipt) if receipt.user_id == ben.id() => Some(receipt.seq),
            _ => None,
        })
        .await;
    assert_eq!(mark_at_second, seq);
    // The conversation is read from the store, which gets the mark a moment after it was acknowledged.
    let deadline = Instant::now() + PATIENCE;
    while read_seq(node, &ann, group, &ben).await != seq {
        assert!(Instant::now() < deadline, "the read mark is in the conversation");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let request_id = ann_at.next_request();
    let target = Target { request_id, conversation_id: group, message_id: id };
    let by_http = (Method::DELETE, path, json!({}));
    let version = ann_at.request(ClientFrame::Delete(target), by_http).await.id();
    for device in [&mut ben_at, &mut second_at] {
        let deleted = device.message("deletion", |message| message.version == version).await;
        assert!(deleted.deleted && deleted.body.is_none());
    }
}

async fn read_seq(
    node: &NodeProcess,
    asks: &Person,
    group: ConversationId,
    reader: &Person,
) -> u64 {
    let url = format!("{}/v1/conversations/{group}", node.url());
    let response = http().get(url).bearer_auth(asks.token()).send().await.unwrap();
    let head: Value = response.json().await.unwrap();
    let conversation = head.get("conversation").cloned().unwrap_or(head);
    let conversation: Conversation = serde_json::from_value(conversation).unwrap();
    let member = conversation.members.iter().find(|member| member.user_id == reader.id());
    member.unwrap().read_seq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_story_is_told_by_every_transport() {
    let node = NodeProcess::start(&[]).await;
    for transport in ALL {
        println!("{transport:?}");
        tell_story(&node, transport).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_changes_transports_with_one_cursor_loses_nothing() {
    const MESSAGES: usize = 300;
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let node = NodeProcess::start(&[]).await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let mut cursor = ben.first_cursor(&node).await;

    let write = async {
        let mut sent = Vec::new();
        let api = api(&node);
        for number in 0..MESSAGES {
            let message = text(&format!("{number}"));
            sent.push(api.send(ann.token(), group, &message).await.unwrap().message_id);
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
        sent
    };
    let receive = async {
        let mut seen: BTreeMap<MessageId, usize> = BTreeMap::new();
        let mut changes = 0;
        let deadline = Instant::now() + 2 * PATIENCE;
        while seen.len() < MESSAGES {
            assert!(Instant::now() < deadline, "{} of {MESSAGES} came", seen.len());
            let transport = ALL[random.random_range(0..ALL.len())];
            let stored = Cursor::decode(&cursor).unwrap();
            let mut device = Device::connect(&node, &ben, transport, Some(cursor.clone())).await;
            for _ in 0..random.random_range(1..12) {
                device.fill().await;
            }
            // Cursor and frames in one transaction: frames behind the last cursor do not count.
            let polls = matches!(device.link, Link::Poll { .. });
            let last_cursor =
                device.waiting.iter().rposition(|frame| matches!(frame, ServerFrame::Cursor(_)));
            let end = if polls { device.waiting.len() } else { last_cursor.map_or(0, |at| at + 1) };
            for frame in device.waiting.iter().take(end) {
                let ServerFrame::Message(message) = frame else { continue };
                if message.kind != "text" {
                    continue;
                }
                assert!(
                    message.version > stored.safe,
                    "{} was acknowledged by the cursor, and {transport:?} brings it again",
                    message.message_id
                );
                *seen.entry(message.message_id).or_default() += 1;
            }
            if end > 0 || polls {
                cursor = device.cursor.unwrap();
            }
            changes += 1;
        }
        (seen, changes)
    };
    let (sent, (seen, changes)) = tokio::join!(Box::pin(write), Box::pin(receive));
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), sent);
    let repeats = seen.values().sum::<usize>() - MESSAGES;
    println!("{changes} changes, {repeats} repeats");
    assert!(changes > 10);
    // At rest nothing is left, and nothing comes again.
    let deadline = Instant::now() + PATIENCE;
    while Cursor::decode(&cursor).unwrap().safe < *sent.last().unwrap() {
        assert!(Instant::now() < deadline, "the cursor gets past the last message");
        cursor = drain(&api(&node), ben.token(), &cursor).await.1;
    }
    for transport in ALL {
        let mut device = Device::connect(&node, &ben, transport, Some(cursor.clone())).await;
        for _ in 0..3 {
            device.fill().await;
        }
        let again = device.waiting.iter().find(|frame| matches!(frame, ServerFrame::Message(_)));
        assert!(again.is_none(), "{transport:?} brings {again:?} again");
    }
}
