//! Ids ahead of time in logs, whichever road they came by: clocks that were all wrong, a restored store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_broker::Broker;
use chat_broker::nats::{NatsBroker, NatsOptions};
use chat_node::partition::floor::{Floor, raise_all};
use chat_protocol::{MessageId, Millis, Partition};
use servers::nats::Nats;

use crate::log::Entry;
use crate::platform::STREAM_BYTES_MAX;

/// The machine's clock, which no scenario sets.
fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since_1970.as_millis() as u64)
}

/// Makes the logs of these partitions say that ids so far ahead were used. No chat node may run.
pub async fn put_ahead(nats: &Nats, ahead: Duration, partitions: impl Iterator<Item = Partition>) {
    let options = NatsOptions {
        servers: nats.url().split(',').map(str::to_owned).collect(),
        replicas: nats.count(),
        stream_bytes_max: STREAM_BYTES_MAX,
        ..NatsOptions::default()
    };
    let broker: Box<dyn Broker> = Box::new(NatsBroker::open(options).await.expect("NATS answers"));
    let reserved_until = MessageId::last_of(now().plus(ahead.as_millis() as u64));
    let floor = Floor { epoch: 0, reserved_until };
    let raised = raise_all(&*broker, partitions.map(|partition| (partition, floor))).await;
    assert!(raised.expect("the logs take a record") > 0, "nothing was raised");
}

/// How far the ids that were acknowledged are ahead of the machine's clock at most.
pub fn furthest_ahead(entries: &[Entry]) -> Duration {
    let ids = entries.iter().filter_map(|entry| match entry {
        Entry::Acknowledged { place: Some((id, _)), .. } => Some(*id),
        _ => None,
    });
    let highest = ids.max().unwrap_or(MessageId::ZERO);
    Duration::from_millis(highest.created_at().since(now()))
}
