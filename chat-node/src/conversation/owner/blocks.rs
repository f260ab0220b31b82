//! Whether the two people of a direct conversation have blocked one another, as the store last said. A store that is slow or
//! away holds no send up where that is known: it is read again beside the sends, and while it cannot be read it counts.

use std::time::Duration;

use chat_protocol::{ConversationId, UserId};
use chat_store::Store;
use tokio::time::timeout;

use super::super::state::State;
use super::Owner;

/// How long a block, or its absence, is believed.
const BELIEVED: Duration = Duration::from_secs(5);

/// How long it is believed while it is being read again: a conversation in use does not wait for that.
const BELIEVED_MEANWHILE: Duration = Duration::from_secs(10);

/// How long a send waits for it to be read where it is known from the last minute. What is older counts only if the store
/// does not answer at all.
const WAIT_MAX: Duration = Duration::from_millis(500);
const RECENT: Duration = Duration::from_secs(60);

/// What the store said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    is_blocked: bool,
    read_at: Duration,
    is_read_again: bool,
}

/// What is known of it while it is read.
#[derive(Clone, Copy)]
pub(super) struct Known {
    is_blocked: bool,
    is_recent: bool,
}

/// What it says now. None: it does not answer.
pub(super) struct Reread {
    id: ConversationId,
    is_blocked: Option<bool>,
}

impl Block {
    pub(super) fn new(is_blocked: bool, elapsed: Duration) -> Block {
        Block { is_blocked, read_at: elapsed, is_read_again: false }
    }

    /// None: it is to be read first.
    pub(super) fn believed(&self, elapsed: Duration) -> Option<bool> {
        (self.age(elapsed) < BELIEVED_MEANWHILE).then_some(self.is_blocked)
    }

    pub(super) fn known(&self, elapsed: Duration) -> Known {
        Known { is_blocked: self.is_blocked, is_recent: self.age(elapsed) < RECENT }
    }

    /// Whether it is to be read again now: it is old, and nobody reads it yet.
    pub(super) fn begin_rereading(&mut self, elapsed: Duration) -> bool {
        let is_old = (BELIEVED..BELIEVED_MEANWHILE).contains(&self.age(elapsed));
        is_old && !std::mem::replace(&mut self.is_read_again, true)
    }

    fn age(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.read_at)
    }
}

/// Reads it. A store that does not answer leaves what was known.
pub(super) async fn read(
    store: &dyn Store,
    (one, other): (UserId, UserId),
    known: Option<Known>,
) -> Result<bool, chat_store::Error> {
    let reading = store.is_blocked(one, other);
    let Some(known) = known else { return reading.await };
    let answer = match known.is_recent {
        true => timeout(WAIT_MAX, reading).await.ok().and_then(Result::ok),
        false => reading.await.ok(),
    };
    Ok(answer.unwrap_or(known.is_blocked))
}

impl Owner {
    /// Reads it again beside what is decided on it.
    pub(super) fn read_block_again(&mut self, state: &State) {
        let &[one, other] = &state.audience[..] else { return };
        let (store, id) = (self.shared.store.clone(), state.id);
        self.rereading.push(Box::pin(async move {
            Reread { id, is_blocked: store.is_blocked(one, other).await.ok() }
        }));
    }

    pub(super) fn reread(&mut self, reread: Reread) {
        let elapsed = self.shared.clock.elapsed();
        let Some(slot) = self.slots.find(&reread.id) else { return };
        match (reread.is_blocked, &mut slot.block) {
            (Some(is_blocked), block) => *block = Some(Block::new(is_blocked, elapsed)),
            (None, Some(block)) => block.is_read_again = false,
            (None, None) => {}
        }
    }
}
