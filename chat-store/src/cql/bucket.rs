//! In which bucket of a conversation a message lies.
//!
//! A message's bucket follows from its `seq`, so that every replay puts it where it was. What comes later names only the
//! message's id: so the first message of every bucket leaves a fact, (id, bucket), and an id lies in the bucket of the
//! highest fact at or below it, or in bucket 0 if there is none. Facts never change and are never taken back.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use chat_protocol::{ConversationId, MessageId};

/// Messages of one bucket. With the longest bodies, and a group's reactions on every one, a bucket has about 75 MB;
/// with usual ones, about 50 KB.
pub(super) const BUCKET_MESSAGES: u64 = 128;

/// Conversations that are remembered: about 10 MB. Forgetting costs a read.
const CONVERSATIONS_MAX: usize = 100_000;

/// The bucket of the message with this number; numbers begin at 1.
pub(super) fn bucket_of(seq: u64) -> i64 {
    // A 57-bit number fits.
    (seq.saturating_sub(1) / BUCKET_MESSAGES) as i64
}

/// This message lies in this bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) first_id: MessageId,
    pub(super) bucket: i64,
}

/// What is known for sure and spares a read. Wrong in no case: only facts, which never change.
#[derive(Default)]
pub(super) struct Known {
    /// By conversation, a fact that is in the store: that of the bucket this process wrote to last.
    written: Mutex<HashMap<ConversationId, Fact>>,
    /// Conversations with more than one bucket.
    rolled: Mutex<HashSet<ConversationId>>,
}

impl Known {
    /// Whether a fact in the store covers this message.
    pub(super) fn covers(&self, id: ConversationId, bucket: i64, message_id: MessageId) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(&id).is_some_and(|fact| fact.bucket == bucket && fact.first_id <= message_id)
    }

    pub(super) fn note_written(&self, id: ConversationId, fact: Fact) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= CONVERSATIONS_MAX {
            written.clear();
        }
        written.insert(id, fact);
    }

    pub(super) fn is_rolled(&self, id: ConversationId) -> bool {
        self.rolled.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    pub(super) fn note_rolled(&self, id: ConversationId) {
        let mut rolled = self.rolled.lock().unwrap_or_else(PoisonError::into_inner);
        if rolled.len() >= CONVERSATIONS_MAX {
            rolled.clear();
        }
        rolled.insert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_from_dense_numbers() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(1), 0);
        assert_eq!(bucket_of(BUCKET_MESSAGES), 0);
        assert_eq!(bucket_of(BUCKET_MESSAGES + 1), 1);
        assert_eq!(bucket_of(2 * BUCKET_MESSAGES + 1), 2);
        assert!(bucket_of(u64::MAX) > 0);
    }
}
