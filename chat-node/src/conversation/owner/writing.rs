//! Brings committed entries into the store, in log order, one write at a time per partition.
//!
//! What waits is bounded over the whole node: beyond that only the log holds it, and the writer reads it from there. A
//! write is repeated until the store has taken it; an entry that the store refuses is set aside, so that the watermark
//! goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chat_broker::Sequence;
use chat_protocol::error::Refusal;
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Entry, Record, RecordKind};
use chat_protocol::{ConversationId, MessageId, Partition, UserId};
use chat_store::{Checkpoint, MarkRow, QuarantineRow, Write};
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::command::Reply;
use super::super::rows::{EntryRows, pack};
use super::replay::Replay;
use super::{Owner, Shared, wait};
use crate::limits::UNWRITTEN_BYTES_MAX;

/// Entries of one write.
const ENTRIES_MAX: usize = 1_000;

/// Writes begin at the same times in all partitions, this far apart, so that they share a commit; and a group's inbox
/// row costs about the same for one message as for fifty. Cursors rise later by as much; nobody else waits for it.
const WINDOW: Duration = Duration::from_millis(250);

/// Delivery marks that wait; more come again from their devices.
const MARKS_MAX: usize = 10_000;

/// A change of a conversation is answered once it can be read, or after this time at the latest.
const ANSWER_AFTER_MAX: Duration = Duration::from_secs(2);

/// An entry that the store refuses this often is set aside.
const REFUSALS_MAX: usize = 5;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

struct Waiting {
    entry: Arc<Entry>,
    rows: EntryRows,
    bytes: usize,
    /// The sequence of the record that this entry is the last of.
    ends_record: Option<Sequence>,
}

struct WaitingAnswer {
    id: MessageId,
    reply: oneshot::Sender<Result<Reply, Refusal>>,
    answer: Reply,
    since: Duration,
}

/// What a write brought into the store.
#[derive(Default)]
pub(super) struct Written {
    /// Everything up to here.
    up_to: Option<MessageId>,
    conversations: Vec<ConversationId>,
    bytes: usize,
    checkpoint: Option<Sequence>,
    /// The log has been read to this sequence, and there was no more.
    log_read_to: Option<Sequence>,
}

pub(super) struct Writing {
    queue: VecDeque<Waiting>,
    /// When the oldest entry in `queue` has waited for others long enough.
    due: Option<Instant>,
    under_way: Option<BoxFuture<'static, Written>>,
    /// The last record of which everything is in `queue` or in the store.
    kept_to: Sequence,
    /// Later records are only in the log.
    spilled: bool,
    checkpoint: Sequence,
    /// Checkpoints that may still be lost in a crash of the store, with the time they were reached. With a store that loses
    /// nothing: what a replay has to begin with.
    trail: VecDeque<(Duration, Sequence)>,
    /// What is behind the first checkpoint of the trail is being written again.
    is_replaying: bool,
    /// Its part of what the node keeps in memory until it is written.
    held_bytes: usize,
    /// A tick was accepted: its reservation belongs into the checkpoint.
    ticked: bool,
    marks: BTreeMap<(ConversationId, UserId), u64>,
    answers: VecDeque<WaitingAnswer>,
}

impl Writing {
    /// `durable_to`: what is behind it may not be in the store, or still be lost in a crash of the store.
    pub(super) fn new(
        opened_at: Sequence,
        durable_to: Option<Sequence>,
        elapsed: Duration,
    ) -> Writing {
        Writing {
            queue: VecDeque::new(),
            due: None,
            under_way: None,
            kept_to: opened_at,
            spilled: false,
            checkpoint: opened_at,
            trail: durable_to.map(|sequence| (elapsed, sequence)).into_iter().collect(),
            is_replaying: false,
            held_bytes: 0,
            ticked: false,
            marks: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Takes an entry that was just committed. `false`: there is no room in memory, only the log holds it.
    pub(super) fn add(
        &mut self,
        shared: &Shared,
        entry: Arc<Entry>,
        rows: EntryRows,
        bytes: usize,
        ends_record: Option<Sequence>,
    ) -> bool {
        let waiting = shared.unwritten_bytes.load(Ordering::Relaxed);
        if self.spilled || waiting + bytes > UNWRITTEN_BYTES_MAX {
            self.spilled = true;
            return false;
        }
        shared.unwritten_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held_bytes += bytes;
        self.queue.push_back(Waiting { entry, rows, bytes, ends_record });
        self.due.get_or_insert_with(|| Instant::now() + until_next_window(shared.clock.elapsed()));
        if let Some(sequence) = ends_record {
            self.kept_to = sequence;
        }
        true
    }

    /// What is behind the first checkpoint of the trail is to be written again. Returns that checkpoint, which stays.
    pub(super) fn begin_replay(&mut self, elapsed: Duration) -> Sequence {
        self.is_replaying = true;
        if self.trail.is_empty() {
            self.trail.push_back((elapsed, self.checkpoint));
        }
        self.trail[0].1
    }

    /// Its part of [`Shared::unwritten_bytes`].
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Nobody waits for the store any longer: all of it is committed.
    pub(super) fn answer_all(&mut self) {
        for waiting in self.answers.drain(..) {
            drop(waiting.reply.send(Ok(waiting.answer)));
        }
    }

    /// It was written again, and may still be lost for as long as `lag`.
    pub(super) fn replayed(&mut self, lag: Duration, elapsed: Duration) {
        self.is_replaying = false;
        self.ticked = true;
        self.trail.truncate(if lag.is_zero() { 0 } else { 1 });
        if let Some(first) = self.trail.front_mut() {
            first.0 = elapsed;
        }
    }

    /// The next write brings the reservation into the checkpoint, even if nothing else is written.
    pub(super) fn write_checkpoint(&mut self) {
        self.ticked = true;
    }

    /// A tick was accepted.
    pub(super) fn ticked(&mut self, sequence: Sequence) {
        self.ticked = true;
        if !self.spilled && self.queue.is_empty() && self.under_way.is_none() {
            self.kept_to = sequence;
            self.checkpoint = sequence;
        }
    }

    /// A delivery mark to write when there is time.
    pub(super) fn add_mark(&mut self, mark: MarkRow) {
        if self.marks.len() < MARKS_MAX {
            let seq = self.marks.entry((mark.conversation_id, mark.user_id)).or_default();
            *seq = mark.seq.max(*seq);
        }
    }

    /// Answers once everything up to `id` can be read.
    pub(super) fn answer_after(
        &mut self,
        id: MessageId,
        reply: oneshot::Sender<Result<Reply, Refusal>>,
        answer: Reply,
        since: Duration,
    ) {
        self.answers.push_back(WaitingAnswer { id, reply, answer, since });
        self.hurry();
    }

    /// Somebody waits for what is in the queue.
    pub(super) fn hurry(&mut self) {
        self.due = Some(Instant::now());
    }

    /// It is committed; the store being slow is no reason to leave the asker without an answer.
    pub(super) fn answer_overdue(&mut self, elapsed: Duration) {
        while self
            .answers
            .front()
            .is_some_and(|first| elapsed.saturating_sub(first.since) > ANSWER_AFTER_MAX)
        {
            if let Some(first) = self.answers.pop_front() {
                drop(first.reply.send(Ok(first.answer)));
            }
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for the write under way.
    pub(super) async fn done(&mut self) -> Written {
        let written = wait(&mut self.under_way).await;
        self.under_way = None;
        written
    }

    /// What may be purged from the log.
    pub(super) fn durable_to(&self) -> Sequence {
        self.trail.front().map_or(self.checkpoint, |(_, sequence)| *sequence)
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.spilled && self.under_way.is_none()
    }

    /// When the next write is to begin; none: nothing waits, or one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.under_way.is_none() && !self.queue.is_empty())
    }

    fn is_due(&self) -> bool {
        self.queue.len() >= ENTRIES_MAX || self.due().is_some_and(|due| due <= Instant::now())
    }

    fn take_queue(&mut self) -> Vec<Waiting> {
        if self.queue.len() <= ENTRIES_MAX {
            self.due = None;
        }
        self.queue.drain(..self.queue.len().min(ENTRIES_MAX)).collect()
    }

    fn take_marks(&mut self) -> Vec<Write> {
        let marks = std::mem::take(&mut self.marks).into_iter();
        marks
            .map(|((conversation_id, user_id), seq)| {
                Write::Delivered(MarkRow { conversation_id, user_id, seq })
            })
            .collect()
    }

    /// The checkpoint that is safe to write: trails by what the store may lose.
    fn trailing(&mut self, lag: Duration, elapsed: Duration) -> Sequence {
        if self.is_replaying {
            return self.durable_to();
        }
        if lag.is_zero() {
            return self.checkpoint;
        }
        if self.trail.back().is_none_or(|(_, last)| *last < self.checkpoint) {
            self.trail.push_back((elapsed, self.checkpoint));
        }
        while self.trail.len() > 1 && elapsed.saturating_sub(self.trail[1].0) >= lag {
            self.trail.pop_front();
        }
        self.durable_to()
    }
}

/// From `elapsed` since the start of the process to the next common time of writing.
fn until_next_window(elapsed: Duration) -> Duration {
    let window_ns = WINDOW.as_nanos();
    let past_ns = elapsed.as_nanos() % window_ns;
    Duration::from_nanos((window_ns - past_ns) as u64)
}

impl Owner {
    /// Starts the next write, if none is under way and one is due.
    pub(super) fn write_more(&mut self) {
        if self.writing.under_way.is_none()
            && (self.writing.queue.is_empty() || self.writing.is_due())
        {
            self.write_now();
        }
    }

    /// Starts the next write, if anything waits.
    fn write_now(&mut self) {
        let shared = self.shared.clone();
        let partition = self.partition;
        let marks = self.writing.take_marks();
        if !self.writing.queue.is_empty() {
            let waiting = self.writing.take_queue();
            let checkpoint = waiting.iter().rev().find_map(|waiting| waiting.ends_record);
            let row = checkpoint.map(|sequence| self.checkpoint_row(sequence));
            self.writing.under_way =
                Some(Box::pin(write_waiting(shared, partition, waiting, checkpoint, row, marks)));
        } else if self.writing.spilled && !self.locked().inherits() {
            // Rows of what is only in the log follow from what the store says of everything before it.
            let after = self.writing.kept_to;
            let row = self.checkpoint_row(after);
            let row = Some(row).filter(|_| !self.trails());
            self.writing.under_way = Some(Box::pin(write_from_log(shared, partition, after, row)));
        } else if !marks.is_empty() {
            self.writing.under_way = Some(Box::pin(async move {
                if let Err(error) = shared.store.apply(partition, marks, None).await {
                    tracing::debug!(%partition, %error, "delivery marks not written; devices repeat them");
                }
                Written::default()
            }));
        } else if std::mem::take(&mut self.writing.ticked) {
            let row = self.checkpoint_row(self.writing.checkpoint);
            self.writing.under_way = Some(Box::pin(async move {
                match shared.store.put_checkpoints(vec![(partition, row)]).await {
                    Ok(()) => shared.outages.succeeded(),
                    Err(error) => {
                        shared.store_failed(&error);
                        tracing::debug!(%partition, %error, "checkpoint not written; the next tick writes it");
                    }
                }
                Written::default()
            }));
        }
    }

    fn checkpoint_row(&mut self, sequence: Sequence) -> Checkpoint {
        let lag = self.shared.store.durability_lag();
        let elapsed = self.shared.clock.elapsed();
        let trailing = match self.trails() {
            true => self.writing.trailing(lag, elapsed),
            false => sequence,
        };
        self.locked().checkpoint(trailing)
    }

    /// Checkpoints do not simply follow what is written.
    fn trails(&self) -> bool {
        self.writing.is_replaying || !self.shared.store.durability_lag().is_zero()
    }

    /// A write is done: ids are written, answers go out, memory is free.
    pub(super) fn written(&mut self, written: Written) {
        self.shared.unwritten_bytes.fetch_sub(written.bytes, Ordering::Relaxed);
        self.writing.held_bytes -= written.bytes;
        let waiting = self.shared.unwritten_bytes.load(Ordering::Relaxed);
        self.shared.metrics.unwritten_bytes.set(waiting as i64);
        if let Some(sequence) = written.checkpoint {
            self.writing.checkpoint = self.writing.checkpoint.max(sequence);
        }
        if let Some(sequence) = written.log_read_to {
            self.writing.kept_to = self.writing.kept_to.max(sequence);
            self.writing.checkpoint = self.writing.checkpoint.max(sequence);
            // Nothing was committed since the log was read: memory takes over again.
            if sequence == self.locked().sequence() && self.append.is_none() {
                self.writing.spilled = false;
            }
        }
        let Some(up_to) = written.up_to else { return };
        self.locked().written_up_to(up_to);
        for conversation in written.conversations {
            if let Some(slot) = self.slots.find(&conversation) {
                slot.written(up_to);
            }
            let released = self.slots.release(conversation, up_to);
            self.publish(released);
        }
        while self.writing.answers.front().is_some_and(|first| first.id <= up_to) {
            if let Some(first) = self.writing.answers.pop_front() {
                drop(first.reply.send(Ok(first.answer)));
            }
        }
    }

    /// Writes everything that waits; for a graceful end.
    pub(super) async fn write_all(&mut self) {
        loop {
            if !self.writing.is_under_way() {
                self.write_now();
            }
            if !self.writing.is_under_way() && self.writing.is_idle() {
                return;
            }
            let written = self.writing.done().await;
            self.written(written);
        }
    }
}

async fn write_waiting(
    shared: Arc<Shared>,
    partition: Partition,
    waiting: Vec<Waiting>,
    checkpoint: Option<Sequence>,
    row: Option<Checkpoint>,
    marks: Vec<Write>,
) -> Written {
    let up_to = waiting.last().map(|waiting| waiting.rows.id);
    let bytes = waiting.iter().map(|waiting| waiting.bytes).sum();
    let mut conversations: Vec<_> =
        waiting.iter().map(|waiting| waiting.rows.conversation_id).collect();
    conversations.sort_unstable();
    conversations.dedup();
    let entries = waiting.into_iter().map(|waiting| (waiting.entry, waiting.rows)).collect();
    write(&shared, partition, entries, row).await;
    if !marks.is_empty()
        && let Err(error) = shared.store.apply(partition, marks, None).await
    {
        tracing::debug!(%partition, %error, "delivery marks not written; devices repeat them");
    }
    Written { up_to, conversations, bytes, checkpoint, log_read_to: None }
}

/// Writes a page of records that only the log holds.
async fn write_from_log(
    shared: Arc<Shared>,
    partition: Partition,
    after: Sequence,
    row: Option<Checkpoint>,
) -> Written {
    let mut pause = FIRST_PAUSE;
    loop {
        match page_from_log(&shared, partition, after, row).await {
            Ok(written) => return written,
            Err(error) => {
                shared.metrics.write_retries.inc();
                tracing::debug!(%partition, %error, "cannot bring the log into the store yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn page_from_log(
    shared: &Shared,
    partition: Partition,
    after: Sequence,
    row: Option<Checkpoint>,
) -> anyhow::Result<Written> {
    let page = shared.broker.read_log(partition, after, RECORD_BYTES_MAX).await?;
    let mut written = Written { log_read_to: Some(after), ..Written::default() };
    let mut replay = Replay::default();
    for stored in page {
        let record = Record::from_bytes(&stored.payload)?;
        if record.kind == RecordKind::Batch as i32 {
            let rows = replay.rows(&*shared.store, &record).await?;
            written.conversations.extend(rows.iter().map(|rows| rows.conversation_id));
            written.up_to = rows.last().map(|rows| rows.id).or(written.up_to);
            let entries: Vec<_> = record.entries.into_iter().map(Arc::new).zip(rows).collect();
            let row = row.map(|row| Checkpoint { sequence: stored.sequence.0, ..row });
            write(shared, partition, entries, row).await;
        }
        written.log_read_to = Some(stored.sequence);
    }
    Ok(written)
}

/// Writes entries and then the checkpoint, and does not give up.
pub(super) async fn write(
    shared: &Shared,
    partition: Partition,
    entries: Vec<(Arc<Entry>, EntryRows)>,
    checkpoint: Option<Checkpoint>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let writes = pack(entries.iter().map(|(_, rows)| rows.clone()).collect());
        match shared.store.apply(partition, writes, checkpoint).await {
            Ok(()) => return shared.outages.succeeded(),
            Err(chat_store::Error::Refused(_)) => break,
            Err(error) => {
                shared.store_failed(&error);
                tracing::debug!(%partition, %error, "the store does not take a write, trying on");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    for (entry, rows) in entries {
        write_alone(shared, partition, &entry, rows).await;
    }
    if let Some(checkpoint) = checkpoint {
        retry(shared, || shared.store.put_checkpoints(vec![(partition, checkpoint)])).await;
    }
}

/// One of several entries was refused: each is written by itself, and the one that is refused again and again is set
/// aside.
async fn write_alone(shared: &Shared, partition: Partition, entry: &Entry, rows: EntryRows) {
    let id = rows.id;
    let writes = pack(vec![rows]);
    let mut refusals = 0;
    let mut pause = FIRST_PAUSE;
    let reason = loop {
        match shared.store.apply(partition, writes.clone(), None).await {
            Ok(()) => return,
            Err(chat_store::Error::Refused(reason)) => {
                refusals += 1;
                if refusals >= REFUSALS_MAX {
                    break reason;
                }
            }
            Err(error) => shared.store_failed(&error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    tracing::error!(%partition, %id, %reason, "the store refuses an entry; it is set aside in the quarantine table");
    shared.metrics.quarantined.inc();
    let row = QuarantineRow { partition, id, entry: entry.encode_to_vec(), reason };
    retry(shared, || shared.store.quarantine(row.clone())).await;
}

async fn retry<F>(shared: &Shared, mut call: impl FnMut() -> F)
where
    F: Future<Output = Result<(), chat_store::Error>>,
{
    let mut pause = FIRST_PAUSE;
    while let Err(error) = call().await {
        shared.store_failed(&error);
        tracing::debug!(%error, "the store does not take a write, trying on");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
