//! One connection's attendance: a heartbeat costs one atomic store, and only the node that holds the socket sees it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chat_protocol::{SessionId, UserId};
use tokio::sync::Notify;

/// Kept by a session and by the timing wheel of its node.
#[derive(Debug)]
pub struct Attendance {
    /// Whose connection.
    pub user: UserId,
    /// Which.
    pub connection: SessionId,
    /// Monotonic milliseconds of the last frame received.
    last_beat_ms: AtomicU64,
    left: AtomicBool,
    silent: Notify,
    leavers: Option<Arc<Leavers>>,
}

/// Connections that left since the node looked last; each is noted once.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    connections: Mutex<Vec<(UserId, SessionId)>>,
    wake: Arc<Notify>,
}

impl Leavers {
    pub(super) fn new(wake: Arc<Notify>) -> Leavers {
        Leavers { connections: Mutex::default(), wake }
    }

    pub(super) fn take(&self) -> Vec<(UserId, SessionId)> {
        std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, user: UserId, connection: SessionId) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push((user, connection));
        drop(connections);
        self.wake.notify_one();
    }
}

impl Attendance {
    /// A connection that has just been heard.
    pub fn new(user: UserId, connection: SessionId, elapsed: Duration) -> Attendance {
        let last_beat_ms = AtomicU64::new(elapsed.as_millis() as u64);
        Attendance {
            user,
            connection,
            last_beat_ms,
            left: AtomicBool::new(false),
            silent: Notify::new(),
            leavers: None,
        }
    }

    /// The same; leaving is noted at once.
    pub(super) fn noted_by(self, leavers: Arc<Leavers>) -> Attendance {
        Attendance { leavers: Some(leavers), ..self }
    }

    /// A frame came in, at this time of the node's monotonic clock.
    pub fn beat(&self, elapsed: Duration) {
        self.last_beat_ms.store(elapsed.as_millis() as u64, Ordering::Relaxed);
    }

    /// When the last frame came in, by the node's monotonic clock.
    pub fn last_beat(&self) -> Duration {
        Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed))
    }

    /// The user logged out here: this connection stops counting at once, not only after the silence.
    pub fn leave(&self) {
        let first = !self.left.swap(true, Ordering::Relaxed);
        if let Some(leavers) = self.leavers.as_ref().filter(|_| first) {
            leavers.note(self.user, self.connection);
        }
    }

    /// Whether the connection has left by itself.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Returns once the wheel has found the connection silent for too long.
    pub async fn silent(&self) {
        self.silent.notified().await;
    }

    /// The wheel's finding.
    pub fn declare_silent(&self) {
        self.silent.notify_one();
    }
}
