//! People who chat with each other, whatever befalls the platform, and the check at the end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chat_client::api::{ApiError, From};
use chat_client::{Api, Client, Config, Credentials, Event, State};
use chat_protocol::api::{LogIn, NewConversation, SignUp, Tokens};
use chat_protocol::{ClientMessageId, ConversationId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::ahead;
use crate::check;
use crate::device::{Device, seen};
use crate::log::{Entry, Log, Seen};
use crate::service::{self, Service};

const PASSWORD: &str = "correct horse battery";

/// Longest wait for all that is under way to arrive after the last fault.
const SETTLE_MAX: Duration = Duration::from_secs(180);

const PAGE_ROWS: usize = 100;

/// Direct conversations beside the groups: the first two people, and the next two.
const PAIRS_MAX: usize = 2;

/// How many people, and how busy.
#[derive(Clone, Copy, Debug)]
pub struct CrowdOptions {
    /// People.
    pub users: usize,
    /// Devices of each.
    pub devices: usize,
    /// Groups; each has all the people whose number divided by the number of groups leaves its own.
    pub groups: usize,
    /// Between two messages of a group.
    pub pause_ms: u64,
    /// Of so many devices one polls, and the others have sockets; none polls if 0.
    pub polls_every: usize,
}

/// People who chat. They know one address of the platform and nothing else of it.
pub struct Crowd {
    log: Log,
    seed: u64,
    api: Api,
    /// A token of a member of each conversation.
    readers: Vec<(ConversationId, Tokens)>,
    devices: Arc<Vec<Device>>,
    is_over: Arc<AtomicBool>,
    load: Vec<JoinHandle<()>>,
}

/// What a crowd has seen in the end.
pub struct Outcome {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// What is wrong, each in a sentence; empty if nothing is.
    pub wrong: Vec<String>,
    /// The file that holds everything that happened.
    pub path: String,
}

fn handle(number: usize) -> String {
    format!("person_{number}")
}

/// The seed of a run's choices: that of `CHAT_TEST_SEED`, or any.
pub fn seed() -> u64 {
    let given = std::env::var("CHAT_TEST_SEED").ok();
    given.map_or_else(rand::random, |text| text.parse().expect("CHAT_TEST_SEED is a number"))
}

impl Crowd {
    /// Lets everyone sign up and connect, and begins to send.
    pub async fn start(scenario: &str, seed: u64, api: Api, options: CrowdOptions) -> Crowd {
        let mut crowd = Crowd {
            log: Log::create(scenario, seed),
            seed,
            api,
            readers: Vec::new(),
            devices: Arc::default(),
            is_over: Arc::default(),
            load: Vec::new(),
        };
        crowd.people(options).await;
        crowd
    }

    async fn people(&mut self, options: CrowdOptions) {
        let mut people: Vec<Vec<Tokens>> = Vec::new();
        for number in 0..options.users {
            people.push(self.sign_up(number, options.devices).await);
        }
        let number_of = |user: usize, device: usize| user * options.devices + device;
        let mut devices = Vec::new();
        for tokens in people.iter().flatten() {
            let number = devices.len();
            let polls = options.polls_every > 0 && number % options.polls_every == 0;
            let start = if polls { Device::poll } else { Device::start };
            devices.push(start(number, self.api.clone(), tokens.clone(), self.log.clone()));
        }
        self.devices = Arc::new(devices);
        self.until_connected(self.devices.len()).await;
        let user_id = |user: usize| people[user][0].user_id;
        let groups = (0..options.groups).map(|group| {
            let members: Vec<usize> = (group..options.users).step_by(options.groups).collect();
            let body = NewConversation::Group {
                request_id: Uuid::from_u128(group as u128),
                name: format!("Group {group}"),
                members: members[1..].iter().map(|user| user_id(*user)).collect(),
            };
            (members, body)
        });
        let pairs = (0..options.users / 2).take(PAIRS_MAX).map(|pair| {
            let (one, other) = (2 * pair, 2 * pair + 1);
            (vec![one, other], NewConversation::Direct { user_id: user_id(other) })
        });
        for (number, (members, body)) in groups.chain(pairs).enumerate() {
            let creator = &people[members[0]][0];
            let create = async || self.api.create(&creator.access_token, &body).await;
            let made = patiently("a conversation", create).await;
            let conversation = made.conversation_id;
            let all =
                members.iter().flat_map(|user| (0..options.devices).map(|d| number_of(*user, d)));
            let devices: Vec<usize> = all.collect();
            self.log.add(Entry::Conversation { conversation, devices: devices.clone() });
            self.readers.push((conversation, creator.clone()));
            let random = StdRng::seed_from_u64(self.seed ^ (number as u64 + 1));
            self.load.push(tokio::spawn(chat(
                self.devices.clone(),
                devices,
                conversation,
                random,
                options.pause_ms,
                self.is_over.clone(),
            )));
        }
    }

    /// A new device gets what happens from its first connection on: only then may there be anything to get.
    async fn until_connected(&self, devices: usize) {
        let deadline = Instant::now() + SETTLE_MAX;
        let connected = |entries: &[Entry]| {
            let devices = entries.iter().filter_map(|entry| match entry {
                Entry::Connected { device } => Some(*device),
                _ => None,
            });
            devices.collect::<HashSet<usize>>().len()
        };
        while self.log.read(connected) < devices {
            assert!(Instant::now() < deadline, "not all devices connect");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn sign_up(&self, number: usize, devices: usize) -> Vec<Tokens> {
        let handle = handle(number);
        let account = SignUp {
            handle: handle.clone(),
            password: PASSWORD.to_owned(),
            name: None,
            device_name: None,
        };
        let sign_up = async || self.api.sign_up(&account).await;
        let mut tokens = vec![patiently("an account", sign_up).await];
        for _ in 1..devices {
            let body =
                LogIn { handle: handle.clone(), password: PASSWORD.to_owned(), device_name: None };
            tokens.push(patiently("a login", async || self.api.log_in(&body).await).await);
        }
        tokens
    }

    /// Takes something down.
    pub fn note(&self, entry: Entry) {
        self.log.add(entry);
    }

    /// How many messages were acknowledged, and how often a device got one.
    pub fn progress(&self) -> (usize, usize) {
        self.log.read(|entries| {
            let count = |what: fn(&Entry) -> bool| entries.iter().filter(|e| what(e)).count();
            (
                count(|entry| matches!(entry, Entry::Acknowledged { .. })),
                count(|entry| matches!(entry, Entry::Received { .. })),
            )
        })
    }

    /// Waits until so many more messages are acknowledged. Panics if that takes longer than `patience`.
    pub async fn until_more(&self, messages: usize, patience: Duration) {
        let (before, _) = self.progress();
        let deadline = Instant::now() + patience;
        while self.progress().0 < before + messages {
            let path = self.log.finish().display();
            let now = self.progress().0 - before;
            assert!(Instant::now() < deadline, "{now} of {messages} acknowledged; see {path}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects one more device, and waits until it has everything from before. Panics if that takes longer than `patience`.
    pub async fn until_caught_up(&self, patience: Duration) {
        let body = LogIn { handle: handle(0), password: PASSWORD.to_owned(), device_name: None };
        let caught_up = async {
            let tokens = loop {
                match self.api.log_in(&body).await {
                    Ok(tokens) => break tokens,
                    Err(error) => println!("no login yet: {error}"),
                }
                sleep(Duration::from_millis(200)).await;
            };
            let credentials = Credentials::new(self.api.clone(), tokens);
            let config = Config::new(self.api.websocket_url());
            let (client, mut events) = Client::start(config, credentials, State::default());
            while let Some(event) = events.recv().await {
                if matches!(event, Event::Cursor { catching_up: false, .. }) {
                    client.close().await;
                    return;
                }
                assert!(!matches!(event, Event::Ended(_)), "the session of a new device ended");
            }
        };
        let path = self.log.finish().display().to_string();
        let caught_up = tokio::time::timeout(patience, caught_up).await;
        caught_up.unwrap_or_else(|_| panic!("a new device does not catch up; see {path}"));
    }

    /// Milliseconds since it began, for [`Crowd::service`].
    pub fn now_ms(&self) -> u64 {
        self.log.now_ms()
    }

    /// How well it was served since then.
    pub fn service(&self, since_ms: u64) -> Service {
        self.log.read_timed(|entries, times_ms| service::service(entries, times_ms, since_ms))
    }

    /// How far the ids that were acknowledged are ahead of the right time at most.
    pub fn furthest_ahead(&self) -> Duration {
        self.log.read(ahead::furthest_ahead)
    }

    /// Waits until in every conversation a message that was sent after this call is acknowledged. Panics if that takes
    /// longer than `patience`.
    pub async fn until_each_goes_on(&self, patience: Duration) {
        let before = self.log.read(<[Entry]>::len);
        let deadline = Instant::now() + patience;
        loop {
            let stands = self.log.read(|entries| stand(entries, before));
            if stands.is_empty() {
                return;
            }
            let path = self.log.finish().display();
            assert!(Instant::now() < deadline, "nothing is acknowledged in {stands:?}; see {path}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the load, waits until everything has arrived, and checks all of it.
    pub async fn finish(mut self) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        for load in self.load.drain(..) {
            load.await.expect("the load ends well");
        }
        let deadline = Instant::now() + SETTLE_MAX;
        let settled =
            || self.log.read(|entries| check::is_answered(entries) && check::is_delivered(entries));
        while !settled() && Instant::now() < deadline {
            sleep(Duration::from_millis(200)).await;
        }
        for (conversation, reader) in self.readers.clone() {
            let messages = self.history(conversation, reader).await;
            self.log.add(Entry::History { conversation, messages });
        }
        let (acknowledged, received) = self.progress();
        println!("{acknowledged} messages acknowledged, {received} receptions");
        let wrong = self.log.read(check::check);
        Outcome { acknowledged, wrong, path: self.log.finish().display().to_string() }
    }

    /// All of a conversation, once the platform says that no page of it lacks anything.
    async fn history(&self, conversation: ConversationId, mut reader: Tokens) -> Vec<Seen> {
        let mut pages = Vec::new();
        let mut from = From::Newest;
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let page = self.api.history(&reader.access_token, conversation, from, PAGE_ROWS).await;
            let page = match page {
                Ok(page) if !page.tail_missing || Instant::now() >= deadline => page,
                Ok(page) => {
                    let holes = page.messages.windows(2).map(|two| two[0].seq - two[1].seq - 1);
                    println!("{conversation}: {} messages are not there yet", holes.sum::<u64>());
                    sleep(Duration::from_millis(500)).await;
                    continue;
                }
                Err(error) if Instant::now() < deadline => {
                    println!("the history cannot be read yet: {error}");
                    if error.code() == Some(chat_protocol::Code::TokenExpired) {
                        reader = self.api.refresh(&reader.refresh_token).await.expect("tokens");
                    }
                    sleep(Duration::from_millis(500)).await;
                    continue;
                }
                Err(error) => panic!("the history of {conversation} cannot be read: {error}"),
            };
            let oldest = page.messages.iter().map(|message| message.message_id).min();
            pages.extend(page.messages.iter().filter_map(seen));
            match oldest {
                Some(oldest) if page.more => from = From::Before(oldest),
                _ => break,
            }
        }
        pages.sort_by_key(|seen| seen.id);
        pages
    }
}

/// Asks again while the platform asks to: a partition may be on its way to another node.
async fn patiently<T>(what: &str, ask: impl AsyncFn() -> Result<T, ApiError>) -> T {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(ApiError::Refused(problem))
                if problem.code.is_retryable() && Instant::now() < deadline =>
            {
                println!("not yet {what}: {}", problem.detail);
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// The conversations in which nothing of what was sent after the first `before` entries is acknowledged.
fn stand(entries: &[Entry], before: usize) -> Vec<ConversationId> {
    let mut sent: HashMap<ClientMessageId, ConversationId> = HashMap::new();
    let mut go_on = HashSet::new();
    for entry in &entries[before..] {
        match entry {
            Entry::Sent { message, conversation, .. } => {
                sent.insert(*message, *conversation);
            }
            Entry::Acknowledged { message, .. } => go_on.extend(sent.get(message).copied()),
            _ => {}
        }
    }
    let conversations = entries.iter().filter_map(|entry| match entry {
        Entry::Conversation { conversation, .. } => Some(*conversation),
        _ => None,
    });
    conversations.filter(|conversation| !go_on.contains(conversation)).collect()
}

/// Members of a group send in turns that chance decides.
async fn chat(
    all: Arc<Vec<Device>>,
    members: Vec<usize>,
    conversation: ConversationId,
    mut random: StdRng,
    pause_ms: u64,
    is_over: Arc<AtomicBool>,
) {
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let device = members[random.random_range(0..members.len())];
        number += 1;
        if all[device].send(conversation, &format!("message {number}")).await.is_err() {
            // The check tells of a client that has given up.
            return;
        }
        sleep(Duration::from_millis(random.random_range(1..=2 * pause_ms.max(1)))).await;
    }
}
