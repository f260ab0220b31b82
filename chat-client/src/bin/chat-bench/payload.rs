//! The 128 bytes of text in every message, and how they are found again in what the server sends.
//!
//! `due-ns:0123456789abcdef run:00ff n:0000002a ....`: when the message was due by the generator's clock, in which run,
//! and its number there.

pub(crate) const LENGTH: usize = 128;
const MARKER: &[u8; 7] = b"due-ns:";
const RUN: usize = 28;
const NUMBER: usize = 35;
/// From the marker to the last digit.
const SPAN: usize = NUMBER + 8;

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) due_ns: u64,
    pub(crate) run: u16,
    pub(crate) number: u32,
}

/// The text with this stamp.
pub(crate) fn text(stamp: Stamp) -> [u8; LENGTH] {
    let mut text = [b'.'; LENGTH];
    text[..7].copy_from_slice(MARKER);
    write_hex(&mut text[7..23], stamp.due_ns);
    text[23..RUN].copy_from_slice(b" run:");
    write_hex(&mut text[RUN..RUN + 4], stamp.run.into());
    text[RUN + 4..NUMBER].copy_from_slice(b" n:");
    write_hex(&mut text[NUMBER..SPAN], stamp.number.into());
    text[SPAN] = b' ';
    text
}

fn write_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| {
        let digit =
            if *digit <= b'9' { digit.wrapping_sub(b'0') } else { digit.wrapping_sub(b'a' - 10) };
        value << 4 | u64::from(digit & 15)
    })
}

/// Finds stamps. Messages of one run look alike, so the marker is first looked for where it was in the one before and
/// as far from the last one as that was from its predecessor; only then everywhere.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finder {
    first: usize,
    stride: usize,
}

impl Finder {
    /// Calls `found` for every stamp in `bytes`.
    pub(crate) fn each(&mut self, bytes: &[u8], mut found: impl FnMut(Stamp)) {
        let Some(mut at) = locate(bytes, 0, self.first) else { return };
        self.first = at;
        loop {
            found(stamp_at(&bytes[at..at + SPAN]));
            let from = at + SPAN;
            match locate(bytes, from, at + self.stride) {
                Some(next) => {
                    self.stride = next - at;
                    at = next;
                }
                None => return,
            }
        }
    }

    /// The only stamp in `bytes`.
    pub(crate) fn one(&mut self, bytes: &[u8]) -> Option<Stamp> {
        let at = locate(bytes, 0, self.first)?;
        self.first = at;
        Some(stamp_at(&bytes[at..at + SPAN]))
    }
}

/// Where a whole stamp begins, at `hint` if there is one there, else the first from `from` on.
fn locate(bytes: &[u8], from: usize, hint: usize) -> Option<usize> {
    let is_at = |at: usize| bytes.get(at..at + SPAN).is_some_and(|found| found.starts_with(MARKER));
    if hint >= from && is_at(hint) {
        return Some(hint);
    }
    let last = bytes.len().checked_sub(SPAN)?;
    (from..=last).find(|at| bytes[*at] == MARKER[0] && is_at(*at))
}

fn stamp_at(bytes: &[u8]) -> Stamp {
    Stamp {
        due_ns: read_hex(&bytes[7..23]),
        run: read_hex(&bytes[RUN..RUN + 4]) as u16,
        number: read_hex(&bytes[NUMBER..SPAN]) as u32,
    }
}

/// The decimal number after `key`, with or without a quote before it.
pub(crate) fn number_after(bytes: &[u8], key: &[u8]) -> Option<u64> {
    let at = bytes.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = bytes[at..].strip_prefix(b"\"").unwrap_or(&bytes[at..]);
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
}

/// The string after `key`, up to its quote. For values without escapes.
pub(crate) fn text_after<'a>(bytes: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let at = bytes.windows(key.len()).position(|window| window == key)? + key.len();
    let rest = bytes[at..].strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(n: u32) -> Stamp {
        Stamp { due_ns: 0x0123_4567_89ab_cdef + u64::from(n), run: 0xfe01, number: n }
    }

    fn message(n: u32, extra: usize) -> Vec<u8> {
        let text = String::from_utf8(text(stamp(n)).to_vec()).unwrap();
        let id = "7".repeat(10 + extra);
        format!(r#"{{"message_id":"{id}","body":{{"text":"{text}"}}}},"#).into_bytes()
    }

    #[test]
    fn a_stamp_survives_its_text() {
        let bytes = text(stamp(77));
        assert_eq!(bytes.len(), 128);
        assert_eq!(Finder::default().one(&bytes), Some(stamp(77)));
    }

    #[test]
    fn every_stamp_of_a_batch_is_found_also_when_lengths_change() {
        let batch: Vec<u8> = (0..50).flat_map(|n| message(n, n as usize % 4)).collect();
        let mut finder = Finder::default();
        for _ in 0..2 {
            let mut found = Vec::new();
            finder.each(&batch, |stamp| found.push(stamp.number));
            assert_eq!(found, (0..50).collect::<Vec<_>>());
        }
        let longer = [b"   ".to_vec(), batch].concat();
        let mut count = 0;
        finder.each(&longer, |_| count += 1);
        assert_eq!(count, 50);
    }

    #[test]
    fn bytes_without_a_whole_stamp_hold_none() {
        let bytes = text(stamp(1));
        assert_eq!(Finder::default().one(&bytes[..SPAN - 1]), None);
        assert_eq!(Finder::default().one(b""), None);
    }

    #[test]
    fn values_are_found_after_their_keys() {
        let bytes = br#"{"message_id":"123","skipped":45,"cursor":"ab_c"}"#;
        assert_eq!(number_after(bytes, b"\"message_id\":"), Some(123));
        assert_eq!(number_after(bytes, b"\"skipped\":"), Some(45));
        assert_eq!(number_after(bytes, b"\"missing\":"), None);
        assert_eq!(text_after(bytes, b"\"cursor\":"), Some("ab_c"));
    }
}
