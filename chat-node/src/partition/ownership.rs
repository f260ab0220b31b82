//! What an owner of a partition may do, decided without I/O.
//!
//! Every rule here is needed: `tests/model` shows, for each one left out, a lost or doubled message. The rules are told in
//! `docs/log.md`.

use std::collections::VecDeque;

use bytes::Bytes;
use chat_broker::Sequence;
use chat_protocol::record::{Entry, Record, RecordKind};
use chat_protocol::{MessageId, Millis, NodeId, Partition};
use chat_store::Checkpoint;

/// How far ahead of its clock an owner reserves ids.
pub const RESERVATION_MS: u64 = 10_000;

/// How much a record reserves at least above what was used here and heard of elsewhere, if the owner's clock is behind
/// that. Not more: a death leaves its reservation to all others as what they hear, and ids must not run ahead of time.
const RESERVATION_ABOVE_MS: u64 = 1_000;

/// A tick is due when less than this is left of the reservation, by the own clock.
const RESERVATION_LEFT_MS: u64 = 6_000;

/// The same, above what was heard.
const RESERVATION_LEFT_ABOVE_MS: u64 = 500;

/// One start of one node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The node.
    pub node: NodeId,
    /// Drawn at random when its process started.
    pub start: u64,
}

/// The last record of a partition, or what the store's checkpoint says of it if the partition was found empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    sequence: Sequence,
    epoch: u64,
    reserved_until: MessageId,
    is_written: bool,
    written_to: Sequence,
}

impl Tip {
    /// From the last record.
    pub fn of_record(sequence: Sequence, record: &Record) -> Tip {
        let is_written = record.kind == RecordKind::Closing as i32 && record.is_written;
        let reserved_until = MessageId(record.reserved_until);
        let written_to = Sequence(record.written_to);
        Tip { sequence, epoch: record.epoch, reserved_until, is_written, written_to }
    }

    /// Of an empty partition: floor and epoch are those that the checkpoint kept.
    pub fn of_empty(checkpoint: &Checkpoint) -> Tip {
        let Checkpoint { epoch, reserved_until, .. } = *checkpoint;
        let none = Sequence(0);
        Tip { sequence: none, epoch, reserved_until, is_written: false, written_to: none }
    }

    /// Its owner has closed the partition, and said that the store holds everything.
    pub fn is_written(&self) -> bool {
        self.is_written
    }

    /// Owners have said that the store has taken everything up to here. It may have lost that since.
    pub fn written_to(&self) -> Sequence {
        if self.is_written { self.sequence } else { self.written_to }
    }

    /// The same record, but nothing of what was said of the store is believed.
    pub fn doubting_store(self) -> Tip {
        Tip { is_written: false, written_to: Sequence(0), ..self }
    }

    /// Nobody has ever owned this partition.
    pub fn is_unused(&self) -> bool {
        self.sequence == Sequence(0) && self.epoch == 0
    }
}

/// An append to be sent, the same bytes until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Last sequence of the partition as the owner knows it.
    pub expected: Sequence,
    /// The record.
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The opening record is not accepted yet.
    Opening,
    /// Accepted; what was committed before is not known yet. No command, no watermark.
    Learning,
    Open,
    /// The closing record was sent: publishes nothing more.
    Closing,
    /// Closed, or another owner was found in the log.
    Over,
}

struct Pending {
    append: Append,
    reserved_until: MessageId,
    /// Ids it carries, to be forgotten if it was certainly not appended.
    ids: Vec<MessageId>,
}

/// One owner of one partition, from its opening record to its end.
pub struct Ownership {
    partition: Partition,
    lease: Lease,
    epoch: u64,
    phase: Phase,
    expected: Sequence,
    /// `reserved_until` of the record this owner opened on. Its ids start above.
    floor: MessageId,
    /// Highest id issued or watermark published by this owner. Ids start above.
    used: MessageId,
    /// Highest id issued by this owner.
    issued: MessageId,
    /// Highest `reserved_until` this owner got accepted.
    reserved: MessageId,
    /// Highest watermark published.
    published: MessageId,
    /// Highest id or watermark heard of any partition.
    heard: MessageId,
    pending: Option<Pending>,
    /// Ids issued whose entries are not fully in the store, in order: waiting in an append, in doubt, or in the log.
    unwritten: VecDeque<MessageId>,
    /// Accepted records that carry some of these: the last id of each, and its sequence.
    unwritten_records: VecDeque<(MessageId, Sequence)>,
    /// The last of this owner's records that is fully in the store, of those that carry ids; the opening record to begin
    /// with.
    written_to: Sequence,
    /// What owners before have said that the store has taken.
    written_before: Sequence,
    /// The lowest id of an owner before that may not be in the store.
    inherited: Option<MessageId>,
    /// The store may lack what it took.
    is_store_doubted: bool,
}

impl Ownership {
    /// Prepares the opening record on top of the partition's last one. `now` may be wrong: the floor counts.
    pub fn open(partition: Partition, lease: Lease, tip: Tip, now: Millis) -> Ownership {
        let floor = tip.reserved_until;
        let reserved_until = reservation(now, floor);
        let mut ownership = Ownership {
            partition,
            lease,
            epoch: tip.epoch + 1,
            phase: Phase::Opening,
            expected: tip.sequence,
            floor,
            used: MessageId::ZERO,
            issued: MessageId::ZERO,
            reserved: floor,
            published: MessageId::ZERO,
            heard: MessageId::ZERO,
            pending: None,
            unwritten: VecDeque::new(),
            unwritten_records: VecDeque::new(),
            written_to: Sequence(0),
            written_before: tip.written_to(),
            inherited: None,
            is_store_doubted: false,
        };
        ownership.prepare(RecordKind::Opening, reserved_until, vec![]);
        ownership
    }

    /// One more than the epoch of the owner before.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The append to send, if one is not settled. Nothing else of this partition is sent meanwhile.
    pub fn append(&self) -> Option<&Append> {
        self.pending.as_ref().map(|pending| &pending.append)
    }

    /// Commands may be decided.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Closed or deposed.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Last sequence of the partition as this owner knows it.
    pub fn sequence(&self) -> Sequence {
        self.expected
    }

    /// What was committed before the opening record is known: commands and watermarks from here on. `inherited`: the lowest
    /// id of it that may not be in the store.
    pub fn learnt(&mut self, inherited: Option<MessageId>) {
        if self.phase == Phase::Learning {
            self.inherited = inherited;
            self.phase = Phase::Open;
        }
    }

    /// Something that was committed before the opening record may not be in the store.
    pub fn inherits(&self) -> bool {
        self.inherited.is_some()
    }

    /// Everything that was committed before the opening record is in the store.
    pub fn inherited_written(&mut self) {
        self.inherited = None;
    }

    /// Issues the next id. `None`: not open, an append is under way, or the reservation is used up (a tick or any record
    /// extends it).
    pub fn next_id(&mut self, now: Millis) -> Option<MessageId> {
        if self.phase != Phase::Open || self.pending.is_some() {
            return None;
        }
        let above = self.floor.max(self.used).next_in(self.partition);
        let id = MessageId::first_of(now, self.partition).max(above);
        if id > self.reserved {
            return None;
        }
        self.used = id;
        self.issued = id;
        self.unwritten.push_back(id);
        Some(id)
    }

    /// Takes back ids that were issued for a batch that was not prepared: the newest ones. They are not issued again.
    pub fn forget(&mut self, ids: &[MessageId]) {
        self.unwritten.retain(|id| !ids.contains(id));
    }

    /// Prepares a record of entries whose ids this owner has just issued.
    pub fn batch(&mut self, entries: Vec<Entry>, now: Millis) {
        debug_assert!(self.phase == Phase::Open && self.pending.is_none());
        self.prepare(RecordKind::Batch, self.extended(now), entries);
    }

    /// Whether the reservation should be extended: nothing else did for a while.
    pub fn tick_due(&self, now: Millis) -> bool {
        let above_heard = self.heard.created_at().plus(RESERVATION_LEFT_ABOVE_MS);
        let wanted = MessageId::last_of(now.plus(RESERVATION_LEFT_MS).max(above_heard));
        self.phase == Phase::Open && self.pending.is_none() && self.reserved < wanted
    }

    /// Whether the watermark stays behind what was heard for want of a reservation: a tick mends it.
    pub fn is_outrun(&self) -> bool {
        self.phase == Phase::Open && self.unwritten.is_empty() && self.reserved < self.heard
    }

    /// Prepares a tick.
    pub fn tick(&mut self, now: Millis) {
        debug_assert!(self.phase == Phase::Open && self.pending.is_none());
        self.prepare(RecordKind::Tick, self.extended(now), vec![]);
    }

    /// Whether the store may lack what it took: then no record is to say that the next owner finds it there.
    pub fn doubt_store(&mut self, is_doubted: bool) {
        self.is_store_doubted = is_doubted;
    }

    /// Prepares the closing record; from here on nothing is published. Its `reserved_until` is exactly what was used, so
    /// that the next owner's ids do not run ahead of time; and it says whether the next owner finds everything in the
    /// store. `false`: an append is under way, or it is not open.
    pub fn close(&mut self) -> bool {
        if self.phase != Phase::Open || self.pending.is_some() {
            return false;
        }
        self.phase = Phase::Closing;
        self.prepare(RecordKind::Closing, self.floor.max(self.used), vec![]);
        true
    }

    /// The append under way is in the log, at this sequence.
    pub fn accepted(&mut self, sequence: Sequence) {
        let Some(pending) = self.pending.take() else { return };
        self.expected = sequence;
        self.reserved = self.reserved.max(pending.reserved_until);
        if let Some(last) = pending.ids.last() {
            self.unwritten_records.push_back((*last, sequence));
        }
        if self.phase == Phase::Opening {
            self.written_to = sequence;
        }
        self.phase = match self.phase {
            Phase::Opening => Phase::Learning,
            Phase::Closing => Phase::Over,
            phase => phase,
        };
    }

    /// The append under way was certainly not appended and never will be. Its ids are not used again.
    pub fn dropped(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        self.forget(&pending.ids);
        if self.phase == Phase::Closing {
            self.phase = Phase::Open;
        }
    }

    /// The log holds another owner's record where this one's append should be.
    pub fn deposed(&mut self) {
        self.pending = None;
        self.phase = Phase::Over;
    }

    /// Every entry up to this id is in the store, with its inbox rows.
    pub fn written_up_to(&mut self, id: MessageId) {
        while self.unwritten.front().is_some_and(|first| *first <= id) {
            self.unwritten.pop_front();
        }
        while let Some((_, sequence)) =
            self.unwritten_records.front().filter(|(last, _)| *last <= id)
        {
            self.written_to = *sequence;
            self.unwritten_records.pop_front();
        }
    }

    /// The store has taken everything up to here, as far as this owner and those before know.
    fn written_to(&self) -> Sequence {
        let is_learning = matches!(self.phase, Phase::Opening | Phase::Learning);
        if self.is_store_doubted {
            Sequence(0)
        } else if is_learning || self.inherited.is_some() {
            self.written_before
        } else if self.unwritten_records.is_empty() {
            self.expected
        } else {
            self.written_to
        }
    }

    /// The lowest id issued, by this owner or any before, that may not be in the store.
    pub fn lowest_unwritten(&self) -> Option<MessageId> {
        self.inherited.or_else(|| self.unwritten.front().copied())
    }

    /// Highest id issued in this partition, by this owner or any before.
    pub fn highest_issued(&self) -> MessageId {
        self.issued.max(self.floor)
    }

    /// The watermark to publish now: every id up to it is in the store, and this call binds it: no id up to it is issued
    /// any more. `heard` is the highest id or watermark heard of any partition, so that an idle partition whose owner's
    /// clock is behind does not hold up the others; later reservations follow it.
    pub fn watermark(&mut self, now: Millis, heard: MessageId) -> Option<MessageId> {
        self.heard = self.heard.max(heard);
        if self.phase != Phase::Open {
            return None;
        }
        let candidate = match self.lowest_unwritten() {
            Some(first) => MessageId(first.0 - 1),
            None => {
                let own_clock = MessageId::last_of(Millis(now.0.saturating_sub(1)));
                self.reserved.min(own_clock.max(self.heard).max(self.floor))
            }
        };
        self.published = self.published.max(candidate);
        self.used = self.used.max(self.published);
        Some(self.published)
    }

    /// What the store keeps, so that a partition found empty still has its floor and epoch.
    pub fn checkpoint(&self, sequence: Sequence) -> Checkpoint {
        Checkpoint { sequence: sequence.0, reserved_until: self.reserved, epoch: self.epoch }
    }

    /// A reservation that never falls.
    fn extended(&self, now: Millis) -> MessageId {
        let above = self.floor.max(self.used).max(self.heard);
        self.reserved.max(reservation(now, above))
    }

    fn prepare(&mut self, kind: RecordKind, reserved_until: MessageId, entries: Vec<Entry>) {
        let ids = entries.iter().map(Entry::message_id).collect();
        let record = Record {
            kind: kind as i32,
            epoch: self.epoch,
            node: self.lease.node.as_bytes().to_vec(),
            start: self.lease.start,
            reserved_until: reserved_until.0,
            entries,
            is_written: kind == RecordKind::Closing
                && self.lowest_unwritten().is_none()
                && !self.is_store_doubted,
            written_to: self.written_to().0,
        };
        let append = Append { expected: self.expected, payload: record.to_bytes().into() };
        self.pending = Some(Pending { append, reserved_until, ids });
    }
}

/// Up to where to reserve. Always leaves something to issue above `above`: an owner whose clock is far behind what was used
/// or heard goes on slightly ahead of that.
fn reservation(now: Millis, above: MessageId) -> MessageId {
    let at_least = above.created_at().plus(RESERVATION_ABOVE_MS);
    MessageId::last_of(now.plus(RESERVATION_MS).max(at_least))
}
