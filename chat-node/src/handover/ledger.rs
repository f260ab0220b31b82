//! Who was asked to leave, who has left, who came back. Pure: time goes in, counts come out.
//!
//! Sessions are counted by connection (`asked`, `acknowledged`, `gone`, `here`), and what is measured by lineage, each
//! once: `counted` and `resumed`. In which order a client's leaving and its return become known does not matter.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use chat_protocol::SessionId;
use chat_protocol::admin::Batch;

use crate::limits::{DRAIN_BATCHES_MAX, DRAIN_LINEAGES_MAX};

/// Counts of one node's batches.
#[derive(Debug, Default)]
pub struct Ledger {
    batches: VecDeque<Batch>,
    /// Connections that were asked and are here, and by which batch.
    asked: HashMap<SessionId, u32>,
    /// Lineages that were active when they were asked, until they are back or late.
    open: HashMap<SessionId, Open>,
    totals: Totals,
}

/// Over all batches since the node's start; they only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions asked to leave.
    pub asked: u64,
    /// Sessions that acknowledged it.
    pub acknowledged: u64,
    /// Lineages counted.
    pub counted: u64,
    /// Lineages resumed.
    pub resumed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    batch: u32,
    /// Until then a return counts.
    until: Duration,
    acknowledged: bool,
    is_back: bool,
}

impl Ledger {
    /// A batch begins.
    pub fn begin(&mut self, batch: u32, granted: u64) {
        if self.batches.len() >= DRAIN_BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(Batch { batch, granted, ..Batch::default() });
    }

    /// A client of the batch was asked. `counts_until`: it was active, and its return counts until then.
    pub fn ask(
        &mut self,
        batch: u32,
        connection: SessionId,
        lineage: SessionId,
        counts_until: Option<Duration>,
    ) {
        self.asked.insert(connection, batch);
        self.totals.asked += 1;
        self.change(batch, |counts| {
            counts.asked += 1;
            counts.here += 1;
        });
        let Some(until) = counts_until else { return };
        if let Some(known) = self.open.get_mut(&lineage)
            && known.batch == batch
        {
            // Another connection of the same lineage.
            known.until = known.until.max(until);
            return;
        }
        self.close(lineage);
        if self.open.len() < DRAIN_LINEAGES_MAX {
            let open = Open { batch, until, acknowledged: false, is_back: false };
            self.open.insert(lineage, open);
            self.change(batch, |counts| counts.pending += 1);
        }
    }

    /// Clients of the batch that are not asked after all.
    pub fn skip(&mut self, batch: u32, count: u64) {
        self.change(batch, |counts| counts.skipped += count);
    }

    /// Whether this connection was asked.
    pub fn was_asked(&self, connection: SessionId) -> bool {
        self.asked.contains_key(&connection)
    }

    /// Connections that were asked and are here.
    pub fn here(&self) -> usize {
        self.asked.len()
    }

    /// A connection is gone.
    pub fn left(&mut self, connection: SessionId, lineage: SessionId, acknowledged: bool) {
        let Some(batch) = self.asked.remove(&connection) else { return };
        self.totals.acknowledged += u64::from(acknowledged);
        self.change(batch, |counts| {
            counts.gone += 1;
            counts.here -= 1;
            counts.acknowledged += u64::from(acknowledged);
        });
        if acknowledged {
            self.note(lineage, batch, |open| open.acknowledged = true);
        }
    }

    /// A lineage is back, on some node.
    pub fn returned(&mut self, lineage: SessionId, now: Duration) {
        let Some(open) = self.open.get(&lineage).copied() else { return };
        if now <= open.until {
            self.note(lineage, open.batch, |open| open.is_back = true);
        }
    }

    /// Closes the accounts of lineages that are late.
    pub fn settle(&mut self, now: Duration) {
        let is_late = |(lineage, open): (&SessionId, &Open)| (now > open.until).then_some(*lineage);
        let late: Vec<SessionId> = self.open.iter().filter_map(is_late).collect();
        late.into_iter().for_each(|lineage| self.close(lineage));
    }

    /// The rollout was cancelled: who is here stays, and may be asked again.
    pub fn forget(&mut self) {
        self.asked.clear();
        self.batches.iter_mut().for_each(|batch| batch.here = 0);
    }

    /// Another rollout begins.
    pub fn clear(&mut self) {
        let totals = self.totals;
        *self = Ledger { totals, ..Ledger::default() };
    }

    /// The batches, oldest first.
    pub fn batches(&self) -> Vec<Batch> {
        let settled = |batch: &Batch| Batch {
            settled: batch.asked + batch.skipped == batch.granted && batch.pending == 0,
            ..*batch
        };
        self.batches.iter().map(settled).collect()
    }

    /// Over all batches.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Changes what is known of a lineage, and counts it when that makes it one to count.
    fn note(&mut self, lineage: SessionId, batch: u32, change: impl FnOnce(&mut Open)) {
        let Some(open) = self.open.get_mut(&lineage).filter(|open| open.batch == batch) else {
            return;
        };
        let before = *open;
        change(open);
        let after = *open;
        let counted = u64::from(after.acknowledged && !before.acknowledged);
        let is_resumed = after.acknowledged && after.is_back;
        self.totals.counted += counted;
        self.totals.resumed += u64::from(is_resumed);
        self.change(batch, |counts| {
            counts.counted += counted;
            counts.resumed += u64::from(is_resumed);
        });
        if is_resumed {
            self.close(lineage);
        }
    }

    fn close(&mut self, lineage: SessionId) {
        if let Some(open) = self.open.remove(&lineage) {
            self.change(open.batch, |counts| counts.pending -= 1);
        }
    }

    fn change(&mut self, batch: u32, change: impl FnOnce(&mut Batch)) {
        // From the back: the newest one is meant nearly always. One that is forgotten is not counted any more.
        if let Some(counts) = self.batches.iter_mut().rev().find(|counts| counts.batch == batch) {
            change(counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(number: u64) -> SessionId {
        SessionId(Uuid::from_u128(u128::from(number)))
    }

    const UNTIL: Duration = Duration::from_secs(60);

    #[test]
    fn only_active_lineages_that_acknowledged_and_came_back_in_time_count_as_resumed() {
        let mut ledger = Ledger::default();
        ledger.begin(1, 5);
        for number in 1..=4 {
            ledger.ask(1, id(number), id(number + 100), (number != 4).then_some(UNTIL));
        }
        ledger.skip(1, 1);
        ledger.left(id(1), id(101), true);
        ledger.left(id(2), id(102), true);
        ledger.left(id(3), id(103), false);
        ledger.left(id(4), id(104), true);
        ledger.returned(id(101), UNTIL);
        ledger.returned(id(101), UNTIL);
        ledger.returned(id(102), UNTIL + Duration::from_millis(1));
        ledger.returned(id(103), UNTIL);
        ledger.returned(id(104), UNTIL);
        let batch = ledger.batches()[0];
        assert_eq!((batch.asked, batch.acknowledged, batch.gone, batch.here), (4, 3, 4, 0));
        assert_eq!((batch.counted, batch.resumed, batch.settled), (2, 1, false));
        ledger.settle(UNTIL + Duration::from_millis(1));
        let batch = ledger.batches()[0];
        assert_eq!((batch.counted, batch.resumed, batch.pending, batch.settled), (2, 1, 0, true));
    }

    #[test]
    fn a_lineage_of_two_connections_counts_once_and_in_each_batch_that_asks_it() {
        let mut ledger = Ledger::default();
        ledger.begin(1, 2);
        ledger.ask(1, id(1), id(100), Some(UNTIL));
        ledger.ask(1, id(2), id(100), Some(UNTIL));
        ledger.left(id(1), id(100), true);
        ledger.left(id(2), id(100), true);
        ledger.returned(id(100), Duration::ZERO);
        ledger.begin(2, 1);
        ledger.ask(2, id(3), id(100), Some(UNTIL));
        ledger.left(id(3), id(100), true);
        let counts: Vec<_> = ledger.batches().iter().map(|b| (b.counted, b.resumed)).collect();
        assert_eq!(counts, [(1, 1), (1, 0)]);
    }

    proptest! {
        /// Leaving and returning in any order, repeated, give the same counts; nothing is counted twice.
        #[test]
        fn the_order_in_which_things_become_known_does_not_matter(
            clients in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..30),
            seed in prop::collection::vec(0u64..1_000, 90),
        ) {
            let mut ledger = Ledger::default();
            ledger.begin(1, clients.len() as u64);
            let mut happenings = Vec::new();
            for (number, (is_active, acknowledges, comes_back)) in clients.iter().enumerate() {
                let number = number as u64;
                ledger.ask(1, id(number), id(number + 1_000), is_active.then_some(UNTIL));
                happenings.push((seed[happenings.len()], number, true, *acknowledges));
                if *comes_back {
                    happenings.push((seed[happenings.len()], number, false, false));
                    happenings.push((seed[happenings.len()], number, false, false));
                }
            }
            happenings.sort_unstable();
            for (_, number, leaves, acknowledges) in happenings {
                match leaves {
                    true => ledger.left(id(number), id(number + 1_000), acknowledges),
                    false => ledger.returned(id(number + 1_000), Duration::ZERO),
                }
                let batch = ledger.batches()[0];
                prop_assert!(batch.resumed <= batch.counted && batch.counted <= batch.acknowledged);
                prop_assert!(batch.here + batch.gone == batch.asked);
            }
            let expected = |wanted: fn(&(bool, bool, bool)) -> bool| {
                clients.iter().filter(|client| wanted(client)).count() as u64
            };
            ledger.settle(UNTIL * 2);
            let batch = ledger.batches()[0];
            prop_assert_eq!(batch.counted, expected(|(active, acknowledged, _)| *active && *acknowledged));
            prop_assert_eq!(batch.resumed, expected(|(active, acknowledged, back)| *active && *acknowledged && *back));
            prop_assert_eq!((batch.pending, batch.here, batch.settled), (0, 0, true));
            prop_assert!(ledger.open.is_empty() && ledger.asked.is_empty());
        }
    }
}
