//! A device that keeps the cursor rules: take the safe watermark, read the inbox up to it, and only then move.

use std::collections::BTreeMap;
use std::sync::Arc;

use chat_node::watermark::Watermarks;
use chat_protocol::message::Message;
use chat_protocol::{MessageId, UserId};
use chat_store::{PointerKind, Store};

pub(super) struct Device {
    pub(super) user: UserId,
    pub(super) cursor: MessageId,
    /// By id: duplicates fall together.
    pub(super) received: BTreeMap<MessageId, Message>,
}

impl Device {
    pub(super) fn new(user: UserId) -> Device {
        Device { user, cursor: MessageId::ZERO, received: BTreeMap::new() }
    }

    /// One read of the inbox, at any node. What fails leaves the cursor where it was.
    pub(super) async fn poll(
        &mut self,
        store: &Arc<dyn Store>,
        watermarks: &Watermarks,
        page: usize,
    ) -> Result<bool, chat_store::Error> {
        let safe = watermarks.safe();
        if safe <= self.cursor {
            return Ok(false);
        }
        let read = store.inbox(self.user, self.cursor, safe, page).await?;
        let mut wanted: BTreeMap<_, Vec<MessageId>> = BTreeMap::new();
        for entry in &read.entries {
            if matches!(entry.pointer.kind, PointerKind::Message | PointerKind::Revision) {
                wanted.entry(entry.conversation_id).or_default().push(entry.pointer.target);
            }
        }
        for (conversation, ids) in wanted {
            for message in store.messages(conversation, ids).await? {
                let known = self.received.get(&message.message_id);
                if known.is_none_or(|known| known.version <= message.version) {
                    self.received.insert(message.message_id, message);
                }
            }
        }
        self.cursor = match read.entries.last() {
            Some(last) if read.more => last.pointer.id,
            _ => safe,
        };
        Ok(true)
    }
}
