//! What this node has heard of the owners' watermarks, and the safe watermark that cursors rise to.
//!
//! An owner's watermark W says: every id of its partition up to W is in the store. The safe watermark is the minimum over
//! all conversation partitions; one not heard of since the start counts as 0.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chat_protocol::id::CONVERSATION_PARTITIONS;
use chat_protocol::{MessageId, NodeId};
use prost::Message as _;
use tokio::sync::watch;

/// What owners and gateways say on `Subject::Watermarks`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Announcement {
    /// 16 bytes: who says it.
    #[prost(bytes = "vec", tag = "1")]
    pub node: Vec<u8>,
    /// One entry per conversation partition that the node owns.
    #[prost(message, repeated, tag = "2")]
    pub partitions: Vec<PartitionState>,
    /// Probes heard before the entries were read.
    #[prost(message, repeated, tag = "3")]
    pub echoes: Vec<Echo>,
    /// This node's own probe, to be echoed by every owner; 0 for none.
    #[prost(uint64, tag = "4")]
    pub probe: u64,
}

/// A partition as its owner sees it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PartitionState {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Every id up to here is in the store.
    #[prost(uint64, tag = "2")]
    pub watermark: u64,
    /// Highest id issued.
    #[prost(uint64, tag = "3")]
    pub highest: u64,
}

/// A probe heard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Echo {
    /// 16 bytes: whose probe.
    #[prost(bytes = "vec", tag = "1")]
    pub node: Vec<u8>,
    /// The highest one heard of it.
    #[prost(uint64, tag = "2")]
    pub probe: u64,
}

impl Announcement {
    /// The payload on the bus.
    pub fn to_payload(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// The announcement in a payload, if it is one.
    pub fn from_payload(payload: &[u8]) -> Option<Announcement> {
        Announcement::decode(payload).ok()
    }
}

/// A moment that a session wants to be complete up to: taken once it has subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What one node has heard. One writer (the bus receiver), many readers.
pub struct Watermarks {
    node: NodeId,
    heard: Mutex<Heard>,
    safe: watch::Sender<MessageId>,
    /// Highest probe that every partition has echoed.
    echoed: AtomicU64,
}

struct Heard {
    watermark: Vec<u64>,
    highest: Vec<u64>,
    /// Highest own probe echoed, per partition.
    echoed: Vec<u64>,
    /// Highest own probe sent.
    sent: u64,
    /// Highest own probe that a ticket waits for.
    wanted: u64,
}

impl Watermarks {
    /// Nothing heard yet: the safe watermark is 0.
    pub fn new(node: NodeId) -> Watermarks {
        let zeros = || vec![0; CONVERSATION_PARTITIONS as usize];
        let heard =
            Heard { watermark: zeros(), highest: zeros(), echoed: zeros(), sent: 0, wanted: 0 };
        Watermarks {
            node,
            heard: Mutex::new(heard),
            safe: watch::Sender::new(MessageId::ZERO),
            echoed: AtomicU64::new(0),
        }
    }

    /// Takes in an announcement. Late, doubled and reordered ones do no harm: the highest value heard counts.
    pub fn hear(&self, announcement: &Announcement) {
        let own = |echo: &&Echo| echo.node == self.node.as_bytes();
        let echo = announcement.echoes.iter().find(own).map_or(0, |echo| echo.probe);
        let mut heard = self.lock();
        for state in &announcement.partitions {
            let Some(watermark) = heard.watermark.get_mut(state.partition as usize) else {
                continue;
            };
            let partition = state.partition as usize;
            *watermark = state.watermark.max(*watermark);
            heard.highest[partition] = heard.highest[partition].max(state.highest);
            heard.echoed[partition] = heard.echoed[partition].max(echo);
        }
        let safe = MessageId(heard.watermark.iter().copied().min().unwrap_or(0));
        self.echoed.store(heard.echoed.iter().copied().min().unwrap_or(0), Ordering::Release);
        drop(heard);
        self.safe.send_if_modified(|known| {
            let rises = safe > *known;
            *known = safe.max(*known);
            rises
        });
    }

    /// Every id up to here, of every conversation partition, is in the store.
    pub fn safe(&self) -> MessageId {
        *self.safe.borrow()
    }

    /// Tells when the safe watermark rises.
    pub fn watch(&self) -> watch::Receiver<MessageId> {
        self.safe.subscribe()
    }

    /// Highest watermark or id heard for a partition; an idle owner may publish up to it.
    pub fn highest_heard(&self) -> MessageId {
        let heard = self.lock();
        MessageId(heard.watermark.iter().chain(&heard.highest).copied().max().unwrap_or(0))
    }

    /// Takes a ticket: everything issued before this call is known once it is settled.
    pub fn ticket(&self) -> Ticket {
        let mut heard = self.lock();
        heard.wanted = heard.sent + 1;
        Ticket(heard.wanted)
    }

    /// The probe to publish now, if a ticket waits for one: a new one, or again one that was not echoed by all.
    pub fn probe(&self) -> Option<u64> {
        let mut heard = self.lock();
        heard.sent = heard.wanted;
        (self.echoed.load(Ordering::Acquire) < heard.sent).then_some(heard.sent)
    }

    /// Once every owner has answered a probe sent after the ticket was taken: an id that no id issued before the ticket
    /// exceeds. Keep the first answer; a later one may be higher.
    pub fn settled(&self, ticket: Ticket) -> Option<MessageId> {
        if self.echoed.load(Ordering::Acquire) < ticket.0 {
            return None;
        }
        Some(MessageId(self.lock().highest.iter().copied().max().unwrap_or(0)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn announcement(states: &[(u32, u64, u64)], echoes: Vec<Echo>) -> Announcement {
        let partitions = states
            .iter()
            .map(|&(partition, watermark, highest)| PartitionState {
                partition,
                watermark,
                highest,
            })
            .collect();
        Announcement { node: vec![1; 16], partitions, echoes, probe: 0 }
    }

    fn all(watermark: u64, highest: u64) -> Vec<(u32, u64, u64)> {
        (0..CONVERSATION_PARTITIONS as u32)
            .map(|partition| (partition, watermark, highest))
            .collect()
    }

    #[test]
    fn a_partition_not_heard_of_counts_as_zero() {
        let marks = Watermarks::new(NodeId::random());
        marks.hear(&announcement(&all(50, 60)[1..], vec![]));
        assert_eq!(marks.safe(), MessageId::ZERO);
        marks.hear(&announcement(&[(0, 40, 40)], vec![]));
        assert_eq!(marks.safe(), MessageId(40));
    }

    #[test]
    fn a_ticket_settles_only_by_an_echo_of_a_later_probe() {
        let node = NodeId::random();
        let echo = |probe| vec![Echo { node: node.as_bytes().to_vec(), probe }];
        let marks = Watermarks::new(node);
        let first = marks.ticket();
        let probe = marks.probe().unwrap();
        let late = marks.ticket();
        marks.hear(&announcement(&all(5, 9), vec![]));
        assert_eq!(
            marks.settled(first),
            None,
            "an announcement made before the probe says nothing"
        );
        marks.hear(&announcement(&all(5, 9), echo(probe)));
        assert_eq!(marks.settled(first), Some(MessageId(9)));
        assert_eq!(marks.settled(late), None, "the probe left before this ticket was taken");
        marks.hear(&announcement(&all(5, 9), echo(marks.probe().unwrap())));
        assert_eq!(marks.settled(late), Some(MessageId(9)));
        assert_eq!(marks.probe(), None, "nobody waits any more");
    }

    proptest! {
        #[test]
        fn the_safe_watermark_is_the_minimum_of_the_highest_heard(
            heard in prop::collection::vec((0u32..4, 0u64..1000), 1..60),
        ) {
            let marks = Watermarks::new(NodeId::random());
            marks.hear(&announcement(&all(0, 0)[4..].iter().map(|s| (s.0, 5000, 0)).collect::<Vec<_>>(), vec![]));
            let mut highest = [0; 4];
            let mut before = MessageId::ZERO;
            for (partition, watermark) in heard {
                marks.hear(&announcement(&[(partition, watermark, 0)], vec![]));
                highest[partition as usize] = watermark.max(highest[partition as usize]);
                prop_assert_eq!(marks.safe().0, *highest.iter().min().unwrap());
                prop_assert!(marks.safe() >= before);
                before = marks.safe();
            }
        }
    }
}
