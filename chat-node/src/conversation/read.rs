//! Reading conversations: heads, lists, history.

use std::sync::Arc;

use chat_protocol::api::{ConversationHead, History};
use chat_protocol::error::{Code, Refusal};
use chat_protocol::message::{Conversation, Message};
use chat_protocol::record::{Change, Entry};
use chat_protocol::{ConversationId, ConversationKind, MessageId, UserId};
use chat_store::{MemberRow, Store};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::command::Reply;
use super::owners::entry;
use super::rows;
use super::state::{Loaded, State};
use crate::delivery::Place;

/// Heads of one list that are read at the same time.
const CONCURRENT_HEADS: usize = 8;

/// Above every id.
const NEWEST: MessageId = MessageId(u64::MAX >> 1);

pub(super) struct Reader {
    store: Arc<dyn Store>,
}

/// What of a conversation somebody may read.
pub(super) struct Visible {
    id: ConversationId,
    /// Their membership intervals; none in a live room, where everything is for everyone.
    intervals: Option<Vec<(MessageId, Option<MessageId>)>>,
}

impl Visible {
    fn shows(&self, id: MessageId) -> bool {
        let holds = |(joined, left): &(MessageId, Option<MessageId>)| {
            *joined <= id && left.is_none_or(|left| id < left)
        };
        self.intervals.as_ref().is_none_or(|intervals| intervals.iter().any(holds))
    }

    /// Nothing below this is shown.
    fn lowest(&self) -> MessageId {
        let joined = self.intervals.iter().flatten().map(|(joined, _)| *joined);
        joined.min().unwrap_or(MessageId::ZERO)
    }
}

/// What an owner has beside the store.
#[derive(Default)]
pub(super) struct Tail {
    /// Log entries, encoded, in order.
    entries: Vec<Vec<u8>>,
    /// With them and the store nothing that is committed is missing.
    is_whole: bool,
}

impl Tail {
    /// What an owner, or nobody, said.
    pub(super) fn answered(answer: Result<Reply, Refusal>) -> Tail {
        match answer {
            Ok(Reply::Tail(entries)) => Tail { entries, is_whole: true },
            Ok(Reply::TailWithGaps(entries)) => Tail { entries, is_whole: false },
            // A stranger: whether they may read is found out from the store.
            Err(refusal) if refusal.code == Code::NotFound => {
                Tail { entries: vec![], is_whole: true }
            }
            _ => Tail::default(),
        }
    }
}

impl Reader {
    pub(super) fn new(store: Arc<dyn Store>) -> Reader {
        Reader { store }
    }

    pub(super) async fn head(
        &self,
        caller: UserId,
        id: ConversationId,
    ) -> Result<ConversationHead, Refusal> {
        let (row, members, marks, newest) = tokio::try_join!(
            self.store.conversation(id),
            self.store.members(id),
            self.store.marks(id),
            self.store.history_before(id, NEWEST, 1),
        )
        .map_err(unavailable)?;
        let last_message = newest.into_iter().next();
        let last_seq = last_message.as_ref().map_or(0, |message| message.seq);
        let state = State::new(id, Loaded { row, members, marks, last_seq });
        let known = id.kind() == ConversationKind::Room || state.role(caller).is_some();
        let conversation = state.view().filter(|_| known).ok_or_else(not_found)?;
        let (read_seq, _) = state.marks_of(caller);
        let unread = last_seq.saturating_sub(read_seq);
        Ok(ConversationHead { conversation, last_message, last_seq, read_seq, unread })
    }

    pub(super) async fn list(
        &self,
        caller: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationHead>, Refusal> {
        let ids = self.store.conversations_of(caller, after, limit).await.map_err(unavailable)?;
        let heads = stream::iter(ids.into_iter().filter(|id| id.kind() != ConversationKind::Room));
        let heads = heads.map(|id| async move {
            match self.head(caller, id).await {
                // Left between the two reads.
                Err(refusal) if refusal.code == Code::NotFound => Ok(None),
                head => head.map(Some),
            }
        });
        heads
            .buffered(CONCURRENT_HEADS)
            .try_filter_map(|head| async { Ok(head) })
            .try_collect()
            .await
    }

    pub(super) async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Conversation>, Refusal> {
        let rows = self.store.rooms(before, limit).await.map_err(unavailable)?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.conversation_id;
            let members = self.store.members(id).await.map_err(unavailable)?;
            let loaded = Loaded { row: Some(row), members, ..Loaded::default() };
            rooms.extend(State::new(id, loaded).view());
        }
        Ok(rooms)
    }

    /// What the caller may read. Only members now, of what was said while they were members.
    pub(super) async fn visible(
        &self,
        caller: UserId,
        id: ConversationId,
    ) -> Result<Visible, Refusal> {
        if id.kind() == ConversationKind::Room {
            let row = self.store.conversation(id).await.map_err(unavailable)?;
            return row.map(|_| Visible { id, intervals: None }).ok_or_else(not_found);
        }
        let members = self.store.members(id).await.map_err(unavailable)?;
        let own = members.into_iter().filter(|row| row.user_id == caller);
        let intervals: Vec<_> =
            own.map(|MemberRow { joined_id, left_id, .. }| (joined_id, left_id)).collect();
        match intervals.iter().any(|(_, left)| left.is_none()) {
            true => Ok(Visible { id, intervals: Some(intervals) }),
            false => Err(not_found()),
        }
    }

    pub(super) async fn before(
        &self,
        visible: &Visible,
        tail: &Tail,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<History, Refusal> {
        let before = before.unwrap_or(NEWEST);
        let stored =
            self.store.history_before(visible.id, before, limit + 1).await.map_err(unavailable)?;
        let mut messages = merged(visible.id, stored, tail, |id| id < before)?;
        messages.reverse();
        let full = messages.len() > limit;
        messages.truncate(limit);
        let more = full && messages.last().is_some_and(|last| last.message_id > visible.lowest());
        messages.retain(|message| visible.shows(message.message_id));
        Ok(History { messages, more, tail_missing: !tail.is_whole })
    }

    pub(super) async fn after(
        &self,
        visible: &Visible,
        tail: &Tail,
        after: MessageId,
        limit: usize,
    ) -> Result<History, Refusal> {
        // From the first message that is shown on, so that a page is not spent on what is not.
        let after = after.max(MessageId(visible.lowest().0.saturating_sub(1)));
        let stored =
            self.store.history_after(visible.id, after, limit + 1).await.map_err(unavailable)?;
        let mut messages = merged(visible.id, stored, tail, |id| id > after)?;
        let more = messages.len() > limit;
        messages.truncate(limit);
        messages.retain(|message| visible.shows(message.message_id));
        Ok(History { messages, more, tail_missing: !tail.is_whole })
    }

    /// One message as it is, whoever may read it.
    pub(super) async fn message(
        &self,
        place: Place,
        tail: &Tail,
    ) -> Result<Option<Message>, Refusal> {
        let Place { conversation_id, message_id } = place;
        let with = |stored| merged(conversation_id, stored, tail, |id| id == message_id);
        let unwritten = with(vec![])?.pop();
        if unwritten.is_some() {
            return Ok(unwritten);
        }
        let stored = self.store.message(conversation_id, message_id).await.map_err(unavailable)?;
        Ok(with(stored.into_iter().collect())?.pop())
    }
}

/// Which message a node asks for that was sent a pointer to it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// One of those whom the owner sent the pointer.
    pub(super) reader: UserId,
    pub(super) place: Place,
}

/// Stored messages and those of the tail, oldest first, with all that the tail says of them.
fn merged(
    id: ConversationId,
    mut messages: Vec<Message>,
    tail: &Tail,
    wanted: impl Fn(MessageId) -> bool,
) -> Result<Vec<Message>, Refusal> {
    let entries: Result<Vec<Entry>, _> = tail.entries.iter().map(|bytes| entry(bytes)).collect();
    let entries = entries.map_err(unreadable)?;
    for entry in &entries {
        let known = messages.iter().any(|message| message.message_id == entry.message_id());
        if let Some(Change::Message(sent)) = &entry.change
            && !known
            && wanted(entry.message_id())
        {
            messages.push(rows::message(id, entry, sent).map_err(unreadable)?);
        }
    }
    for message in &mut messages {
        for entry in &entries {
            rows::overlay(message, entry).map_err(unreadable)?;
        }
    }
    messages.sort_unstable_by_key(|message| message.message_id);
    Ok(messages)
}

fn unreadable(error: chat_protocol::record::Unreadable) -> Refusal {
    tracing::error!(%error, "an unwritten entry cannot be read");
    Refusal::new(Code::Internal, "The server could not read its log. It was logged.")
}

fn unavailable(error: chat_store::Error) -> Refusal {
    tracing::debug!(%error, "the store has no answer");
    Refusal::new(Code::StoreUnavailable, "The store does not answer at the moment. Try again.")
        .retry_after(1_000)
}

fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "There is no such conversation, or you are not a member of it.")
}
