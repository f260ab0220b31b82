//! Every connection of this node, from its beginning to its end, and how all of them are ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use chat_protocol::close::Close;
use chat_protocol::{SessionId, UserId};
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use super::metrics::{ByClose, ByTransport};
use super::{Metrics, Session, Transport};
use crate::hub::{Farewell, Outbox};
use crate::presence::{Attendance, Presences};
use crate::watermark::{Ticket, Watermarks};

/// The connections that stand.
pub struct Sessions {
    open: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Polls that wait.
    waiting: Mutex<HashMap<SessionId, Client>>,
    leaving: CancellationToken,
    sends_away: AtomicBool,
    changed: Notify,
    observer: OnceLock<Arc<dyn Observer>>,
    metrics: Metrics,
}

/// A client that may be asked to leave: a connection, or a poll that waits.
#[derive(Clone)]
pub struct Client {
    /// The lineage, kept through resumes.
    pub lineage: SessionId,
    /// How it is connected.
    pub transport: Transport,
    /// What waits for it. Holds the connection's own id.
    pub outbox: Arc<Outbox>,
    /// When it was heard.
    pub attendance: Arc<Attendance>,
}

impl Client {
    /// The connection's own id.
    pub fn connection(&self) -> SessionId {
        self.outbox.connection
    }

    /// Asks it to leave. A WebSocket goes on until its client leaves; a stream of events ends, and its client comes back
    /// after the delay; a poll is answered. `false`: it is ending already.
    pub fn ask_to_leave(&self, farewell: Farewell) -> bool {
        match self.transport {
            Transport::WebSocket | Transport::Poll => self.outbox.ask_to_leave(farewell),
            Transport::Events => self.outbox.finish(farewell),
        }
    }
}

/// Hears of clients that leave, and of those that come back with a cursor. Must not block.
pub trait Observer: Send + Sync {
    /// A connection is gone. `acknowledged`: its client left by itself, or answered the close frame.
    fn left(&self, connection: SessionId, lineage: SessionId, acknowledged: bool);
    /// A client has come with the cursor of an earlier session.
    fn returned(&self, lineage: SessionId);
}

impl Sessions {
    pub(super) fn new(metrics: Metrics) -> Sessions {
        Sessions {
            open: Mutex::default(),
            waiting: Mutex::default(),
            leaving: CancellationToken::new(),
            sends_away: AtomicBool::new(false),
            changed: Notify::new(),
            observer: OnceLock::new(),
            metrics,
        }
    }

    /// Who hears of comings and goings. The first one stays.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        drop(self.observer.set(observer));
    }

    /// How many connections stand.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node is leaving: nobody new is let in.
    pub fn is_draining(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// From now on nobody new is let in.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// Whether connections of plain HTTP should go to another node, too.
    pub fn sends_away(&self) -> bool {
        self.sends_away.load(Ordering::Relaxed) || self.is_draining()
    }

    /// See [`Sessions::sends_away`].
    pub fn set_sends_away(&self, sends_away: bool) {
        self.sends_away.store(sends_away, Ordering::Relaxed);
    }

    /// Everyone who may be asked to leave.
    pub fn clients(&self) -> Vec<Client> {
        let mut clients: Vec<Client> =
            self.lock().values().map(|session| session.client()).collect();
        clients.extend(self.lock_waiting().values().cloned());
        clients
    }

    /// The client with this connection, if it is here.
    pub fn client(&self, connection: SessionId) -> Option<Client> {
        let open = self.lock().get(&connection).map(|session| session.client());
        open.or_else(|| self.lock_waiting().get(&connection).cloned())
    }

    /// Completes when someone leaves after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// A poll that waits. It counts as a connection until the guard is dropped.
    pub(crate) fn wait(&self, client: Client) -> Waiting<'_> {
        self.gauge(client.transport).inc();
        self.lock_waiting().insert(client.connection(), client.clone());
        if self.is_draining() {
            client.ask_to_leave(Farewell::default());
        }
        Waiting { sessions: self, client, is_answered: false }
    }

    /// A client came with the cursor of an earlier session.
    pub(crate) fn returned(&self, lineage: SessionId) {
        if let Some(observer) = self.observer.get() {
            observer.returned(lineage);
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn register(&self, session: Arc<Session>) {
        self.gauge(session.transport).inc();
        self.lock().insert(session.outbox.connection, session.clone());
        if self.is_draining() {
            session.outbox.finish(Farewell::default());
        }
    }

    /// The connection is gone.
    pub(super) fn unregister(&self, session: &Session, end: End, acknowledged: bool) {
        self.gauge(session.transport).dec();
        let connection = session.outbox.connection;
        self.lock().remove(&connection);
        match end {
            End::ByPeer => {}
            End::Closed(close) => {
                self.metrics.closes.get_or_create(&ByClose { code: close.number() }).inc();
            }
            End::Abrupt => _ = self.metrics.abrupt_closes.inc(),
        }
        self.gone(connection, session.lineage, acknowledged);
    }

    fn gone(&self, connection: SessionId, lineage: SessionId, acknowledged: bool) {
        if let Some(observer) = self.observer.get() {
            observer.left(connection, lineage, acknowledged);
        }
        self.changed.notify_waiters();
    }

    fn gauge(&self, transport: Transport) -> Gauge {
        self.metrics.connections.get_or_create_owned(&ByTransport { transport })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }

    fn lock_waiting(&self) -> MutexGuard<'_, HashMap<SessionId, Client>> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}

/// See [`Sessions::wait`].
pub(crate) struct Waiting<'a> {
    sessions: &'a Sessions,
    client: Client,
    is_answered: bool,
}

impl Waiting<'_> {
    /// The answer is on its way.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.sessions.gauge(self.client.transport).dec();
        let connection = self.client.connection();
        self.sessions.lock_waiting().remove(&connection);
        self.sessions.gone(connection, self.client.lineage, self.is_answered);
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client left, or its network did.
    ByPeer,
    /// With a close frame, or the last chunk of a response.
    Closed(Close),
    /// By this node, without telling the client.
    Abrupt,
}

/// What is kept of a lineage between two polls.
#[derive(Clone)]
pub(crate) struct PollState {
    pub(crate) attendance: Arc<Attendance>,
    /// Taken at the lineage's first poll on this node.
    pub(crate) ticket: Ticket,
    pub(crate) is_complete: Arc<AtomicBool>,
    used_at: Duration,
}

/// Lineages that poll.
#[derive(Default)]
pub(crate) struct Polls(Mutex<HashMap<(UserId, SessionId), PollState>>);

impl Polls {
    /// What is known of this lineage. A poll counts as a beat; one that comes after its attendance ended arrives anew.
    /// And whether nothing was known of it.
    pub(crate) fn arrive(
        &self,
        (user, lineage): (UserId, SessionId),
        presences: &dyn Presences,
        watermarks: &Watermarks,
        now: Duration,
    ) -> (PollState, bool) {
        let mut polls = self.lock();
        let is_new = !polls.contains_key(&(user, lineage));
        let state = polls.entry((user, lineage)).or_insert_with(|| PollState {
            attendance: presences.arrive(user, SessionId::random()),
            ticket: watermarks.ticket(),
            is_complete: Arc::new(AtomicBool::new(false)),
            used_at: now,
        });
        let has_ended = state.attendance.has_left()
            || std::pin::pin!(state.attendance.silent()).now_or_never().is_some();
        if has_ended {
            state.attendance = presences.arrive(user, SessionId::random());
        }
        state.attendance.beat(now);
        state.used_at = now;
        (state.clone(), is_new)
    }

    /// Forgets lineages that have not polled for a while.
    pub(crate) fn forget_unused(&self, now: Duration, after: Duration) {
        self.lock().retain(|_, state| state.used_at + after > now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(UserId, SessionId), PollState>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}
