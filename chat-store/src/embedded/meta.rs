//! The epoch, the checkpoints and the quarantine.

use chat_protocol::{MessageId, Partition};
use rusqlite::{Connection, OptionalExtension, params};

use super::column::{bits, from_bits, ordered, rows};
use super::error::Failure;
use crate::row::{Checkpoint, QuarantineRow};

pub(super) fn epoch(connection: &Connection) -> Result<u64, Failure> {
    let mut statement = connection.prepare_cached("SELECT epoch FROM meta")?;
    Ok(from_bits(statement.query_row([], |row| row.get(0))?))
}

pub(super) fn put_checkpoint(
    connection: &Connection,
    partition: Partition,
    checkpoint: &Checkpoint,
) -> Result<(), Failure> {
    // A stale owner's late checkpoint would bring back a lower floor for ids. Epochs rise with every owner, sequences
    // within one. Sequence 0 is a checkpoint that was reset for a replay of old records.
    let mut statement = connection.prepare_cached(
        "INSERT INTO checkpoint (partition, sequence, reserved_until, epoch) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (partition) DO UPDATE
         SET sequence = excluded.sequence, reserved_until = excluded.reserved_until, epoch = excluded.epoch
         WHERE sequence = 0 OR (excluded.epoch, excluded.sequence) >= (epoch, sequence)",
    )?;
    statement.execute(params![
        partition.0,
        ordered(checkpoint.sequence)?,
        bits(checkpoint.reserved_until.0),
        ordered(checkpoint.epoch)?
    ])?;
    Ok(())
}

pub(super) fn checkpoint(
    connection: &Connection,
    partition: Partition,
) -> Result<Checkpoint, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, reserved_until, epoch FROM checkpoint WHERE partition = ?1",
    )?;
    let found = statement.query_row([partition.0], |row| {
        Ok(Checkpoint {
            sequence: from_bits(row.get(0)?),
            reserved_until: MessageId(from_bits(row.get(1)?)),
            epoch: from_bits(row.get(2)?),
        })
    });
    Ok(found.optional()?.unwrap_or_default())
}

pub(super) fn quarantine(connection: &Connection, row: &QuarantineRow) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO quarantine (partition, id, entry, reason) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![row.partition.0, bits(row.id.0), row.entry, row.reason])?;
    Ok(())
}

pub(super) fn quarantined(
    connection: &Connection,
    limit: usize,
) -> Result<Vec<QuarantineRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT partition, id, entry, reason FROM quarantine ORDER BY partition, id LIMIT ?1",
    )?;
    let found = statement.query_map([rows(limit)], |row| {
        Ok(QuarantineRow {
            partition: Partition(row.get(0)?),
            id: MessageId(from_bits(row.get(1)?)),
            entry: row.get(2)?,
            reason: row.get(3)?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
