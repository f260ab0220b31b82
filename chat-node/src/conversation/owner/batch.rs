//! Forms the next record of everything that waits and can be decided.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use chat_protocol::ConversationId;
use chat_protocol::api::Changed;
use chat_protocol::error::Refusal;
use chat_protocol::id::MessageId;
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Change, Entry};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::command::{Action, Reply};
use super::super::decide::{Answer, Decision, Memory, decide};
use super::super::rows::{self, EntryRows};
use super::super::state::State;
use super::duplicates::Key;
use super::inheritance::Inherited;
use super::publish::{Publication, publications};
use super::{Owner, Work, store_unavailable};
use crate::limits::TAIL_BYTES_MAX;
use prost::Message as _;

/// Entries of one record: bounds how long one decision round holds the task.
const ENTRIES_MAX: usize = 2_000;

/// A record of this many entries was formed under load: the next begins no sooner than [`GATHER`] after it. Every record
/// costs a commit, and a write to each socket it goes to.
const BUSY_ENTRIES: usize = 16;
const GATHER: Duration = Duration::from_millis(8);

/// What an entry adds to a record besides its change: id, conversation and the tags.
const ENTRY_OVERHEAD_BYTES: usize = 48;

/// Room for the record's own fields.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// A committed or pending entry with all that follows from it.
pub(super) struct Unit {
    pub(super) entry: Arc<Entry>,
    pub(super) rows: EntryRows,
    pub(super) publications: Vec<Publication>,
    pub(super) bytes: usize,
}

/// An asker whose answer depends on the batch.
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Reply, Refusal>>,
    pub(super) answer: Reply,
    /// Answer only once the rows up to here can be read, if the store keeps up.
    pub(super) after_write: Option<MessageId>,
}

/// A record that is being formed or under way.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) units: Vec<Unit>,
    pub(super) waiters: Vec<Waiter>,
    /// The conversations as they were before, in case the record is certainly not in the log.
    pub(super) undo: HashMap<ConversationId, State>,
    pub(super) keys: Vec<Key>,
    /// When it was handed to the log.
    pub(super) sent: Duration,
    bytes: usize,
}

impl Owner {
    /// Decides what waits, up to a record's size, and sends the record.
    pub(super) fn form_batch(&mut self) {
        if self.append.is_some() || self.ready.is_empty() || !self.locked().is_open() {
            return;
        }
        if self.gathers_until.is_some_and(|until| Instant::now() < until)
            && self.ready.len() < ENTRIES_MAX
        {
            return;
        }
        self.gathers_until = None;
        let mut batch = Batch { bytes: RECORD_OVERHEAD_BYTES, ..Batch::default() };
        while let Some(work) = self.ready.pop_front() {
            if let Some(work) = self.process(work, &mut batch) {
                self.ready.push_front(work);
                break;
            }
            if batch.units.len() >= ENTRIES_MAX {
                break;
            }
        }
        let now = self.shared.clock.now();
        if !batch.units.is_empty() {
            let entries = batch.units.iter().map(|unit| (*unit.entry).clone()).collect();
            self.preparing().batch(entries, now);
            if batch.units.len() >= BUSY_ENTRIES {
                self.gathers_until = Some(Instant::now() + GATHER);
            }
            batch.sent = self.shared.clock.elapsed();
            self.batch = Some(batch);
            self.send_append();
        } else if !self.ready.is_empty() {
            // The clock has outrun the reservation: only a tick can go on.
            self.preparing().tick(now);
            self.send_append();
        }
    }

    /// Decides one command. Gives it back if the record is full or ids have run out: it goes into the next record.
    fn process(&mut self, mut work: Work, batch: &mut Batch) -> Option<Work> {
        let id = work.command.conversation_id;
        let elapsed = self.shared.clock.elapsed();
        let slot = self.slots.get(id, elapsed);
        if slot.busy && !work.resumed {
            if slot.blocked.len() >= crate::limits::CONVERSATION_QUEUE_MAX {
                work.answer(Err(super::overloaded()));
            } else {
                slot.blocked.push_back(work);
            }
            return None;
        }
        let Some(state) = slot.state.clone() else {
            slot.busy = true;
            self.fetch_conversation(work);
            return None;
        };
        if work.facts.blocked.is_none() {
            work.facts.blocked = slot.block.and_then(|block| block.believed(elapsed));
            if slot.block.as_mut().is_some_and(|block| block.begin_rereading(elapsed)) {
                self.read_block_again(&state);
            }
        }
        match self.decide(&state, &work) {
            Decision::Need(need) => {
                self.slots.get(id, elapsed).busy = true;
                self.fetch_fact(work, need);
                return None;
            }
            Decision::Commit(changes, answer) => {
                return self.commit(state, work, changes, answer, batch);
            }
            Decision::Repeat(message, seq) => {
                let answer = Reply::Sent(rows::sent(message, seq));
                let resumed = work.resumed;
                if batch_holds(batch, message) {
                    batch.waiters.push(Waiter { reply: work.reply, answer, after_write: None });
                } else {
                    work.answer(Ok(answer));
                }
                self.release(id, resumed);
                return None;
            }
            Decision::Tell { frame, write } => {
                self.tell(&state, &work, &frame, write);
                self.answered(work, Ok(Reply::Done));
            }
            Decision::Reply(reply) => {
                let reply = match work.command.action {
                    Action::Tail => self.tail(id),
                    _ => Ok(reply),
                };
                self.answered(work, reply);
            }
            Decision::Refuse(refusal) => self.answered(work, Err(refusal)),
        }
        None
    }

    fn decide(&mut self, state: &State, work: &Work) -> Decision {
        let (now, elapsed) = (self.shared.clock.now(), self.shared.clock.elapsed());
        let command = &work.command;
        let sent = match &command.action {
            Action::Send(draft) => self.duplicates.find(&(
                command.conversation_id,
                command.caller,
                draft.client_message_id,
            )),
            _ => None,
        };
        // Only for what was decided on a row of the store.
        let is_store_doubted = work.facts.message.is_some() && self.doubts_store();
        let sent_is_uncertain = self.duplicates.is_uncertain(command.received_at, now, elapsed);
        let slot = self.slots.get(command.conversation_id, elapsed);
        let slot = &*slot;
        let message = |id, stored: Option<_>| slot.message(id, stored);
        let memory = Memory { sent, sent_is_uncertain, message: &message };
        let decision = decide(state, command, &work.facts, &memory);
        match decision {
            // What it was decided on may lack entries that only the log holds.
            Decision::Commit(..) | Decision::Refuse(_) | Decision::Reply(Reply::Changed(_))
                if slot.lacks_entries() && work.facts.message.is_some() =>
            {
                Decision::Refuse(store_unavailable())
            }
            // What is committed wins over what the store gets again; but nothing that it lacks may be taken for not there.
            Decision::Refuse(_) | Decision::Reply(Reply::Changed(_)) if is_store_doubted => {
                Decision::Refuse(store_unavailable())
            }
            Decision::Commit(changes, _)
                if changes.iter().any(|change| slot.depends_on_inherited(change)) =>
            {
                Decision::Refuse(store_unavailable())
            }
            Decision::Commit(..) if !self.duplicates.has_room() => {
                Decision::Refuse(store_unavailable())
            }
            decision => decision,
        }
    }

    /// Puts a decision into the batch. Gives the command back if it does not fit.
    fn commit(
        &mut self,
        before: State,
        work: Work,
        changes: Vec<Change>,
        answer: Answer,
        batch: &mut Batch,
    ) -> Option<Work> {
        let sizes: Vec<usize> =
            changes.iter().map(|change| change.encoded_len() + ENTRY_OVERHEAD_BYTES).collect();
        let size: usize = sizes.iter().sum();
        if !batch.units.is_empty() && batch.bytes + size > RECORD_BYTES_MAX {
            return Some(work);
        }
        let now = self.shared.clock.now();
        let mut ids = Vec::with_capacity(changes.len());
        {
            let mut ownership = self.locked();
            for _ in &changes {
                match ownership.next_id(now) {
                    Some(id) => ids.push(id),
                    None => {
                        ownership.forget(&ids);
                        return Some(work);
                    }
                }
            }
        }
        match self.units(&before, &work, changes, &ids, &sizes) {
            Ok((units, after)) => {
                batch.bytes += size;
                self.take_in(before, after, work, units, answer, batch);
            }
            Err(error) => {
                // Decisions are made of what was checked; this would be a fault of ours, not of the caller's.
                tracing::error!(partition = %self.partition, %error, "a decision cannot be applied");
                self.locked().forget(&ids);
                let detail = "The server could not carry this out. It was logged.";
                self.answered(work, Err(Refusal::new(chat_protocol::Code::Internal, detail)));
            }
        }
        None
    }

    fn units(
        &mut self,
        before: &State,
        work: &Work,
        changes: Vec<Change>,
        ids: &[MessageId],
        sizes: &[usize],
    ) -> Result<(Vec<Unit>, State), chat_protocol::record::Unreadable> {
        let conversation = before.id;
        let mut state = before.clone();
        let mut units = Vec::with_capacity(changes.len());
        for ((change, id), bytes) in changes.into_iter().zip(ids).zip(sizes) {
            let entry = Entry {
                id: id.0,
                conversation: conversation.as_bytes().to_vec(),
                change: Some(change),
            };
            let earlier = state.clone();
            state.apply(&entry)?;
            let rows = rows::rows(&earlier, &state, &entry)?;
            let target = self.target(&work.facts.message, &entry);
            let publications = publications(&earlier, &state, &entry, target, work.command.origin)?;
            units.push(Unit { entry: Arc::new(entry), rows, publications, bytes: *bytes });
        }
        Ok((units, state))
    }

    /// The message that an entry changes, before the change.
    fn target(
        &mut self,
        stored: &Option<Option<chat_protocol::message::Message>>,
        entry: &Entry,
    ) -> Option<chat_protocol::message::Message> {
        let target = match entry.change.as_ref()? {
            Change::Edit(edit) => edit.target,
            Change::Delete(delete) => delete.target,
            Change::Reaction(reaction) => reaction.target,
            _ => return None,
        };
        let id = entry.conversation_id().ok()?;
        self.slots.find(&id)?.message(MessageId(target), stored.clone().flatten())
    }

    fn take_in(
        &mut self,
        before: State,
        after: State,
        work: Work,
        units: Vec<Unit>,
        answer: Answer,
        batch: &mut Batch,
    ) {
        let id = before.id;
        let elapsed = self.shared.clock.elapsed();
        let last = units.last().map_or(MessageId::ZERO, |unit| unit.entry.message_id());
        let reply = match (answer, units.first().and_then(|unit| unit.entry.change.as_ref())) {
            (Answer::Sent, Some(Change::Message(sent))) => Reply::Sent(rows::sent(last, sent.seq)),
            (Answer::Changed, _) => Reply::Changed(Changed { version: last }),
            (Answer::Conversation, _) => match left_by_caller(&after, &work) {
                true => Reply::Done,
                false => after.view().map_or(Reply::Done, Reply::Conversation),
            },
            _ => Reply::Done,
        };
        if let (Action::Send(draft), Reply::Sent(sent)) = (&work.command.action, &reply) {
            let key = (id, work.command.caller, draft.client_message_id);
            self.duplicates.insert(key, sent.message_id, sent.seq, elapsed);
            batch.keys.push(key);
        }
        batch.undo.entry(id).or_insert(before);
        let slot = self.slots.get(id, elapsed);
        slot.state = Some(after);
        // Later commands of the same batch must see these entries; if the record is not accepted they go again.
        slot.tail.extend(units.iter().map(|unit| unit.entry.clone()));
        batch.units.extend(units);
        let after_write = (answer == Answer::Conversation).then_some(last);
        let resumed = work.resumed;
        batch.waiters.push(Waiter { reply: work.reply, answer: reply, after_write });
        self.release(id, resumed);
    }

    /// What is committed and not yet in the store, for the history of a conversation.
    fn tail(&mut self, id: ConversationId) -> Result<Reply, Refusal> {
        let committed = self.committed;
        let reply = if self.doubts_store() { Reply::TailWithGaps } else { Reply::Tail };
        let Some(slot) = self.slots.find(&id) else { return Ok(reply(vec![])) };
        let inherited_bytes = slot.inherited.as_ref().map_or(0, Inherited::bytes);
        if slot.lacks_entries() || inherited_bytes > TAIL_BYTES_MAX {
            return Err(store_unavailable());
        }
        let entries = slot.unwritten().filter(|entry| entry.message_id() <= committed);
        Ok(reply(entries.map(|entry| entry.encode_to_vec()).collect()))
    }

    /// Answers a command at once.
    pub(super) fn answered(&mut self, work: Work, answer: Result<Reply, Refusal>) {
        let (id, resumed) = (work.command.conversation_id, work.resumed);
        work.answer(answer);
        self.release(id, resumed);
    }

    /// A command that held its conversation is done: those behind it are next, in their order.
    fn release(&mut self, id: ConversationId, resumed: bool) {
        if !resumed {
            return;
        }
        let Some(slot) = self.slots.find(&id) else { return };
        slot.busy = false;
        let waiting: VecDeque<Work> = std::mem::take(&mut slot.blocked);
        for work in waiting.into_iter().rev() {
            self.ready.push_front(work);
        }
    }
}

fn batch_holds(batch: &Batch, message: MessageId) -> bool {
    batch.units.iter().any(|unit| unit.entry.message_id() == message)
}

fn left_by_caller(after: &State, work: &Work) -> bool {
    after.role(work.command.caller).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_body_fits_a_record() {
        let text = "x".repeat(chat_protocol::limits::BODY_BYTES_MAX);
        assert!(text.len() + ENTRY_OVERHEAD_BYTES + RECORD_OVERHEAD_BYTES < RECORD_BYTES_MAX);
    }
}
