//! Batches of live rooms.

use std::sync::{Arc, OnceLock};

use chat_protocol::ConversationId;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::delivery::{Class, Frame};

/// A batch of a live room, with what is counted once for all sessions that skip it.
#[derive(Debug)]
pub struct RoomFrame {
    /// The room.
    pub room: ConversationId,
    /// The batch.
    pub frame: Arc<Frame>,
    messages: OnceLock<u64>,
}

impl RoomFrame {
    /// A batch of this room.
    pub fn new(room: ConversationId, frame: Arc<Frame>) -> RoomFrame {
        RoomFrame { room, frame, messages: OnceLock::new() }
    }

    /// Messages that a session misses if it is not sent this batch.
    pub fn messages(&self) -> u64 {
        #[derive(Deserialize)]
        struct Counted {
            room: Batch,
        }
        #[derive(Deserialize)]
        struct Batch {
            messages: Vec<IgnoredAny>,
            #[serde(default)]
            skipped: u64,
        }
        *self.messages.get_or_init(|| {
            let json = self.frame.encoded(Encoding::Json);
            serde_json::from_slice::<Counted>(&json)
                .map_or(0, |counted| counted.room.messages.len() as u64 + counted.room.skipped)
        })
    }

    /// The batch, saying that `skipped` messages before it were left out.
    pub fn with_skipped(&self, skipped: u64) -> Arc<Frame> {
        if skipped == 0 {
            return self.frame.clone();
        }
        let json = self.frame.encoded(Encoding::Json);
        match Encoding::Json.read::<ServerFrame>(&json) {
            Ok(ServerFrame::Room(mut batch)) => {
                batch.skipped += skipped;
                Arc::new(Frame::new(Class::Room, self.frame.id, &ServerFrame::Room(batch)))
            }
            _ => self.frame.clone(),
        }
    }
}
