//! One connection as its transport sees it: frames in, bytes out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::Subject;
use chat_protocol::close::Close;
use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{
    Ack, ClientFrame, CursorFrame, Friendship, Hello, Limits, Outcome, PresenceSnapshot, Reconnect,
    ServerFrame, ServerTime, VERSIONS, Welcome,
};
use chat_protocol::limits::{
    BODY_BYTES_MAX, CLIENT_FRAME_BYTES_MAX, CURSOR_ROOMS_MAX, PAGE_ROWS_MAX, TEXT_CHARS_MAX,
};
use chat_protocol::{ConversationId, DeviceId, MessageId, SessionId, UserId};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::hello::{self, Start};
use super::metrics::ByOutcome;
use super::progress::Progress;
use super::rate::Bucket;
use super::registry::End;
use super::request::{self, Request, Sender};
use super::room::{self, Joined, Room};
use super::{Gateway, Reading, Session, Transport};
use crate::auth::Caller;
use crate::delivery::{Class, Frame};
use crate::hub::{Item, Outbox, Subscription};

/// Frames that cannot be read, until the connection is closed.
const FAULTS_MAX: u32 = 10;

/// After so many live frames without a cursor the inbox is read: a quarter of what an outbox remembers.
const LIVE_FRAMES_PER_READ: u32 = 2_048;

/// A connection, owned by its transport's task.
pub struct Connection {
    gateway: Arc<Gateway>,
    /// What others know of it.
    pub session: Arc<Session>,
    encoding: Encoding,
    /// The last cursor written.
    position: MessageId,
    rooms: Vec<Room>,
    /// Requests under way. Polled in the order of their frames, so commands reach their owner in that order.
    requests: FuturesUnordered<BoxFuture<'static, Done>>,
    bucket: Option<Bucket>,
    faults: u32,
    /// Live frames written since the last cursor.
    live_frames: u32,
    /// It was told to connect elsewhere.
    is_told: bool,
    has_acknowledged: bool,
    end: End,
    _user: Subscription,
}

/// What came of a request.
enum Done {
    Answer(Option<ServerFrame>),
    /// The request, the room, and whether it is received now.
    Join(Option<u64>, ConversationId, Result<Joined, Refusal>),
}

/// Bytes to write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The frame.
    pub bytes: Bytes,
    /// The cursor in it, if it is a cursor frame.
    pub cursor: Option<String>,
    /// It tells the client to connect elsewhere, after this time.
    pub reconnect_delay_ms: Option<u64>,
}

impl Gateway {
    /// Opens a connection by its `hello`.
    pub async fn hello(
        self: &Arc<Gateway>,
        hello: &Hello,
        encoding: Encoding,
    ) -> Result<Connection, Refusal> {
        let opened = async {
            let version = hello::negotiate(&hello.versions)?;
            let caller = self.parts.authenticate.authenticate(&hello.token)?;
            self.check_place(hello.discovery_token.as_deref(), caller.device_id)?;
            let cursor = hello.cursor.as_deref();
            self.open(caller, cursor, version, Transport::WebSocket, encoding).await
        };
        opened.await.inspect_err(|refusal| self.count_hello(refusal.code.as_str()))
    }

    /// Sends a client on that discovery meant for another node.
    fn check_place(&self, token: Option<&str>, device: DeviceId) -> Result<(), Refusal> {
        let now = self.parts.clock.now();
        match token.is_some_and(|token| self.parts.directory.should_redirect(token, device, now)) {
            true => Err(Refusal::new(
                Code::WrongNode,
                "Service discovery picked another node for this client. Ask it again, and connect to that one.",
            )),
            false => Ok(()),
        }
    }

    /// Opens a connection for a caller who is known already.
    pub async fn open_events(
        self: &Arc<Gateway>,
        caller: Caller,
        cursor: Option<&str>,
    ) -> Result<Connection, Refusal> {
        let opened = self.open(caller, cursor, VERSIONS[0], Transport::Events, Encoding::Json);
        opened.await.inspect_err(|refusal| self.count_hello(refusal.code.as_str()))
    }

    /// Where a session of this caller with this cursor begins.
    pub(crate) async fn start(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
    ) -> Result<Start, Refusal> {
        self.check_room()?;
        let safe = self.safe_watermark().await;
        let now = self.parts.clock.now();
        let start = hello::start(cursor, self.parts.store_epoch, now, safe, SessionId::random())?;
        self.count_hello(match start.outcome {
            Outcome::New => "new",
            Outcome::Resumed => "resumed",
            Outcome::Reset => "reset",
        });
        if start.outcome == Outcome::Resumed {
            // No further than what this node knows to be possible: a client can make cursors up.
            self.confirmed.note(caller, start.position.min(safe));
        }
        Ok(start)
    }

    async fn open(
        self: &Arc<Gateway>,
        caller: Caller,
        cursor: Option<&str>,
        version: u16,
        transport: Transport,
        encoding: Encoding,
    ) -> Result<Connection, Refusal> {
        let start = self.start(&caller, cursor).await?;
        let outbox = Arc::new(Outbox::new(SessionId::random(), caller.device_id));
        // `welcome` is the first frame; live ones may come as soon as the hub knows the outbox.
        outbox.push(chat_frame(&self.welcome(&caller, &start, version)));
        let subject = Subject::User(caller.user_id);
        let user = self.parts.hub.join(subject, outbox.clone()).await.map_err(|error| {
            tracing::warn!(%error, "subscribing a user failed");
            let detail = "The server cannot receive messages at the moment. Connect again.";
            Refusal::new(Code::Internal, detail).retry_after(1_000)
        })?;
        // After the subscription: what was issued before this is what the session waits for.
        let ticket = self.parts.watermarks.ticket();
        let attendance = self.parts.presences.arrive(caller.user_id, outbox.connection);
        let reading = Reading {
            progress: Progress::new(start.position, ticket),
            extra: start.extra,
            opened_at: self.elapsed(),
            generation: 0,
            is_running: false,
            reads: 0,
            failures: 0,
        };
        let reading = Mutex::new(reading);
        let session = Arc::new(Session {
            caller,
            lineage: start.lineage,
            transport,
            outbox,
            attendance,
            reading,
        });
        self.sessions.register(session.clone());
        if start.outcome != Outcome::New {
            self.sessions.returned(start.lineage);
        }
        self.schedule_read(&session, Duration::ZERO);
        let mut connection = Connection {
            gateway: self.clone(),
            session,
            encoding,
            position: start.position,
            rooms: Vec::new(),
            requests: FuturesUnordered::new(),
            bucket: self.parts.settings.rate.map(|rate| Bucket::new(rate, self.elapsed())),
            faults: 0,
            live_frames: 0,
            is_told: false,
            has_acknowledged: false,
            end: End::Abrupt,
            _user: user,
        };
        for (room, position) in start.rooms {
            connection.join(None, room, Some(position));
        }
        Ok(connection)
    }

    fn welcome(&self, caller: &Caller, start: &Start, version: u16) -> ServerFrame {
        ServerFrame::Welcome(Welcome {
            version,
            session_id: start.lineage,
            user_id: caller.user_id,
            device_id: caller.device_id,
            outcome: start.outcome,
            heartbeat_interval_ms: self.parts.settings.heartbeat_interval_ms,
            offline_after_ms: self.parts.settings.offline_after_ms,
            server_time: self.parts.clock.now(),
            limits: Limits {
                text_chars: TEXT_CHARS_MAX as u64,
                body_bytes: BODY_BYTES_MAX as u64,
                frame_bytes: CLIENT_FRAME_BYTES_MAX as u64,
            },
        })
    }

    fn count_hello(&self, outcome: &'static str) {
        self.parts.metrics.hellos.get_or_create(&ByOutcome { outcome }).inc();
    }
}

impl Connection {
    /// A frame came in: the client is there.
    pub fn beat(&self) {
        self.session.attendance.beat(self.gateway.elapsed());
    }

    /// Begins to carry out a client's frame.
    pub fn receive(&mut self, frame: ClientFrame) {
        self.gateway.parts.metrics.frames_received.inc();
        let id = request::request_id(&frame);
        if let Err(refusal) = self.check_rate(&frame) {
            return self.answer(request::error(id, refusal));
        }
        let sender = Sender {
            user: self.session.caller.user_id,
            connection: self.session.outbox.connection,
            received_at: self.gateway.parts.clock.now(),
        };
        match request::request(frame, sender) {
            Err(refusal) => self.answer(request::error(id, refusal)),
            Ok(Request::Heartbeat(cursor)) => {
                if let Some(cursor) = cursor {
                    self.confirm(&cursor);
                }
                let server_time = self.gateway.parts.clock.now();
                self.answer(ServerFrame::Heartbeat(ServerTime { server_time }));
            }
            Ok(Request::Command(id, command)) => {
                let conversations = self.gateway.parts.conversations.clone();
                self.requests.push(Box::pin(async move {
                    Done::Answer(request::answer(id, conversations.command(command).await))
                }));
            }
            Ok(Request::Join(id, room)) => self.join(Some(id), room, None),
            Ok(Request::Leave(id, room)) => {
                self.rooms.retain(|joined| joined.id != room);
                self.answer(ack(id));
            }
            Ok(Request::Presence(id)) => {
                let (gateway, user) = (self.gateway.clone(), self.session.caller.user_id);
                self.requests.push(Box::pin(async move {
                    let answer = friends_presence(&gateway, user).await.map(|users| {
                        ServerFrame::PresenceSnapshot(PresenceSnapshot { request_id: id, users })
                    });
                    let answer = answer.unwrap_or_else(|refusal| request::error(Some(id), refusal));
                    Done::Answer(Some(answer))
                }));
            }
        }
    }

    /// The client has stored this cursor. One of another store, or none at all, says nothing.
    fn confirm(&self, cursor: &str) {
        let Ok(cursor) = Cursor::decode(cursor) else { return };
        if cursor.store_epoch == self.gateway.parts.store_epoch {
            // No further than what was written: a client can make cursors up.
            let safe = cursor.safe.min(self.position);
            self.gateway.confirmed.note(&self.session.caller, safe);
        }
    }

    /// A frame could not be read. After some of them the connection ends: nobody is served by going on.
    pub fn fault(&mut self, request_id: Option<u64>, refusal: Refusal) {
        self.answer(request::error(request_id, refusal));
        self.faults += 1;
        if self.faults >= FAULTS_MAX {
            self.session.outbox.end_after_flush(Close::Protocol);
        }
    }

    /// Whether another request may begin; if not, the socket is not read until one is done.
    pub fn has_room(&self) -> bool {
        self.requests.len() < self.gateway.parts.settings.requests_in_flight_max.max(1)
    }

    /// Whether requests are under way.
    pub fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Carries requests on until one of them is answered. To be polled only while [`Connection::is_busy`].
    pub async fn carry_on(&mut self) {
        match self.requests.next().await {
            None | Some(Done::Answer(None)) => {}
            Some(Done::Answer(Some(frame))) => self.answer(frame),
            Some(Done::Join(id, room, joined)) => self.joined(id, room, joined),
        }
    }

    /// The bytes of what was taken from the outbox; `None` if it is to be left out.
    pub fn write(&mut self, item: Item) -> Option<Written> {
        self.gateway.parts.metrics.frames_sent.inc();
        let plain = |bytes| Written { bytes, cursor: None, reconnect_delay_ms: None };
        match item {
            Item::Live(frame) => {
                self.count_live();
                Some(plain(frame.encoded(self.encoding)))
            }
            Item::Read(frame) => Some(plain(frame.encoded(self.encoding))),
            Item::Room { batch, skipped } => {
                let room = self.rooms.iter_mut().find(|room| room.id == batch.room)?;
                if room.subscription.is_some() {
                    room.position = room.position.max(batch.frame.id);
                }
                Some(plain(batch.with_skipped(skipped).encoded(self.encoding)))
            }
            Item::Cursor { safe, catching_up } => {
                self.position = safe;
                self.live_frames = 0;
                let cursor = self.cursor();
                let frame =
                    ServerFrame::Cursor(CursorFrame { cursor: cursor.clone(), catching_up });
                let bytes = self.encoding.write(&frame).into();
                Some(Written { bytes, cursor: Some(cursor), reconnect_delay_ms: None })
            }
            Item::Reconnect(farewell) => {
                self.is_told = true;
                let (cursor, delay_ms) = (self.cursor(), farewell.delay_ms);
                let token = farewell.token.as_deref().map(str::to_owned);
                let frame = ServerFrame::Reconnect(Reconnect { cursor, delay_ms, token });
                let bytes = self.encoding.write(&frame).into();
                Some(Written { bytes, cursor: None, reconnect_delay_ms: Some(delay_ms) })
            }
        }
    }

    /// A busy connection reads its inbox more often, while it still remembers what it was sent live.
    fn count_live(&mut self) {
        self.live_frames = self.live_frames.saturating_add(1);
        if self.live_frames == LIVE_FRAMES_PER_READ {
            self.gateway.schedule_read(&self.session, Duration::ZERO);
        }
    }

    /// The client left by itself, or has answered the close frame.
    pub fn acknowledged(&mut self) {
        self.has_acknowledged = true;
    }

    /// How the connection ended. Without this it counts as cut off, and so does a restart that the client was not told
    /// of before.
    pub fn ended(&mut self, end: End) {
        let is_untold = end == End::Closed(Close::Restart) && !self.is_told;
        self.end = if is_untold { End::Abrupt } else { end };
    }

    /// The cursor of what was written.
    fn cursor(&self) -> String {
        let cursor = Cursor {
            store_epoch: self.gateway.parts.store_epoch,
            safe: self.position,
            extra: Vec::new(),
            rooms: self.rooms.iter().map(|room| (room.id, room.position)).collect(),
            session: self.session.lineage,
        };
        cursor.encode()
    }

    fn answer(&self, frame: ServerFrame) {
        self.session.outbox.push(chat_frame(&frame));
        if let ServerFrame::Ack(Ack { message_id: Some(id), seq: Some(_), .. }) = frame {
            // The client knows its own message by this; the next inbox read need not bring it.
            self.session.outbox.remember(id);
        }
    }

    fn check_rate(&mut self, frame: &ClientFrame) -> Result<(), Refusal> {
        let now = self.gateway.elapsed();
        let Some(bucket) = self.bucket.as_mut() else { return Ok(()) };
        if matches!(frame, ClientFrame::Heartbeat(_)) {
            return Ok(());
        }
        bucket.take(now).map_err(|wait_ms| {
            let detail = format!("Too many requests. Send this one again in {wait_ms} ms.");
            Refusal::new(Code::RateLimited, detail).retry_after(wait_ms)
        })
    }

    fn join(&mut self, id: Option<u64>, room: ConversationId, position: Option<MessageId>) {
        if self.rooms.iter().any(|joined| joined.id == room) {
            return id.into_iter().for_each(|id| self.answer(ack(id)));
        }
        if self.rooms.len() == CURSOR_ROOMS_MAX {
            let detail = format!(
                "A connection receives at most {CURSOR_ROOMS_MAX} rooms. Leave one before joining another."
            );
            return self.answer(request::error(id, Refusal::new(Code::InvalidField, detail)));
        }
        let held = position.unwrap_or(MessageId::ZERO);
        self.rooms.push(Room { id: room, position: held, subscription: None });
        let gateway = self.gateway.clone();
        let outbox = self.session.outbox.clone();
        let caller = self.session.caller.user_id;
        self.requests.push(Box::pin(async move {
            let hub = gateway.parts.hub.clone();
            let conversations = &*gateway.parts.conversations;
            let joined = room::join(hub, conversations, outbox, caller, room, position).await;
            Done::Join(id, room, joined)
        }));
    }

    fn joined(&mut self, id: Option<u64>, room: ConversationId, joined: Result<Joined, Refusal>) {
        // The client may have left in the meantime; then the subscription is dropped here.
        let index = self.rooms.iter().position(|held| held.id == room);
        match (joined, index) {
            (Ok(joined), Some(index)) => {
                self.rooms[index].position = joined.position;
                self.rooms[index].subscription = Some(joined.subscription);
                id.into_iter().for_each(|id| self.answer(ack(id)));
            }
            (Ok(_), None) => id.into_iter().for_each(|id| self.answer(ack(id))),
            (Err(refusal), _) => {
                self.rooms.retain(|held| held.id != room);
                self.answer(request::error(id, refusal));
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.end == End::Closed(Close::LoggedOut) {
            self.session.attendance.leave();
        }
        // Nobody reads it any more; pushes of the moment before the hub forgets it are refused.
        self.session.outbox.close(Close::Internal);
        self.gateway.sessions.unregister(&self.session, self.end, self.has_acknowledged);
    }
}

fn chat_frame(frame: &ServerFrame) -> Arc<Frame> {
    Arc::new(Frame::new(Class::Chat, MessageId::ZERO, frame))
}

fn ack(request_id: u64) -> ServerFrame {
    ServerFrame::Ack(Ack { request_id, message_id: None, seq: None, created_at: None })
}

/// Presence of all friends, page by page.
pub(crate) async fn friends_presence(
    gateway: &Gateway,
    user: UserId,
) -> Result<Vec<chat_protocol::frame::Presence>, Refusal> {
    let mut users = Vec::new();
    let mut after = None;
    loop {
        let page = gateway.parts.store.friends(user, after, PAGE_ROWS_MAX).await;
        let page = page.map_err(|error| {
            tracing::debug!(%error, "reading friends failed");
            let detail = "The friend list cannot be read at the moment. Try again.";
            Refusal::new(Code::StoreUnavailable, detail).retry_after(1_000)
        })?;
        let Some(last) = page.last() else { return Ok(users) };
        after = Some(last.user_id);
        let is_friend = |row: &&chat_store::FriendRow| row.friendship == Friendship::Friends;
        let friends: Vec<UserId> = page.iter().filter(is_friend).map(|row| row.user_id).collect();
        if !friends.is_empty() {
            users.extend(gateway.parts.presences.snapshot(friends).await?);
        }
    }
}
