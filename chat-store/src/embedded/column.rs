//! Values as columns. SQLite's integers are signed: what is compared or ordered must fit 63 bits, what is only kept
//! keeps its bits.

use chat_protocol::{ConversationId, MessageId, UserId};

use super::error::Failure;

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
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A number that is only kept.
pub(super) fn bits(number: u64) -> i64 {
    number as i64
}

/// See [`bits`].
pub(super) fn from_bits(column: i64) -> u64 {
    column as u64
}

/// An id out of a column, however it was put there: keys fit 63 bits, and their bits are the same.
pub(super) fn message_id(column: i64) -> MessageId {
    MessageId(from_bits(column))
}

/// A conversation out of a column.
pub(super) fn conversation_id(
    row: &rusqlite::Row,
    index: usize,
) -> Result<ConversationId, Failure> {
    Ok(ConversationId::from_bytes(blob(row, index)?)?)
}

/// A user out of a column.
pub(super) fn user_id(row: &rusqlite::Row, index: usize) -> Result<UserId, Failure> {
    Ok(UserId::from_bytes(blob(row, index)?)?)
}

/// Bytes of a column, not copied.
pub(super) fn blob<'row>(row: &'row rusqlite::Row, index: usize) -> Result<&'row [u8], Failure> {
    row.get_ref(index)?.as_blob().map_err(|e| Failure::Damaged(e.to_string()))
}

/// Users in one column, 16 bytes each; none is NULL.
pub(super) fn pack_users(users: &[UserId]) -> Option<Vec<u8>> {
    (!users.is_empty()).then(|| users.iter().flat_map(|user| *user.as_bytes()).collect())
}

/// See [`pack_users`].
pub(super) fn unpack_users(column: Option<&[u8]>) -> Result<Vec<UserId>, Failure> {
    let users = column.unwrap_or_default().chunks(16).map(UserId::from_bytes);
    Ok(users.collect::<Result<_, _>>()?)
}
