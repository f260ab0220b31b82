//! Taking a partition: the opening record, and bringing the store up to it.
//!
//! An owner that closed the partition says whether the store holds everything; then its heir opens at once. Otherwise, and
//! after a crash, the log behind the checkpoint is written first.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::Sequence;
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Record, RecordKind};
use chat_protocol::{NodeId, Partition};
use chat_store::Checkpoint;
use tokio::time::Instant;

use super::Shared;
use super::replay::Replay;
use super::writing::write;
use crate::partition::Lease;
use crate::partition::append::{Settled, settle};
use crate::partition::ownership::{Ownership, Tip};

const PAUSE: Duration = Duration::from_millis(200);

/// Between two looks whether a partition is closed by now.
const HELD_PAUSE: Duration = Duration::from_millis(10);

/// Between two attempts to bring the store up to the log.
const REPLAY_PAUSE: Duration = Duration::from_secs(2);

/// When the end of the log is written again after a hand-over, and how far partitions are apart in this. Late: a rollout
/// moves a partition several times within a minute, and only the last of its owners has to.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const AGAIN_SPREAD: Duration = Duration::from_millis(100);

/// Bytes of the log read at a time.
const PAGE_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// A partition whose log is in the store up to the opening record.
pub(super) struct Opened {
    pub(super) ownership: Ownership,
    pub(super) sequence: Sequence,
    /// Behind this, the store has everything but may lose it if it fails soon.
    pub(super) durable_to: Option<Sequence>,
    /// What is behind it was not written by this owner, which cannot tell whether the store has failed since.
    pub(super) is_replay_due: bool,
    /// Nobody has owned it before.
    pub(super) unused: bool,
}

/// Opens a partition. `None`: it is another node's.
pub(super) async fn open(
    shared: &Shared,
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
    shared: &Shared,
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
    let mut ownership = Ownership::open(partition, shared.lease, tip, shared.clock.now());
    let Some(append) = ownership.append().cloned() else { return Ok(Attempt::Lost) };
    match settle(&*shared.broker, partition, &append).await {
        Settled::Accepted(sequence) => ownership.accepted(sequence),
        // The opening record is never sent again with another number: a new attempt reads the last record again.
        Settled::Deposed => return Ok(Attempt::Lost),
        Settled::Full => anyhow::bail!("the log has no room for an opening record"),
        Settled::TooLarge => anyhow::bail!("the broker refuses an opening record as too large"),
    }
    let sequence = ownership.sequence();
    // A checkpoint ahead of the log speaks of a log that is lost: nothing of this one is known to be in the store.
    let last_sequence = last.as_ref().map_or(Sequence(0), |(sequence, _)| *sequence);
    let is_of_this_log = Sequence(checkpoint.sequence) <= last_sequence;
    let written_to = Sequence(if is_of_this_log { checkpoint.sequence } else { 0 });
    let durable_to = Some(written_to).filter(|_| !shared.store.durability_lag().is_zero());
    // A checkpoint that does not trail and says nothing is that of a store that was restored, and is not the one that the
    // closing record speaks of.
    let is_same_store = durable_to.is_some() || written_to > Sequence(0);
    let is_written = is_trusted && is_of_this_log && is_same_store && tip.is_written();
    // Nobody has to wait for what only a crash of the store could undo.
    if !is_written {
        // From here on the partition is this owner's: a store that is away delays it, and is no reason to open once more.
        let row = |sequence| Some(ownership.checkpoint(durable_to.unwrap_or(sequence)));
        while let Err(error) = replay(shared, partition, written_to, sequence, row).await {
            tracing::warn!(%partition, %error, "cannot bring the store up to the log yet, trying on");
            tokio::time::sleep(REPLAY_PAUSE).await;
        }
    }
    ownership.replayed();
    if !is_closed {
        shared.metrics.take_overs.inc();
    }
    let unused = tip.is_unused();
    let is_replay_due = is_written && durable_to.is_some();
    let opened = Opened { ownership, sequence, durable_to, is_replay_due, unused };
    Ok(Attempt::Opened(Box::new(opened)))
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
pub(super) fn again_after(partition: Partition) -> Duration {
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
            // The log is not read for nothing as long as the store is away.
            shared.store.checkpoint(partition).await?;
            replay(&shared, partition, after, up_to, |_| None).await
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

/// Writes everything in (`after`, `up_to`]. `row`: the checkpoint to write with a record.
async fn replay(
    shared: &Shared,
    partition: Partition,
    mut after: Sequence,
    up_to: Sequence,
    row: impl Fn(Sequence) -> Option<Checkpoint>,
) -> anyhow::Result<()> {
    let mut replay = Replay::default();
    while after < up_to {
        let mut page = shared.broker.read_log(partition, after, PAGE_BYTES).await?;
        if page.first().is_some_and(|stored| stored.sequence > up_to) {
            // Purged meanwhile: it has been in the store for long.
            break;
        }
        page.retain(|stored| stored.sequence <= up_to);
        let Some(last) = page.last().map(|stored| stored.sequence) else {
            // A stale read: the last record is there, so there is more.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        for stored in page {
            let record = Record::from_bytes(&stored.payload)?;
            if record.kind != RecordKind::Batch as i32 {
                continue;
            }
            let rows = replay.rows(&*shared.store, &record).await?;
            let entries: Vec<_> = record.entries.into_iter().map(Arc::new).collect();
            let entries = entries.into_iter().zip(rows).collect();
            write(shared, partition, entries, row(stored.sequence)).await;
        }
        after = last;
    }
    if let Some(row) = row(up_to) {
        shared.store.put_checkpoints(vec![(partition, row)]).await?;
    }
    Ok(())
}
