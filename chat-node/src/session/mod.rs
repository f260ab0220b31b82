//! Sessions: what a connection means, whatever carries it.
//!
//! Order of every beginning: subscribe on the bus, take a ticket, read the inbox above the cursor, go live. Cursors rise
//! only by inbox reads ([`progress`]); live frames never move them.

mod confirmed;
pub mod connection;
pub mod hello;
mod inbox;
pub mod metrics;
pub mod progress;
pub(crate) mod pull;
mod rate;
mod read;
pub mod registry;
pub mod request;
mod room;
mod schedule;
pub mod settings;

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use chat_protocol::error::{Code, Refusal};
use chat_protocol::{MessageId, SessionId};
use chat_store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::connection::{Connection, Written};
pub use self::metrics::{Metrics, Transport};
pub use self::registry::{Client, Observer, Sessions};
pub use self::settings::{Rate, Settings};

use self::confirmed::Confirmed;
use self::progress::Progress;
use self::schedule::Schedule;
use crate::auth::{Authenticate, Caller};
use crate::clock::Clock;
use crate::conversation::Conversations;
use crate::discovery::Directory;
use crate::hub::{Hub, Outbox};
use crate::presence::{Attendance, Presences};
use crate::watermark::Watermarks;

/// What sessions are built on.
pub struct Parts {
    /// What an operator set.
    pub settings: Settings,
    /// Time.
    pub clock: Clock,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The store's epoch, read at the start.
    pub store_epoch: u64,
    /// Delivery on this node.
    pub hub: Arc<Hub>,
    /// What the node has heard of the owners.
    pub watermarks: Arc<Watermarks>,
    /// Commands to owners, and history.
    pub conversations: Arc<dyn Conversations>,
    /// Who is online.
    pub presences: Arc<dyn Presences>,
    /// Who a token names.
    pub authenticate: Arc<dyn Authenticate>,
    /// Which node a client should be at.
    pub directory: Arc<Directory>,
    /// What is counted.
    pub metrics: Metrics,
}

/// All sessions of a node, and what they need.
pub struct Gateway {
    pub(crate) parts: Parts,
    /// Connections that stand.
    pub sessions: Sessions,
    schedule: Schedule<(Weak<Session>, u64)>,
    pub(crate) polls: registry::Polls,
    confirmed: Confirmed,
}

/// What the node knows of one connection, shared by its task and the reader of inboxes.
pub struct Session {
    /// Who.
    pub caller: Caller,
    /// The lineage, kept through resumes.
    pub lineage: SessionId,
    /// How it is connected.
    pub transport: Transport,
    /// What waits for the socket. Holds the connection's own id.
    pub outbox: Arc<Outbox>,
    /// Its presence.
    pub attendance: Arc<Attendance>,
    reading: Mutex<Reading>,
}

struct Reading {
    progress: Progress,
    /// Ids above the cursor that the client said it has.
    extra: Vec<MessageId>,
    opened_at: Duration,
    /// Of the one entry in the schedule that counts.
    generation: u64,
    is_running: bool,
    reads: u64,
    failures: u32,
}

impl Session {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().expect("no code panics while it holds this lock")
    }

    /// What of it is asked to leave.
    fn client(&self) -> Client {
        Client {
            lineage: self.lineage,
            transport: self.transport,
            outbox: self.outbox.clone(),
            attendance: self.attendance.clone(),
        }
    }

    /// Everything up to here was queued on this connection.
    pub fn position(&self) -> MessageId {
        self.reading().progress.position()
    }
}

impl Gateway {
    /// Sessions on these parts. [`Gateway::spawn`] starts what runs in the background.
    pub fn new(parts: Parts) -> Arc<Gateway> {
        let sessions = Sessions::new(parts.metrics.clone());
        let confirmed = Confirmed::new(parts.clock.clone(), parts.metrics.clone());
        Arc::new(Gateway {
            parts,
            sessions,
            schedule: Schedule::new(),
            polls: registry::Polls::default(),
            confirmed,
        })
    }

    /// Starts the reader of inboxes, the writer of what devices confirmed and the hub's sweeper. They end at `stop`; the tracker then waits for them.
    pub fn spawn(self: &Arc<Gateway>, tracker: &TaskTracker, stop: &CancellationToken) {
        tracker.spawn(self.parts.hub.clone().run(stop.clone()));
        tracker.spawn(self.clone().read_inboxes(tracker.clone(), stop.clone()));
        let (gateway, stop) = (self.clone(), stop.clone());
        tracker.spawn(async move { gateway.confirmed.run(&*gateway.parts.store, &stop).await });
    }

    /// Has every session's inbox read within `window`, each once, spread evenly: after trouble with the bus, or before a
    /// planned drain.
    pub fn read_all_within(&self, window: Duration) {
        let sessions = self.sessions.all();
        let count = sessions.len().max(1) as u32;
        for (index, session) in sessions.iter().enumerate() {
            self.schedule_read(session, window * index as u32 / count);
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.parts.clock.elapsed()
    }

    /// The safe watermark, waiting a little for the first one after the node's start.
    pub(crate) async fn safe_watermark(&self) -> MessageId {
        let wait = Duration::from_millis(self.parts.settings.watermark_wait_ms);
        let mut safe = self.parts.watermarks.watch();
        // The sender lives in `watermarks`; a time-out leaves zero.
        let heard = tokio::time::timeout(wait, safe.wait_for(|safe| *safe > MessageId::ZERO)).await;
        heard.ok().and_then(Result::ok).map_or(MessageId::ZERO, |safe| *safe)
    }

    /// Refuses work while the node leaves or is full.
    pub(crate) fn check_room(&self) -> Result<(), Refusal> {
        if self.sessions.is_draining() {
            let detail = "This server is going away. Connect again; another one answers.";
            return Err(Refusal::new(Code::Draining, detail).retry_after(1_000));
        }
        if self.sessions.len() >= self.parts.settings.connections_max {
            let detail = "This server has no room for another connection. Try again in a while.";
            return Err(Refusal::new(Code::Overloaded, detail).retry_after(5_000));
        }
        Ok(())
    }
}

/// Four fifths to six fifths of a duration: so that many sessions do not come at once.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
pub(crate) mod tests;
