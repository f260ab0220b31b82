//! Fetches messages that were too large for the bus, once for all sessions of this node.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chat_broker::Subject;
use chat_protocol::UserId;
use chat_protocol::message::Message;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::waiting::{Arrival, Job, WaitingRoom};
use crate::delivery::{Frame, Part, Place, Pointer};
use crate::limits::{FETCH_DEADLINE_MS, FETCHES_CONCURRENT_MAX};

/// Where messages are fetched from.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// A message as it is now. `reader` is one of those whom its owner sent the pointer.
    async fn fetch(&self, reader: UserId, place: Place) -> Option<Message>;
}

impl Hub {
    /// Takes in what came for a user while something waits, or has to be fetched.
    pub(super) fn arrive(&self, user: UserId, parts: &[Part]) {
        let now = self.clock.elapsed();
        let mut ready = Vec::with_capacity(parts.len());
        let mut room = self.waiting_room();
        for part in parts {
            if matches!(part, Part::Pointer(pointer) if !self.is_for_somebody(user, pointer)) {
                continue;
            }
            match room.arrive(user, part, now) {
                Arrival::Ready(frame) => ready.push(frame),
                Arrival::Waits => {}
                Arrival::Refused => _ = self.counters.refused.inc(),
            }
        }
        // Before the room is unlocked: what is released from it later must not come first.
        self.push(&[Subject::User(user)], &ready);
        self.waiting_users.store(room.lines(), Ordering::Release);
        let is_wanted = room.has_jobs();
        drop(room);
        if is_wanted {
            self.fetch.notify_one();
        }
    }

    /// Whether a connection of this node wants it: not the one that caused it.
    fn is_for_somebody(&self, user: UserId, pointer: &Pointer) -> bool {
        let subject = Subject::User(user);
        let mut is_wanted = false;
        if let Some(entry) = self.shard(&subject).get(&subject) {
            entry.group.for_each(|outbox| is_wanted |= outbox.connection != pointer.origin);
        }
        is_wanted
    }

    /// Fetches what comes as a pointer, until `stop`.
    pub async fn fetch_bodies(self: Arc<Hub>, source: Arc<dyn Fetch>, stop: CancellationToken) {
        let mut fetches = FuturesUnordered::new();
        loop {
            while fetches.len() < FETCHES_CONCURRENT_MAX {
                let Some(job) = self.waiting_room().take_job() else { break };
                fetches.push(self.fetch_one(&*source, job));
            }
            tokio::select! {
                Some((pointer, frame)) = fetches.next() => self.fetched(&pointer, frame),
                () = self.fetch.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn fetch_one(&self, source: &dyn Fetch, job: Job) -> (Pointer, Option<Arc<Frame>>) {
        let Job { pointer, reader, since } = job;
        let until = since + Duration::from_millis(FETCH_DEADLINE_MS);
        let remaining = until.saturating_sub(self.clock.elapsed());
        let message = tokio::time::timeout(remaining, source.fetch(reader, pointer.place)).await;
        (pointer, message.ok().flatten().and_then(|message| pointer.frame(message)))
    }

    fn fetched(&self, pointer: &Pointer, frame: Option<Arc<Frame>>) {
        match &frame {
            Some(_) => _ = self.counters.fetched.inc(),
            None => {
                self.counters.unfetched.inc();
                tracing::debug!(entry = %pointer.id, "a message cannot be fetched; it comes with the next inbox read");
            }
        }
        let mut room = self.waiting_room();
        let released = room.fetched(pointer.id, frame, self.clock.elapsed());
        self.counters.refused.inc_by(released.refused);
        for (user, frames) in released.ready {
            self.push(&[Subject::User(user)], &frames);
        }
        self.waiting_users.store(room.lines(), Ordering::Release);
    }

    fn waiting_room(&self) -> MutexGuard<'_, WaitingRoom> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}
