//! Inboxes and the answers to repeated sends: rows whose time ends.

use chat_protocol::limits::{DUPLICATE_DAYS, INBOX_DAYS};
use chat_protocol::{ClientMessageId, ConversationId, MessageId, UserId};
use futures_util::TryStreamExt;

use super::Inner;
use super::column::{bound, conversation_id, from_bits, message_id, values};
use super::error::Failure;
use crate::packing::{PageBuilder, SPAN, unpack};
use crate::row::{DuplicateRow, InboxPage};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const WEEK_MS: u64 = 7 * DAY_MS;

/// Weeks that one read goes through, each costing a query: some more than are kept.
const WEEKS_MAX: i64 = 200;

/// Where the end of a read is no moment at all, it looks this far past the present: owners' clocks may be ahead.
const WEEKS_AHEAD: i64 = 18;

/// The week of a row: of its first id.
pub(super) fn week(first_id: MessageId) -> i64 {
    bound(first_id.created_at().since_2025() / WEEK_MS)
}

impl Inner {
    pub(super) async fn inbox(
        &self,
        user: UserId,
        above: MessageId,
        up_to: MessageId,
        limit: usize,
    ) -> Result<InboxPage, Failure> {
        // Entries up to here are over, whether the database has removed them already or not. A watermark is not ahead
        // of its owner's clock: so this node's own clock, if it is, hides nothing.
        let now = self.now().min(up_to.created_at());
        let over_ms = now.since_2025().saturating_sub(INBOX_DAYS * DAY_MS);
        let above = above.max(MessageId((over_ms << 22).saturating_sub(1)));
        let mut builder = PageBuilder::new(above, up_to, limit);
        // Rows that begin before this end at or before `above`.
        let low = MessageId(above.0.saturating_sub(SPAN));
        let first = week(low);
        let last = match week(up_to) {
            last if last - first <= WEEKS_MAX => last,
            _ => bound(now.since_2025() / WEEK_MS) + WEEKS_AHEAD,
        };
        for week in first..=last {
            let values = values![user.as_bytes(), week, bound(low.0), bound(up_to.0)];
            let mut found = self
                .executor
                .each::<(i64, Vec<u8>, Vec<u8>)>(&self.statements.inbox, values)
                .await?;
            while let Some((first_id, conversation, pointers)) = found.rows.try_next().await? {
                let first_id = message_id(first_id);
                if builder.begins(first_id) {
                    return Ok(builder.finish(false));
                }
                builder.add(conversation_id(&conversation)?, unpack(first_id, &pointers)?);
            }
        }
        Ok(builder.finish(true))
    }

    pub(super) async fn duplicate(
        &self,
        conversation_id: ConversationId,
        sender_id: UserId,
        client_message_id: ClientMessageId,
    ) -> Result<Option<DuplicateRow>, Failure> {
        let values =
            values![conversation_id.as_bytes(), sender_id.as_bytes(), client_message_id.as_bytes()];
        let found = self.executor.one::<(i64, i64)>(&self.statements.duplicate, values).await?;
        let row = found.map(|(id, seq)| DuplicateRow {
            conversation_id,
            sender_id,
            client_message_id,
            message_id: message_id(id),
            seq: from_bits(seq),
        });
        let kept = |row: &DuplicateRow| {
            self.now().since(row.message_id.created_at()) < DUPLICATE_DAYS * DAY_MS
        };
        Ok(row.filter(kept))
    }
}
