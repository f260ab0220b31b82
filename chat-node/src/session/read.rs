//! Reads of inboxes: the catch-up of a resume and the audits after it are the same read.

use std::sync::Arc;
use std::time::Duration;

use chat_protocol::MessageId;
use chat_store::{Error, InboxEntry, PointerKind};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::{self, Resolved};
use super::progress::Goal;
use super::{Gateway, Session, jittered};
use crate::delivery::{Class, Frame};
use crate::hub::Item;

/// Entries of one page: as many as a busy connection was sent since its last read. Pointers only, 56 bytes each.
const PAGE_ENTRIES: usize = 2_048;
/// Entries resolved at once: their rows are in memory together, with bodies of up to 448 KB.
const CHUNK_ENTRIES: usize = 32;
/// A chunk is cut here, so that a socket has to take it before the next is read.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// No read goes on while this much of earlier ones waits for the socket.
const WAITING_BYTES_MAX: usize = 128 * 1024;
/// Then it comes back after this time.
const WAIT_FOR_SOCKET: Duration = Duration::from_millis(100);
const FAILURE_DELAY: Duration = Duration::from_secs(1);
const FAILURE_DELAY_MAX: Duration = Duration::from_secs(30);

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// The goal.
    End,
    /// The socket has to take something first.
    Socket,
}

impl Gateway {
    /// Reads inboxes as they fall due, a bounded number at a time.
    pub(super) async fn read_inboxes(
        self: Arc<Gateway>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(self.parts.settings.reads_max.max(1)));
        let reads = async {
            loop {
                self.schedule.wait().await;
                let now = self.elapsed();
                let offline_after = Duration::from_millis(self.parts.settings.offline_after_ms);
                self.polls.forget_unused(now, offline_after * 2);
                for (session, generation) in self.schedule.take_due(now) {
                    let Some(session) = session.upgrade() else { continue };
                    if !session.begin_read(generation) {
                        continue;
                    }
                    let Ok(permit) = permits.clone().acquire_owned().await else { return };
                    let gateway = self.clone();
                    tracker.spawn(async move {
                        gateway.read_inbox(&session).await;
                        drop(permit);
                    });
                }
            }
        };
        stop.run_until_cancelled(reads).await;
    }

    /// Puts the session's next read on the schedule, in place of the one that stood there.
    pub(super) fn schedule_read(&self, session: &Arc<Session>, after: Duration) {
        let generation = {
            let mut reading = session.reading();
            reading.generation += 1;
            reading.generation
        };
        self.schedule.insert(self.elapsed(), after, (Arc::downgrade(session), generation));
    }

    /// One read, outside the schedule.
    #[cfg(test)]
    pub(super) async fn read_now(&self, session: &Arc<Session>) {
        let outcome = self.read_to_safe(session).await;
        session.end_read(&outcome, self);
        outcome.expect("the store in memory answers");
    }

    /// One read, and the time of the next.
    async fn read_inbox(&self, session: &Arc<Session>) {
        let outcome = self.read_to_safe(session).await;
        self.parts.metrics.inbox_reads.inc();
        let after = session.end_read(&outcome, self);
        if let Err(error) = &outcome {
            self.parts.metrics.inbox_read_failures.inc();
            tracing::debug!(user = %session.caller.user_id, %error, "inbox read failed, trying again");
        }
        if !session.outbox.has_ended() {
            self.schedule_read(session, after);
        }
    }

    /// Queues the entries above the cursor and up to the safe watermark of this moment, and the cursor behind them.
    async fn read_to_safe(&self, session: &Session) -> Result<Reached, Error> {
        let watermarks = &self.parts.watermarks;
        // The watermark first, then the inbox: what is at or below it is in the store by now.
        let goal = {
            let safe = watermarks.safe();
            let mut reading = session.reading();
            let settled = reading.progress.unsettled().and_then(|t| watermarks.settled(t));
            reading.progress.goal(safe, settled)
        };
        loop {
            let position = session.position();
            if goal.safe <= position {
                session.queue(Vec::new(), goal, goal.safe);
                break;
            }
            let user = session.caller.user_id;
            let page = self.parts.store.inbox(user, position, goal.safe, PAGE_ENTRIES).await?;
            let page_end = match page.entries.last() {
                Some(last) if page.more => last.pointer.id,
                _ => goal.safe,
            };
            if self.send_page(session, &page.entries, goal, page_end).await? == Reached::Socket {
                return Ok(Reached::Socket);
            }
            if !page.more {
                break;
            }
        }
        if !session.reading().progress.is_complete() {
            self.send_early(session, goal).await?;
        }
        session.outbox.forget_up_to(session.position());
        Ok(Reached::End)
    }

    async fn send_page(
        &self,
        session: &Session,
        entries: &[InboxEntry],
        goal: Goal,
        page_end: MessageId,
    ) -> Result<Reached, Error> {
        if session.unsent(entries).is_empty() {
            session.queue(Vec::new(), goal, page_end);
            return Ok(Reached::End);
        }
        let chunks = entries.chunks(CHUNK_ENTRIES).collect::<Vec<_>>();
        for (index, chunk) in chunks.iter().enumerate() {
            if session.outbox.has_ended() || session.outbox.read_bytes() > WAITING_BYTES_MAX {
                return Ok(Reached::Socket);
            }
            let chunk_end = match chunks.get(index + 1) {
                Some(next) => last_below(chunk, next[0].pointer.id),
                None => page_end,
            };
            let (frames, cut_at) = self.resolve(session, chunk, CHUNK_BYTES_MAX).await?;
            session.queue(frames, goal, cut_at.unwrap_or(chunk_end));
            if cut_at.is_some() {
                return Ok(Reached::Socket);
            }
        }
        Ok(Reached::End)
    }

    /// Shows what is in the store above the safe watermark, without a cursor: a resume should not wait for it.
    async fn send_early(&self, session: &Session, goal: Goal) -> Result<(), Error> {
        let user = session.caller.user_id;
        let above = goal.safe.max(session.position());
        let end = MessageId(u64::MAX >> 1);
        let page = self.parts.store.inbox(user, above, end, CHUNK_ENTRIES).await?;
        if session.outbox.read_bytes() <= WAITING_BYTES_MAX {
            let (frames, _) = self.resolve(session, &page.entries, CHUNK_BYTES_MAX).await?;
            session.outbox.push_read(frames, None);
        }
        Ok(())
    }

    /// Frames for the entries that this connection was not sent, and where they were cut.
    async fn resolve(
        &self,
        session: &Session,
        entries: &[InboxEntry],
        bytes_max: usize,
    ) -> Result<(Vec<Arc<Frame>>, Option<MessageId>), Error> {
        let unsent = session.unsent(entries);
        if session.reading().reads > 0 {
            self.parts.metrics.entries_repaired.inc_by(unsent.len() as u64);
        }
        let store = &*self.parts.store;
        let resolved = inbox::resolve(store, session.caller.user_id, &unsent).await?;
        // Cut by all entries, also those sent before: the cursor may pass them.
        let (kept, cut_at) = inbox::cut(resolved, entries, bytes_max);
        Ok((kept.iter().map(frame).collect(), cut_at))
    }
}

impl Session {
    /// Whether the reading may begin that was put on the schedule as `generation`.
    fn begin_read(&self, generation: u64) -> bool {
        let mut reading = self.reading();
        let begins = reading.generation == generation && !reading.is_running;
        reading.is_running |= begins;
        begins
    }

    /// Notes a read, and says when the next is due.
    fn end_read(&self, outcome: &Result<Reached, Error>, gateway: &Gateway) -> Duration {
        let settings = &gateway.parts.settings;
        let mut reading = self.reading();
        reading.is_running = false;
        match outcome {
            Err(_) => {
                let delay = FAILURE_DELAY * 2u32.pow(reading.failures.min(5));
                reading.failures += 1;
                return jittered(delay.min(FAILURE_DELAY_MAX));
            }
            Ok(Reached::Socket) => return WAIT_FOR_SOCKET,
            Ok(Reached::End) => {}
        }
        reading.failures = 0;
        reading.reads += 1;
        let first_audit = Duration::from_millis(settings.first_audit_ms);
        let age = gateway.elapsed().saturating_sub(reading.opened_at);
        let after_ms = match reading.progress.is_complete() {
            false => settings.catch_up_interval_ms,
            true if age < first_audit => settings.first_audit_ms,
            true => settings.audit_interval_ms,
        };
        jittered(Duration::from_millis(after_ms))
    }

    /// Those of the entries that this connection was not sent.
    fn unsent(&self, entries: &[InboxEntry]) -> Vec<InboxEntry> {
        let reading = self.reading();
        let mut unsent = entries.to_vec();
        unsent.retain(|entry| !reading.extra.contains(&entry.pointer.id));
        drop(reading);
        self.outbox.retain_unsent(&mut unsent, |entry| match entry.pointer.kind {
            PointerKind::Message | PointerKind::Revision => Some(entry.pointer.id),
            PointerKind::Reaction | PointerKind::Conversation | PointerKind::Read => None,
        });
        unsent
    }

    /// Queues frames and, behind them, the cursor that they raise.
    fn queue(&self, frames: Vec<Arc<Frame>>, goal: Goal, read_to: MessageId) {
        let mut reading = self.reading();
        let cursor = reading.progress.advance(goal, read_to);
        let position = reading.progress.position();
        reading.extra.retain(|id| *id > position);
        // Still locked: a second read must not put its cursor before these frames.
        let cursor = cursor.map(|(safe, catching_up)| Item::Cursor { safe, catching_up });
        self.outbox.push_read(frames, cursor);
    }
}

fn frame(resolved: &Resolved) -> Arc<Frame> {
    Arc::new(Frame::new(Class::Chat, resolved.id, &resolved.frame))
}

/// The last id of a chunk that is below the next one's first: entries of one id must not be parted by a cursor.
fn last_below(chunk: &[InboxEntry], next: MessageId) -> MessageId {
    let below = chunk.iter().rfind(|entry| entry.pointer.id < next);
    below.map_or(MessageId::ZERO, |entry| entry.pointer.id)
}
