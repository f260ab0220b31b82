//! Publications on their way out: a bounded queue, and the task that empties it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::bus::{Addresses, Losses};
use super::connection::Connection;
use super::options::NatsOptions;
use crate::Subject;

/// A connection that is dropped gets this long to send what was published.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Counted for each subject of a publication.
const SUBJECT_BYTES: usize = 64;

pub(super) struct Publisher {
    queue: mpsc::Sender<Item>,
    /// Bytes that may be in the queue.
    room: Arc<Semaphore>,
    losses: Arc<Losses>,
    /// Whether the last publication was dropped; told of once.
    dropping: AtomicBool,
}

enum Item {
    Publication {
        subjects: Box<[Subject]>,
        payload: Bytes,
        /// Given back when it is sent.
        room: OwnedSemaphorePermit,
    },
    /// Answered when everything before it is with the client.
    Flush(oneshot::Sender<()>),
}

impl Publisher {
    /// The task ends when the publisher is dropped, after what it still has to send.
    pub(super) fn start(
        connection: &Connection,
        addresses: Addresses,
        options: &NatsOptions,
        losses: Arc<Losses>,
    ) -> Publisher {
        let (queue, items) = mpsc::channel(options.publications_max.max(1));
        let room = options.publications_bytes_max.clamp(1, Semaphore::MAX_PERMITS);
        let task = Sender { connection: connection.clone(), addresses, losses: losses.clone() };
        tokio::spawn(task.run(items));
        Publisher {
            queue,
            room: Arc::new(Semaphore::new(room)),
            losses,
            dropping: AtomicBool::new(false),
        }
    }

    /// Never waits: what does not fit is dropped and counted.
    pub(super) fn publish(&self, subjects: &[Subject], payload: Bytes) {
        if subjects.is_empty() {
            return;
        }
        let queued = self.try_queue(subjects, payload);
        if !queued {
            self.losses.publications.fetch_add(subjects.len() as u64, Ordering::Relaxed);
        }
        let was_dropping = self.dropping.swap(!queued, Ordering::Relaxed);
        if !queued && !was_dropping {
            tracing::warn!("publications come faster than NATS takes them; some are dropped");
        }
    }

    fn try_queue(&self, subjects: &[Subject], payload: Bytes) -> bool {
        let bytes = payload.len() + subjects.len() * SUBJECT_BYTES;
        let Ok(bytes) = u32::try_from(bytes) else { return false };
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        self.queue.try_send(Item::Publication { subjects: subjects.into(), payload, room }).is_ok()
    }

    /// Returns when everything published before is with the client, in front of whatever is handed to it next.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            // The task answers unless it has ended.
            flushed.await.ok();
        }
    }
}

struct Sender {
    connection: Connection,
    addresses: Addresses,
    losses: Arc<Losses>,
}

impl Sender {
    async fn run(self, mut items: mpsc::Receiver<Item>) {
        loop {
            let item = match items.is_closed() {
                false => items.recv().await,
                true => timeout(LAST_FLUSH_MAX, items.recv()).await.ok().flatten(),
            };
            match item {
                Some(Item::Publication { subjects, payload, room }) => {
                    let send = self.send(&subjects, payload);
                    tokio::select! {
                        () = send => {}
                        // Nobody publishes any more, and the servers are away.
                        () = give_up(&items) => return,
                    }
                    drop(room);
                }
                Some(Item::Flush(done)) => {
                    // Whoever asked may be gone.
                    done.send(()).ok();
                }
                None => break,
            }
        }
        if timeout(LAST_FLUSH_MAX, self.connection.client.flush()).await.is_err() {
            tracing::debug!("the last publications may not have been sent");
        }
    }

    async fn send(&self, subjects: &[Subject], payload: Bytes) {
        let client = &self.connection.client;
        for subject in subjects {
            let address = self.addresses.publications(subject);
            if let Err(error) = client.publish(address, payload.clone()).await {
                self.losses.publications.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, %subject, "a publication cannot be sent");
            }
        }
    }
}

/// Returns a while after the publisher was dropped.
async fn give_up(items: &mpsc::Receiver<Item>) {
    while !items.is_closed() {
        tokio::time::sleep(LAST_FLUSH_MAX).await;
    }
    tokio::time::sleep(LAST_FLUSH_MAX).await;
}
