//! Sends an append until its outcome is known.

use std::time::Duration;

use bytes::Bytes;
use chat_broker::{AppendError, Broker, Sequence, StoredRecord};
use chat_protocol::Partition;
use chat_protocol::limits::RECORD_BYTES_MAX;

use super::ownership::Append;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is in the log.
    Accepted(Sequence),
    /// It is certainly not in the log and never will be: there is no room.
    Full,
    /// It is certainly not in the log and never will be: the broker does not take records of this size.
    TooLarge,
    /// Another record stands where it should be: this owner has lost the partition.
    Deposed,
}

/// Sends the same bytes with the same expected sequence until the broker's answers prove what became of them.
///
/// An append in doubt is never given up: it could land later. After a refusal it reads until it sees the record behind the
/// expected one, because reads may be stale. Only an attempt that certainly was the first copy may end as `Full`.
pub async fn settle(broker: &dyn Broker, partition: Partition, append: &Append) -> Settled {
    let mut in_doubt = false;
    let mut pause = FIRST_PAUSE;
    loop {
        match broker.append(partition, append.expected, append.payload.clone()).await {
            Ok(sequence) => return Settled::Accepted(sequence),
            Err(AppendError::Refused) => return read_what_landed(broker, partition, append).await,
            Err(AppendError::Full) if !in_doubt => return Settled::Full,
            Err(AppendError::TooLarge) if !in_doubt => return Settled::TooLarge,
            Err(error @ AppendError::Unknown(_)) => {
                in_doubt = true;
                tracing::debug!(%partition, %error, "append in doubt, sending it again");
            }
            Err(AppendError::Full | AppendError::TooLarge) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read_what_landed(broker: &dyn Broker, partition: Partition, append: &Append) -> Settled {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(record) = first_after(broker, partition, append.expected).await {
            return if own(&record.payload, &append.payload) {
                tracing::debug!(%partition, "the append in doubt is in the log");
                Settled::Accepted(record.sequence)
            } else {
                Settled::Deposed
            };
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn first_after(
    broker: &dyn Broker,
    partition: Partition,
    expected: Sequence,
) -> Option<StoredRecord> {
    match broker.read_log(partition, expected, RECORD_BYTES_MAX).await {
        Ok(records) => records.into_iter().next(),
        Err(error) => {
            tracing::debug!(%partition, %error, "cannot read what followed a refused append yet");
            None
        }
    }
}

/// The bytes name node, start and epoch, so equal bytes are one's own record and nobody else's.
fn own(found: &Bytes, sent: &Bytes) -> bool {
    found == sent
}
