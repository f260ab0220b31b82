//! The epoch, the checkpoints and the quarantine.

use chat_protocol::{MessageId, Partition};
use futures_util::{TryStreamExt, stream};

use super::Inner;
use super::column::{bits, from_bits, message_id, ordered, rows, timestamp, values};
use super::error::Failure;
use super::execute::Executor;
use super::statements::Statements;
use crate::row::{Checkpoint, QuarantineRow};

/// The only row of the table that says who this store is.
const ONE: i16 = 1;

/// Partitions that are written or read at once.
const CONCURRENCY: usize = 32;

/// The store's epoch; a new store gets this one, or that of another node that was quicker.
pub(super) async fn make_epoch(
    executor: &Executor,
    statements: &Statements,
    epoch: u64,
) -> Result<u64, Failure> {
    let found = executor.one::<(i64,)>(&statements.epoch, values![ONE]).await?;
    if let Some((epoch,)) = found {
        return Ok(from_bits(epoch));
    }
    let made = executor.compare(&statements.make_epoch, values![ONE, bits(epoch)]).await?;
    Ok(made.number("epoch").map_or(epoch, from_bits))
}

impl Inner {
    pub(super) async fn epoch(&self) -> Result<u64, Failure> {
        let found = self.executor.one::<(i64,)>(&self.statements.epoch, values![ONE]).await?;
        let (epoch,) = found.ok_or_else(|| Failure::Damaged("the epoch is missing".into()))?;
        Ok(from_bits(epoch))
    }

    /// One row per epoch of the log's owners, and within it the highest sequence wins: a stale owner's late checkpoint
    /// changes nothing that is read.
    pub(super) async fn put_checkpoint(
        &self,
        partition: Partition,
        checkpoint: Checkpoint,
    ) -> Result<(), Failure> {
        let sequence = ordered(checkpoint.sequence)?;
        let values = values![
            bits(self.epoch),
            partition.0 as i16,
            ordered(checkpoint.epoch)?,
            sequence,
            bits(checkpoint.reserved_until.0),
            sequence.saturating_add(1),
        ];
        self.executor.run(&self.statements.put_checkpoint, values).await
    }

    pub(super) async fn put_checkpoints(
        &self,
        checkpoints: Vec<(Partition, Checkpoint)>,
    ) -> Result<(), Failure> {
        stream::iter(checkpoints.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |(partition, checkpoint)| {
                self.put_checkpoint(partition, checkpoint)
            })
            .await
    }

    pub(super) async fn checkpoint(&self, partition: Partition) -> Result<Checkpoint, Failure> {
        self.checkpoint_under(self.epoch, partition).await
    }

    async fn checkpoint_under(
        &self,
        store_epoch: u64,
        partition: Partition,
    ) -> Result<Checkpoint, Failure> {
        let key = values![bits(store_epoch), partition.0 as i16];
        let found = self.executor.one::<(i64, i64, i64)>(&self.statements.checkpoint, key).await?;
        Ok(found.map_or_else(Checkpoint::default, |(sequence, reserved_until, epoch)| Checkpoint {
            sequence: from_bits(sequence),
            reserved_until: message_id(reserved_until),
            epoch: from_bits(epoch),
        }))
    }

    pub(super) async fn quarantine(&self, row: QuarantineRow) -> Result<(), Failure> {
        let values = values![
            row.partition.0 as i16,
            bits(row.id.0),
            row.entry,
            row.reason.as_str(),
            timestamp(row.id)
        ];
        self.executor.run(&self.statements.quarantine, values).await
    }

    pub(super) async fn quarantined(&self, limit: usize) -> Result<Vec<QuarantineRow>, Failure> {
        type Columns = (i64, Vec<u8>, String);
        let mut found = Vec::new();
        for partition in Partition::all() {
            let missing = limit - found.len();
            if missing == 0 {
                break;
            }
            let values = values![partition.0 as i16, rows(missing)];
            let of_partition: Vec<Columns> =
                self.executor.all(&self.statements.quarantined, values).await?;
            found.extend(of_partition.into_iter().map(|(id, entry, reason)| QuarantineRow {
                partition,
                id: MessageId(from_bits(id)),
                entry,
                reason,
            }));
        }
        Ok(found)
    }

    /// After a restore: a new epoch, under which every partition begins again at the start of its log, but never below
    /// the ids and epochs that were given out. No node may be running.
    pub(super) async fn renew_epoch(&self, epoch: u64) -> Result<(), Failure> {
        let old = self.epoch().await?;
        stream::iter(Partition::all().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |partition| async move {
                let checkpoint = self.checkpoint_under(old, partition).await?;
                let values = values![
                    bits(epoch),
                    partition.0 as i16,
                    ordered(checkpoint.epoch)?,
                    0_i64,
                    bits(checkpoint.reserved_until.0),
                    1_i64,
                ];
                self.executor.run(&self.statements.put_checkpoint, values).await
            })
            .await?;
        let values = values![bits(epoch), ONE, bits(old)];
        let renewed = self.executor.compare(&self.statements.set_epoch, values).await?;
        if renewed.applied || renewed.number("epoch") == Some(bits(epoch)) {
            return Ok(());
        }
        Err(Failure::Refused("another restore has given the store a new epoch meanwhile".into()))
    }
}
