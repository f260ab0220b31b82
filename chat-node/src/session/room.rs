//! Live rooms that a connection receives.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::Subject;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{RoomBatch, ServerFrame};
use chat_protocol::message::Message;
use chat_protocol::{ConversationId, ConversationKind, MessageId, UserId};

use crate::conversation::Conversations;
use crate::delivery::{Class, Frame};
use crate::hub::{Hub, Outbox, RoomFrame, Subscription};

/// Messages of a room that a resume brings; older ones are counted.
const MISSED_MAX: usize = 100;
/// And bytes.
const MISSED_BYTES_MAX: usize = 128 * 1024;
/// A resume asks this often for what it missed.
const TRIES: u32 = 5;

/// A room of one connection.
pub(super) struct Room {
    pub(super) id: ConversationId,
    /// The last id sent. Stays where the cursor had it until what was missed is queued.
    pub(super) position: MessageId,
    /// There while the room is received and what was missed is queued.
    pub(super) subscription: Option<Subscription>,
}

/// A room that is received from now on.
pub(super) struct Joined {
    pub(super) subscription: Subscription,
    pub(super) position: MessageId,
}

/// Subscribes, and queues what came since `position`; without one, the room begins at its newest message.
pub(super) async fn join(
    hub: Arc<Hub>,
    conversations: &dyn Conversations,
    outbox: Arc<Outbox>,
    caller: UserId,
    room: ConversationId,
    position: Option<MessageId>,
) -> Result<Joined, Refusal> {
    if room.kind() != ConversationKind::Room {
        let detail = "Only live rooms can be joined; other conversations arrive by themselves.";
        return Err(Refusal::new(Code::InvalidField, detail));
    }
    let joined = hub.join(Subject::Room(room), outbox.clone()).await;
    let subscription = joined.map_err(|error| {
        tracing::warn!(%room, %error, "subscribing to a room failed");
        let detail = "The room cannot be received at the moment. Try again.";
        Refusal::new(Code::Internal, detail).retry_after(1_000)
    })?;
    let Some(position) = position else {
        let head = conversations.head(caller, room).await?;
        let newest = head.last_message.map_or(MessageId::ZERO, |message| message.message_id);
        return Ok(Joined { subscription, position: newest });
    };
    let (batch, position) = missed_with_patience(conversations, caller, room, position).await?;
    if let Some(batch) = batch {
        let frame = Frame::new(Class::Room, position, &ServerFrame::Room(batch));
        outbox.push_room(Arc::new(RoomFrame::new(room, Arc::new(frame))));
    }
    Ok(Joined { subscription, position })
}

async fn missed_with_patience(
    conversations: &dyn Conversations,
    caller: UserId,
    room: ConversationId,
    position: MessageId,
) -> Result<(Option<RoomBatch>, MessageId), Refusal> {
    let mut tries = 0;
    loop {
        match missed(conversations, caller, room, position).await {
            Err(refusal) if refusal.code.is_retryable() && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(500) * 2u32.pow(tries)).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

/// What a room has above `position`: its newest messages, with the count of those left out, and the new position.
pub(crate) async fn missed(
    conversations: &dyn Conversations,
    caller: UserId,
    room: ConversationId,
    position: MessageId,
) -> Result<(Option<RoomBatch>, MessageId), Refusal> {
    let newest = conversations.history_before(caller, room, None, MISSED_MAX).await?;
    let (messages, is_cut) = newest_above(newest.messages, position);
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
        return Ok((None, position));
    };
    let mut skipped = 0;
    if is_cut || newest.more {
        // Seqs have no holes, so one row says how many there are in between.
        let oldest = conversations.history_after(caller, room, position, 1).await?;
        let oldest = oldest.messages.first().map_or(first.seq, |message| message.seq);
        skipped = first.seq.saturating_sub(oldest);
    }
    let position = last.message_id;
    Ok((Some(RoomBatch { room_id: room, messages, skipped }), position))
}

/// Of messages newest first: those above `position` that fit, oldest first, and whether some did not.
fn newest_above(newest_first: Vec<Message>, position: MessageId) -> (Vec<Message>, bool) {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for message in newest_first {
        if message.message_id <= position {
            break;
        }
        bytes += Encoding::Json.write(&message).len();
        if bytes > MISSED_BYTES_MAX && !kept.is_empty() {
            kept.reverse();
            return (kept, true);
        }
        kept.push(message);
    }
    kept.reverse();
    (kept, false)
}
