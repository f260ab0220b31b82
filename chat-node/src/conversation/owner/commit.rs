//! What follows once the outcome of an append is known.

use chat_protocol::error::{Code, Refusal};
use chat_protocol::record::Change;

use super::batch::Batch;
use super::{Owner, moved};
use crate::partition::append::Settled;

impl Owner {
    /// The append under way has an outcome.
    pub(super) fn settled(&mut self, settled: Settled) {
        let batch = self.batch.take();
        match settled {
            Settled::Accepted(sequence) => {
                self.locked().accepted(sequence);
                match batch {
                    Some(batch) => self.committed(batch, sequence),
                    None => self.writing.ticked(sequence),
                }
            }
            Settled::Full => {
                self.locked().dropped();
                let detail = "The server has no room for new messages at the moment. Reading still works. Try again later.";
                self.undo(batch, Refusal::new(Code::StorageFull, detail).retry_after(2_000));
            }
            Settled::TooLarge => {
                tracing::error!(partition = %self.partition, "the broker refuses a record as too large");
                self.locked().dropped();
                self.undo(
                    batch,
                    Refusal::new(Code::TooLarge, "The server cannot store a message of this size."),
                );
            }
            Settled::Deposed => {
                tracing::info!(partition = %self.partition, "another node has taken the partition");
                self.locked().deposed();
                self.undo(batch, moved());
            }
        }
    }

    fn committed(&mut self, batch: Batch, sequence: chat_broker::Sequence) {
        self.shared.metrics.commits.inc();
        let took = self.shared.clock.elapsed().saturating_sub(batch.sent);
        self.shared.metrics.commit_seconds.observe(took.as_secs_f64());
        self.shared.metrics.entries.inc_by(batch.units.len() as u64);
        if let Some(last) = batch.units.last() {
            self.committed = last.entry.message_id();
        }
        for waiter in batch.waiters {
            match waiter.after_write {
                None => drop(waiter.reply.send(Ok(waiter.answer))),
                Some(id) => {
                    let elapsed = self.shared.clock.elapsed();
                    self.writing.answer_after(id, waiter.reply, waiter.answer, elapsed);
                }
            }
        }
        let last = batch.units.len().saturating_sub(1);
        let mut publications = Vec::with_capacity(batch.units.len());
        for (index, unit) in batch.units.into_iter().enumerate() {
            let id = unit.entry.message_id();
            let conversation = unit.rows.conversation_id;
            // Whoever hears of a conversation asks for it: it is announced once it can be read.
            let announces = matches!(
                unit.entry.change,
                Some(Change::Created(_) | Change::Properties(_) | Change::Member(_))
            );
            let elapsed = self.shared.clock.elapsed();
            let written = announces.then_some(id);
            let free = self.slots.hold(conversation, written, unit.publications, elapsed);
            publications.extend(free);
            if announces {
                self.writing.hurry();
            }
            let ends_record = (index == last).then_some(sequence);
            let kept =
                self.writing.add(&self.shared, unit.entry, unit.rows, unit.bytes, ends_record);
            if !kept && let Some(slot) = self.slots.find(&conversation) {
                slot.spilled_up_to = id;
                // Only the log holds it now; what was kept before it is still complete up to there.
                slot.tail.retain(|entry| entry.message_id() != id);
            }
        }
        self.publish(publications);
    }

    /// The record is certainly not in the log, or this owner has ended: as if the commands had not been decided.
    fn undo(&mut self, batch: Option<Batch>, refusal: Refusal) {
        let Some(batch) = batch else { return };
        let first = batch.units.first().map(|unit| unit.entry.message_id());
        for key in &batch.keys {
            self.duplicates.remove(key);
        }
        for (id, before) in batch.undo {
            let Some(slot) = self.slots.find(&id) else { continue };
            slot.state = Some(before);
            slot.tail.retain(|entry| first.is_none_or(|first| entry.message_id() < first));
        }
        for waiter in batch.waiters {
            drop(waiter.reply.send(Err(refusal.clone())));
        }
    }
}
