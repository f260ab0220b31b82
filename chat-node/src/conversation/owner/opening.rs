//! Taking a partition: the opening record, and what was committed before it.
//!
//! An owner that closed the partition says whether the store holds everything; then its heir opens at once. Otherwise, and
//! after a crash, it reads the log first, and knows what the store may lack: from where the last record says that the store
//! holds everything, if this node has seen the store there since; else from the checkpoint.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::{Sequence, StoredRecord};
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Record, RecordKind};
use chat_protocol::{NodeId, Partition};
use chat_store::Checkpoint;
use tokio::time::Instant;

use super::Shared;
use super::inheritance::{Heir, Inheritance};
use super::replay::Replay;
use super::writing::write;
use crate::partition::Lease;
use crate::partition::append::{Settled, settle};
use crate::partition::ownership::{Ownership, Tip};

const PAUSE: Duration = Duration::from_millis(200);

/// Between two looks whether a partition is closed by now.
const HELD_PAUSE: Duration = Duration::from_millis(10);

/// Between two attempts to read the log or to write it again.
const REPLAY_PAUSE: Duration = Duration::from_secs(2);

/// When the end of the log is written again after a hand-over, and how far partitions are apart in this. Late: a rollout
/// moves a partition several times within a minute, and only the last of its owners has to.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const AGAIN_SPREAD: Duration = Duration::from_millis(100);

/// When what is inherited is written to a store that many partitions share: senders have waited long enough, and go first.
const INHERITED_AFTER: Duration = Duration::from_secs(1);

/// Bytes of the log read at a time.
const PAGE_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// A partition of whose log everything up to the opening record is known, or in the store.
pub(super) struct Opened {
    pub(super) ownership: Ownership,
    pub(super) sequence: Sequence,
    pub(super) past: Past,
    /// Nobody has owned it before.
    pub(super) unused: bool,
    /// The store was away within the time for which it may lose what it takes.
    pub(super) has_store_failed: bool,
}

/// Opens a partition. `None`: it is another node's.
pub(super) async fn open(
    shared: &Arc<Shared>,
    partition: Partition,
    patience: Duration,
) -> Option<Opened> {
    let patient_until = Instant::now() + patience;
    let mut complained = false;
    let failures = shared.outages.failures();
    let mut has_failed = false;
    loop {
        // What a closing record says of the store holds for a store that has not been away since.
        let is_trusted = !has_failed && shared.outages.failures() == failures;
        match attempt(shared, partition, is_trusted).await {
            Ok(Attempt::Opened(opened)) => return Some(*opened),
            // Its owner said that it has closed it: the read was stale.
            Ok(Attempt::Held) if Instant::now() < patient_until => {
                tokio::time::sleep(HELD_PAUSE).await;
            }
            Ok(Attempt::Held | Attempt::Lost) => return None,
            Err(error) => {
                has_failed = true;
                // Once is enough: the readiness probe goes on telling.
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%partition, %error, "cannot open the partition yet, trying on");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What came of one attempt.
enum Attempt {
    Opened(Box<Opened>),
    /// The owner's lease has not ended, and it has not closed the partition; or the own lease is not good.
    Held,
    /// Another node was quicker.
    Lost,
}

async fn attempt(
    shared: &Arc<Shared>,
    partition: Partition,
    is_trusted: bool,
) -> anyhow::Result<Attempt> {
    let last = match shared.broker.last(partition).await? {
        Some(stored) => Some((stored.sequence, Record::from_bytes(&stored.payload)?)),
        None => None,
    };
    let is_closed = match &last {
        Some((_, record)) => is_closed(shared, record),
        None => Some(true),
    };
    let Some(is_closed) = is_closed.filter(|_| shared.leases.is_held()) else {
        return Ok(Attempt::Held);
    };
    let checkpoint = shared.store.checkpoint(partition).await?;
    let tip = match &last {
        Some((sequence, record)) => Tip::of_record(*sequence, record),
        None => Tip::of_empty(&checkpoint),
    };
    let tip = if is_trusted { tip } else { tip.doubting_store() };
    // The opening record passes on what was said of the store, unless this node knows better.
    let has_store_failed = shared.has_store_failed();
    let passed_on = if has_store_failed { tip.doubting_store() } else { tip };
    let mut ownership = Ownership::open(partition, shared.lease, passed_on, shared.clock.now());
    let Some(append) = ownership.append().cloned() else { return Ok(Attempt::Lost) };
    match settle(&*shared.broker, partition, &append).await {
        Settled::Accepted(sequence) => ownership.accepted(sequence),
        // The opening record is never sent again with another number: a new attempt reads the last record again.
        Settled::Deposed => return Ok(Attempt::Lost),
        Settled::Full => anyhow::bail!("the log has no room for an opening record"),
        Settled::TooLarge => anyhow::bail!("the broker refuses an opening record as too large"),
    }
    let sequence = ownership.sequence();
    let last_sequence = last.as_ref().map_or(Sequence(0), |(sequence, _)| *sequence);
    let past = match tip.is_unused() {
        true => Past::none(shared, sequence),
        false => {
            let before = Before { tip, last_sequence, checkpoint };
            Past::find_out(shared, partition, &ownership, before).await
        }
    };
    ownership.learnt(past.inheritance.first());
    if !is_closed {
        shared.metrics.take_overs.inc();
    }
    let unused = tip.is_unused();
    let opened = Opened { ownership, sequence, past, unused, has_store_failed };
    Ok(Attempt::Opened(Box::new(opened)))
}

/// What was found when a partition was opened.
struct Before {
    tip: Tip,
    last_sequence: Sequence,
    checkpoint: Checkpoint,
}

/// What of the log before the opening record may not be in the store, or not for ever.
pub(super) struct Past {
    /// What is behind it may not be in the store, or be lost if the store fails soon. None: all is there.
    pub(super) durable_to: Option<Sequence>,
    /// What of that may not be in the store at all.
    pub(super) inheritance: Inheritance,
    /// Behind this the log is to be written again, after a while.
    pub(super) replay: Option<(Sequence, Duration)>,
}

impl Past {
    /// There is nothing before the opening record.
    fn none(shared: &Arc<Shared>, opened_at: Sequence) -> Past {
        let durable_to = Some(opened_at).filter(|_| trails(shared));
        Past { durable_to, inheritance: Inheritance::none(shared), replay: None }
    }

    async fn find_out(
        shared: &Arc<Shared>,
        partition: Partition,
        ownership: &Ownership,
        before: Before,
    ) -> Past {
        let Before { tip, last_sequence, checkpoint } = before;
        let trails = trails(shared);
        // A checkpoint ahead of the log speaks of a log that is lost: nothing of this one is known to be in the store.
        let is_of_this_log = Sequence(checkpoint.sequence) <= last_sequence;
        let written_to = Sequence(if is_of_this_log { checkpoint.sequence } else { 0 });
        // A checkpoint that says nothing is that of a store that was restored: it is not the one that the closing record
        // speaks of, and people look for everything in it. (Or the first owner died within seconds.)
        let is_restored = written_to == Sequence(0);
        let durable_to = Some(written_to).filter(|_| trails);
        // What the last record says of the store holds for one that has not been away since it may have lost anything.
        let was_there = !is_restored && shared.was_store_there();
        // Nobody has to wait for what only a crash of the store could undo. If it has one from now on, everything behind the
        // checkpoint is written again.
        if !is_restored && tip.is_written() {
            let replay =
                durable_to.filter(|_| !was_there).map(|from| (from, again_after(partition)));
            return Past { durable_to, inheritance: Inheritance::none(shared), replay };
        }
        // From here on the partition is this owner's: a broker or store that is away delays it, and is no reason to open it
        // once more.
        let row = |to| Some(ownership.checkpoint(durable_to.unwrap_or(to)));
        let from = if was_there { written_to.max(tip.written_to()) } else { written_to };
        let up_to = ownership.sequence();
        let (inheritance, from) = inherit(shared, partition, from, up_to, is_restored, row).await;
        let delay = if trails { INHERITED_AFTER } else { Duration::ZERO };
        let replay = inheritance.first().map(|_| (from, delay));
        let durable_to = durable_to.or(replay.map(|(from, _)| from));
        Past { durable_to, inheritance, replay }
    }
}

/// The store may lose what it took last.
fn trails(shared: &Shared) -> bool {
    !shared.store.durability_lag().is_zero()
}

/// Learns what is in (`after`, `up_to`], and from where on. What is too much for memory is written first, or all of it, with
/// the checkpoints that `row` makes.
async fn inherit(
    shared: &Arc<Shared>,
    partition: Partition,
    mut after: Sequence,
    up_to: Sequence,
    writes_all: bool,
    row: impl Fn(Sequence) -> Option<Checkpoint>,
) -> (Inheritance, Sequence) {
    loop {
        let learnt = match writes_all && after < up_to {
            true => Ok(Learnt::TooMuch(up_to)),
            false => learn(shared, partition, after, up_to).await,
        };
        match learnt {
            Ok(Learnt::All(inheritance)) => return (*inheritance, after),
            Ok(Learnt::TooMuch(to)) => match replay(shared, partition, after, to, &row).await {
                Ok(()) => after = to,
                Err(error) => delayed(partition, &error).await,
            },
            Err(error) => delayed(partition, &error).await,
        }
    }
}

async fn delayed(partition: Partition, error: &anyhow::Error) {
    tracing::warn!(%partition, %error, "cannot bring a partition up to its log yet, trying on");
    tokio::time::sleep(REPLAY_PAUSE).await;
}

/// What came of reading the log.
enum Learnt {
    All(Box<Inheritance>),
    /// What is up to here is all that there is room for, or more.
    TooMuch(Sequence),
}

async fn learn(
    shared: &Arc<Shared>,
    partition: Partition,
    mut after: Sequence,
    up_to: Sequence,
) -> anyhow::Result<Learnt> {
    let mut heir = Heir::new(shared);
    while let Some((page, last)) = page(shared, partition, after, up_to).await? {
        if heir.take_in(after, &page)? < last {
            return Ok(Learnt::TooMuch(last));
        }
        after = last;
        // Many partitions are opened at the same time, beside those that senders use.
        tokio::task::yield_now().await;
    }
    Ok(Learnt::All(Box::new(heir.done())))
}

/// Whether the owner that wrote a partition's last record has closed it. `None`: it has not, and it may go on.
fn is_closed(shared: &Shared, record: &Record) -> Option<bool> {
    if record.kind == RecordKind::Closing as i32 {
        return Some(true);
    }
    // A record without a lease could not be waited for: whoever wrote it is nobody this node could hear of.
    let Ok(node) = NodeId::from_bytes(&record.node) else { return Some(false) };
    let lease = Lease { node, start: record.start };
    (lease == shared.lease || shared.leases.has_ended(lease)).then_some(false)
}

/// How long after a hand-over the end of the log is written again. Partitions that were opened together do not all do this
/// together.
fn again_after(partition: Partition) -> Duration {
    AGAIN_AFTER + AGAIN_SPREAD * u32::from(partition.0)
}

/// Writes everything in (`after`, `up_to`] once more, beside what the owner writes. Returns once that was done while the
/// store did not fail.
pub(super) async fn replay_again(
    shared: Arc<Shared>,
    partition: Partition,
    after: Sequence,
    up_to: Sequence,
    delay: Duration,
) {
    tokio::time::sleep(delay).await;
    loop {
        let failures = shared.outages.failures();
        let replayed = async {
            let _turn = shared.replays.acquire().await?;
            // The log is not read for nothing as long as the store is away.
            shared.store.checkpoint(partition).await?;
            replay(&shared, partition, after, up_to, &|_| None).await
        };
        match replayed.await {
            Ok(()) if shared.outages.failures() == failures => return,
            // What was written before the failure may be lost again.
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%partition, %error, "cannot write the end of the log again yet, trying on");
            }
        }
        tokio::time::sleep(REPLAY_PAUSE).await;
    }
}

/// The next records in (`after`, `up_to`], and the sequence of the last of them. None: there are no more.
async fn page(
    shared: &Shared,
    partition: Partition,
    after: Sequence,
    up_to: Sequence,
) -> anyhow::Result<Option<(Vec<StoredRecord>, Sequence)>> {
    if after >= up_to {
        return Ok(None);
    }
    loop {
        let mut page = shared.broker.read_log(partition, after, PAGE_BYTES).await?;
        if page.first().is_some_and(|stored| stored.sequence > up_to) {
            // Purged meanwhile: it has been in the store for long.
            return Ok(None);
        }
        page.retain(|stored| stored.sequence <= up_to);
        if let Some(last) = page.last().map(|stored| stored.sequence) {
            return Ok(Some((page, last)));
        }
        // A stale read: the last record is there, so there is more.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes everything in (`after`, `up_to`]. `row`: the checkpoint to write with a record.
async fn replay(
    shared: &Shared,
    partition: Partition,
    mut after: Sequence,
    up_to: Sequence,
    row: &impl Fn(Sequence) -> Option<Checkpoint>,
) -> anyhow::Result<()> {
    let mut replay = Replay::default();
    while let Some((page, last)) = page(shared, partition, after, up_to).await? {
        for stored in page {
            let record = Record::from_bytes(&stored.payload)?;
            if record.kind != RecordKind::Batch as i32 {
                continue;
            }
            // Each by itself: an inbox row with the same first pointer as one that is there already is not written, so it
            // must not hold more than that.
            let rows = replay.rows(&*shared.store, &record).await?;
            let entries = record.entries.into_iter().map(Arc::new).zip(rows).collect();
            write(shared, partition, entries, row(stored.sequence)).await;
        }
        after = last;
    }
    if let Some(row) = row(up_to) {
        shared.store.put_checkpoints(vec![(partition, row)]).await?;
    }
    Ok(())
}
