//! Ids: what they are made of, how they are written, and which partition they belong to.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::time::Millis;

/// Partitions that conversations hash to. Fixed when a platform is created.
pub const CONVERSATION_PARTITIONS: u16 = 256;
/// Partitions that live rooms hash to, numbered after those of conversations.
pub const ROOM_PARTITIONS: u16 = 64;
/// All partitions.
pub const PARTITIONS: u16 = CONVERSATION_PARTITIONS + ROOM_PARTITIONS;

const PARTITION_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const TIME_SHIFT: u32 = PARTITION_BITS + SEQUENCE_BITS;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
const PARTITION_MASK: u64 = (1 << PARTITION_BITS) - 1;

const _: () = assert!(PARTITIONS as u64 <= PARTITION_MASK + 1, "a partition must fit its bits");

/// Text that is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct ParseError(pub &'static str);

/// A 64-bit, time-ordered id: milliseconds since 2025 (42 bits), partition (10 bits), sequence (12 bits).
///
/// After Twitter's Snowflake (2010), with the log's partition in place of a machine. Strictly increasing in log order of
/// its partition. Written as a decimal string, because JavaScript numbers are exact only up to 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{1,20}$", example = "211106232532992000")]
pub struct MessageId(pub u64);

impl MessageId {
    /// Smaller than every id ever issued.
    pub const ZERO: MessageId = MessageId(0);

    /// The smallest id of this partition in this millisecond.
    pub fn first_of(now: Millis, partition: Partition) -> MessageId {
        MessageId(now.since_2025() << TIME_SHIFT | (partition.0 as u64) << SEQUENCE_BITS)
    }

    /// The largest id of any partition in this millisecond.
    pub fn last_of(now: Millis) -> MessageId {
        MessageId(now.since_2025() << TIME_SHIFT | ((1 << TIME_SHIFT) - 1))
    }

    /// The smallest id of `partition` above this value.
    pub fn next_in(self, partition: Partition) -> MessageId {
        let candidate = self.0 + 1;
        let own = (partition.0 as u64) << SEQUENCE_BITS;
        let base = candidate & !((1 << TIME_SHIFT) - 1);
        let within = candidate & ((1 << TIME_SHIFT) - 1);
        if within <= own {
            MessageId(base | own)
        } else if within >> SEQUENCE_BITS == partition.0 as u64 {
            MessageId(candidate)
        } else {
            MessageId((base + (1 << TIME_SHIFT)) | own)
        }
    }

    /// When the id was made, by the clock of its partition's owner.
    pub fn created_at(self) -> Millis {
        Millis::from_2025(self.0 >> TIME_SHIFT)
    }

    /// The partition that issued it.
    pub fn partition(self) -> Partition {
        Partition(((self.0 >> SEQUENCE_BITS) & PARTITION_MASK) as u16)
    }

    /// The write time of every row made from the log entry with this id: its id without the partition bits
    /// (milliseconds since 2025 · 4096 + sequence). Rows of one conversation share a partition, so this keeps log order.
    pub fn row_version(self) -> u64 {
        (self.0 >> TIME_SHIFT) << SEQUENCE_BITS | (self.0 & SEQUENCE_MASK)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<MessageId, ParseError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits => Ok(MessageId(value)),
            _ => Err(ParseError("message id")),
        }
    }
}

/// A partition of the log. Conversations use 0 to 255, live rooms 256 to 319.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl Partition {
    /// Every partition.
    pub fn all() -> impl Iterator<Item = Partition> + Clone {
        (0..PARTITIONS).map(Partition)
    }

    /// The partitions whose watermarks a cursor depends on.
    pub fn conversations() -> impl Iterator<Item = Partition> {
        (0..CONVERSATION_PARTITIONS).map(Partition)
    }

    /// Whether live rooms hash here. Such a partition has no inboxes and publishes no watermark.
    pub fn is_room(self) -> bool {
        self.0 >= CONVERSATION_PARTITIONS
    }

    /// The partition whose owner keeps this user's presence.
    pub fn of_user(user: UserId) -> Partition {
        let bytes = user.0.as_bytes();
        Partition(u16::from_be_bytes([bytes[14], bytes[15]]) % CONVERSATION_PARTITIONS)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What kind of conversation an id names.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Two people; one per pair.
    Direct,
    /// Up to 100 members.
    Group,
    /// A live room: any audience, no inbox.
    Room,
}

impl ConversationKind {
    fn letter(self) -> u8 {
        match self {
            ConversationKind::Direct => b'd',
            ConversationKind::Group => b'g',
            ConversationKind::Room => b'r',
        }
    }
}

/// A conversation: its kind and 120 bits of a SHA-256.
///
/// A direct conversation's id derives from its pair of users and a group's or room's from its creator and the request
/// that made it, so that asking twice names the same conversation. Written as the kind's letter, `_` and 20 characters of
/// URL-safe base64 (RFC 4648, 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[dgr]_[A-Za-z0-9_-]{20}$", example = "d_bW9ubXlhcmNoaXBlbGFn")]
pub struct ConversationId([u8; 16]);

impl ConversationId {
    /// The one conversation of two people, whichever of them asks.
    pub fn direct(one: UserId, other: UserId) -> ConversationId {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        ConversationId::derive(ConversationKind::Direct, low.0.as_bytes(), high.0.as_bytes())
    }

    /// The group that `creator` asked for with this request id.
    pub fn group(creator: UserId, request: Uuid) -> ConversationId {
        ConversationId::derive(ConversationKind::Group, creator.0.as_bytes(), request.as_bytes())
    }

    /// The live room that `creator` asked for with this request id.
    pub fn room(creator: UserId, request: Uuid) -> ConversationId {
        ConversationId::derive(ConversationKind::Room, creator.0.as_bytes(), request.as_bytes())
    }

    fn derive(kind: ConversationKind, first: &[u8], second: &[u8]) -> ConversationId {
        let digest = Sha256::new()
            .chain_update([kind.letter()])
            .chain_update(first)
            .chain_update(second)
            .finalize();
        let mut bytes = [0; 16];
        bytes[0] = kind.letter();
        bytes[1..].copy_from_slice(&digest[..15]);
        ConversationId(bytes)
    }

    /// The bytes stored in logs and tables: the kind's letter, then the hash.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<ConversationId, ParseError> {
        match <[u8; 16]>::try_from(bytes) {
            Ok(bytes @ [b'd' | b'g' | b'r', ..]) => Ok(ConversationId(bytes)),
            _ => Err(ParseError("conversation id")),
        }
    }

    /// What kind of conversation this is.
    pub fn kind(&self) -> ConversationKind {
        match self.0[0] {
            b'd' => ConversationKind::Direct,
            b'g' => ConversationKind::Group,
            _ => ConversationKind::Room,
        }
    }

    /// The partition of the log that holds it.
    pub fn partition(&self) -> Partition {
        let hash = u16::from_be_bytes([self.0[1], self.0[2]]);
        match self.kind() {
            ConversationKind::Room => Partition(CONVERSATION_PARTITIONS + hash % ROOM_PARTITIONS),
            _ => Partition(hash % CONVERSATION_PARTITIONS),
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 20];
        // 15 bytes are exactly 20 characters.
        let length = URL_SAFE_NO_PAD.encode_slice(&self.0[1..], &mut text).unwrap_or(0);
        write!(f, "{}_", self.0[0] as char)?;
        f.write_str(std::str::from_utf8(&text[..length]).unwrap_or_default())
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ConversationId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<ConversationId, ParseError> {
        let invalid = ParseError("conversation id");
        let (kind @ ("d" | "g" | "r"), hash) = text.split_once('_').ok_or(invalid.clone())? else {
            return Err(invalid);
        };
        let mut bytes = [0; 16];
        bytes[0] = kind.as_bytes()[0];
        // The exact length is checked first, so that a short text is not padded with zeros.
        match hash.len() == 20 && URL_SAFE_NO_PAD.decode_slice(hash, &mut bytes[1..]) == Ok(15) {
            true => Ok(ConversationId(bytes)),
            false => Err(invalid),
        }
    }
}

macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", stringify!($name), " as text"))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

text_serde!(MessageId, ConversationId);

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident $what:literal),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id with these 16 bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<$name, ParseError> {
                Uuid::from_slice(bytes).map($name).map_err(|_| ParseError($what))
            }

            /// A new random id (RFC 9562, version 4).
            pub fn random() -> $name {
                $name(Uuid::new_v4())
            }

            /// The 16 bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<$name, ParseError> {
                Uuid::parse_str(text).map($name).map_err(|_| ParseError($what))
            }
        }

        text_serde!($name);
    )*};
}

uuid_id!(
    /// A person's account.
    UserId "user id",
    /// One device of a user; made at login, ended by logout or revocation.
    DeviceId "device id",
    /// Chosen by the client, once per message it means to send: the key of its duplicates.
    ClientMessageId "client message id",
    /// A session lineage: made by the first connection, kept through every resume. Presence counts these.
    SessionId "session id",
    /// A chat node: its name in a cluster for as long as its process runs.
    NodeId "node id"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn next_in_is_the_smallest_id_of_the_partition_above(value in 0u64..1 << 60, partition in 0..PARTITIONS) {
            let partition = Partition(partition);
            let next = MessageId(value).next_in(partition);
            prop_assert!(next.0 > value);
            prop_assert_eq!(next.partition(), partition);
            let previous = next.0 - 1;
            let between = previous > value && MessageId(previous).partition() == partition;
            prop_assert!(!between);
        }

        #[test]
        fn parts_of_an_id_are_what_it_was_made_of(ms in 0u64..1 << 41, partition in 0..PARTITIONS) {
            let now = Millis::from_2025(ms);
            let id = MessageId::first_of(now, Partition(partition));
            prop_assert_eq!(id.created_at(), now);
            prop_assert_eq!(id.partition(), Partition(partition));
            prop_assert!(id <= MessageId::last_of(now));
            prop_assert!(MessageId::last_of(now) < MessageId::first_of(now.plus(1), Partition(0)));
        }

        #[test]
        fn row_versions_keep_the_order_of_ids_in_a_partition(a in 0u64..1 << 60, steps in 1usize..5000) {
            let partition = Partition(7);
            let first = MessageId(a).next_in(partition);
            let later = (0..steps).fold(first, |id, _| id.next_in(partition));
            prop_assert!(later.row_version() > first.row_version());
        }

        #[test]
        fn ids_survive_their_text(bytes in any::<[u8; 16]>(), number in any::<u64>()) {
            let user = UserId(Uuid::from_bytes(bytes));
            let conversation = ConversationId::direct(user, UserId(Uuid::from_u128(number as u128)));
            prop_assert_eq!(conversation.to_string().parse(), Ok(conversation));
            prop_assert_eq!(MessageId(number).to_string().parse(), Ok(MessageId(number)));
            prop_assert_eq!(user.to_string().parse(), Ok(user));
        }
    }

    #[test]
    fn a_direct_conversation_is_the_same_from_both_sides() {
        let (a, b) = (UserId::random(), UserId::random());
        assert_eq!(ConversationId::direct(a, b), ConversationId::direct(b, a));
        assert_ne!(ConversationId::direct(a, b), ConversationId::direct(a, a));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "x_AAAAAAAAAAAAAAAAAAAA",
            "d_AAAA",
            "d_AAAAAAAAAAAAAAAAAAA!",
            "dAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(text.parse::<ConversationId>().is_err(), "{text}");
        }
        for text in ["", "-1", "+1", "1.0", "18446744073709551616"] {
            assert!(text.parse::<MessageId>().is_err(), "{text}");
        }
    }
}
