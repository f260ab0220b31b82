//! As much of WebSocket (RFC 6455) as a load generator needs: masked frames out, headers of unmasked frames in.

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// Appends one masked frame.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: u32) {
    write_header(out, opcode, payload.len(), 0x80);
    let key = mask.to_le_bytes();
    out.extend(key);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], key);
}

/// Appends one unmasked frame, as servers do.
pub(crate) fn write_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn write_header(out: &mut Vec<u8>, opcode: u8, length: usize, mask_bit: u8) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(mask_bit | length as u8),
        126..=0xFFFF => {
            out.push(mask_bit | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
}

pub(crate) fn apply_mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = u32::from_ne_bytes(key);
    let mut chunks = bytes.chunks_exact_mut(4);
    for chunk in &mut chunks {
        let word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    /// Where the payload begins and ends.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The head of the frame that `bytes` begin with; `None` while it is not complete. The payload may be.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut start) = match second & 0x7F {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (short as usize, 2),
    };
    let mask = match second & 0x80 {
        0 => None,
        _ => {
            start += 4;
            Some(bytes.get(start - 4..start)?.try_into().ok()?)
        }
    };
    Some(Head { opcode: first & 0xF, mask, start, end: start.saturating_add(length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_length_is_read_as_it_was_written_masked_or_not() {
        for length in [0, 1, 3, 125, 126, 127, 1_000, 65_535, 65_536, 100_000] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut masked = Vec::new();
            write_masked(&mut masked, TEXT, &payload, 0x1234_5678);
            let found = head(&masked).unwrap();
            assert_eq!((found.opcode, found.end), (TEXT, masked.len()));
            apply_mask(&mut masked[found.start..], found.mask.unwrap());
            assert_eq!(masked[found.start..], payload);
            let mut plain = Vec::new();
            write_plain(&mut plain, BINARY, &payload);
            let found = head(&plain).unwrap();
            assert_eq!((found.opcode, found.mask), (BINARY, None));
            assert_eq!(plain[found.start..found.end], payload);
        }
    }

    #[test]
    fn a_head_cut_short_is_not_a_head() {
        for length in [10, 1_000, 70_000] {
            let mut bytes = Vec::new();
            write_masked(&mut bytes, TEXT, &vec![0; length], 1);
            let start = head(&bytes).unwrap().start;
            (0..start)
                .for_each(|cut| assert_eq!(head(&bytes[..cut]), None, "{length} cut at {cut}"));
        }
    }
}
