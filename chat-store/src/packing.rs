//! Packed inbox rows: how pointers become bytes, and how overlapping rows become one page. The same in every backend.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chat_protocol::{ConversationId, MessageId};

use crate::row::{INBOX_SPAN_MS, InboxEntry, InboxPage, Pointer, PointerKind};

/// Bytes of a row that no version of this code has written.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) String);

/// The difference of two ids that lie [`INBOX_SPAN_MS`] apart: the time part of an id begins at bit 22.
pub(crate) const SPAN: u64 = INBOX_SPAN_MS << 22;

/// Pointers in one row: bounds what a reader unpacks at a time.
const POINTERS_MAX: usize = 1_024;

/// The target follows; without it, the target is the entry itself or, see [`NO_TARGET`], nothing.
const OTHER_TARGET: u8 = 0x80;
const NO_TARGET: u8 = 0x40;

/// One row to store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) first_id: MessageId,
    pub(crate) bytes: Vec<u8>,
}

/// The same pointers in any packing give the same entries; each row spans at most [`SPAN`].
pub(crate) fn pack(pointers: &[Pointer]) -> Vec<Packed> {
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
pub(crate) fn unpack(first_id: MessageId, mut bytes: &[u8]) -> Result<Vec<Pointer>, Damaged> {
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

fn kind(number: u8) -> Result<PointerKind, Damaged> {
    match number {
        1 => Ok(PointerKind::Message),
        2 => Ok(PointerKind::Revision),
        3 => Ok(PointerKind::Reaction),
        4 => Ok(PointerKind::Conversation),
        5 => Ok(PointerKind::Read),
        _ => Err(Damaged(format!("an inbox pointer of kind {number}"))),
    }
}

fn read_byte(bytes: &mut &[u8]) -> Result<u8, Damaged> {
    let (first, rest) =
        bytes.split_first().ok_or_else(|| Damaged("an inbox row that ends too early".into()))?;
    *bytes = rest;
    Ok(*first)
}

fn read_number(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damaged("a number of an inbox row that is too long".into()))
}

/// Makes a page of rows that arrive by increasing first id and may overlap.
///
/// An entry is final once a row begins above its id: nothing that comes later can stand before it. Only final entries
/// go onto the page, so it is complete up to its last one.
pub(crate) struct PageBuilder {
    above: MessageId,
    up_to: MessageId,
    limit: usize,
    /// Final, by increasing order, without repeats.
    entries: Vec<InboxEntry>,
    /// Read, but a later row may begin below them.
    waiting: BinaryHeap<Reverse<InboxEntry>>,
}

impl PageBuilder {
    pub(crate) fn new(above: MessageId, up_to: MessageId, limit: usize) -> PageBuilder {
        // A page without room would never end.
        let limit = limit.max(1);
        PageBuilder { above, up_to, limit, entries: Vec::new(), waiting: BinaryHeap::new() }
    }

    /// Takes note that no later row begins below this. `true`: the page is full, and no more rows are needed.
    pub(crate) fn begins(&mut self, first_id: MessageId) -> bool {
        while self.cut_at().is_none()
            && self.waiting.peek().is_some_and(|Reverse(entry)| entry.pointer.id < first_id)
        {
            self.finish_one();
        }
        self.cut_at().is_some()
    }

    /// Takes one row.
    pub(crate) fn add(&mut self, conversation_id: ConversationId, pointers: Vec<Pointer>) {
        let wanted = pointers.into_iter().filter(|p| p.id > self.above && p.id <= self.up_to);
        self.waiting.extend(wanted.map(|pointer| Reverse(InboxEntry { pointer, conversation_id })));
    }

    /// The page; `waiting` is final as well if there are no more rows.
    pub(crate) fn finish(mut self, no_more_rows: bool) -> InboxPage {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn conversation(number: u128) -> ConversationId {
        let user = chat_protocol::UserId(Uuid::from_u128(number));
        ConversationId::direct(user, user)
    }

    fn pointers() -> impl Strategy<Value = Vec<Pointer>> {
        let step = prop_oneof![1u64..10, 1u64..SPAN / 3, SPAN..SPAN * 3];
        let kind = prop_oneof![Just(PointerKind::Message), Just(PointerKind::Read)];
        proptest::collection::vec((step, kind, 0u8..3, any::<u64>()), 0..60).prop_map(|steps| {
            let mut id = 1 << 40;
            let pointers = steps.into_iter().map(|(step, kind, target, other)| {
                id += step;
                let target = [id, 0, other][usize::from(target)];
                Pointer { id: MessageId(id), kind, target: MessageId(target) }
            });
            pointers.collect()
        })
    }

    proptest! {
        #[test]
        fn packed_pointers_come_back_and_no_row_is_too_long(pointers in pointers()) {
            let mut found = Vec::new();
            for row in pack(&pointers) {
                let unpacked = unpack(row.first_id, &row.bytes).unwrap();
                let (first, last) = (unpacked[0].id, unpacked[unpacked.len() - 1].id);
                prop_assert_eq!(first, row.first_id);
                prop_assert!(last.0 - first.0 <= SPAN);
                found.extend(unpacked);
            }
            prop_assert_eq!(found, pointers);
        }

        #[test]
        fn the_order_in_which_pointers_are_given_does_not_matter(pointers in pointers(), by in 0usize..60) {
            let mut turned = pointers.clone();
            turned.rotate_left(by.min(pointers.len()));
            prop_assert_eq!(pack(&turned), pack(&pointers));
        }

        #[test]
        fn bytes_that_are_no_row_are_an_error_and_not_a_panic(bytes: Vec<u8>, first: u64) {
            drop(unpack(MessageId(first), &bytes));
        }

        #[test]
        fn a_page_is_the_first_of_all_entries(
            several in proptest::collection::vec(pointers(), 1..4),
            repeat in 0usize..40,
            window in (0u64..SPAN * 20, 0u64..SPAN * 60),
            limit in 1usize..50,
        ) {
            let mut rows = Vec::new();
            let mut all = BTreeSet::new();
            let (above, up_to) = (MessageId((1 << 40) + window.0), MessageId((1 << 40) + window.1));
            for (number, pointers) in several.iter().enumerate() {
                let conversation_id = conversation(number as u128);
                all.extend(pointers.iter().map(|p| InboxEntry { pointer: *p, conversation_id }));
                // Once as it is, and a part again with other boundaries.
                for part in [&pointers[..], &pointers[repeat.min(pointers.len())..]] {
                    rows.extend(pack(part).into_iter().map(|row| (row, conversation_id)));
                }
            }
            all.retain(|entry| entry.pointer.id > above && entry.pointer.id <= up_to);
            rows.sort_by_key(|(row, _)| row.first_id);
            let mut builder = PageBuilder::new(above, up_to, limit);
            let full = rows.iter().any(|(row, conversation_id)| {
                let full = builder.begins(row.first_id);
                if !full {
                    builder.add(*conversation_id, unpack(row.first_id, &row.bytes).unwrap());
                }
                full
            });
            let page = builder.finish(!full);
            let all: Vec<InboxEntry> = all.into_iter().collect();
            prop_assert!(page.entries.len() >= limit.min(all.len()));
            prop_assert_eq!(&page.entries[..], &all[..page.entries.len()]);
            prop_assert_eq!(page.more, page.entries.len() < all.len());
            // Longer than the limit only by entries of one id.
            if let Some(beyond) = page.entries.get(limit) {
                prop_assert_eq!(beyond.pointer.id, page.entries[limit - 1].pointer.id);
            }
        }
    }
}
