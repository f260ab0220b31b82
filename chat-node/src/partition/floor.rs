//! Ids that were given out elsewhere: a partition's log is made to say so, and its next owner starts above them.

use chat_broker::{Broker, Sequence};
use chat_protocol::record::{Record, RecordKind};
use chat_protocol::{MessageId, NodeId, Partition};
use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::append::{Settled, settle};
use super::ownership::Append;

/// Others may write in between, but nobody should.
const ATTEMPTS: usize = 5;

/// Partitions that are looked at or raised at once.
const CONCURRENCY: usize = 16;

/// What the next owner of a partition starts above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Epoch of the last owner.
    pub epoch: u64,
    /// Ids up to here may have been used.
    pub reserved_until: MessageId,
}

impl Floor {
    /// What a record says.
    pub fn of(record: &Record) -> Floor {
        Floor { epoch: record.epoch, reserved_until: MessageId(record.reserved_until) }
    }

    /// Above both.
    pub fn max(self, other: Floor) -> Floor {
        Floor {
            epoch: self.epoch.max(other.epoch),
            reserved_until: self.reserved_until.max(other.reserved_until),
        }
    }

    fn closing_record(self) -> Record {
        Record {
            kind: RecordKind::Closing as i32,
            epoch: self.epoch,
            // No node wrote it, and nobody holds its lease.
            node: NodeId(Uuid::nil()).as_bytes().to_vec(),
            start: 0,
            reserved_until: self.reserved_until.0,
            entries: vec![],
            // Nothing is known of the store: the next owner brings it up to the log.
            is_written: false,
            written_to: 0,
        }
    }
}

/// Sees to it that a partition's last record is at or above the floor, and does not vouch for a store: if it is not, or
/// does, a closing record is appended. No node may own the partition. Says whether it was below.
pub async fn raise(
    broker: &dyn Broker,
    partition: Partition,
    floor: Floor,
) -> anyhow::Result<bool> {
    for _ in 0..ATTEMPTS {
        let last = broker.last(partition).await?;
        let record = last.as_ref().map(|stored| Record::from_bytes(&stored.payload)).transpose()?;
        let present = record.as_ref().map_or_else(Floor::default, Floor::of);
        let wanted = present.max(floor);
        let is_raised = wanted != present;
        let vouches = record.is_some_and(|record| record.is_written || record.written_to > 0);
        if !is_raised && !vouches {
            return Ok(false);
        }
        let expected = last.map_or(Sequence(0), |stored| stored.sequence);
        let payload = wanted.closing_record().to_bytes().into();
        match settle(broker, partition, &Append { expected, payload }).await {
            Settled::Accepted(_) => return Ok(is_raised),
            Settled::Full => {
                anyhow::bail!(
                    "The log has no room. Give its streams more space, then run this again."
                )
            }
            Settled::TooLarge => anyhow::bail!("The broker takes no record, however small."),
            // The last record was a stale read.
            Settled::Deposed => {}
        }
    }
    anyhow::bail!(
        "Partition {partition} is being written by another process. Stop all nodes first."
    )
}

/// [`raise`] for many partitions. Returns how many were below.
pub async fn raise_all(
    broker: &dyn Broker,
    floors: impl IntoIterator<Item = (Partition, Floor)>,
) -> anyhow::Result<usize> {
    let raises = floors.into_iter().map(|(partition, floor)| raise(broker, partition, floor));
    let raised = stream::iter(raises).buffer_unordered(CONCURRENCY);
    raised.try_fold(0, async |count, raised| Ok(count + usize::from(raised))).await
}

#[cfg(test)]
mod tests {
    use chat_broker::embedded::EmbeddedBroker;
    use chat_protocol::Millis;
    use chat_store::Checkpoint;

    use super::super::{Lease, Ownership, ownership::Tip};
    use super::*;

    const PARTITION: Partition = Partition(7);

    #[tokio::test]
    async fn the_next_owner_starts_above_the_floor_and_no_floor_is_ever_lowered() {
        let broker = EmbeddedBroker::memory();
        let used = MessageId::last_of(Millis::from_2025(5_000_000));
        let floor = Floor { epoch: 9, reserved_until: used };
        assert!(raise(&broker, PARTITION, floor).await.unwrap());
        assert!(!raise(&broker, PARTITION, floor).await.unwrap(), "once is enough");
        let lower = Floor { epoch: 3, reserved_until: MessageId(1) };
        assert!(!raise(&broker, PARTITION, lower).await.unwrap());
        let newer = Floor { epoch: 12, reserved_until: MessageId(1) };
        assert!(raise(&broker, PARTITION, newer).await.unwrap());
        let last = broker.last(PARTITION).await.unwrap().unwrap();
        let record = Record::from_bytes(&last.payload).unwrap();
        assert_eq!((record.epoch, MessageId(record.reserved_until)), (12, used));

        let lease = Lease { node: NodeId::random(), start: 1 };
        let tip = Tip::of_record(last.sequence, &record);
        // Its clock is far behind.
        let mut owner = Ownership::open(PARTITION, lease, tip, Millis::from_2025(1));
        assert_eq!(owner.epoch(), 13);
        let append = owner.append().unwrap().clone();
        let sequence = broker.append(PARTITION, append.expected, append.payload).await.unwrap();
        owner.accepted(sequence);
        owner.learnt(None);
        assert!(owner.next_id(Millis::from_2025(1)).unwrap() > used);
        assert_eq!(
            owner.checkpoint(sequence),
            Checkpoint { epoch: 13, ..owner.checkpoint(sequence) }
        );
    }

    #[tokio::test]
    async fn nobody_vouches_any_longer_for_the_store() {
        let broker = EmbeddedBroker::memory();
        let closing = Floor { epoch: 4, reserved_until: MessageId(77) }.closing_record();
        let mut sequence = Sequence(0);
        let vouches = |is_written, written_to| Record { is_written, written_to, ..closing.clone() };
        for vouching in [vouches(true, 0), vouches(false, 1)] {
            broker.append(PARTITION, sequence, vouching.to_bytes().into()).await.unwrap();
            assert!(!raise(&broker, PARTITION, Floor::default()).await.unwrap(), "it was no lower");
            let last = broker.last(PARTITION).await.unwrap().unwrap();
            assert_eq!(Record::from_bytes(&last.payload).unwrap(), closing);
            raise(&broker, PARTITION, Floor::default()).await.unwrap();
            sequence = broker.last(PARTITION).await.unwrap().unwrap().sequence;
            assert_eq!(sequence, last.sequence);
        }
    }
}
