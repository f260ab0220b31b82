//! Which messages a connection was sent live.

use chat_protocol::MessageId;

/// Ids of live messages that an outbox remembers, so that the next inbox read does not send them again. Beyond it they
/// are sent twice; a session asks for a read well before (see `LIVE_FRAMES_PER_READ` of the connection).
pub(super) const REMEMBERED_MAX: usize = 8_192;

/// A set of ids. They are inserted with every frame and looked up only by reads of the inbox, so they are sorted then;
/// they come nearly sorted.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    ids: Vec<MessageId>,
    is_sorted: bool,
}

impl Remembered {
    pub(super) fn insert(&mut self, id: MessageId) {
        if self.ids.len() < REMEMBERED_MAX {
            self.is_sorted = false;
            self.ids.push(id);
        }
    }

    pub(super) fn contains(&mut self, id: MessageId) -> bool {
        self.sort();
        self.ids.binary_search(&id).is_ok()
    }

    pub(super) fn forget_up_to(&mut self, safe: MessageId) {
        self.sort();
        let forgotten = self.ids.partition_point(|id| *id <= safe);
        self.ids.drain(..forgotten);
        // Idle connections must not hold a buffer.
        self.ids.shrink_to(0);
    }

    fn sort(&mut self) {
        if !std::mem::replace(&mut self.is_sorted, true) {
            // Stable: its runs make it nearly linear here.
            self.ids.sort();
        }
    }
}
