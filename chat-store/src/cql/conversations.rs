//! Conversations, their members and their marks.

use std::collections::HashMap;

use chat_protocol::record::{role_from, role_number};
use chat_protocol::{ConversationId, MessageId, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::statement::prepared::PreparedStatement;

use super::Inner;
use super::column::{
    bound, conversation_id, from_bits, message_id, ordered, rows, timestamp, user_id, values,
};
use super::error::Failure;
use super::execute::RowWrite;
use super::statements::Statements;
use crate::row::{ConversationRow, MarkRow, MemberRow};

/// Rooms are listed by the month they were made in: 30 days of ids.
const MONTH_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Rows of other tables that one read looks up at once.
const CONCURRENCY: usize = 16;

/// The only partition of a table that lists beginnings of keys.
const ONE: i16 = 1;

type ConversationColumns = (i64, i64, Vec<u8>, Option<String>, Option<String>);

pub(super) fn put_conversation<'a>(
    statements: &'a Statements,
    row: &ConversationRow,
) -> Result<RowWrite<'a>, Failure> {
    let values = values![
        row.conversation_id.as_bytes(),
        ordered(row.created_id.0)?,
        ordered(row.version.0)?,
        row.creator_id.as_bytes(),
        row.name.as_deref(),
        row.picture.as_deref(),
        timestamp(row.version),
    ];
    Ok(RowWrite { statement: &statements.put_conversation, values })
}

pub(super) fn put_room<'a>(
    statements: &'a Statements,
    row: &ConversationRow,
) -> Result<[RowWrite<'a>; 2], Failure> {
    let (month, time) = (month(row.created_id), timestamp(row.created_id));
    let id = row.conversation_id.as_bytes();
    Ok([
        RowWrite { statement: &statements.put_room_month, values: values![ONE, month, time] },
        RowWrite {
            statement: &statements.put_room,
            values: values![month, ordered(row.created_id.0)?, id, time],
        },
    ])
}

fn month(created_id: MessageId) -> i64 {
    bound(created_id.created_at().since_2025() / MONTH_MS)
}

/// One row for the conversation's list of members, one for the user's list of conversations.
pub(super) fn put_member<'a>(
    statements: &'a Statements,
    row: &MemberRow,
) -> Result<[RowWrite<'a>; 2], Failure> {
    let (conversation, user) = (row.conversation_id.as_bytes(), row.user_id.as_bytes());
    let joined_id = ordered(row.joined_id.0)?;
    let left_id = ordered(row.left_id.unwrap_or_default().0)?;
    let role = role_number(row.role) as i32;
    let (version, time) = (ordered(row.version.0)?, timestamp(row.version));
    Ok([
        RowWrite {
            statement: &statements.put_member,
            values: values![conversation, user, joined_id, left_id, role, version, time],
        },
        RowWrite {
            statement: &statements.put_membership,
            values: values![user, conversation, joined_id, left_id, time],
        },
    ])
}

/// The time stamp is the number itself: the highest wins, whatever order they come in.
pub(super) fn put_mark<'a>(
    statement: &'a PreparedStatement,
    row: &MarkRow,
) -> Result<RowWrite<'a>, Failure> {
    let seq = ordered(row.seq)?;
    let time = seq.saturating_add(1);
    let values = values![time, seq, row.conversation_id.as_bytes(), row.user_id.as_bytes()];
    Ok(RowWrite { statement, values })
}

impl Inner {
    pub(super) async fn conversation(
        &self,
        id: ConversationId,
    ) -> Result<Option<ConversationRow>, Failure> {
        let found = self
            .executor
            .one::<ConversationColumns>(&self.statements.conversation, values![id.as_bytes()])
            .await?;
        let Some((created_id, version, creator, name, picture)) = found else { return Ok(None) };
        Ok(Some(ConversationRow {
            conversation_id: id,
            created_id: message_id(created_id),
            version: message_id(version),
            creator_id: user_id(&creator)?,
            name,
            picture,
        }))
    }

    pub(super) async fn members(&self, id: ConversationId) -> Result<Vec<MemberRow>, Failure> {
        let found: Vec<(Vec<u8>, i64, i64, i32, i64)> =
            self.executor.all(&self.statements.members, values![id.as_bytes()]).await?;
        let rows = found.into_iter().map(|(user, joined_id, left_id, role, version)| {
            let damaged =
                |error: chat_protocol::record::Unreadable| Failure::Damaged(error.to_string());
            Ok(MemberRow {
                conversation_id: id,
                user_id: user_id(&user)?,
                joined_id: message_id(joined_id),
                left_id: (left_id != 0).then(|| message_id(left_id)),
                role: role_from(role as u32).map_err(damaged)?,
                version: message_id(version),
            })
        });
        rows.collect()
    }

    pub(super) async fn marks(
        &self,
        id: ConversationId,
    ) -> Result<HashMap<UserId, (u64, u64)>, Failure> {
        let found: Vec<(Vec<u8>, Option<i64>, Option<i64>)> =
            self.executor.all(&self.statements.marks, values![id.as_bytes()]).await?;
        let marks = found.into_iter().map(|(user, read, delivered)| {
            let seqs = (from_bits(read.unwrap_or(0)), from_bits(delivered.unwrap_or(0)));
            Ok((user_id(&user)?, seqs))
        });
        marks.collect()
    }

    /// A user is a member if any of their intervals is open.
    pub(super) async fn conversations_of(
        &self,
        user: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Failure> {
        let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
        let mut found = self
            .executor
            .each::<(Vec<u8>, i64)>(&self.statements.memberships, values![user.as_bytes(), after])
            .await?;
        let mut conversations: Vec<ConversationId> = Vec::new();
        while let Some((conversation, left_id)) = found.rows.try_next().await? {
            let id = conversation_id(&conversation)?;
            // Intervals of one conversation come one after the other.
            if left_id != 0 || conversations.last() == Some(&id) {
                continue;
            }
            if conversations.len() == limit {
                break;
            }
            conversations.push(id);
        }
        Ok(conversations)
    }

    /// Newest first, month by month.
    pub(super) async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ConversationRow>, Failure> {
        let before = before.unwrap_or(MessageId(u64::MAX));
        let months: Vec<(i64,)> =
            self.executor.all(&self.statements.room_months, values![ONE, month(before)]).await?;
        let mut ids = Vec::new();
        for (month,) in months {
            if ids.len() >= limit {
                break;
            }
            let values = values![month, bound(before.0), rows(limit - ids.len())];
            let found: Vec<(Vec<u8>,)> = self.executor.all(&self.statements.rooms, values).await?;
            for (id,) in found {
                ids.push(conversation_id(&id)?);
            }
        }
        let found: Vec<Option<ConversationRow>> = stream::iter(ids)
            .map(|id| self.conversation(id))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }
}
