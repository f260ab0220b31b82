//! Messages that were not acknowledged yet. Pure: time goes in as milliseconds of any clock that does not go back.
//!
//! At most one message of a conversation is under way at a time, so that an answer "try again" to the first can never
//! let the second overtake it. Different conversations do not wait for each other.

use std::collections::{HashMap, HashSet, VecDeque};

use chat_protocol::frame::Send;
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, UserId};
use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;

/// A message to send, with the id that stays the same on every repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Made once.
    pub client_message_id: ClientMessageId,
    /// Where to.
    pub conversation_id: ConversationId,
    /// `text`, or a name of the application's.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content.
    pub body: Body,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// People it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

impl Draft {
    /// A text with a new id.
    pub fn text(conversation_id: ConversationId, text: &str) -> Draft {
        Draft {
            client_message_id: ClientMessageId::random(),
            conversation_id,
            kind: "text".into(),
            body: Body::text(text),
            reply_to: None,
            mentions: Vec::new(),
        }
    }
}

/// The outbox is full: wait for acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} messages wait for their acknowledgement; wait until some have it")]
pub struct OutboxFull(pub usize);

struct Waiting {
    draft: Draft,
    /// It was sent at least once, by this process or one before it.
    sent: bool,
    failures: u32,
    not_before_ms: u64,
}

/// See the module.
pub struct Outbox {
    capacity: usize,
    waiting: VecDeque<Waiting>,
    /// By request id: what is under way on this connection.
    under_way: HashMap<u64, ClientMessageId>,
}

impl Outbox {
    /// Holds up to `capacity` messages.
    pub fn new(capacity: usize) -> Outbox {
        Outbox { capacity, waiting: VecDeque::new(), under_way: HashMap::new() }
    }

    /// Takes in what an earlier process left. Nobody knows whether it was sent, so each goes out as a retry.
    pub fn restore(&mut self, drafts: Vec<Draft>) {
        let waiting = drafts.into_iter().map(|draft| Waiting {
            draft,
            sent: true,
            failures: 0,
            not_before_ms: 0,
        });
        self.waiting.extend(waiting);
    }

    /// Takes a message.
    pub fn push(&mut self, draft: Draft) -> Result<(), OutboxFull> {
        if self.is_full() {
            return Err(OutboxFull(self.waiting.len()));
        }
        self.waiting.push_back(Waiting { draft, sent: false, failures: 0, not_before_ms: 0 });
        Ok(())
    }

    /// No room for another message.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.capacity
    }

    /// Everything unacknowledged, oldest first: what a program stores to go on later.
    pub fn drafts(&self) -> Vec<Draft> {
        self.waiting.iter().map(|waiting| waiting.draft.clone()).collect()
    }

    /// The frames to send now. `request_id` makes the number of each.
    pub fn take_due(&mut self, now_ms: u64, mut request_id: impl FnMut() -> u64) -> Vec<Send> {
        let mut busy: HashSet<ConversationId> = HashSet::new();
        let mut frames = Vec::new();
        let under_way: HashSet<ClientMessageId> = self.under_way.values().copied().collect();
        for waiting in &mut self.waiting {
            let first = busy.insert(waiting.draft.conversation_id);
            let going = under_way.contains(&waiting.draft.client_message_id);
            if !first || going || waiting.not_before_ms > now_ms {
                continue;
            }
            let request_id = request_id();
            self.under_way.insert(request_id, waiting.draft.client_message_id);
            frames.push(frame(&waiting.draft, request_id, waiting.sent));
            waiting.sent = true;
        }
        frames
    }

    /// When [`take_due`](Outbox::take_due) has something that only waits for its time.
    pub fn next_due_ms(&self) -> Option<u64> {
        let mut busy = HashSet::new();
        let under_way: HashSet<ClientMessageId> = self.under_way.values().copied().collect();
        let heads = self.waiting.iter().filter(|w| busy.insert(w.draft.conversation_id));
        heads
            .filter(|w| !under_way.contains(&w.draft.client_message_id))
            .map(|w| w.not_before_ms)
            .min()
    }

    /// The request was acknowledged: the message it carried is done.
    pub fn acknowledged(&mut self, request_id: u64) -> Option<Draft> {
        let id = self.under_way.remove(&request_id)?;
        self.remove(id)
    }

    /// The message was seen in its conversation: done, whatever the answer said or will say.
    pub fn appeared(&mut self, id: ClientMessageId) -> Option<Draft> {
        self.under_way.retain(|_, under_way| *under_way != id);
        self.remove(id)
    }

    /// The request was refused for good: the message leaves the outbox.
    pub fn refused(&mut self, request_id: u64) -> Option<Draft> {
        self.acknowledged(request_id)
    }

    /// The request may succeed later: the message stays the head of its conversation. Whether the request was one of
    /// this outbox.
    pub fn try_later(
        &mut self,
        request_id: u64,
        now_ms: u64,
        retry_after_ms: Option<u64>,
        backoff: &Backoff,
        random: u64,
    ) -> bool {
        let Some(id) = self.under_way.remove(&request_id) else { return false };
        if let Some(waiting) = self.waiting.iter_mut().find(|w| w.draft.client_message_id == id) {
            let jitter = backoff.wait_ms(waiting.failures, random);
            let wait_ms = retry_after_ms.map_or(jitter, |least| least.saturating_add(jitter / 4));
            waiting.not_before_ms = now_ms.saturating_add(wait_ms);
            waiting.failures = waiting.failures.saturating_add(1);
        }
        true
    }

    /// The connection ended: everything under way is open again.
    pub fn disconnected(&mut self) {
        self.under_way.clear();
        self.waiting.iter_mut().for_each(|waiting| waiting.not_before_ms = 0);
    }

    fn remove(&mut self, id: ClientMessageId) -> Option<Draft> {
        let index = self.waiting.iter().position(|w| w.draft.client_message_id == id)?;
        self.waiting.remove(index).map(|waiting| waiting.draft)
    }
}

fn frame(draft: &Draft, request_id: u64, retry: bool) -> Send {
    Send {
        request_id,
        conversation_id: draft.conversation_id,
        client_message_id: draft.client_message_id,
        retry,
        kind: draft.kind.clone(),
        body: draft.body.clone(),
        reply_to: draft.reply_to,
        mentions: draft.mentions.clone(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn conversation(n: u128) -> ConversationId {
        ConversationId::direct(UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(n)))
    }

    fn numbers() -> impl FnMut() -> u64 {
        let mut next = 0;
        move || {
            next += 1;
            next
        }
    }

    #[test]
    fn only_the_very_first_attempt_is_not_a_retry() {
        let mut outbox = Outbox::new(10);
        let mut ids = numbers();
        outbox.push(Draft::text(conversation(2), "one")).unwrap();
        let first = outbox.take_due(0, &mut ids).remove(0);
        assert!(!first.retry);
        assert!(outbox.take_due(0, &mut ids).is_empty(), "it is under way");
        outbox.disconnected();
        let second = outbox.take_due(0, &mut ids).remove(0);
        assert!(second.retry);
        assert_eq!(second.client_message_id, first.client_message_id);
        outbox.try_later(second.request_id, 0, Some(100), &Backoff::default(), 0);
        assert!(outbox.take_due(99, &mut ids).is_empty());
        assert_eq!(outbox.next_due_ms(), Some(100));
        assert!(outbox.take_due(100, &mut ids).remove(0).retry);
    }

    #[test]
    fn what_an_earlier_process_left_goes_out_as_a_retry() {
        let mut outbox = Outbox::new(10);
        outbox.restore(vec![Draft::text(conversation(2), "left over")]);
        assert!(outbox.take_due(0, numbers()).remove(0).retry);
    }

    #[test]
    fn a_conversation_keeps_its_order_and_others_do_not_wait() {
        let mut outbox = Outbox::new(10);
        let mut ids = numbers();
        let drafts =
            [(2, "a1"), (2, "a2"), (3, "b1")].map(|(n, text)| Draft::text(conversation(n), text));
        drafts.iter().for_each(|draft| outbox.push(draft.clone()).unwrap());
        let frames = outbox.take_due(0, &mut ids);
        let sent: Vec<_> = frames.iter().map(|frame| frame.client_message_id).collect();
        assert_eq!(sent, [drafts[0].client_message_id, drafts[2].client_message_id]);
        outbox.try_later(frames[0].request_id, 0, Some(50), &Backoff::default(), 0);
        assert!(outbox.take_due(10, &mut ids).is_empty(), "the second must not overtake the first");
        let again = outbox.take_due(50, &mut ids);
        assert_eq!(again[0].client_message_id, drafts[0].client_message_id);
        assert_eq!(outbox.acknowledged(again[0].request_id), Some(drafts[0].clone()));
        let next = outbox.take_due(50, &mut ids);
        assert_eq!(next[0].client_message_id, drafts[1].client_message_id);
        assert!(!next[0].retry);
    }

    #[test]
    fn a_message_that_appeared_is_done_and_its_late_answer_means_nothing() {
        let mut outbox = Outbox::new(10);
        let draft = Draft::text(conversation(2), "one");
        outbox.push(draft.clone()).unwrap();
        let frame = outbox.take_due(0, numbers()).remove(0);
        assert_eq!(outbox.appeared(draft.client_message_id), Some(draft));
        assert_eq!(outbox.refused(frame.request_id), None);
        assert_eq!(outbox.next_due_ms(), None);
    }

    #[test]
    fn a_full_outbox_refuses() {
        let mut outbox = Outbox::new(1);
        outbox.push(Draft::text(conversation(2), "one")).unwrap();
        assert_eq!(outbox.push(Draft::text(conversation(2), "two")), Err(OutboxFull(1)));
    }
}
