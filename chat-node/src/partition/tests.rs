//! Random lives of several owners over one fenced log, with clocks that jump both ways.

use std::collections::BTreeSet;

use bytes::Bytes;
use chat_broker::Sequence;
use chat_protocol::record::{Change, Entry, ReadMarked, Record, RecordKind};
use chat_protocol::{ConversationId, MessageId, Millis, NodeId, Partition, UserId};
use chat_store::Checkpoint;
use proptest::prelude::*;
use uuid::Uuid;

use super::ownership::{Lease, Ownership, Tip};

const PARTITION: Partition = Partition(7);
const OWNERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Reads the last record, or the one before it if the read is stale, and prepares an opening record.
    Open {
        owner: usize,
        stale: bool,
    },
    Batch {
        owner: usize,
        entries: usize,
    },
    Tick {
        owner: usize,
    },
    Close {
        owner: usize,
    },
    /// The append under way reaches the log, or is refused by it.
    Land {
        owner: usize,
    },
    /// The owner learns what became of its append.
    Answer {
        owner: usize,
    },
    /// The oldest committed entry gets into the store.
    Write {
        owner: usize,
    },
    /// An entry that an owner before has committed is written again by the one that found it in the log.
    WriteInherited {
        owner: usize,
    },
    Publish {
        owner: usize,
    },
    /// The partition is found empty, once: against the contract, which keeps the last record.
    Expire,
}

/// A step, and the clock its owner looks at: any clock at any time.
fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let owner = 0..OWNERS;
    let step = prop_oneof![
        2 => (owner.clone(), any::<bool>()).prop_map(|(owner, stale)| Step::Open { owner, stale }),
        4 => (owner.clone(), 1usize..4).prop_map(|(owner, entries)| Step::Batch { owner, entries }),
        2 => owner.clone().prop_map(|owner| Step::Tick { owner }),
        1 => owner.clone().prop_map(|owner| Step::Close { owner }),
        8 => owner.clone().prop_map(|owner| Step::Land { owner }),
        8 => owner.clone().prop_map(|owner| Step::Answer { owner }),
        5 => owner.clone().prop_map(|owner| Step::Write { owner }),
        5 => owner.clone().prop_map(|owner| Step::WriteInherited { owner }),
        5 => owner.prop_map(|owner| Step::Publish { owner }),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec((step, 0u64..60_000), 1..250)
}

#[derive(Default)]
struct World {
    /// Accepted records, by sequence − 1.
    log: Vec<Bytes>,
    expired: usize,
    owners: Vec<Option<Ownership>>,
    /// Committed entries of each owner that are not written.
    unwritten: Vec<Vec<MessageId>>,
    /// What each owner has to write of those before it.
    inherited: Vec<Vec<MessageId>>,
    stored: BTreeSet<MessageId>,
    watermark: MessageId,
}

impl World {
    fn last_sequence(&self) -> u64 {
        if self.log.len() == self.expired { 0 } else { self.log.len() as u64 }
    }

    fn record(&self, index: usize) -> Record {
        Record::from_bytes(&self.log[index]).unwrap()
    }

    fn tip(&self, stale: bool) -> Tip {
        let read = self.log.len() - usize::from(stale && self.log.len() > self.expired + 1);
        if self.log.is_empty() {
            return Tip::of_empty(&Checkpoint::default());
        }
        let last = self.record(read - 1);
        if read <= self.expired {
            let reserved_until = MessageId(last.reserved_until);
            return Tip::of_empty(&Checkpoint {
                sequence: read as u64,
                reserved_until,
                epoch: last.epoch,
            });
        }
        Tip::of_record(Sequence(read as u64), &last)
    }

    fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.ids_behind(0)
    }

    /// Of the records behind this sequence.
    fn ids_behind(&self, sequence: u64) -> impl Iterator<Item = MessageId> + '_ {
        (sequence as usize..self.log.len())
            .flat_map(|index| self.record(index).entries)
            .map(|entry| entry.message_id())
    }

    fn step(&mut self, step: &Step, now: Millis) {
        match *step {
            Step::Open { owner, stale } if self.owners[owner].is_none() => {
                let lease = Lease { node: NodeId(Uuid::from_u128(owner as u128)), start: 1 };
                self.owners[owner] = Some(Ownership::open(PARTITION, lease, self.tip(stale), now));
                self.unwritten[owner].clear();
                self.inherited[owner].clear();
            }
            Step::Batch { owner, entries } => {
                let Some(ownership) = &mut self.owners[owner] else { return };
                let ids: Vec<_> = (0..entries).map_while(|_| ownership.next_id(now)).collect();
                if !ids.is_empty() {
                    ownership.batch(ids.into_iter().map(entry).collect(), now);
                }
            }
            Step::Tick { owner } => {
                if let Some(ownership) = self.owners[owner].as_mut().filter(|o| o.tick_due(now)) {
                    ownership.tick(now);
                }
            }
            Step::Close { owner } => {
                if let Some(ownership) = &mut self.owners[owner] {
                    ownership.close();
                }
            }
            Step::Land { owner } => {
                let last = self.last_sequence();
                let append = self.owners[owner].as_ref().and_then(Ownership::append);
                if let Some(append) = append.filter(|append| append.expected.0 == last) {
                    let payload = append.payload.clone();
                    self.log.push(payload);
                }
            }
            Step::Answer { owner } => self.answer(owner),
            Step::Write { owner } => {
                if self.unwritten[owner].is_empty() {
                    return;
                }
                let id = self.unwritten[owner].remove(0);
                self.stored.insert(id);
                if let Some(ownership) = &mut self.owners[owner] {
                    ownership.written_up_to(id);
                }
            }
            Step::WriteInherited { owner } => {
                let Some(id) = self.inherited[owner].pop() else { return };
                self.stored.insert(id);
                if let (true, Some(ownership)) =
                    (self.inherited[owner].is_empty(), &mut self.owners[owner])
                {
                    ownership.inherited_written();
                }
            }
            Step::Publish { owner } => {
                let heard = self.watermark;
                if let Some(ownership) = &mut self.owners[owner]
                    && let Some(watermark) = ownership.watermark(now, heard)
                {
                    self.watermark = self.watermark.max(watermark);
                }
            }
            Step::Expire if self.expired == 0 && self.ids().all(|id| self.stored.contains(&id)) => {
                self.expired = self.log.len()
            }
            _ => {}
        }
    }

    /// What `append::settle` finds out, and what the owner then does.
    fn answer(&mut self, owner: usize) {
        let Some(ownership) = &mut self.owners[owner] else { return };
        let Some(append) = ownership.append().cloned() else { return };
        // The record that stands behind the expected one; an emptied partition begins anew behind what expired.
        let behind = if append.expected.0 == 0 { self.expired } else { append.expected.0 as usize };
        let Some(found) = self.log.get(behind) else { return };
        if *found != append.payload {
            ownership.deposed();
            self.owners[owner] = None;
            return;
        }
        ownership.accepted(Sequence(behind as u64 + 1));
        let record = Record::from_bytes(&append.payload).unwrap();
        if record.kind == RecordKind::Opening as i32 {
            let tip = match append.expected.0 {
                0 => Tip::of_empty(&Checkpoint::default()),
                _ => Tip::of_record(append.expected, &self.record(behind - 1)),
            };
            // Nothing is looked for where the last record says that the store holds it.
            let is_missing = |id: &MessageId| !self.stored.contains(id);
            let missing: Vec<_> = match tip.is_written() {
                true => vec![],
                false => self.ids_behind(tip.written_to().0).filter(is_missing).collect(),
            };
            if let Some(ownership) = &mut self.owners[owner] {
                ownership.learnt(missing.first().copied());
            }
            self.inherited[owner] = missing;
        }
        self.unwritten[owner].extend(record.entries.iter().map(Entry::message_id));
        if self.owners[owner].as_ref().is_some_and(Ownership::is_over) {
            self.owners[owner] = None;
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let ids: Vec<_> = self.ids().collect();
        prop_assert!(
            ids.is_sorted_by(|one, other| one < other),
            "ids do not increase in log order: {ids:?}"
        );
        for id in ids {
            prop_assert_eq!(id.partition(), PARTITION);
            let known = id > self.watermark || self.stored.contains(&id);
            prop_assert!(
                known,
                "{id} is below the watermark {} and not in the store",
                self.watermark
            );
        }
        Ok(())
    }
}

fn entry(id: MessageId) -> Entry {
    let user = UserId(Uuid::nil());
    let conversation = ConversationId::direct(user, user).as_bytes().to_vec();
    let change = Change::Read(ReadMarked { user: user.as_bytes().to_vec(), seq: 1 });
    Entry { id: id.0, conversation, change: Some(change) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn ids_increase_and_watermarks_hold_whatever_the_clocks_say(steps in steps()) {
        let mut world = World {
            owners: (0..OWNERS).map(|_| None).collect(),
            unwritten: vec![vec![]; OWNERS],
            inherited: vec![vec![]; OWNERS],
            ..World::default()
        };
        // As in any platform that has been started once.
        for step in [Step::Open { owner: 0, stale: false }, Step::Land { owner: 0 }, Step::Answer { owner: 0 }] {
            world.step(&step, Millis::from_2025(1_000_000));
        }
        for (step, now) in steps {
            world.step(&step, Millis::from_2025(1_000_000 + now));
            world.check()?;
        }
    }
}

fn opened(tip: Tip, now: Millis) -> Ownership {
    let lease = Lease { node: NodeId(Uuid::nil()), start: 1 };
    let mut ownership = Ownership::open(PARTITION, lease, tip, now);
    ownership.accepted(Sequence(1));
    ownership.learnt(None);
    ownership
}

fn unused() -> Tip {
    Tip::of_empty(&Checkpoint::default())
}

#[test]
fn before_its_opening_record_is_accepted_an_owner_issues_and_publishes_nothing() {
    let now = Millis::from_2025(1_000);
    let lease = Lease { node: NodeId(Uuid::nil()), start: 1 };
    let mut ownership = Ownership::open(PARTITION, lease, unused(), now);
    assert_eq!(ownership.next_id(now), None);
    assert_eq!(ownership.watermark(now, MessageId::ZERO), None);
    ownership.accepted(Sequence(1));
    assert_eq!(
        ownership.watermark(now, MessageId::ZERO),
        None,
        "what was committed before is not known yet"
    );
}

#[test]
fn ids_stay_within_the_accepted_reservation() {
    let now = Millis::from_2025(1_000);
    let mut ownership = opened(unused(), now);
    let far_ahead = now.plus(60_000);
    assert_eq!(ownership.next_id(far_ahead), None);
    assert!(ownership.tick_due(far_ahead));
    ownership.tick(far_ahead);
    assert_eq!(ownership.next_id(far_ahead), None, "a reservation counts once it is accepted");
    ownership.accepted(Sequence(2));
    assert!(ownership.next_id(far_ahead).is_some());
}

#[test]
fn an_owner_whose_clock_is_far_behind_still_gets_ids() {
    let ahead = Millis::from_2025(1_000_000);
    let behind = Millis::from_2025(1_000);
    let mut ownership = opened(unused(), behind);
    // Others are far ahead: an idle owner's watermark follows them up to its reservation.
    ownership.watermark(behind, MessageId::last_of(ahead));
    assert_eq!(ownership.next_id(behind), None);
    ownership.tick(behind);
    ownership.accepted(Sequence(2));
    assert!(ownership.next_id(behind).is_some(), "a tick must give it something to issue");
}

#[test]
fn a_closing_record_reserves_exactly_what_was_used() {
    let now = Millis::from_2025(1_000);
    let mut ownership = opened(unused(), now);
    let watermark = ownership.watermark(now, MessageId::ZERO).unwrap();
    assert!(ownership.close());
    let record = Record::from_bytes(&ownership.append().unwrap().payload).unwrap();
    assert_eq!(record.reserved_until, watermark.0);
    assert_eq!(ownership.watermark(now.plus(1_000), MessageId::ZERO), None, "silent after closing");
}

#[test]
fn a_closing_record_tells_whether_the_store_holds_everything() {
    let now = Millis::from_2025(1_000);
    let is_written = |has_written: bool, is_doubted: bool| {
        let mut ownership = opened(unused(), now);
        let id = ownership.next_id(now).unwrap();
        ownership.batch(vec![entry(id)], now);
        ownership.accepted(Sequence(2));
        if has_written {
            ownership.written_up_to(id);
        }
        ownership.doubt_store(is_doubted);
        assert!(ownership.close());
        let record = Record::from_bytes(&ownership.append().unwrap().payload).unwrap();
        Tip::of_record(Sequence(3), &record).is_written()
    };
    assert!(is_written(true, false));
    assert!(!is_written(true, true), "the store was away: it may have lost what it took");
    assert!(
        !is_written(false, false),
        "the store was slow: the next owner must write what it lacks"
    );
}

#[test]
fn every_record_tells_what_the_store_has_taken() {
    let now = Millis::from_2025(1_000);
    let mut ownership = opened(unused(), now);
    let said = |ownership: &Ownership| {
        Record::from_bytes(&ownership.append().unwrap().payload).unwrap().written_to
    };
    let (first, second) = (ownership.next_id(now).unwrap(), ownership.next_id(now).unwrap());
    ownership.batch(vec![entry(first), entry(second)], now);
    assert_eq!(said(&ownership), 1, "the opening record");
    ownership.accepted(Sequence(5));
    ownership.written_up_to(first);
    ownership.tick(now);
    assert_eq!(said(&ownership), 1, "half of a record is none");
    ownership.accepted(Sequence(6));
    ownership.written_up_to(second);
    let third = ownership.next_id(now).unwrap();
    ownership.batch(vec![entry(third)], now);
    assert_eq!(said(&ownership), 6, "ticks have nothing to write");
    ownership.accepted(Sequence(7));
    let fourth = ownership.next_id(now).unwrap();
    ownership.batch(vec![entry(fourth)], now);
    assert_eq!(said(&ownership), 5, "the third is not written");
    ownership.accepted(Sequence(8));
    ownership.written_up_to(fourth);
    ownership.doubt_store(true);
    ownership.tick(now);
    assert_eq!(said(&ownership), 0, "the store was away: it may have lost what it took");
    ownership.accepted(Sequence(9));
    ownership.doubt_store(false);
    assert!(ownership.close());
    assert_eq!(said(&ownership), 9);
}

#[test]
fn an_opening_record_passes_on_what_was_said_of_the_store() {
    let now = Millis::from_2025(1_000);
    let lease = Lease { node: NodeId(Uuid::nil()), start: 1 };
    let said = |ownership: &Ownership| {
        Record::from_bytes(&ownership.append().unwrap().payload).unwrap().written_to
    };
    let record = Record { kind: RecordKind::Tick as i32, written_to: 40, ..Record::default() };
    let closing = Record { kind: RecordKind::Closing as i32, is_written: true, ..record.clone() };
    for (record, passed_on) in [(record, 40), (closing, 50)] {
        let tip = Tip::of_record(Sequence(50), &record);
        let mut ownership = Ownership::open(PARTITION, lease, tip, now);
        assert_eq!(said(&ownership), passed_on);
        ownership.accepted(Sequence(51));
        ownership.learnt(Some(MessageId(1)));
        ownership.tick(now);
        assert_eq!(said(&ownership), passed_on, "what is behind that is not written");
        ownership.accepted(Sequence(52));
        ownership.inherited_written();
        ownership.tick(now);
        assert_eq!(said(&ownership), 52);
        let doubting = Ownership::open(PARTITION, lease, tip.doubting_store(), now);
        assert_eq!(said(&doubting), 0);
    }
}

#[test]
fn what_owners_before_have_committed_keeps_watermarks_below_it_until_it_is_written() {
    let now = Millis::from_2025(1_000);
    let lease = Lease { node: NodeId(Uuid::nil()), start: 1 };
    let before = MessageId::first_of(Millis::from_2025(900), PARTITION);
    let open = || {
        let mut ownership = Ownership::open(PARTITION, lease, unused(), now);
        ownership.accepted(Sequence(1));
        ownership.learnt(Some(before));
        ownership
    };
    let mut ownership = open();
    let own = ownership.next_id(now).expect("it answers at once");
    ownership.batch(vec![entry(own)], now);
    ownership.accepted(Sequence(2));
    ownership.written_up_to(own);
    ownership.tick(now);
    let tick = Record::from_bytes(&ownership.append().unwrap().payload).unwrap();
    assert_eq!(tick.written_to, 0, "what was before is not written");
    ownership.accepted(Sequence(3));
    let watermark = ownership.watermark(now.plus(100), MessageId::ZERO).unwrap();
    assert!(watermark < before, "its own entries are written, but not those before them");
    ownership.inherited_written();
    assert!(ownership.watermark(now.plus(100), MessageId::ZERO).unwrap() >= own);

    let mut leaving = open();
    assert!(leaving.close());
    let record = Record::from_bytes(&leaving.append().unwrap().payload).unwrap();
    assert!(!record.is_written, "the next owner must know it, too");
}

#[test]
fn an_append_that_was_certainly_refused_frees_its_ids_for_the_watermark() {
    let now = Millis::from_2025(1_000);
    let mut ownership = opened(unused(), now);
    let id = ownership.next_id(now).unwrap();
    ownership.batch(vec![entry(id)], now);
    assert!(ownership.watermark(now.plus(100), MessageId::ZERO).unwrap() < id);
    ownership.dropped();
    assert!(ownership.watermark(now.plus(100), MessageId::ZERO).unwrap() > id);
    assert!(ownership.next_id(now).unwrap() > id, "an id is never issued twice");
}

const HOUR_MS: u64 = 3_600_000;

/// Owners of several idle or busy partitions who hear of each other, with the right clock.
struct Neighbours {
    owners: Vec<Ownership>,
    appends: usize,
}

impl Neighbours {
    /// The log of the first one has ids an hour ahead; the second was idle for long.
    fn with_an_hour_ahead(now: Millis) -> Neighbours {
        let ahead = Record {
            kind: RecordKind::Tick as i32,
            reserved_until: MessageId::last_of(now.plus(HOUR_MS)).0,
            ..Record::default()
        };
        let owners = vec![opened(Tip::of_record(Sequence(1), &ahead), now), opened(unused(), now)];
        Neighbours { owners, appends: 0 }
    }

    fn settle(&mut self, owner: usize) {
        if let Some(expected) = self.owners[owner].append().map(|append| append.expected) {
            self.owners[owner].accepted(Sequence(expected.0 + 1));
            self.appends += 1;
        }
    }

    /// One round of announcements, and the tick that follows from it. Returns the safe watermark and the highest id.
    fn announce(&mut self, now: Millis, heard: &mut MessageId) -> (MessageId, MessageId) {
        let mut safe = MessageId(u64::MAX);
        let mut highest = MessageId::ZERO;
        let before = *heard;
        for owner in 0..self.owners.len() {
            let ownership = &mut self.owners[owner];
            let watermark = ownership.watermark(now, before).unwrap();
            safe = safe.min(watermark);
            highest = highest.max(ownership.highest_issued());
            *heard = (*heard).max(watermark).max(highest);
            if ownership.is_outrun() {
                assert!(ownership.tick_due(now), "a tick would change nothing");
                ownership.tick(now);
                self.settle(owner);
            }
        }
        (safe, highest)
    }

    /// Commits a message and brings it into the store. Returns how many appends that took.
    fn send(&mut self, owner: usize, now: Millis) -> usize {
        let before = self.appends;
        let id = loop {
            match self.owners[owner].next_id(now) {
                Some(id) => break id,
                None => {
                    self.owners[owner].tick(now);
                    self.settle(owner);
                    assert!(self.appends < before + 3, "ticks give no ids");
                }
            }
        };
        self.owners[owner].batch(vec![entry(id)], now);
        self.settle(owner);
        self.owners[owner].written_up_to(id);
        self.appends - before
    }
}

#[test]
fn ids_an_hour_ahead_hold_up_no_watermark_and_no_send() {
    let mut now = Millis::from_2025(1_000_000);
    let mut neighbours = Neighbours::with_an_hour_ahead(now);
    let mut heard = MessageId::ZERO;
    // A round to hear of it, one to reserve, one to follow.
    for _ in 0..3 {
        neighbours.announce(now, &mut heard);
    }
    for round in 0..1_000 {
        now = now.plus(200);
        for owner in 0..2 {
            assert_eq!(neighbours.send(owner, now), 1, "a send waits for a tick, round {round}");
        }
        let (_, highest) = neighbours.announce(now, &mut heard);
        let (safe, _) = neighbours.announce(now, &mut heard);
        assert!(safe >= highest, "the watermark waits, round {round}");
    }
    let ahead_ms = heard.created_at().since(now);
    assert!(ahead_ms < HOUR_MS - 150_000, "in 200 s ids have come only to {ahead_ms} ms ahead");
}

#[test]
fn owners_that_die_again_and_again_do_not_drive_ids_ahead_of_time() {
    let mut now = Millis::from_2025(1_000_000);
    let mut neighbours = Neighbours::with_an_hour_ahead(now);
    let mut heard = MessageId::ZERO;
    for death in 0..100 {
        for _ in 0..20 {
            now = now.plus(200);
            neighbours.announce(now, &mut heard);
        }
        let left = neighbours.owners[death % 2].checkpoint(Sequence(1));
        neighbours.owners[death % 2] = opened(Tip::of_empty(&left), now);
    }
    let ahead_ms = heard.created_at().since(now);
    assert!(ahead_ms < HOUR_MS, "after 400 s and 100 deaths ids are {ahead_ms} ms ahead");
}
