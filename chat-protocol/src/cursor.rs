//! The cursor: how far one device has got, the same on every transport and every node.
//!
//! Opaque to clients. Binary, then URL-safe base64 (RFC 4648, 5) without padding, at most 400 characters.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limits::{CURSOR_CHARS_MAX, CURSOR_EXTRA_IDS_MAX, CURSOR_ROOMS_MAX};
use crate::{ConversationId, MessageId, SessionId};

const FORMAT: u8 = 1;

/// What a cursor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The store it was made by; after a restore every older cursor is reset.
    pub store_epoch: u64,
    /// Everything in the inbox up to here was received.
    pub safe: MessageId,
    /// Up to 12 ids above `safe` that were received, too.
    pub extra: Vec<MessageId>,
    /// Up to 4 live rooms and the last id received in each.
    pub rooms: Vec<(ConversationId, MessageId)>,
    /// The session's lineage.
    pub session: SessionId,
}

/// Text that is not a cursor of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this platform")]
pub struct InvalidCursor;

impl Cursor {
    /// The text for the client. Extra ids and rooms beyond their limits are left out: the lowest ids and the first rooms
    /// stay.
    pub fn encode(&self) -> String {
        let extra = &self.extra[..self.extra.len().min(CURSOR_EXTRA_IDS_MAX)];
        let rooms = &self.rooms[..self.rooms.len().min(CURSOR_ROOMS_MAX)];
        let mut bytes = Vec::with_capacity(40 + extra.len() * 8 + rooms.len() * 24);
        bytes.push(FORMAT);
        bytes.extend(self.store_epoch.to_be_bytes());
        bytes.extend(self.safe.0.to_be_bytes());
        bytes.extend(self.session.as_bytes());
        bytes.push(extra.len() as u8);
        extra.iter().for_each(|id| bytes.extend(id.0.to_be_bytes()));
        bytes.push(rooms.len() as u8);
        for (room, id) in rooms {
            bytes.extend(room.as_bytes());
            bytes.extend(id.0.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor with this text.
    pub fn decode(text: &str) -> Result<Cursor, InvalidCursor> {
        if text.len() > CURSOR_CHARS_MAX {
            return Err(InvalidCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let mut reader = Reader(&bytes);
        if reader.take::<1>()? != [FORMAT] {
            return Err(InvalidCursor);
        }
        let store_epoch = reader.number()?;
        let safe = MessageId(reader.number()?);
        let session = SessionId::from_bytes(&reader.take::<16>()?).map_err(|_| InvalidCursor)?;
        let extra = (0..reader.count(CURSOR_EXTRA_IDS_MAX)?)
            .map(|_| reader.number().map(MessageId))
            .collect::<Result<_, _>>()?;
        let rooms = (0..reader.count(CURSOR_ROOMS_MAX)?)
            .map(|_| {
                let room =
                    ConversationId::from_bytes(&reader.take::<16>()?).map_err(|_| InvalidCursor)?;
                Ok((room, MessageId(reader.number()?)))
            })
            .collect::<Result<_, _>>()?;
        match reader.0.is_empty() {
            true => Ok(Cursor { store_epoch, safe, extra, rooms, session }),
            false => Err(InvalidCursor),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InvalidCursor> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(InvalidCursor)?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, InvalidCursor> {
        self.take::<8>().map(u64::from_be_bytes)
    }

    fn count(&mut self, most: usize) -> Result<usize, InvalidCursor> {
        let count = self.take::<1>()?[0] as usize;
        if count <= most { Ok(count) } else { Err(InvalidCursor) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::UserId;

    fn cursor(extra: usize, rooms: usize, safe: u64) -> Cursor {
        let room = |n| {
            ConversationId::room(
                UserId::from_bytes(&[7; 16]).unwrap(),
                uuid::Uuid::from_u128(n as u128),
            )
        };
        Cursor {
            store_epoch: u64::MAX,
            safe: MessageId(safe),
            extra: (0..extra).map(|n| MessageId(safe.saturating_add(n as u64 + 1))).collect(),
            rooms: (0..rooms).map(|n| (room(n), MessageId(n as u64))).collect(),
            session: SessionId::from_bytes(&[9; 16]).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(extra in 0..=CURSOR_EXTRA_IDS_MAX, rooms in 0..=CURSOR_ROOMS_MAX, safe: u64) {
            let cursor = cursor(extra, rooms, safe);
            let text = cursor.encode();
            prop_assert!(text.len() <= CURSOR_CHARS_MAX, "{} characters", text.len());
            prop_assert_eq!(Cursor::decode(&text), Ok(cursor));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,500}") {
            if let Ok(cursor) = Cursor::decode(&text) {
                prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
            }
        }
    }

    #[test]
    fn a_cursor_cut_short_is_refused() {
        let text = cursor(3, 2, 1 << 50).encode();
        for length in 0..text.len() {
            assert_eq!(Cursor::decode(&text[..length]), Err(InvalidCursor), "{length}");
        }
    }
}
