//! Every connection of this node, from its beginning to its end, and how all of them are ended.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chat_protocol::close::Close;
use chat_protocol::{SessionId, UserId};
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::metrics::{ByClose, ByTransport};
use super::{Metrics, Session, Transport};
use crate::presence::{Attendance, Presences};
use crate::watermark::{Ticket, Watermarks};

/// The connections that stand.
pub struct Sessions {
    open: Mutex<HashMap<SessionId, Arc<Session>>>,
    leaving: CancellationToken,
    emptied: Notify,
    metrics: Metrics,
}

/// What a drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were told to come back elsewhere.
    pub told: usize,
    /// Of these, how many still stood at the deadline and were cut off.
    pub cut_off: usize,
}

impl Sessions {
    pub(super) fn new(metrics: Metrics) -> Sessions {
        Sessions {
            open: Mutex::default(),
            leaving: CancellationToken::new(),
            emptied: Notify::new(),
            metrics,
        }
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

    /// Returns once the node leaves.
    pub(crate) async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Counts a request as a connection until the guard is dropped.
    pub(crate) fn count(&self, transport: Transport) -> Counted {
        let gauge = self.gauge(transport);
        gauge.inc();
        Counted(gauge)
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().values().cloned().collect()
    }

    /// Sends everyone elsewhere: each gets a `reconnect` frame with its cursor and a delay of up to `jitter_ms`, then
    /// what waits for it, then close code 1012. Returns when all are gone, or at the deadline.
    pub async fn drain(&self, jitter_ms: u64, deadline: Duration) -> Drained {
        self.leaving.cancel();
        let sessions = self.all();
        let told = sessions.len();
        for session in sessions {
            session.outbox.finish(rand::random_range(0..=jitter_ms));
        }
        // Sessions that were being opened meanwhile look at the flag once they are registered.
        let gone = async {
            loop {
                let emptied = self.emptied.notified();
                if self.is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        _ = tokio::time::timeout(deadline, gone).await;
        let left = self.all();
        left.iter().for_each(|session| session.outbox.close(Close::Restart));
        Drained { told, cut_off: left.len() }
    }

    pub(super) fn register(
        self: &Sessions,
        session: Arc<Session>,
        transport: Transport,
    ) {
        self.gauge(transport).inc();
        self.lock().insert(session.outbox.connection, session.clone());
        if self.is_draining() {
            session.outbox.finish(0);
        }
    }

    /// The connection is gone.
    pub(super) fn unregister(&self, connection: SessionId, transport: Transport, end: End) {
        self.gauge(transport).dec();
        let is_empty = {
            let mut open = self.lock();
            open.remove(&connection);
            open.is_empty()
        };
        match end {
            End::ByPeer => {}
            End::Closed(close) => {
                self.metrics.closes.get_or_create(&ByClose { code: close.number() }).inc();
            }
            End::Abrupt => _ = self.metrics.abrupt_closes.inc(),
        }
        if is_empty {
            self.emptied.notify_waiters();
        }
    }

    fn gauge(&self, transport: Transport) -> Gauge {
        self.metrics.connections.get_or_create_owned(&ByTransport { transport })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }
}

/// See [`Sessions::count`].
pub(crate) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
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
    pub(crate) fn arrive(
        &self,
        (user, lineage): (UserId, SessionId),
        presences: &dyn Presences,
        watermarks: &Watermarks,
        now: Duration,
    ) -> PollState {
        let mut polls = self.lock();
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
        state.clone()
    }

    /// Forgets lineages that have not polled for a while.
    pub(crate) fn forget_unused(&self, now: Duration, after: Duration) {
        self.lock().retain(|_, state| state.used_at + after > now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(UserId, SessionId), PollState>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}
