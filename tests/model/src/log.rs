//! Owners, the fenced log, ids and their reservation, watermarks, duplicates and one polling device.
//!
//! Time is adversarial: every step that looks at a clock may see any millisecond, so clocks that are ahead, behind, or
//! step back are all covered. An append sent and not yet landed stays under way until it lands or another record takes its
//! place; so every delay, time-out and re-send of the same bytes is covered, and so is a death in between.

use stateright::{Model, Property};

pub const NODES: usize = 3;
pub const PARTITIONS: usize = 2;
const BATCH: usize = 2;
const PAGE: u32 = 1;

/// What can be switched off, one at a time. The sentences are in `README.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    Fence,
    OpeningRecord,
    ReadOnAfterRefusal,
    OwnerNamed,
    FloorIsReservation,
    StartsAboveFloor,
    ReservationAccepted,
    ReservationNeverFalls,
    OpeningKeepsFloor,
    ClosingCountsWatermark,
    ClosingCountsFloor,
    SilentAfterClosing,
    ClosingTellsUnwritten,
    RecordTellsUnwritten,
    WatermarkBinds,
    PendingHoldsWatermark,
    UnwrittenHoldsWatermark,
    InheritedHoldsWatermark,
    InheritedTellsSends,
    InheritedTellsSeq,
    SentUntilAnswered,
    ReadsUntilSeen,
    DuplicateRows,
    FreshOwnerReadsRows,
    CheckpointHasReservation,
    CheckpointHasEpoch,
    UnheardIsZero,
    WatermarkBeforeRead,
    FullPageEndsCursor,
}

/// How often each thing may happen in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub retries: u8,
    pub openings: u8,
    pub closings: u8,
    pub ticks: u8,
    pub watermarks: u8,
    pub polls: u8,
    pub expiries: u8,
}

#[derive(Clone, Debug)]
pub struct LogModel {
    pub off: Option<Rule>,
    /// A variant of the text: whatever follows that is not one's own means one has lost the partition.
    pub any_other_record_deposes: bool,
    pub nodes: u8,
    pub partitions: u8,
    pub milliseconds: u8,
    /// Messages that clients want to send, per partition.
    pub messages: [u8; PARTITIONS],
    pub bounds: Bounds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Opening,
    Tick,
    Batch,
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub client_id: u8,
    pub id: u8,
    pub seq: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub kind: Kind,
    pub epoch: u8,
    pub owner: u8,
    pub reserved_until: u8,
    pub entries: [Option<Entry>; BATCH],
    /// In a closing record: the next owner finds everything in the store, and replays nothing.
    pub is_written: bool,
    /// The next owner finds everything in the store up to this sequence. 0: nothing is said.
    pub written_to: u8,
}

impl Record {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }
}

/// What a node that believes in its ownership, or tries for it, has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    epoch: u8,
    opened: bool,
    /// Opened so recently that a command older than the opening may still be under way.
    fresh: bool,
    /// Last sequence of the subject, as far as it knows.
    expected: u8,
    /// `reserved_until` of the record it opened on.
    floor: u8,
    /// Highest id issued or watermark published by this owner.
    used: u8,
    /// Highest `reserved_until` it got accepted.
    reserved: u8,
    seq: u8,
    /// Client ids it remembers.
    memory: u8,
    unwritten: u32,
    waiting: u8,
    pending: Option<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: [Vec<Record>; PARTITIONS],
    /// Records that the retention has removed.
    expired: [u8; PARTITIONS],
    owners: [[Option<Owner>; PARTITIONS]; NODES],
    /// Appends given up while in doubt (only with `SentUntilAnswered` off).
    dropped: Vec<(u8, u8, Record)>,
    /// Highest watermark published; messages about it may be late, doubled or reordered, the highest heard counts.
    watermark: [Option<u8>; PARTITIONS],
    /// Ids whose rows are all in the store.
    stored: u32,
    cursor: u8,
    received: u32,
    polling: Option<u8>,
    sent_once: u8,
    tried: u8,
    acknowledged: u8,
    left: Bounds,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Send {
        node: u8,
        client_id: u8,
        retry: bool,
    },
    Append {
        node: u8,
        partition: u8,
        now: u8,
    },
    Tick {
        node: u8,
        partition: u8,
        now: u8,
    },
    Close {
        node: u8,
        partition: u8,
    },
    /// The append under way reaches the log.
    Land {
        node: u8,
        partition: u8,
    },
    /// The owner learns the outcome: acknowledged, or refused (10071).
    Answer {
        node: u8,
        partition: u8,
    },
    /// The owner is refused, reads, and does not see yet what made it so.
    AnswerFromStaleRead {
        node: u8,
        partition: u8,
    },
    GiveUp {
        node: u8,
        partition: u8,
    },
    LandAfterGivingUp(usize),
    Write {
        node: u8,
        partition: u8,
        id: u8,
    },
    Publish {
        node: u8,
        partition: u8,
        watermark: u8,
    },
    /// Reads the last record (`read` records are visible: a stale read sees fewer) and tries to open.
    Open {
        node: u8,
        partition: u8,
        read: u8,
        now: u8,
    },
    Expire {
        partition: u8,
    },
    PollBegins,
    PollEnds,
}

fn bit(n: u8) -> u32 {
    1 << n
}

fn lowest(set: u32) -> Option<u8> {
    (set != 0).then(|| set.trailing_zeros() as u8)
}

/// Milliseconds, partition, one bit of sequence.
fn first_id(millisecond: u8, partition: usize) -> u8 {
    millisecond << 2 | (partition as u8) << 1
}

fn last_id_of(millisecond: u8) -> u8 {
    millisecond << 2 | 3
}

fn partition_of(client_id: u8) -> usize {
    (client_id / 4) as usize
}

impl State {
    /// The subject's last sequence as the broker compares it: 0 when the subject is empty.
    fn last_sequence(&self, p: usize) -> u8 {
        let length = self.log[p].len() as u8;
        if length == self.expired[p] { 0 } else { length }
    }

    fn all_entries(&self) -> impl Iterator<Item = &Entry> {
        self.log.iter().flatten().flat_map(Record::entries)
    }

    fn inbox(&self, above: u8, up_to: u8) -> u32 {
        (above + 1..=up_to).filter(|&id| self.stored & bit(id) != 0).map(bit).sum()
    }
}

impl LogModel {
    pub fn new(bounds: Bounds) -> LogModel {
        LogModel {
            off: None,
            any_other_record_deposes: false,
            nodes: 2,
            partitions: 1,
            milliseconds: 3,
            messages: [1, 0],
            bounds,
        }
    }

    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    fn client_ids(&self, p: usize) -> std::ops::Range<u8> {
        let first = p as u8 * 4;
        first..first + self.messages[p]
    }

    fn next_id(&self, owner: &Owner, p: usize, now: u8, issued: u8) -> Option<u8> {
        let floor = if self.on(Rule::StartsAboveFloor) { owner.floor + 1 } else { owner.floor };
        let used = if issued > 0 { issued + 1 } else { 0 };
        let mut id = floor.max(used).max(first_id(now, p));
        while id >> 1 & 1 != p as u8 {
            id += 1;
        }
        (id <= owner.reserved).then_some(id)
    }

    fn record(&self, node: u8, owner: &Owner, kind: Kind, now: u8) -> Record {
        let rule = if kind == Kind::Opening {
            Rule::OpeningKeepsFloor
        } else {
            Rule::ReservationNeverFalls
        };
        let lowest = if self.on(rule) { owner.reserved } else { 0 };
        let reserved_until = last_id_of(now).max(lowest);
        Record {
            kind,
            epoch: owner.epoch,
            owner: node,
            reserved_until,
            entries: [None; BATCH],
            is_written: false,
            written_to: 0,
        }
    }

    /// The append under way says what of the log its owner knows to be in the store.
    fn tell_written(&self, s: &mut State, node: u8, partition: u8) -> Option<()> {
        let owner = s.owners[node as usize][partition as usize].as_mut()?;
        let records = &s.log[partition as usize][..owner.expected as usize];
        let unwritten = owner.unwritten;
        let is_written = |record: &&Record| record.entries().all(|e| unwritten & bit(e.id) == 0);
        owner.pending.as_mut()?.written_to = match self.on(Rule::RecordTellsUnwritten) {
            true => records.iter().take_while(is_written).count() as u8,
            false => owner.expected,
        };
        Some(())
    }

    /// Reads the last of the first `read` records and prepares an opening record on it.
    fn prepare(&self, s: &State, node: u8, p: usize, read: u8, now: u8) -> Owner {
        let visible = read > s.expired[p];
        // An emptied subject: the checkpoint has passed its last record.
        let read = read.max(s.expired[p]);
        let last = s.log[p][read as usize - 1];
        let last_id = s.log[p][..read as usize]
            .iter()
            .flat_map(Record::entries)
            .map(|e| e.id)
            .max()
            .unwrap_or(0);
        let (floor, epoch) = if visible {
            (
                if self.on(Rule::FloorIsReservation) { last.reserved_until } else { last_id },
                last.epoch,
            )
        } else {
            (
                if self.on(Rule::CheckpointHasReservation) { last.reserved_until } else { last_id },
                if self.on(Rule::CheckpointHasEpoch) { last.epoch } else { 0 },
            )
        };
        let mut owner = Owner {
            epoch: epoch + 1,
            opened: false,
            fresh: true,
            expected: if visible { read } else { 0 },
            floor,
            used: 0,
            reserved: floor,
            seq: 0,
            memory: 0,
            unwritten: 0,
            waiting: 0,
            pending: None,
        };
        let mut opening = self.record(node, &owner, Kind::Opening, now);
        // It passes on what was said of the store.
        if visible {
            opening.written_to = if last.is_written { read } else { last.written_to };
        }
        if self.on(Rule::OpeningRecord) {
            owner.pending = Some(opening);
        } else {
            owner.opened = true;
            owner.reserved = opening.reserved_until;
            self.load(s, p, read as usize, &mut owner);
        }
        owner
    }

    /// What the store and the first `length` records say: what the store lacks is known at once, and written later.
    fn load(&self, s: &State, p: usize, length: usize, owner: &mut Owner) {
        let records = &s.log[p][..length];
        let is_written = records.last().is_some_and(|r| r.kind == Kind::Closing && r.is_written);
        let written_to = records.last().map_or(0, |r| r.written_to as usize);
        let entries = records.iter().enumerate().flat_map(|(index, record)| {
            record.entries().map(move |entry| (index < written_to, entry))
        });
        for (is_behind, entry) in entries {
            let is_stored = s.stored & bit(entry.id) != 0;
            if (is_written || is_behind) && !is_stored {
                continue;
            }
            if is_stored || self.on(Rule::InheritedTellsSeq) {
                owner.seq = owner.seq.max(entry.seq);
            }
            // Others write it, or its own replay does, but nothing waits for that.
            if !is_stored && self.on(Rule::InheritedHoldsWatermark) {
                owner.unwritten |= bit(entry.id);
            }
            if !is_stored && self.on(Rule::InheritedTellsSends) {
                owner.memory |= 1 << entry.client_id;
            }
        }
    }

    fn lowest_unsafe(&self, owner: &Owner) -> Option<u8> {
        let mut ids = 0;
        if self.on(Rule::UnwrittenHoldsWatermark) {
            ids |= owner.unwritten;
        }
        if let (true, Some(record)) = (self.on(Rule::PendingHoldsWatermark), &owner.pending) {
            ids |= record.entries().map(|e| bit(e.id)).sum::<u32>();
        }
        lowest(ids)
    }

    fn watermarks(&self, owner: &Owner) -> Vec<u8> {
        if let Some(id) = self.lowest_unsafe(owner) {
            return vec![id - 1];
        }
        // The own clock less one millisecond, or as high as anything heard from others allows.
        let mut all: Vec<u8> =
            (1..=self.milliseconds).map(|now| last_id_of(now - 1).min(owner.reserved)).collect();
        all.push(owner.reserved);
        all.dedup();
        all
    }

    fn safe_watermark(&self, s: &State) -> u8 {
        let heard = s.watermark[..self.partitions as usize].iter();
        if self.on(Rule::UnheardIsZero) {
            heard.map(|w| w.unwrap_or(0)).min().unwrap_or(0)
        } else {
            heard.flatten().copied().min().unwrap_or(0)
        }
    }

    fn answer(&self, s: &mut State, node: usize, p: usize) {
        let mut owner = s.owners[node][p].take().expect("an owner waits for its answer");
        let record = owner.pending.take().expect("an append is pending");
        let from = owner.expected.max(s.expired[p]) as usize;
        let follows = &s.log[p][from..];
        let own = |r: &Record| {
            let mut r = *r;
            if !self.on(Rule::OwnerNamed) {
                r.owner = record.owner;
            }
            r == record
        };
        if follows.first().is_some_and(own) {
            owner.expected = from as u8 + 1;
            owner.reserved = owner.reserved.max(record.reserved_until);
            match record.kind {
                Kind::Opening => {
                    owner.opened = true;
                    self.load(s, p, from, &mut owner);
                }
                Kind::Tick => {}
                Kind::Batch => {
                    for entry in record.entries() {
                        owner.seq = entry.seq;
                        owner.memory |= 1 << entry.client_id;
                        owner.unwritten |= bit(entry.id);
                        s.acknowledged |= 1 << entry.client_id;
                    }
                }
                Kind::Closing => return,
            }
            s.owners[node][p] = Some(owner);
            return;
        }
        if follows.is_empty() {
            return; // the subject was emptied: it has to be opened again
        }
        if record.kind == Kind::Opening {
            let read = s.log[p].len() as u8;
            let again = self.prepare(s, node as u8, p, read, record.reserved_until >> 2);
            s.owners[node][p] = if self.on(Rule::ReadOnAfterRefusal) {
                Some(again)
            } else {
                owner.expected = read;
                owner.pending = Some(record);
                Some(owner)
            };
            return;
        }
        if self.any_other_record_deposes || follows.iter().any(|r| r.epoch > owner.epoch) {
            return; // steps down; the waiting commands are answered `moved`
        }
        let found = follows.iter().flat_map(Record::entries).map(|e| e.id).max().unwrap_or(0);
        owner.used = owner.used.max(found);
        owner.expected = s.log[p].len() as u8;
        owner.waiting |= record.entries().map(|e| 1 << e.client_id).sum::<u8>();
        self.load(s, p, s.log[p].len(), &mut owner);
        owner.waiting &= !owner.memory;
        s.owners[node][p] = Some(owner);
    }

    fn owner_steps(
        &self,
        s: &State,
        node: u8,
        partition: u8,
        owner: &Owner,
        steps: &mut Vec<Step>,
    ) {
        let p = partition as usize;
        if let Some(pending) = &owner.pending {
            if s.last_sequence(p) == owner.expected || !self.on(Rule::Fence) {
                let landed = s.log[p].contains(pending);
                if !landed {
                    steps.push(Step::Land { node, partition });
                }
                if owner.opened && !self.on(Rule::SentUntilAnswered) && pending.kind == Kind::Batch
                {
                    steps.push(Step::GiveUp { node, partition });
                }
            }
            if s.last_sequence(p) != owner.expected {
                steps.push(Step::Answer { node, partition });
                if !self.on(Rule::ReadsUntilSeen) && pending.kind == Kind::Batch {
                    steps.push(Step::AnswerFromStaleRead { node, partition });
                }
            }
        }
        if !owner.opened {
            return;
        }
        let closing = owner.pending.is_some_and(|r| r.kind == Kind::Closing);
        if !closing {
            for client_id in self.client_ids(p) {
                let next = client_id == p as u8 * 4 || s.tried & 1 << (client_id - 1) != 0;
                if next && s.sent_once & 1 << client_id == 0 {
                    steps.push(Step::Send { node, client_id, retry: false });
                }
                if next && s.left.retries > 0 {
                    steps.push(Step::Send { node, client_id, retry: true });
                }
            }
        }
        if owner.pending.is_none() {
            for now in 1..=self.milliseconds {
                if owner.waiting != 0 {
                    steps.push(Step::Append { node, partition, now });
                }
                if s.left.ticks > 0
                    && (last_id_of(now) > owner.reserved || !self.on(Rule::ReservationNeverFalls))
                {
                    steps.push(Step::Tick { node, partition, now });
                }
            }
            if s.left.closings > 0 && owner.waiting == 0 {
                steps.push(Step::Close { node, partition });
            }
        }
        for id in 0..32 {
            if owner.unwritten & bit(id) != 0 {
                steps.push(Step::Write { node, partition, id });
            }
        }
        if s.left.watermarks > 0 && !(closing && self.on(Rule::SilentAfterClosing)) {
            for watermark in self.watermarks(owner) {
                if s.watermark[p].is_none_or(|w| watermark > w) {
                    steps.push(Step::Publish { node, partition, watermark });
                }
            }
        }
    }
}

impl Model for LogModel {
    type State = State;
    type Action = Step;

    /// Node 0 owns partition 0, node 1 partition 1; both have just had their opening records accepted.
    fn init_states(&self) -> Vec<State> {
        let mut owners: [[Option<Owner>; PARTITIONS]; NODES] = Default::default();
        let mut log: [Vec<Record>; PARTITIONS] = Default::default();
        for p in 0..self.partitions as usize {
            let opening = Record {
                kind: Kind::Opening,
                epoch: 1,
                owner: p as u8,
                reserved_until: last_id_of(1),
                entries: [None; BATCH],
                is_written: false,
                written_to: 0,
            };
            log[p].push(opening);
            owners[p][p] = Some(Owner {
                epoch: 1,
                opened: true,
                fresh: false,
                expected: 1,
                floor: 0,
                used: 0,
                reserved: opening.reserved_until,
                seq: 0,
                memory: 0,
                unwritten: 0,
                waiting: 0,
                pending: None,
            });
        }
        vec![State {
            log,
            expired: [0; PARTITIONS],
            owners,
            dropped: vec![],
            watermark: [None; PARTITIONS],
            stored: 0,
            cursor: 0,
            received: 0,
            polling: None,
            sent_once: 0,
            tried: 0,
            acknowledged: 0,
            left: self.bounds,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        for partition in 0..self.partitions {
            let p = partition as usize;
            let length = s.log[p].len() as u8;
            for node in 0..self.nodes {
                match &s.owners[node as usize][p] {
                    Some(owner) => self.owner_steps(s, node, partition, owner, steps),
                    None if s.left.openings > 0 => {
                        for read in (length - 1).max(1)..=length {
                            for now in 1..=self.milliseconds {
                                steps.push(Step::Open { node, partition, read, now });
                            }
                        }
                    }
                    None => {}
                }
            }
            let all_written =
                s.log[p].iter().flat_map(Record::entries).all(|e| s.stored & bit(e.id) != 0);
            if s.left.expiries > 0 && all_written {
                steps.push(Step::Expire { partition });
            }
        }
        for i in 0..s.dropped.len() {
            steps.push(Step::LandAfterGivingUp(i));
        }
        match s.polling {
            None if s.left.polls > 0 => steps.push(Step::PollBegins),
            None => {}
            Some(_) => steps.push(Step::PollEnds),
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = before.clone();
        match step {
            Step::Send { node, client_id, retry } => {
                if retry {
                    s.left.retries -= 1;
                } else {
                    s.sent_once |= 1 << client_id;
                }
                s.tried |= 1 << client_id;
                let row = self.on(Rule::DuplicateRows)
                    && before
                        .all_entries()
                        .any(|e| e.client_id == client_id && s.stored & bit(e.id) != 0);
                let owner = s.owners[node as usize][partition_of(client_id)].as_mut()?;
                let pending =
                    owner.pending.is_some_and(|r| r.entries().any(|e| e.client_id == client_id));
                let reads_row = retry || owner.fresh && self.on(Rule::FreshOwnerReadsRows);
                if owner.memory & 1 << client_id != 0 || reads_row && row {
                    s.acknowledged |= 1 << client_id;
                } else if !pending {
                    owner.waiting |= 1 << client_id;
                }
            }
            Step::Append { node, partition, now } => {
                let owner = s.owners[node as usize][partition as usize].as_mut()?;
                let mut record = self.record(node, owner, Kind::Batch, now);
                let mut issued = owner.used;
                for (place, seq) in record.entries.iter_mut().zip(owner.seq + 1..) {
                    let Some(client_id) = lowest(owner.waiting as u32) else { break };
                    let Some(id) = self.next_id(owner, partition as usize, now, issued) else {
                        break;
                    };
                    issued = id;
                    owner.waiting &= !(1 << client_id);
                    *place = Some(Entry { client_id, id, seq });
                }
                record.entries[0]?;
                owner.used = owner.used.max(issued);
                owner.pending = Some(record);
                if !self.on(Rule::ReservationAccepted) {
                    owner.reserved = owner.reserved.max(record.reserved_until);
                }
                self.tell_written(&mut s, node, partition)?;
            }
            Step::Tick { node, partition, now } => {
                s.left.ticks -= 1;
                let owner = s.owners[node as usize][partition as usize].as_mut()?;
                let record = self.record(node, owner, Kind::Tick, now);
                owner.pending = Some(record);
                if !self.on(Rule::ReservationAccepted) {
                    owner.reserved = owner.reserved.max(record.reserved_until);
                }
                self.tell_written(&mut s, node, partition)?;
            }
            Step::Close { node, partition } => {
                s.left.closings -= 1;
                let entries = s.log[partition as usize].iter().flat_map(Record::entries);
                let last_id = entries.map(|e| e.id).max().unwrap_or(0);
                let owner = s.owners[node as usize][partition as usize].as_mut()?;
                let mut record = self.record(node, owner, Kind::Closing, 1);
                let used = if self.on(Rule::ClosingCountsWatermark) { owner.used } else { 0 };
                let floor = if self.on(Rule::ClosingCountsFloor) { owner.floor } else { 0 };
                record.reserved_until = last_id.max(used).max(floor);
                record.is_written = owner.unwritten == 0 || !self.on(Rule::ClosingTellsUnwritten);
                owner.pending = Some(record);
                self.tell_written(&mut s, node, partition)?;
            }
            Step::Land { node, partition } => {
                let record = s.owners[node as usize][partition as usize].as_ref()?.pending?;
                s.log[partition as usize].push(record);
            }
            Step::Answer { node, partition } => {
                self.answer(&mut s, node as usize, partition as usize)
            }
            Step::AnswerFromStaleRead { node, partition } => {
                let owner = s.owners[node as usize][partition as usize].as_mut()?;
                let record = owner.pending.take()?;
                owner.waiting |= record.entries().map(|e| 1 << e.client_id).sum::<u8>();
            }
            Step::GiveUp { node, partition } => {
                let owner = s.owners[node as usize][partition as usize].as_mut()?;
                let record = owner.pending.take()?;
                s.dropped.push((partition, owner.expected, record));
            }
            Step::LandAfterGivingUp(i) => {
                let (partition, expected, record) = s.dropped.remove(i);
                if s.last_sequence(partition as usize) == expected {
                    s.log[partition as usize].push(record);
                }
            }
            Step::Write { node, partition, id } => {
                s.stored |= bit(id);
                s.owners[node as usize][partition as usize].as_mut()?.unwritten &= !bit(id);
            }
            Step::Publish { node, partition, watermark } => {
                s.left.watermarks -= 1;
                s.watermark[partition as usize] = Some(watermark);
                if self.on(Rule::WatermarkBinds) {
                    let owner = s.owners[node as usize][partition as usize].as_mut()?;
                    owner.used = owner.used.max(watermark);
                }
            }
            Step::Open { node, partition, read, now } => {
                s.left.openings -= 1;
                let owner = self.prepare(&s, node, partition as usize, read, now);
                s.owners[node as usize][partition as usize] = Some(owner);
            }
            Step::Expire { partition } => {
                s.left.expiries -= 1;
                s.expired[partition as usize] = s.log[partition as usize].len() as u8;
            }
            Step::PollBegins => {
                s.left.polls -= 1;
                if self.on(Rule::WatermarkBeforeRead) {
                    s.polling = Some(self.safe_watermark(&s));
                } else {
                    s.received |= s.inbox(s.cursor, 31);
                    s.polling = Some(0);
                }
            }
            Step::PollEnds => {
                let mut up_to = s.polling.take()?;
                if self.on(Rule::WatermarkBeforeRead) {
                    let mut rows = s.inbox(s.cursor, up_to);
                    while rows.count_ones() > PAGE {
                        let highest = 31 - rows.leading_zeros() as u8;
                        rows &= !bit(highest);
                        if self.on(Rule::FullPageEndsCursor) {
                            up_to = 31 - rows.leading_zeros() as u8;
                        }
                    }
                    s.received |= rows;
                } else {
                    up_to = self.safe_watermark(&s);
                }
                s.cursor = s.cursor.max(up_to);
            }
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<LogModel>> {
        let mut all = vec![
            Property::<LogModel>::always(
                "an entry at or below a published watermark is in the store",
                |_, s| {
                    s.log.iter().zip(&s.watermark).all(|(log, watermark)| {
                        let mut entries = log.iter().flat_map(Record::entries);
                        entries.all(|e| Some(e.id) > *watermark || s.stored & bit(e.id) != 0)
                    })
                },
            ),
            Property::<LogModel>::always("an entry at or below the cursor was received", |_, s| {
                s.all_entries().all(|e| e.id > s.cursor || s.received & bit(e.id) != 0)
            }),
            Property::<LogModel>::always("ids increase in log order", |_, s| {
                s.log.iter().all(|log| {
                    let ids: Vec<u8> = log.iter().flat_map(Record::entries).map(|e| e.id).collect();
                    ids.is_sorted_by(|a, b| a < b)
                })
            }),
            Property::<LogModel>::always("seq is dense", |_, s| {
                s.log.iter().all(|log| {
                    let mut entries = log.iter().flat_map(Record::entries).enumerate();
                    entries.all(|(i, e)| e.seq as usize == i + 1)
                })
            }),
            Property::<LogModel>::always("one message per client id", |_, s| {
                let mut seen = 0u8;
                s.all_entries().all(|e| {
                    let first = seen & 1 << e.client_id == 0;
                    seen |= 1 << e.client_id;
                    first
                })
            }),
            Property::<LogModel>::always("an acknowledged message is in the log", |_, s| {
                let logged = s.all_entries().map(|e| 1 << e.client_id).fold(0u8, |a, b| a | b);
                s.acknowledged & !logged == 0
            }),
        ];
        if self.off.is_some() {
            return all;
        }
        if self.bounds.openings > 0 {
            all.push(Property::<LogModel>::sometimes("a second owner commits", |_, s| {
                s.log.iter().flatten().any(|r| r.epoch > 1 && r.kind == Kind::Batch)
            }));
        }
        if self.bounds.openings > 0 && self.bounds.watermarks > 0 {
            all.push(Property::<LogModel>::sometimes(
                "a watermark passes a second owner's message",
                |_, s| {
                    let mut second =
                        s.log[0].iter().filter(|r| r.epoch > 1).flat_map(Record::entries);
                    second.any(|e| Some(e.id) <= s.watermark[0])
                },
            ));
        }
        if self.bounds.openings > 0 && self.bounds.closings > 0 {
            all.push(Property::<LogModel>::sometimes(
                "an owner opens on a closing record",
                |_, s| {
                    s.log[0]
                        .windows(2)
                        .any(|r| r[0].kind == Kind::Closing && r[1].kind == Kind::Opening)
                },
            ));
        }
        if self.messages[0] > 1 {
            all.push(Property::<LogModel>::sometimes("a record holds two entries", |_, s| {
                s.log.iter().flatten().any(|r| r.entries().count() == 2)
            }));
        }
        if self.bounds.polls > 0 {
            all.push(Property::<LogModel>::sometimes(
                "the device's cursor passes a message",
                |_, s| s.received != 0 && s.all_entries().any(|e| e.id <= s.cursor),
            ));
        }
        all
    }
}
