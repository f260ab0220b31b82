//! One session's decisions, pure: frames, commands and time go in, frames and events come out.

use std::collections::{BTreeMap, BTreeSet};

use chat_protocol::ConversationId;
use chat_protocol::api::Sent;
use chat_protocol::close::{self, Close};
use chat_protocol::frame::{
    Ack, ClientFrame, Edit, Heartbeat, Hello, JoinRoom, LeaveRoom, Outcome, React, Request,
    RoomBatch, ServerFrame, Target, TypingNow, VERSIONS, Welcome,
};
use chat_protocol::message::Message;

use crate::backoff::Backoff;
use crate::event::{Answer, Event};
use crate::marks::Marks;
use crate::outbox::{Draft, Outbox, OutboxFull};
use crate::replica::{Novelty, Versions};
use crate::state::State;

/// Messages whose versions a session remembers to drop repeats.
const REMEMBERED_MESSAGES: usize = 50_000;
/// Before the first `welcome` says how often to send one.
const FIRST_HEARTBEAT_INTERVAL_MS: u64 = 5_000;
/// A connection that stood this long was a good one: the next wait starts from the shortest again.
const GOOD_AFTER_MS: u64 = 10_000;

/// A cursor that the program has stored is told to the server this often at most.
const CONFIRM_EVERY_MS: u64 = 5 * 60_000;

/// A request that is answered once and not repeated by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// A new body for an own message.
    Edit(Edit),
    /// Deletes a message.
    Delete(Target),
    /// Adds or removes a reaction.
    React(React),
    /// Asks for the presence of all friends.
    Presence,
}

/// What came of an [`Asked`]. `Err(None)`: the connection ended first, nobody knows.
pub type Answered = Result<Ack, Option<Answer>>;

/// What to do next, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// Frames for the server.
    pub frames: Vec<ClientFrame>,
    /// Events for the program.
    pub events: Vec<Event>,
    /// Answers to requests, by the number the caller gave.
    pub answers: Vec<(u64, Answered)>,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server closed it with a code.
    Closed {
        /// The close code.
        code: u16,
        /// The server's reason.
        reason: String,
    },
    /// It could not be made, broke, or was silent too long.
    Broken(String),
    /// The client left it, because the server had asked for that.
    Left,
}

/// What to do after a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Connect again after this time.
    Connect {
        /// The wait.
        wait_ms: u64,
    },
    /// The server asked to go to another node: connect there after this time. Nothing has failed.
    Move {
        /// The wait.
        wait_ms: u64,
    },
    /// Get a new access token, then connect again.
    Renew {
        /// The wait.
        wait_ms: u64,
    },
    /// The device was logged out.
    LoggedOut,
    /// Do not come back by itself.
    End {
        /// The close code.
        code: u16,
        /// The server's reason.
        reason: String,
    },
}

/// See the module.
pub struct Session {
    backoff: Backoff,
    cursor: Option<String>,
    /// Stored by the program, and not shown to the server yet.
    unconfirmed: Option<String>,
    confirmed_at_ms: u64,
    outbox: Outbox,
    versions: Versions,
    next_request: u64,
    asked: BTreeMap<u64, u64>,
    /// Marks not acknowledged yet, with the request each is under way in.
    reads: Marks,
    deliveries: Marks,
    rooms: BTreeSet<ConversationId>,
    welcome: Option<Welcome>,
    connected_at_ms: u64,
    sent_at_ms: u64,
    heard_at_ms: u64,
    failures: u32,
    renewed: bool,
    /// From a `reconnect` frame: when to connect elsewhere.
    leave_at_ms: Option<u64>,
    /// From a `reconnect` frame: what to say to the next node.
    move_token: Option<String>,
}

impl Session {
    /// A session that goes on from `state`.
    pub fn new(state: State, outbox_capacity: usize, backoff: Backoff) -> Session {
        let mut outbox = Outbox::new(outbox_capacity);
        outbox.restore(state.outbox);
        Session {
            backoff,
            cursor: state.cursor,
            unconfirmed: None,
            confirmed_at_ms: 0,
            outbox,
            versions: Versions::new(REMEMBERED_MESSAGES),
            next_request: 1,
            asked: BTreeMap::new(),
            reads: Marks::default(),
            deliveries: Marks::default(),
            rooms: BTreeSet::new(),
            welcome: None,
            connected_at_ms: 0,
            sent_at_ms: 0,
            heard_at_ms: 0,
            failures: 0,
            renewed: false,
            leave_at_ms: None,
            move_token: None,
        }
    }

    /// The first frame of a new connection. `discovery_token` is the one that came with the node's address.
    pub fn hello(
        &mut self,
        token: String,
        discovery_token: Option<String>,
        client: &str,
        now_ms: u64,
    ) -> ClientFrame {
        self.heard_at_ms = now_ms;
        self.sent_at_ms = now_ms;
        self.leave_at_ms = None;
        // This shows the cursor, too.
        (self.unconfirmed, self.confirmed_at_ms) = (None, now_ms);
        ClientFrame::Hello(Hello {
            versions: VERSIONS.to_vec(),
            token,
            cursor: self.cursor.clone(),
            discovery_token: discovery_token.or_else(|| self.move_token.clone()),
            capabilities: Vec::new(),
            client: Some(client.to_owned()),
        })
    }

    /// Whether `welcome` has come.
    pub fn is_connected(&self) -> bool {
        self.welcome.is_some()
    }

    /// What an own restart would go on from.
    pub fn state(&self) -> State {
        State { cursor: self.cursor.clone(), outbox: self.outbox.drafts() }
    }

    /// A frame arrived.
    pub fn on_frame(&mut self, frame: ServerFrame, now_ms: u64, random: u64) -> Output {
        self.heard_at_ms = now_ms;
        let mut out = Output::default();
        match frame {
            ServerFrame::Welcome(welcome) => self.on_welcome(welcome, now_ms, &mut out),
            ServerFrame::Heartbeat(_) => {}
            ServerFrame::Ack(ack) => self.on_ack(ack, &mut out),
            ServerFrame::Error(error) => {
                let answer = Answer {
                    code: Some(error.code),
                    code_text: error.code.as_str().to_owned(),
                    detail: error.detail,
                    retry_after_ms: error.retry_after_ms,
                };
                self.on_refusal(error.request_id, answer, now_ms, random, &mut out);
            }
            ServerFrame::Message(message) => self.on_message(message, &mut out),
            ServerFrame::Room(batch) => self.on_room(batch, &mut out),
            ServerFrame::Cursor(frame) => {
                self.cursor = Some(frame.cursor.clone());
                let catching_up = frame.catching_up;
                out.events.push(Event::Cursor { cursor: frame.cursor, catching_up });
            }
            // The cursor of this frame lies behind everything sent before it, like that of a cursor frame.
            ServerFrame::Reconnect(frame) => {
                self.leave_at_ms = Some(now_ms.saturating_add(frame.delay_ms));
                self.move_token = frame.token;
                self.cursor = Some(frame.cursor.clone());
                out.events.push(Event::Cursor { cursor: frame.cursor, catching_up: true });
            }
            other => out.events.extend(self.pass_on(other, &mut out.answers)),
        }
        self.flush(now_ms, &mut out);
        out
    }

    /// A refusal whose code this client does not know.
    pub fn on_unknown_refusal(
        &mut self,
        request_id: Option<u64>,
        answer: Answer,
        now_ms: u64,
    ) -> Output {
        self.heard_at_ms = now_ms;
        let mut out = Output::default();
        self.on_refusal(request_id, answer, now_ms, 0, &mut out);
        self.flush(now_ms, &mut out);
        out
    }

    /// Bytes arrived that mean nothing to this client: the connection lives.
    pub fn on_noise(&mut self, now_ms: u64) {
        self.heard_at_ms = now_ms;
    }

    /// Takes a message to send.
    pub fn send(&mut self, draft: Draft, now_ms: u64) -> Result<Output, OutboxFull> {
        self.outbox.push(draft)?;
        let mut out = Output::default();
        self.flush(now_ms, &mut out);
        Ok(out)
    }

    /// No room for another message to send.
    pub fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    /// Asks something. Without a connection the answer comes at once.
    pub fn ask(&mut self, asked: Asked, key: u64, now_ms: u64) -> Output {
        let mut out = Output::default();
        if !self.is_connected() {
            out.answers.push((key, Err(None)));
            return out;
        }
        let request_id = self.take_request();
        self.asked.insert(request_id, key);
        out.frames.push(match asked {
            Asked::Edit(edit) => ClientFrame::Edit(Edit { request_id, ..edit }),
            Asked::Delete(target) => ClientFrame::Delete(Target { request_id, ..target }),
            Asked::React(react) => ClientFrame::React(React { request_id, ..react }),
            Asked::Presence => ClientFrame::Presence(Request { request_id }),
        });
        self.sent_at_ms = now_ms;
        out
    }

    /// Has read up to `seq`. Only the highest mark of a conversation is sent, and again until it is acknowledged.
    pub fn read(&mut self, conversation_id: ConversationId, seq: u64, now_ms: u64) -> Output {
        self.reads.raise(conversation_id, seq);
        self.flushed(now_ms)
    }

    /// Everything up to `seq` has reached this device.
    pub fn delivered(&mut self, conversation_id: ConversationId, seq: u64, now_ms: u64) -> Output {
        self.deliveries.raise(conversation_id, seq);
        self.flushed(now_ms)
    }

    /// The program has stored this cursor, and everything before it. The server is told now and then.
    pub fn confirm(&mut self, cursor: String) {
        self.unconfirmed = Some(cursor);
    }

    /// Is typing, or stopped. Worth nothing later, so it is dropped without a connection.
    pub fn typing(&mut self, typing: TypingNow, now_ms: u64) -> Output {
        let mut out = Output::default();
        if self.is_connected() {
            out.frames.push(ClientFrame::Typing(typing));
            self.sent_at_ms = now_ms;
        }
        out
    }

    /// Receives a live room from here on, through every reconnect.
    pub fn join_room(&mut self, room_id: ConversationId, now_ms: u64) -> Output {
        let mut out = Output::default();
        if self.rooms.insert(room_id) && self.is_connected() {
            let request_id = self.take_request();
            out.frames.push(ClientFrame::JoinRoom(JoinRoom { request_id, room_id }));
            self.sent_at_ms = now_ms;
        }
        out
    }

    /// Stops receiving a live room.
    pub fn leave_room(&mut self, room_id: ConversationId, now_ms: u64) -> Output {
        let mut out = Output::default();
        if self.rooms.remove(&room_id) && self.is_connected() {
            let request_id = self.take_request();
            out.frames.push(ClientFrame::LeaveRoom(LeaveRoom { request_id, room_id }));
            self.sent_at_ms = now_ms;
        }
        out
    }

    /// Time passed: sends what is due, or a heartbeat.
    pub fn on_time(&mut self, now_ms: u64) -> Output {
        let mut out = self.flushed(now_ms);
        let interval_ms = self.heartbeat_interval_ms();
        let confirms = self.confirm_due_ms().is_some_and(|due| now_ms >= due);
        let is_quiet = now_ms.saturating_sub(self.sent_at_ms) >= interval_ms;
        if self.is_connected() && (is_quiet || confirms) {
            let cursor = if confirms { self.unconfirmed.take() } else { None };
            if confirms {
                self.confirmed_at_ms = now_ms;
            }
            out.frames.push(ClientFrame::Heartbeat(Heartbeat { cursor }));
            self.sent_at_ms = now_ms;
        }
        out
    }

    /// When to call [`on_time`](Session::on_time) at the latest.
    pub fn next_time_ms(&self) -> u64 {
        let heartbeat = self.sent_at_ms + self.heartbeat_interval_ms();
        let others = [self.confirm_due_ms(), self.leave_at_ms];
        let heartbeat = others.into_iter().flatten().fold(heartbeat, u64::min);
        match self.outbox.next_due_ms() {
            Some(due) if self.is_connected() => heartbeat.min(due),
            _ => heartbeat,
        }
    }

    /// The time is over that the server gave this client to go elsewhere.
    pub fn should_leave(&self, now_ms: u64) -> bool {
        self.leave_at_ms.is_some_and(|leave| leave <= now_ms)
    }

    /// Nothing was heard for three heartbeats: the connection is dead, whatever the system says.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_at_ms) > 3 * self.heartbeat_interval_ms()
    }

    /// The connection ended. Says what to do next.
    pub fn on_loss(&mut self, loss: &Loss, now_ms: u64, random: u64) -> (Next, Output) {
        let good =
            self.welcome.is_some() && now_ms.saturating_sub(self.connected_at_ms) >= GOOD_AFTER_MS;
        self.failures = if good { 0 } else { self.failures };
        let asked = self.leave_at_ms.take();
        self.welcome = None;
        self.outbox.disconnected();
        self.reads.disconnected();
        self.deliveries.disconnected();
        let answers =
            std::mem::take(&mut self.asked).into_values().map(|key| (key, Err(None))).collect();
        let out = Output { answers, ..Output::default() };
        let is_sent_on =
            matches!(loss, Loss::Closed { code, .. } if *code == Close::WrongNode.number());
        let wait_ms = match is_sent_on && self.failures == 0 {
            true => 0,
            false => self.backoff.wait_ms(self.failures, random),
        };
        let next = match (self.next(loss, wait_ms), asked) {
            // The server drew the delay from its own window: adding to it would only lengthen the gap.
            (Next::Connect { .. }, Some(leave_at_ms)) => {
                return (Next::Move { wait_ms: leave_at_ms.saturating_sub(now_ms) }, out);
            }
            (next, _) => next,
        };
        self.failures = self.failures.saturating_add(1);
        (next, out)
    }

    /// A new access token was fetched.
    pub fn on_renewed(&mut self) {
        self.renewed = true;
    }

    fn next(&self, loss: &Loss, wait_ms: u64) -> Next {
        let Loss::Closed { code, reason } = loss else { return Next::Connect { wait_ms } };
        if close::should_reconnect(*code) {
            return Next::Connect { wait_ms };
        }
        let is = |close: Close| *code == close.number();
        if is(Close::LoggedOut) {
            return Next::LoggedOut;
        }
        // Once: a token that is refused although it is fresh will not get better.
        match is(Close::Unauthenticated) {
            true if self.renewed => Next::LoggedOut,
            true => Next::Renew { wait_ms },
            false => Next::End { code: *code, reason: reason.clone() },
        }
    }

    fn on_welcome(&mut self, welcome: Welcome, now_ms: u64, out: &mut Output) {
        if welcome.outcome == Outcome::Reset {
            self.cursor = None;
            self.versions.clear();
        }
        self.connected_at_ms = now_ms;
        self.renewed = false;
        self.move_token = None;
        self.welcome = Some(welcome.clone());
        for room_id in self.rooms.clone() {
            let request_id = self.take_request();
            out.frames.push(ClientFrame::JoinRoom(JoinRoom { request_id, room_id }));
        }
        out.events.push(Event::Connected(Box::new(welcome)));
    }

    fn on_ack(&mut self, ack: Ack, out: &mut Output) {
        if let Some(draft) = self.outbox.acknowledged(ack.request_id) {
            let sent = match (ack.message_id, ack.seq, ack.created_at) {
                (Some(message_id), Some(seq), Some(created_at)) => {
                    Some(Sent { message_id, seq, created_at })
                }
                _ => None,
            };
            out.events.push(Event::Sent { client_message_id: draft.client_message_id, sent });
        } else if let Some(key) = self.asked.remove(&ack.request_id) {
            out.answers.push((key, Ok(ack)));
        } else {
            self.reads.done(ack.request_id);
            self.deliveries.done(ack.request_id);
        }
    }

    fn on_refusal(
        &mut self,
        request_id: Option<u64>,
        answer: Answer,
        now_ms: u64,
        random: u64,
        out: &mut Output,
    ) {
        let Some(request_id) = request_id else { return };
        if let Some(key) = self.asked.remove(&request_id) {
            out.answers.push((key, Err(Some(answer))));
        } else if answer.is_retryable() {
            let after = answer.retry_after_ms;
            self.outbox.try_later(request_id, now_ms, after, &self.backoff, random);
        } else if let Some(draft) = self.outbox.refused(request_id) {
            out.events.push(Event::Refused { draft: Box::new(draft), refusal: answer });
        } else {
            self.reads.done(request_id);
            self.deliveries.done(request_id);
        }
    }

    fn on_message(&mut self, message: Message, out: &mut Output) {
        if self.versions.message(&message) == Novelty::Old {
            return;
        }
        let (id, sender) = (message.client_message_id, message.sender_id);
        out.events.push(Event::Message(Box::new(message)));
        self.settle(id, sender, out);
    }

    /// An own message that appears is committed, also when its acknowledgement got lost or said otherwise.
    fn settle(
        &mut self,
        id: chat_protocol::ClientMessageId,
        sender: chat_protocol::UserId,
        out: &mut Output,
    ) {
        let own = self.welcome.as_ref().is_some_and(|welcome| welcome.user_id == sender);
        if own && self.outbox.appeared(id).is_some() {
            out.events.push(Event::Sent { client_message_id: id, sent: None });
        }
    }

    fn on_room(&mut self, batch: RoomBatch, out: &mut Output) {
        let RoomBatch { room_id, mut messages, skipped } = batch;
        messages.retain(|message| self.versions.message(message) != Novelty::Old);
        let ids: Vec<_> = messages.iter().map(|m| (m.client_message_id, m.sender_id)).collect();
        if !messages.is_empty() || skipped > 0 {
            out.events.push(Event::Room(Box::new(RoomBatch { room_id, messages, skipped })));
        }
        ids.into_iter().for_each(|(id, sender)| self.settle(id, sender, out));
    }

    fn pass_on(&mut self, frame: ServerFrame, answers: &mut Vec<(u64, Answered)>) -> Vec<Event> {
        match frame {
            ServerFrame::Reactions(change) => match self.versions.reactions(&change) {
                Novelty::Old => Vec::new(),
                _ => vec![Event::Reactions(Box::new(change))],
            },
            ServerFrame::Conversation(conversation) => {
                match self.versions.conversation(&conversation) {
                    Novelty::Old => Vec::new(),
                    _ => vec![Event::Conversation(Box::new(conversation))],
                }
            }
            ServerFrame::Read(receipt) => vec![Event::Read(receipt)],
            ServerFrame::Delivered(receipt) => vec![Event::Delivered(receipt)],
            ServerFrame::Typing(typing) => vec![Event::Typing(typing)],
            ServerFrame::Presence(presence) => vec![Event::Presence(presence)],
            ServerFrame::PresenceSnapshot(snapshot) => {
                let request_id = snapshot.request_id;
                if let Some(key) = self.asked.remove(&request_id) {
                    let ack = Ack { request_id, message_id: None, seq: None, created_at: None };
                    answers.push((key, Ok(ack)));
                }
                snapshot.users.into_iter().map(Event::Presence).collect()
            }
            ServerFrame::Friend(change) => vec![Event::Friend(change)],
            ServerFrame::Account(change) => vec![Event::Account(change)],
            _ => Vec::new(),
        }
    }

    fn flushed(&mut self, now_ms: u64) -> Output {
        let mut out = Output::default();
        self.flush(now_ms, &mut out);
        out
    }

    fn flush(&mut self, now_ms: u64, out: &mut Output) {
        if !self.is_connected() {
            return;
        }
        let next_request = &mut self.next_request;
        let mut take = || {
            *next_request += 1;
            *next_request
        };
        let before = out.frames.len();
        out.frames
            .extend(self.outbox.take_due(now_ms, &mut take).into_iter().map(ClientFrame::Send));
        out.frames.extend(self.reads.take(&mut take).into_iter().map(ClientFrame::Read));
        out.frames.extend(self.deliveries.take(&mut take).into_iter().map(ClientFrame::Delivered));
        if out.frames.len() > before {
            self.sent_at_ms = now_ms;
        }
    }

    fn confirm_due_ms(&self) -> Option<u64> {
        let waits = self.is_connected() && self.unconfirmed.is_some();
        waits.then_some(self.confirmed_at_ms + CONFIRM_EVERY_MS)
    }

    fn take_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn heartbeat_interval_ms(&self) -> u64 {
        let interval = self.welcome.as_ref().map(|welcome| welcome.heartbeat_interval_ms);
        interval.unwrap_or(FIRST_HEARTBEAT_INTERVAL_MS).max(100)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
