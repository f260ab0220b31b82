//! Taking a partition: the opening record, and bringing the store up to it.

use std::time::Duration;

use chat_broker::Sequence;
use chat_protocol::Partition;
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Record, RecordKind};
use chat_store::Checkpoint;

use super::Shared;
use super::replay::Replay;
use super::writing::write;
use crate::partition::append::{Settled, settle};
use crate::partition::ownership::{Ownership, Tip};

const PAUSE: Duration = Duration::from_millis(200);

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

/// Opens a partition. `None`: another node has opened it meanwhile, so it is that node's.
pub(super) async fn open(shared: &Shared, partition: Partition) -> Option<Opened> {
    let mut complained = false;
    loop {
        match attempt(shared, partition).await {
            Ok(opened) => return opened,
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

async fn attempt(shared: &Shared, partition: Partition) -> anyhow::Result<Option<Opened>> {
    let checkpoint = shared.store.checkpoint(partition).await?;
    let tip = match shared.broker.last(partition).await? {
        Some(stored) => Tip::of_record(stored.sequence, &Record::from_bytes(&stored.payload)?),
        None => Tip::of_empty(&checkpoint),
    };
    let mut ownership = Ownership::open(partition, shared.lease, tip, shared.clock.now());
    let Some(append) = ownership.append().cloned() else { return Ok(None) };
    match settle(&*shared.broker, partition, &append).await {
        Settled::Accepted(sequence) => ownership.accepted(sequence),
        // The opening record is never sent again with another number: a new attempt reads the last record again.
        Settled::Deposed => return Ok(None),
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
    Ok(Some(Opened { ownership, sequence, unused: tip.is_unused() }))
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
