//! Reads of messages: which buckets, in which order.

use chat_protocol::message::Message;
use chat_protocol::{ConversationId, MessageId};
use scylla::value::CqlValue;

use super::Inner;
use super::bucket::{BUCKET_MESSAGES, Fact, bucket_of};
use super::column::{bits, bound, message_id, ordered, rows, values};
use super::error::Failure;
use super::messages::{Columns, Place};

/// Ids of one request: databases limit them.
const IDS_MAX: usize = 100;

/// Which way a page goes, from a bound that is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Page {
    /// Newest first, below this id.
    Before(MessageId),
    /// Oldest first, above this id.
    After(MessageId),
}

impl Page {
    /// The rest of the page after this message.
    fn rest(self, id: MessageId) -> Page {
        match self {
            Page::Before(_) => Page::Before(id),
            Page::After(_) => Page::After(id),
        }
    }
}

/// Messages of a page that is being filled.
struct Filling {
    messages: Vec<Message>,
    limit: usize,
    /// What was read so far ends here; messages beyond are not read yet.
    page: Page,
}

impl Filling {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit
    }
}

impl Inner {
    /// One page of a conversation's history. A small conversation is one read: its only bucket says that it is that.
    pub(super) async fn history(
        &self,
        conversation: ConversationId,
        page: Page,
        limit: usize,
    ) -> Result<Vec<Message>, Failure> {
        if limit == 0 || page == Page::Before(MessageId::ZERO) {
            return Ok(Vec::new());
        }
        let mut filling = Filling { messages: Vec::new(), limit, page };
        if !self.known.is_rolled(conversation) {
            let place = Place { conversation, bucket: 0 };
            match self.fill(&mut filling, place).await? {
                Some(false) => return Ok(filling.messages),
                // Nothing was read that could tell; or there are other buckets.
                None => {}
                Some(true) => self.known.note_rolled(conversation),
            }
            filling = Filling { messages: Vec::new(), limit, page };
        }
        match page {
            Page::Before(_) => self.fill_down(conversation, &mut filling).await?,
            Page::After(_) => self.fill_up(conversation, &mut filling).await?,
        }
        Ok(filling.messages)
    }

    async fn fill_down(
        &self,
        conversation: ConversationId,
        filling: &mut Filling,
    ) -> Result<(), Failure> {
        let facts_wanted = facts_for(filling.limit);
        loop {
            let Page::Before(before) = filling.page else { return Ok(()) };
            let below = MessageId(before.0.saturating_sub(1));
            let facts = self.facts_down(conversation, below, facts_wanted).await?;
            let last = facts.len() < facts_wanted;
            let mut buckets: Vec<i64> = facts.iter().map(|fact| fact.bucket).collect();
            // Several facts may name one bucket.
            buckets.dedup();
            if last && buckets.last() != Some(&0) {
                buckets.push(0);
            }
            for bucket in buckets {
                self.fill(filling, Place { conversation, bucket }).await?;
                if filling.is_full() {
                    return Ok(());
                }
            }
            match facts.last() {
                // Several facts may name one bucket, and all of that has been read.
                Some(fact) if !last => filling.page = Page::Before(before_of(filling, fact)),
                _ => return Ok(()),
            }
        }
    }

    async fn fill_up(
        &self,
        conversation: ConversationId,
        filling: &mut Filling,
    ) -> Result<(), Failure> {
        let Page::After(after) = filling.page else { return Ok(()) };
        let mut bucket = self.bucket_at(conversation, after).await?;
        let mut above = after;
        loop {
            self.fill(filling, Place { conversation, bucket }).await?;
            if filling.is_full() {
                return Ok(());
            }
            // The next bucket: facts may repeat this one.
            loop {
                match self.fact_above(conversation, above).await? {
                    None => return Ok(()),
                    Some(fact) => {
                        above = fact.first_id;
                        if fact.bucket != bucket {
                            bucket = fact.bucket;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Adds one bucket's part of the page. Whether the conversation has other buckets, if a row was there to tell.
    async fn fill(&self, filling: &mut Filling, place: Place) -> Result<Option<bool>, Failure> {
        let mut rolled = None;
        let mut rest = filling.page;
        while !filling.is_full() {
            let missing = filling.limit - filling.messages.len();
            let found = self.read_page(place, rest, missing).await?;
            let ended = found.len() < missing;
            for columns in found {
                rolled = Some(columns.rolled == Some(true));
                rest = filling.page.rest(message_id(columns.message_id));
                // An edit whose message is in another bucket must not move the page past what is there.
                if let Some(message) = columns.message(place.conversation)? {
                    filling.page = rest;
                    filling.messages.push(message);
                }
            }
            if ended {
                break;
            }
        }
        Ok(rolled)
    }

    async fn read_page(
        &self,
        place: Place,
        page: Page,
        limit: usize,
    ) -> Result<Vec<Columns>, Failure> {
        let (statement, low, high) = match page {
            Page::Before(before) => (&self.statements.messages_before, 0, bound(before.0)),
            Page::After(after) => (&self.statements.messages_after, bound(after.0), i64::MAX),
        };
        let values = values![place.conversation.as_bytes(), place.bucket, low, high, rows(limit)];
        self.executor.all(statement, values).await
    }

    /// Several messages by id, by increasing id.
    pub(super) async fn messages(
        &self,
        conversation: ConversationId,
        ids: &[MessageId],
    ) -> Result<Vec<Message>, Failure> {
        let mut missing: Vec<MessageId> =
            ids.iter().copied().filter(|id| i64::try_from(id.0).is_ok()).collect();
        missing.sort();
        missing.dedup();
        let mut messages = Vec::with_capacity(missing.len());
        if !self.known.is_rolled(conversation) {
            let place = Place { conversation, bucket: 0 };
            let rolled = self.read_ids(place, &missing, &mut messages).await?;
            missing.retain(|id| !messages.iter().any(|message| message.message_id == *id));
            if rolled == Some(false) {
                missing.clear();
            }
        }
        // Highest first: a fact at or below the highest settles all ids down to it.
        while let Some(highest) = missing.last() {
            let fact = self.fact_at(conversation, *highest).await?;
            let fact = fact.unwrap_or(Fact { first_id: MessageId::ZERO, bucket: 0 });
            let within = missing.split_off(missing.partition_point(|id| *id < fact.first_id));
            let place = Place { conversation, bucket: fact.bucket };
            self.read_ids(place, &within, &mut messages).await?;
        }
        messages.sort_by_key(|message| message.message_id);
        Ok(messages)
    }

    async fn read_ids(
        &self,
        place: Place,
        ids: &[MessageId],
        messages: &mut Vec<Message>,
    ) -> Result<Option<bool>, Failure> {
        let mut rolled = None;
        for ids in ids.chunks(IDS_MAX) {
            let list = ids.iter().map(|id| CqlValue::BigInt(bits(id.0))).collect();
            let mut values = values![place.conversation.as_bytes(), place.bucket];
            values.push(Some(CqlValue::List(list)));
            let found: Vec<Columns> =
                self.executor.all(&self.statements.messages_in, values).await?;
            for columns in found {
                rolled = Some(columns.rolled == Some(true));
                messages.extend(columns.message(place.conversation)?);
            }
        }
        Ok(rolled)
    }

    /// The bucket in which a message with this id lies.
    pub(super) async fn bucket_at(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<i64, Failure> {
        Ok(self.fact_at(conversation, id).await?.map_or(0, |fact| fact.bucket))
    }

    /// The highest fact at or below an id.
    async fn fact_at(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Fact>, Failure> {
        Ok(self.facts_down(conversation, id, 1).await?.pop())
    }

    /// The highest facts at or below an id, highest first.
    async fn facts_down(
        &self,
        conversation: ConversationId,
        id: MessageId,
        limit: usize,
    ) -> Result<Vec<Fact>, Failure> {
        let values = values![conversation.as_bytes(), bound(id.0), rows(limit)];
        let facts: Vec<(i64, i64)> =
            self.executor.all(&self.statements.buckets_down, values).await?;
        Ok(facts.into_iter().map(fact).collect())
    }

    async fn fact_above(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<Fact>, Failure> {
        let values = values![conversation.as_bytes(), bound(id.0), rows(1)];
        let found = self.executor.one::<(i64, i64)>(&self.statements.buckets_up, values).await?;
        Ok(found.map(fact))
    }

    /// Sees to it that a fact covers this message, before its row is written.
    pub(super) async fn cover(
        &self,
        conversation: ConversationId,
        seq: u64,
        id: MessageId,
    ) -> Result<(), Failure> {
        let bucket = bucket_of(seq);
        if bucket == 0 || self.known.covers(conversation, bucket, id) {
            return Ok(());
        }
        let below = self.fact_at(conversation, id).await?;
        if let Some(fact) = below.filter(|fact| fact.bucket == bucket) {
            self.known.note_written(conversation, fact);
            return Ok(());
        }
        let time = super::column::timestamp(id);
        let key = conversation.as_bytes();
        let rolled = self.executor.run(&self.statements.put_rolled, values![1_i64, key, 0_i64]);
        let values = values![key, ordered(id.0)?, bucket, time];
        let fact = self.executor.run(&self.statements.put_bucket, values);
        futures_util::try_join!(rolled, fact)?;
        self.move_up(conversation, below.map_or(0, |fact| fact.bucket), id, bucket).await?;
        self.known.note_written(conversation, Fact { first_id: id, bucket });
        self.known.note_rolled(conversation);
        Ok(())
    }

    /// Edits and reactions that came before the fact lie in the bucket below. In log order there are none.
    async fn move_up(
        &self,
        conversation: ConversationId,
        from: i64,
        first_id: MessageId,
        to: i64,
    ) -> Result<(), Failure> {
        let (from, to) = (Place { conversation, bucket: from }, Place { conversation, bucket: to });
        let mut after = MessageId(first_id.0.saturating_sub(1));
        loop {
            let found = self.read_page(from, Page::After(after), BUCKET_MESSAGES as usize).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = message_id(last.message_id);
            for columns in found {
                let writes = columns.rewrite(&self.statements, to)?;
                if !writes.is_empty() {
                    self.executor.write(writes).await?;
                }
            }
        }
    }
}

fn before_of(filling: &Filling, fact: &Fact) -> MessageId {
    match filling.page {
        Page::Before(before) => before.min(fact.first_id),
        Page::After(_) => fact.first_id,
    }
}

fn fact((first_id, bucket): (i64, i64)) -> Fact {
    Fact { first_id: message_id(first_id), bucket }
}

/// Buckets that a page of this length touches at most.
fn facts_for(limit: usize) -> usize {
    let buckets = limit as u64 / BUCKET_MESSAGES + 2;
    usize::try_from(buckets).unwrap_or(usize::MAX).min(1_000)
}
