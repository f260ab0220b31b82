//! Writes rows made from the log: all of a call at once, bounded, those of one partition of a table together.

use std::collections::{BTreeMap, HashMap};

use chat_protocol::limits::{DUPLICATE_DAYS, INBOX_DAYS};
use chat_protocol::{ConversationId, ConversationKind, MessageId, Partition, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Inner;
use super::bucket::bucket_of;
use super::column::{bound, ordered, timestamp, values};
use super::error::Failure;
use super::execute::{BATCH_BYTES_MAX, BATCH_STATEMENTS_MAX, RowWrite};
use super::messages::{Place, put_message, put_reaction, put_revision};
use super::{conversations, inbox};
use crate::packing::pack;
use crate::row::*;

/// Requests of one call at once. All calls together are bounded by the executor.
const CONCURRENCY: usize = 64;

/// Where a row goes: rows of one group may share a request.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Group {
    Messages(ConversationId, i64),
    Inbox(UserId, i64),
    Members(ConversationId),
    Memberships(UserId),
    Marks(ConversationId),
}

/// Rows to be written, by group.
#[derive(Default)]
struct Plan<'a> {
    groups: HashMap<Group, Vec<RowWrite<'a>>>,
    single: Vec<RowWrite<'a>>,
}

impl<'a> Plan<'a> {
    fn add(&mut self, group: Group, row: RowWrite<'a>) {
        self.groups.entry(group).or_default().push(row);
    }

    /// Requests: each a row, or a batch within one partition.
    fn requests(self) -> Vec<Vec<RowWrite<'a>>> {
        let mut requests: Vec<Vec<RowWrite>> =
            self.single.into_iter().map(|row| vec![row]).collect();
        for rows in self.groups.into_values() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            for row in rows {
                let more = row.bytes();
                if !batch.is_empty()
                    && (bytes + more > BATCH_BYTES_MAX || batch.len() == BATCH_STATEMENTS_MAX)
                {
                    requests.push(std::mem::take(&mut batch));
                    bytes = 0;
                }
                bytes += more;
                batch.push(row);
            }
            requests.push(batch);
        }
        requests
    }
}

impl Inner {
    /// Rows first, all of them; then the checkpoint.
    pub(super) async fn apply(
        &self,
        partition: Partition,
        writes: &[Write],
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Failure> {
        self.cover_all(writes).await?;
        let buckets = self.buckets_of(writes).await?;
        let requests = self.plan(writes, &buckets)?.requests();
        stream::iter(requests.into_iter().map(|request| Ok(self.executor.write(request))))
            .try_for_each_concurrent(CONCURRENCY, |request| request)
            .await?;
        match checkpoint {
            Some(checkpoint) => self.put_checkpoint(partition, checkpoint).await,
            None => Ok(()),
        }
    }

    /// Sees to it that every message's bucket can be found from its id, before anything else is written.
    async fn cover_all(&self, writes: &[Write]) -> Result<(), Failure> {
        // The lowest message of each bucket; buckets of one conversation in their order.
        let mut lowest: HashMap<ConversationId, BTreeMap<i64, (MessageId, u64)>> = HashMap::new();
        for write in writes {
            let Write::Message(row) = write else { continue };
            let bucket = bucket_of(row.seq);
            if bucket > 0 && !self.known.covers(row.conversation_id, bucket, row.message_id) {
                let found = lowest.entry(row.conversation_id).or_default();
                let found = found.entry(bucket).or_insert((row.message_id, row.seq));
                *found = (*found).min((row.message_id, row.seq));
            }
        }
        let conversations = lowest.into_iter().map(Ok);
        stream::iter(conversations)
            .try_for_each_concurrent(CONCURRENCY, |(conversation, buckets)| async move {
                for (id, seq) in buckets.into_values() {
                    self.cover(conversation, seq, id).await?;
                }
                Ok(())
            })
            .await
    }

    /// The bucket of each message that is edited, deleted or reacted to.
    async fn buckets_of(
        &self,
        writes: &[Write],
    ) -> Result<HashMap<(ConversationId, MessageId), i64>, Failure> {
        let mut known = HashMap::new();
        let mut unknown = Vec::new();
        for write in writes {
            match write {
                Write::Message(row) => {
                    known.insert((row.conversation_id, row.message_id), bucket_of(row.seq));
                }
                Write::Revision(row) => unknown.push((row.conversation_id, row.message_id)),
                Write::Reaction(row) => unknown.push((row.conversation_id, row.message_id)),
                _ => {}
            }
        }
        unknown.sort();
        unknown.dedup();
        unknown.retain(|key| !known.contains_key(key));
        let looked_up: Vec<_> = stream::iter(unknown)
            .map(|(conversation, id)| async move {
                Ok::<_, Failure>(((conversation, id), self.bucket_at(conversation, id).await?))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        known.extend(looked_up);
        Ok(known)
    }

    fn plan<'a>(
        &'a self,
        writes: &[Write],
        buckets: &HashMap<(ConversationId, MessageId), i64>,
    ) -> Result<Plan<'a>, Failure> {
        let statements = &self.statements;
        let mut plan = Plan::default();
        let place = |conversation: ConversationId, id: MessageId| {
            let bucket = buckets.get(&(conversation, id)).copied().unwrap_or(0);
            (Group::Messages(conversation, bucket), Place { conversation, bucket })
        };
        for write in writes {
            match write {
                Write::Message(row) => {
                    let (group, place) = place(row.conversation_id, row.message_id);
                    plan.add(group, put_message(statements, place, row)?);
                }
                Write::Revision(row) => {
                    let (group, place) = place(row.conversation_id, row.message_id);
                    plan.add(group, put_revision(statements, place, row)?);
                }
                Write::Reaction(row) => {
                    let (group, place) = place(row.conversation_id, row.message_id);
                    for write in put_reaction(statements, place, row)? {
                        plan.add(group.clone(), write);
                    }
                }
                Write::Duplicate(row) => self.plan_duplicate(&mut plan, row)?,
                Write::Inbox(row) => self.plan_inbox(&mut plan, row)?,
                Write::Conversation(row) => {
                    plan.single.push(conversations::put_conversation(statements, row)?);
                    if row.kind() == ConversationKind::Room {
                        plan.single.extend(conversations::put_room(statements, row)?);
                    }
                }
                Write::Member(row) => {
                    let [member, membership] = conversations::put_member(statements, row)?;
                    plan.add(Group::Members(row.conversation_id), member);
                    plan.add(Group::Memberships(row.user_id), membership);
                }
                Write::Read(row) => {
                    let write = conversations::put_mark(&statements.put_read, row)?;
                    plan.add(Group::Marks(row.conversation_id), write);
                }
                Write::Delivered(row) => {
                    let write = conversations::put_mark(&statements.put_delivered, row)?;
                    plan.add(Group::Marks(row.conversation_id), write);
                }
            }
        }
        Ok(plan)
    }

    fn plan_duplicate<'a>(
        &'a self,
        plan: &mut Plan<'a>,
        row: &DuplicateRow,
    ) -> Result<(), Failure> {
        let Some(life) = self.life(row.message_id, DUPLICATE_DAYS, 1) else { return Ok(()) };
        let values = values![
            row.conversation_id.as_bytes(),
            row.sender_id.as_bytes(),
            row.client_message_id.as_bytes(),
            ordered(row.message_id.0)?,
            ordered(row.seq)?,
            timestamp(row.message_id),
            life,
        ];
        plan.single.push(RowWrite { statement: &self.statements.put_duplicate, values });
        Ok(())
    }

    fn plan_inbox<'a>(&'a self, plan: &mut Plan<'a>, row: &InboxRow) -> Result<(), Failure> {
        for packed in pack(&row.pointers) {
            let Some(life) = self.life(packed.first_id, INBOX_DAYS, 7) else { continue };
            let week = inbox::week(packed.first_id);
            let first_id = ordered(packed.first_id.0)?;
            for user in row.users.iter() {
                let values = values![
                    user.as_bytes(),
                    week,
                    first_id,
                    row.conversation_id.as_bytes(),
                    packed.bytes.as_slice(),
                    timestamp(packed.first_id),
                    life,
                ];
                let write = RowWrite { statement: &self.statements.put_inbox, values };
                plan.add(Group::Inbox(*user, week), write);
            }
        }
        Ok(())
    }

    /// How many seconds a row made by this entry is kept from now on; `None`: its time is over, and a replay does not
    /// bring it back. Readers leave out what is over; the slack is for clocks that differ.
    fn life(&self, id: MessageId, days: u64, slack_days: u64) -> Option<i32> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        let end = id.created_at().plus((days + slack_days) * DAY_MS);
        let rest_ms = end.since(self.now()).min((days + slack_days) * DAY_MS);
        let rest_seconds = rest_ms / 1_000;
        (rest_seconds > 0).then(|| i32::try_from(bound(rest_seconds)).unwrap_or(i32::MAX))
    }
}
