//! Taking a partition: the opening record, and bringing the store up to it.

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

/// Bytes of the log read at a time.
const PAGE_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// A partition whose log is in the store up to the opening record.
pub(super) struct Opened {
    pub(super) ownership: Ownership,
    pub(super) sequence: Sequence,
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
    loop {
        match attempt(shared, partition).await {
            Ok(Attempt::Opened(opened)) => return Some(*opened),
            // Its owner said that it has closed it: the read was stale.
            Ok(Attempt::Held) if Instant::now() < patient_until => {
                tokio::time::sleep(HELD_PAUSE).await;
            }
            Ok(Attempt::Held | Attempt::Lost) => return None,
            Err(error) => {
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

async fn attempt(shared: &Shared, partition: Partition) -> anyhow::Result<Attempt> {
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
    // From here on the partition is this owner's: a store that is away delays it, and is no reason to open once more.
    while let Err(error) = replay(shared, partition, &ownership, checkpoint).await {
        tracing::warn!(%partition, %error, "cannot bring the store up to the log yet, trying on");
        tokio::time::sleep(REPLAY_PAUSE).await;
    }
    ownership.replayed();
    if !is_closed {
        shared.metrics.take_overs.inc();
    }
    Ok(Attempt::Opened(Box::new(Opened { ownership, sequence, unused: tip.is_unused() })))
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

/// Writes everything between the checkpoint and the opening record.
async fn replay(
    shared: &Shared,
    partition: Partition,
    ownership: &Ownership,
    checkpoint: Checkpoint,
) -> anyhow::Result<()> {
    let mut replay = Replay::default();
    let mut after = Sequence(checkpoint.sequence);
    while after < ownership.sequence() {
        let page = shared.broker.read_log(partition, after, PAGE_BYTES).await?;
        let Some(last) = page.last().map(|stored| stored.sequence) else {
            // A stale read: the opening record is there, so there is more.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        for stored in page {
            let record = Record::from_bytes(&stored.payload)?;
            if record.kind != RecordKind::Batch as i32 {
                continue;
            }
            let rows = replay.rows(&*shared.store, &record).await?;
            let entries: Vec<_> = record.entries.into_iter().map(std::sync::Arc::new).collect();
            let written = ownership.checkpoint(stored.sequence);
            write(shared, partition, entries.into_iter().zip(rows).collect(), Some(written)).await;
        }
        after = last;
    }
    shared
        .store
        .put_checkpoints(vec![(partition, ownership.checkpoint(ownership.sequence()))])
        .await?;
    Ok(())
}
