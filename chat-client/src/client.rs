//! One session over WebSocket, kept alive by a task.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chat_protocol::api::Tokens;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{Ack, ClientFrame, TypingNow};
use chat_protocol::{Code, ConversationId};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::{Api, ApiError};
use crate::backoff::Backoff;
use crate::connection::{Arrived, Connection};
use crate::event::{Answer, Ended, Event};
use crate::outbox::Draft;
use crate::place::{Place, Target};
use crate::session::{Answered, Asked, Loss, Next, Output, Session};
use crate::state::State;

/// An access token that expires within this time is exchanged before it is used.
const RENEW_BEFORE_MS: u64 = 30_000;
/// Discovery is a preference: a connection does not wait for it longer than this.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Commands that wait for the task.
const COMMANDS: usize = 64;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the WebSocket.
    pub websocket_url: String,
    /// Ask service discovery, at the address of the credentials, which node to connect to. `websocket_url` is used where it
    /// has nothing to pick from, where it does not answer, and where the node that it names cannot be reached.
    pub discover: bool,
    /// JSON or MessagePack.
    pub encoding: Encoding,
    /// Waits between attempts to connect and to send.
    pub backoff: Backoff,
    /// Longest time from the start of an attempt to `welcome`.
    pub connect_timeout_ms: u64,
    /// Events that may wait for the program. When they do, the client stops reading and the server's back-pressure sets in.
    pub event_capacity: usize,
    /// Messages that may wait for their acknowledgement.
    pub outbox_capacity: usize,
    /// Name and version of the program, for the server's logs.
    pub client_name: String,
}

impl Config {
    /// The usual values.
    pub fn new(websocket_url: String) -> Config {
        Config {
            websocket_url,
            discover: false,
            encoding: Encoding::Json,
            backoff: Backoff::default(),
            connect_timeout_ms: 15_000,
            event_capacity: 256,
            outbox_capacity: 1_000,
            client_name: concat!("chat-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The tokens of a device, renewed when needed. Shared between the session and HTTP calls, because a refresh token
/// works once: two holders would log the device out.
#[derive(Clone)]
pub struct Credentials {
    api: Api,
    tokens: Arc<Mutex<Tokens>>,
    changed: Arc<std::sync::Mutex<Option<Tokens>>>,
}

impl Credentials {
    /// Tokens for this server.
    pub fn new(api: Api, tokens: Tokens) -> Credentials {
        let tokens = Arc::new(Mutex::new(tokens));
        Credentials { api, tokens, changed: Arc::default() }
    }

    /// An access token that is good for a while.
    pub async fn access_token(&self) -> Result<String, ApiError> {
        let now_ms = unix_ms();
        self.token_unless(|tokens| tokens.access_expires_at.0 <= now_ms + RENEW_BEFORE_MS).await
    }

    /// Another access token than `refused`, which the server did not take.
    pub async fn other_than(&self, refused: &str) -> Result<String, ApiError> {
        self.token_unless(|tokens| tokens.access_token == refused).await
    }

    async fn token_unless(&self, stale: impl Fn(&Tokens) -> bool) -> Result<String, ApiError> {
        // An async lock, held on purpose: whoever comes second must wait for the first one's new token.
        let mut tokens = self.tokens.lock().await;
        if stale(&tokens) {
            *tokens = self.api.refresh(&tokens.refresh_token).await?;
            if let Ok(mut changed) = self.changed.lock() {
                *changed = Some(tokens.clone());
            }
        }
        Ok(tokens.access_token.clone())
    }

    /// New tokens since the last call: to be stored at once.
    pub fn take_changed(&self) -> Option<Tokens> {
        self.changed.lock().ok().and_then(|mut changed| changed.take())
    }
}

/// Why a request has no acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] Answer),
    /// There is no connection, or it ended before the answer: the request may have been carried out.
    #[error("The connection ended before the answer came. Try again.")]
    Disconnected,
    /// The client has ended.
    #[error("The session has ended.")]
    Ended,
}

enum Command {
    Send(Draft),
    Ask(Asked, oneshot::Sender<Answered>),
    Read(ConversationId, u64),
    Delivered(ConversationId, u64),
    Confirm(String),
    Typing(TypingNow),
    JoinRoom(ConversationId),
    LeaveRoom(ConversationId),
    State(oneshot::Sender<State>),
    Close,
}

/// A handle on the session's task. The task ends when every handle is dropped or the receiver of events is.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
}

impl Client {
    /// Starts the session's task on the current tokio runtime.
    pub fn start(
        config: Config,
        credentials: Credentials,
        state: State,
    ) -> (Client, mpsc::Receiver<Event>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (events, event_receiver) = mpsc::channel(config.event_capacity.max(1));
        let session = Session::new(state, config.outbox_capacity, config.backoff);
        let driver = Driver {
            place: Place::new(config.websocket_url.clone()),
            config,
            credentials,
            session,
            commands: receiver,
            events,
            waiting: VecDeque::new(),
            asked: HashMap::new(),
            next_key: 0,
            started: Instant::now(),
        };
        // The task ends with its handles, so nobody has to wait for it.
        drop(tokio::spawn(driver.run()));
        (Client { commands }, event_receiver)
    }

    /// Hands a message over to be sent, now or when there is a connection again. Waits while the outbox is full.
    /// [`Event::Sent`] or [`Event::Refused`] tells what became of it.
    pub async fn send(&self, draft: Draft) -> Result<(), RequestError> {
        self.command(Command::Send(draft)).await
    }

    /// Edits, deletes, reacts, or asks for presence, and waits for the answer.
    pub async fn ask(&self, asked: Asked) -> Result<Ack, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.command(Command::Ask(asked, sender)).await?;
        match receiver.await {
            Ok(Ok(ack)) => Ok(ack),
            Ok(Err(Some(answer))) => Err(RequestError::Refused(answer)),
            Ok(Err(None)) => Err(RequestError::Disconnected),
            Err(_) => Err(RequestError::Ended),
        }
    }

    /// Has read up to `seq`.
    pub async fn read(&self, conversation: ConversationId, seq: u64) -> Result<(), RequestError> {
        self.command(Command::Read(conversation, seq)).await
    }

    /// Everything up to `seq` has reached this device.
    pub async fn delivered(
        &self,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<(), RequestError> {
        self.command(Command::Delivered(conversation, seq)).await
    }

    /// The program has stored this cursor, from an [`Event::Cursor`], with everything before it. The server is told now and
    /// then, so that people see how far this device has got; nothing depends on it.
    pub async fn confirm(&self, cursor: String) -> Result<(), RequestError> {
        self.command(Command::Confirm(cursor)).await
    }

    /// Is typing, or has stopped.
    pub async fn typing(
        &self,
        conversation_id: ConversationId,
        active: bool,
    ) -> Result<(), RequestError> {
        self.command(Command::Typing(TypingNow { conversation_id, active })).await
    }

    /// Receives a live room from here on.
    pub async fn join_room(&self, room: ConversationId) -> Result<(), RequestError> {
        self.command(Command::JoinRoom(room)).await
    }

    /// Stops receiving a live room.
    pub async fn leave_room(&self, room: ConversationId) -> Result<(), RequestError> {
        self.command(Command::LeaveRoom(room)).await
    }

    /// The session's own view of the state: what is unacknowledged, and the newest cursor *received*. Store this cursor
    /// only if everything before it was stored; else keep that of the last [`Event::Cursor`] applied.
    pub async fn state(&self) -> Result<State, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.command(Command::State(sender)).await?;
        receiver.await.map_err(|_| RequestError::Ended)
    }

    /// Closes the session; [`Event::Ended`] follows.
    pub async fn close(&self) {
        // An error means that it has ended already.
        drop(self.command(Command::Close).await);
    }

    async fn command(&self, command: Command) -> Result<(), RequestError> {
        self.commands.send(command).await.map_err(|_| RequestError::Ended)
    }
}

/// Why the driver stops.
enum Stop {
    Loss(Loss),
    Ended(Ended),
}

struct Driver {
    config: Config,
    credentials: Credentials,
    session: Session,
    place: Place,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    /// Events of the last frame that the program has not taken yet. Nothing is read while there are any.
    waiting: VecDeque<Event>,
    asked: HashMap<u64, oneshot::Sender<Answered>>,
    next_key: u64,
    started: Instant,
}

impl Driver {
    async fn run(mut self) {
        let mut refused: Option<String> = None;
        let ended = loop {
            let stop = match self.token(refused.take().as_deref()).await {
                Ok(token) => (self.connection(token.clone()).await, token),
                Err(stop) => (stop, String::new()),
            };
            let loss = match stop.0 {
                Stop::Ended(ended) => break ended,
                Stop::Loss(loss) => loss,
            };
            let reached = self.session.is_connected() || matches!(loss, Loss::Closed { .. });
            self.place.ended(reached);
            let now_ms = self.now_ms();
            let (next, output) = self.session.on_loss(&loss, now_ms, rand::random());
            self.take(output);
            let wait_ms = match next {
                Next::Connect { wait_ms } => wait_ms,
                Next::Move { wait_ms } => {
                    tracing::debug!(wait_ms, "going to another node, as the server asked");
                    if let Err(ended) = self.wait(wait_ms).await {
                        break ended;
                    }
                    continue;
                }
                Next::Renew { wait_ms } => {
                    refused = Some(stop.1);
                    wait_ms
                }
                Next::LoggedOut => break Ended::LoggedOut,
                Next::End { code, reason } => break Ended::Refused { close_code: code, reason },
            };
            let reason = describe(&loss);
            tracing::debug!(reason, wait_ms, "not connected");
            self.waiting.push_back(Event::Disconnected { reason, retry_in_ms: wait_ms });
            if let Err(ended) = self.wait(wait_ms).await {
                break ended;
            }
        };
        self.end(ended).await;
    }

    async fn end(mut self, ended: Ended) {
        self.asked.clear();
        self.waiting.push_back(Event::Ended(ended));
        for event in self.waiting {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn token(&mut self, refused: Option<&str>) -> Result<String, Stop> {
        let token = match refused {
            Some(refused) => self.credentials.other_than(refused).await,
            None => self.credentials.access_token().await,
        };
        if let Some(tokens) = self.credentials.take_changed() {
            self.waiting.push_back(Event::Tokens(Box::new(tokens)));
        }
        match token {
            Ok(token) => {
                if refused.is_some() {
                    self.session.on_renewed();
                }
                Ok(token)
            }
            Err(error) => Err(match error.code() {
                Some(Code::Unauthenticated | Code::TokenExpired | Code::WrongCredentials) => {
                    Stop::Ended(Ended::LoggedOut)
                }
                _ => Stop::Loss(Loss::Broken(error.to_string())),
            }),
        }
    }

    /// Where to connect now.
    async fn target(&mut self) -> Target {
        if self.config.discover && self.place.should_ask(self.now_ms()) {
            let asked = timeout(DISCOVERY_TIMEOUT, self.credentials.api.discovery()).await;
            let answer = match asked {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "service discovery is passed over");
                    None
                }
                Err(_) => None,
            };
            let now_ms = self.now_ms();
            self.place.answered(answer, now_ms);
        }
        self.place.target()
    }

    /// One connection, from its start to its end.
    async fn connection(&mut self, token: String) -> Stop {
        let Target { websocket_url, discovery_token } = self.target().await;
        let deadline = Duration::from_millis(self.config.connect_timeout_ms);
        let open = Connection::open(&websocket_url, self.config.encoding);
        let mut connection = match timeout(deadline, open).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(loss)) => return Stop::Loss(loss),
            Err(_) => return Stop::Loss(Loss::Broken("connecting took too long".into())),
        };
        let now_ms = self.now_ms();
        let hello = self.session.hello(token, discovery_token, &self.config.client_name, now_ms);
        if let Err(loss) = self.write(&mut connection, &[hello]).await {
            return Stop::Loss(loss);
        }
        let stop = self.converse(&mut connection).await;
        connection_close(connection).await;
        stop
    }

    async fn converse(&mut self, connection: &mut Connection) -> Stop {
        // A handle of its own, so that waiting for room does not borrow the driver.
        let events = self.events.clone();
        loop {
            let blocked = !self.waiting.is_empty();
            let room = !self.session.is_full();
            let wake = self.at(self.session.next_time_ms().max(self.now_ms() + 1));
            let output = tokio::select! {
                permit = events.reserve(), if blocked => match (permit, self.waiting.pop_front()) {
                    (Ok(permit), Some(event)) => {
                        permit.send(event);
                        // While the program did not take events nothing was read, so silence means nothing.
                        let now_ms = now_ms(self.started);
                        self.session.on_noise(now_ms);
                        continue;
                    }
                    _ => return Stop::Ended(Ended::Closed),
                },
                arrived = connection.read(), if !blocked => match arrived {
                    Ok(arrived) => self.arrived(arrived),
                    Err(loss) => return Stop::Loss(loss),
                },
                command = self.commands.recv(), if room => match self.command(command) {
                    Ok(output) => output,
                    Err(ended) => return Stop::Ended(ended),
                },
                () = sleep_until(wake) => {
                    let now_ms = self.now_ms();
                    if !blocked && self.session.is_silent(now_ms) {
                        return Stop::Loss(Loss::Broken("the server has gone silent".into()));
                    }
                    if self.session.should_leave(now_ms) {
                        return Stop::Loss(Loss::Left);
                    }
                    self.session.on_time(now_ms)
                }
            };
            let frames = self.take(output);
            if let Err(loss) = self.write(connection, &frames).await {
                return Stop::Loss(loss);
            }
        }
    }

    fn arrived(&mut self, arrived: Arrived) -> Output {
        let now_ms = self.now_ms();
        match arrived {
            Arrived::Frame(frame) => self.session.on_frame(*frame, now_ms, rand::random()),
            Arrived::Refusal(request_id, answer) => {
                self.session.on_unknown_refusal(request_id, answer, now_ms)
            }
            Arrived::Noise => {
                self.session.on_noise(now_ms);
                Output::default()
            }
        }
    }

    fn command(&mut self, command: Option<Command>) -> Result<Output, Ended> {
        let now_ms = self.now_ms();
        Ok(match command.ok_or(Ended::Closed)? {
            Command::Close => return Err(Ended::Closed),
            // There is room: commands are not taken while the outbox is full.
            Command::Send(draft) => self.session.send(draft, now_ms).unwrap_or_default(),
            Command::Ask(asked, sender) => {
                self.next_key += 1;
                self.asked.insert(self.next_key, sender);
                self.session.ask(asked, self.next_key, now_ms)
            }
            Command::Read(conversation, seq) => self.session.read(conversation, seq, now_ms),
            Command::Delivered(conversation, seq) => {
                self.session.delivered(conversation, seq, now_ms)
            }
            Command::Confirm(cursor) => {
                self.session.confirm(cursor);
                Output::default()
            }
            Command::Typing(typing) => self.session.typing(typing, now_ms),
            Command::JoinRoom(room) => self.session.join_room(room, now_ms),
            Command::LeaveRoom(room) => self.session.leave_room(room, now_ms),
            Command::State(sender) => {
                // Whoever asked may have gone.
                drop(sender.send(self.session.state()));
                Output::default()
            }
        })
    }

    /// Hands out events and answers; the frames are the caller's to write.
    fn take(&mut self, output: Output) -> Vec<ClientFrame> {
        self.waiting.extend(output.events);
        for (key, answer) in output.answers {
            if let Some(sender) = self.asked.remove(&key) {
                // Whoever asked may have gone.
                drop(sender.send(answer));
            }
        }
        output.frames
    }

    /// Waits between two connections; commands and events go on.
    async fn wait(&mut self, wait_ms: u64) -> Result<(), Ended> {
        let until = Instant::now() + Duration::from_millis(wait_ms);
        let events = self.events.clone();
        loop {
            let blocked = !self.waiting.is_empty();
            let room = !self.session.is_full();
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                permit = events.reserve(), if blocked => {
                    match (permit, self.waiting.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        _ => return Err(Ended::Closed),
                    }
                }
                command = self.commands.recv(), if room => {
                    let output = self.command(command)?;
                    self.take(output);
                }
            }
        }
    }

    async fn write(&self, connection: &mut Connection, frames: &[ClientFrame]) -> Result<(), Loss> {
        if frames.is_empty() {
            return Ok(());
        }
        let limit = Duration::from_millis(self.config.connect_timeout_ms);
        match timeout(limit, connection.write(frames)).await {
            Ok(written) => written,
            Err(_) => Err(Loss::Broken("the server does not read".into())),
        }
    }

    fn now_ms(&self) -> u64 {
        now_ms(self.started)
    }

    fn at(&self, ms: u64) -> Instant {
        self.started + Duration::from_millis(ms)
    }
}

fn now_ms(started: Instant) -> u64 {
    // 2⁶⁴ ms are 585 million years.
    started.elapsed().as_millis() as u64
}

async fn connection_close(connection: Connection) {
    // A peer that is gone must not hold the next attempt up.
    drop(timeout(Duration::from_millis(500), connection.close()).await);
}

fn describe(loss: &Loss) -> String {
    match loss {
        Loss::Closed { code, reason } => format!("closed by the server: {reason} ({code})"),
        Loss::Broken(reason) => reason.clone(),
        Loss::Left => "left, as the server asked".to_owned(),
    }
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|duration| duration.as_millis() as u64).unwrap_or(0)
}
