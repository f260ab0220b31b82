//! Packed inbox rows: how pointers become bytes, and how overlapping rows become one page. No SQL here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chat_protocol::{ConversationId, MessageId};

use super::error::Failure;
use crate::row::{INBOX_SPAN_MS, InboxEntry, InboxPage, Pointer, PointerKind};

/// The difference of two ids that lie [`INBOX_SPAN_MS`] apart: the time part of an id begins at bit 22.
pub(super) const SPAN: u64 = INBOX_SPAN_MS << 22;

/// Pointers in one row: bounds what a reader unpacks at a time.
const POINTERS_MAX: usize = 1_024;

/// The target follows; without it, the target is the entry itself or, see [`NO_TARGET`], nothing.
const OTHER_TARGET: u8 = 0x80;
const NO_TARGET: u8 = 0x40;

/// One row to store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) first_id: MessageId,
    pub(super) bytes: Vec<u8>,
}

/// The same pointers in any packing give the same entries; each row spans at most [`SPAN`].
pub(super) fn pack(pointers: &[Pointer]) -> Vec<Packed> {
    if !pointers.is_sorted() {
        let mut sorted = pointers.to_vec();
        sorted.sort();
        return pack(&sorted);
    }
    let mut rest = pointers;
    let mut rows = Vec::with_capacity(1);
    while let Some(first) = rest.first() {
        let reach = first.id.0.saturating_add(SPAN);
        let within = rest.partition_point(|pointer| pointer.id.0 <= reach).min(POINTERS_MAX);
        let (row, after) = rest.split_at(within);
        rows.push(Packed { first_id: first.id, bytes: encode(row) });
        rest = after;
    }
    rows
}

fn encode(pointers: &[Pointer]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pointers.len() * 8);
    let mut previous = pointers.first().map_or(0, |first| first.id.0);
    for pointer in pointers {
        write_number(&mut bytes, pointer.id.0 - previous);
        previous = pointer.id.0;
        let kind = pointer.kind as u8;
        if pointer.target == pointer.id {
            bytes.push(kind);
        } else if pointer.target == MessageId::ZERO {
            bytes.push(kind | NO_TARGET);
        } else {
            bytes.push(kind | OTHER_TARGET);
            // Nearly always an earlier message; wraps round where it is not.
            write_number(&mut bytes, pointer.id.0.wrapping_sub(pointer.target.0));
        }
    }
    bytes
}

/// Seven bits a byte, least significant first; the high bit says that more follow (LEB128).
fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The pointers of one row.
pub(super) fn unpack(first_id: MessageId, mut bytes: &[u8]) -> Result<Vec<Pointer>, Failure> {
    let mut pointers = Vec::new();
    let mut id = first_id.0;
    while !bytes.is_empty() {
        id = id.wrapping_add(read_number(&mut bytes)?);
        let tag = read_byte(&mut bytes)?;
        let target = match tag & (OTHER_TARGET | NO_TARGET) {
            0 => id,
            NO_TARGET => 0,
            _ => id.wrapping_sub(read_number(&mut bytes)?),
        };
        let kind = kind(tag & !(OTHER_TARGET | NO_TARGET))?;
        pointers.push(Pointer { id: MessageId(id), kind, target: MessageId(target) });
    }
    Ok(pointers)
}

fn kind(number: u8) -> Result<PointerKind, Failure> {
    match number {
        1 => Ok(PointerKind::Message),
        2 => Ok(PointerKind::Revision),
        3 => Ok(PointerKind::Reaction),
        4 => Ok(PointerKind::Conversation),
        5 => Ok(PointerKind::Read),
        _ => Err(Failure::Damaged(format!("an inbox pointer of kind {number}"))),
    }
}

fn read_byte(bytes: &mut &[u8]) -> Result<u8, Failure> {
    let (first, rest) = bytes
        .split_first()
        .ok_or_else(|| Failure::Damaged("an inbox row that ends too early".into()))?;
    *bytes = rest;
    Ok(*first)
}

fn read_number(bytes: &mut &[u8]) -> Result<u64, Failure> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Failure::Damaged("a number of an inbox row that is too long".into()))
}

/// Makes a page of rows that arrive by increasing first id and may overlap.
///
/// An entry is final once a row begins above its id: nothing that comes later can stand before it. Only final entries
/// go onto the page, so it is complete up to its last one.
pub(super) struct PageBuilder {
    above: MessageId,
    up_to: MessageId,
    limit: usize,
    /// Final, by increasing order, without repeats.
    entries: Vec<InboxEntry>,
    /// Read, but a later row may begin below them.
    waiting: BinaryHeap<Reverse<InboxEntry>>,
}

impl PageBuilder {
    pub(super) fn new(above: MessageId, up_to: MessageId, limit: usize) -> PageBuilder {
        // A page without room would never end.
        let limit = limit.max(1);
        PageBuilder { above, up_to, limit, entries: Vec::new(), waiting: BinaryHeap::new() }
    }

    /// Takes note that no later row begins below this. `true`: the page is full, and no more rows are needed.
    pub(super) fn begins(&mut self, first_id: MessageId) -> bool {
        while self.cut_at().is_none()
            && self.waiting.peek().is_some_and(|Reverse(entry)| entry.pointer.id < first_id)
        {
            self.finish_one();
        }
        self.cut_at().is_some()
    }

    /// Takes one row.
    pub(super) fn add(&mut self, conversation_id: ConversationId, pointers: Vec<Pointer>) {
        let wanted = pointers.into_iter().filter(|p| p.id > self.above && p.id <= self.up_to);
        self.waiting.extend(wanted.map(|pointer| Reverse(InboxEntry { pointer, conversation_id })));
    }

    /// The page; `waiting` is final as well if there are no more rows.
    pub(super) fn finish(mut self, no_more_rows: bool) -> InboxPage {
        while no_more_rows && self.cut_at().is_none() && !self.waiting.is_empty() {
            self.finish_one();
        }
        let cut = self.cut_at();
        self.entries.truncate(cut.unwrap_or(self.entries.len()));
        InboxPage { entries: self.entries, more: cut.is_some() }
    }

    fn finish_one(&mut self) {
        if let Some(Reverse(entry)) = self.waiting.pop()
            && self.entries.last() != Some(&entry)
        {
            self.entries.push(entry);
        }
    }

    /// Where the page ends: after `limit` entries and any others of the last one's id. `None`: it is not full yet.
    fn cut_at(&self) -> Option<usize> {
        let last = self.entries.get(self.limit - 1)?.pointer.id;
        let same = self.entries[self.limit..].iter().take_while(|e| e.pointer.id == last).count();
        let cut = self.limit + same;
        (cut < self.entries.len()).then_some(cut)
    }
}
