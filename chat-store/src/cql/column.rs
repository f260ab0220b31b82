//! Values as columns. CQL's integers are signed: what is compared or ordered must fit 63 bits, what is only kept keeps
//! its bits.

use chat_protocol::{ConversationId, MessageId, UserId};
use scylla::value::CqlValue;

use super::error::Failure;

/// The values of one statement.
pub(super) type Values = Vec<Option<CqlValue>>;

/// One column.
pub(super) trait Column {
    fn column(self) -> Option<CqlValue>;
}

impl Column for i64 {
    fn column(self) -> Option<CqlValue> {
        Some(CqlValue::BigInt(self))
    }
}

impl Column for i32 {
    fn column(self) -> Option<CqlValue> {
        Some(CqlValue::Int(self))
    }
}

impl Column for i16 {
    fn column(self) -> Option<CqlValue> {
        Some(CqlValue::SmallInt(self))
    }
}

impl Column for &str {
    fn column(self) -> Option<CqlValue> {
        Some(CqlValue::Text(self.to_owned()))
    }
}

impl Column for Option<&str> {
    fn column(self) -> Option<CqlValue> {
        self.and_then(Column::column)
    }
}

impl Column for Vec<u8> {
    fn column(self) -> Option<CqlValue> {
        Some(CqlValue::Blob(self))
    }
}

impl Column for &[u8] {
    fn column(self) -> Option<CqlValue> {
        self.to_vec().column()
    }
}

impl<const N: usize> Column for &[u8; N] {
    fn column(self) -> Option<CqlValue> {
        self.to_vec().column()
    }
}

/// The values of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::cql::column::Column::column($value)),*]
    };
}
pub(super) use values;

/// A number that is part of a key or is compared. Ids reach 2^63 in the year 2094.
pub(super) fn ordered(number: u64) -> Result<i64, Failure> {
    i64::try_from(number)
        .map_err(|_| Failure::Refused(format!("the number {number} is too large for the store")))
}

/// A bound of a range: nothing above the largest key is ever stored.
pub(super) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A page's size as a column.
pub(super) fn rows(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX).max(1)
}

/// A number that is only kept.
pub(super) fn bits(number: u64) -> i64 {
    number as i64
}

/// See [`bits`].
pub(super) fn from_bits(column: i64) -> u64 {
    column as u64
}

/// The write time of rows made by the entry with this id.
pub(super) fn timestamp(id: MessageId) -> i64 {
    bound(id.row_version())
}

/// An id out of a column.
pub(super) fn message_id(column: i64) -> MessageId {
    MessageId(from_bits(column))
}

/// A conversation out of a column.
pub(super) fn conversation_id(column: &[u8]) -> Result<ConversationId, Failure> {
    Ok(ConversationId::from_bytes(column)?)
}

/// A user out of a column.
pub(super) fn user_id(column: &[u8]) -> Result<UserId, Failure> {
    Ok(UserId::from_bytes(column)?)
}

/// Users in one column, 16 bytes each. Nobody is empty, not null: a null would be a tombstone.
pub(super) fn pack_users(users: &[UserId]) -> Vec<u8> {
    users.iter().flat_map(|user| *user.as_bytes()).collect()
}

/// See [`pack_users`].
pub(super) fn unpack_users(column: &[u8]) -> Result<Vec<UserId>, Failure> {
    let users = column.chunks(16).map(UserId::from_bytes);
    Ok(users.collect::<Result<_, _>>()?)
}
