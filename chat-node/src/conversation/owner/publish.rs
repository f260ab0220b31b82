//! What clients are told of a committed entry, live. At most once: what is lost comes with the next read of the inbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{Bus, Subject};
use chat_protocol::frame::{ReactionsChanged, Receipt, RoomBatch, ServerFrame};
use chat_protocol::message::Message;
use chat_protocol::record::{self, Change, Entry, MemberChange, Unreadable};
use chat_protocol::{ConversationId, ConversationKind, MessageId, SessionId, UserId};
use chat_store::Write;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::rows;
use super::super::state::State;
use super::{Owner, Work};
use crate::delivery::{Class, Payload, Place, Pointer, payload};

/// Messages of one live room that are published together at most.
const ROOM_BATCH_MESSAGES_MAX: usize = 500;

/// A payload takes no further frames once it is this large. Far below what a broker takes.
const TOGETHER_BYTES_MAX: usize = 64 * 1024;

/// Who is told what.
pub(super) enum Publication {
    /// A frame for some users.
    Users(Arc<[UserId]>, Class, MessageId, Option<SessionId>, Box<ServerFrame>),
    /// A message for the audience of a live room.
    Room(ConversationId, Box<Message>),
}

/// What follows from an entry. `target` is the message it changes, before the change.
pub(super) fn publications(
    before: &State,
    after: &State,
    entry: &Entry,
    target: Option<Message>,
    origin: Option<SessionId>,
) -> Result<Vec<Publication>, Unreadable> {
    let id = entry.message_id();
    let Some(change) = &entry.change else { return Ok(vec![]) };
    let told = |frame| {
        vec![Publication::Users(after.audience.clone(), Class::Chat, id, None, Box::new(frame))]
    };
    Ok(match change {
        Change::Message(sent) => {
            let message = rows::message(after.id, entry, sent)?;
            if after.kind() == ConversationKind::Room {
                vec![Publication::Room(after.id, Box::new(message))]
            } else {
                // The connection that sends a message gets the answer instead; nobody sends system messages.
                let origin = origin.filter(|_| sent.kind != "system");
                let frame = Box::new(ServerFrame::Message(message));
                vec![Publication::Users(after.audience.clone(), Class::Chat, id, origin, frame)]
            }
        }
        Change::Edit(_) | Change::Delete(_) | Change::Reaction(_) => {
            let Some(mut message) = target else { return Ok(vec![]) };
            rows::overlay(&mut message, entry)?;
            if after.kind() == ConversationKind::Room {
                vec![Publication::Room(after.id, Box::new(message))]
            } else if matches!(change, Change::Reaction(_)) {
                told(ServerFrame::Reactions(ReactionsChanged {
                    conversation_id: after.id,
                    message_id: message.message_id,
                    reactions: message.reactions,
                }))
            } else {
                told(ServerFrame::Message(message))
            }
        }
        Change::Created(_) | Change::Properties(_) | Change::Member(_) => {
            let left = matches!(change, Change::Member(change) if change.change == MemberChange::Left as i32);
            let audience = if left { before.audience.clone() } else { after.audience.clone() };
            match after.view() {
                Some(view) => {
                    let frame = Box::new(ServerFrame::Conversation(view));
                    vec![Publication::Users(audience, Class::Chat, id, None, frame)]
                }
                None => vec![],
            }
        }
        Change::Read(mark) => {
            let user_id = record::user_id(&mark.user)?;
            let receipt = Receipt { conversation_id: after.id, user_id, seq: mark.seq };
            let frame = || Box::new(ServerFrame::Read(receipt.clone()));
            let others = after.audience.iter().copied().filter(|user| *user != user_id).collect();
            vec![
                Publication::Users([user_id].into(), Class::Chat, id, None, frame()),
                Publication::Users(others, Class::Ephemeral, MessageId::ZERO, None, frame()),
            ]
        }
    })
}

/// Publications for the same people, one behind the other, that go out as one.
#[derive(Default)]
pub(super) struct Together {
    users: Arc<[UserId]>,
    payload: Payload,
}

impl Together {
    fn add(&mut self, bus: &dyn Bus, users: Arc<[UserId]>, add: impl FnOnce(&mut Payload)) {
        if !Arc::ptr_eq(&self.users, &users) || self.payload.len_bytes() > TOGETHER_BYTES_MAX {
            self.flush(bus);
            self.users = users;
        }
        add(&mut self.payload);
    }

    fn flush(&mut self, bus: &dyn Bus) {
        if self.payload.len_bytes() > 0 {
            publish(bus, &self.users, std::mem::take(&mut self.payload).freeze());
        }
    }
}

impl Owner {
    /// Publishes what follows from committed entries, in this order.
    pub(super) fn publish(&mut self, publications: impl IntoIterator<Item = Publication>) {
        let bus = &*self.shared.bus;
        let mut together = Together::default();
        for publication in publications {
            match publication {
                Publication::Users(users, class, id, origin, frame) => {
                    let place = elsewhere(&frame, self.shared.published_body_bytes_max);
                    together.add(bus, users, |payload| match place {
                        Some(place) => {
                            let origin = origin.unwrap_or(SessionId(Uuid::nil()));
                            payload.point(&Pointer { id, origin, place });
                        }
                        None => payload.add(class, id, origin, &frame),
                    });
                }
                Publication::Room(room, message) => self.rooms.add(room, *message, bus),
            }
        }
        together.flush(bus);
    }

    /// Tells the other members something that is not in the log.
    pub(super) fn tell(
        &mut self,
        state: &State,
        work: &Work,
        frame: &ServerFrame,
        write: Option<Write>,
    ) {
        let caller = work.command.caller;
        let others: Vec<UserId> =
            state.audience.iter().copied().filter(|user| *user != caller).collect();
        publish(
            &*self.shared.bus,
            &others,
            payload(Class::Ephemeral, MessageId::ZERO, None, frame),
        );
        let Some(Write::Delivered(mark)) = write else { return };
        let elapsed = self.shared.clock.elapsed();
        if let Some(state) = &mut self.slots.get(state.id, elapsed).state {
            state.deliver(mark.user_id, mark.seq);
        }
        self.writing.add_mark(mark);
    }
}

/// Where to fetch a message whose body is too large to be published.
fn elsewhere(frame: &ServerFrame, body_bytes_max: usize) -> Option<Place> {
    let ServerFrame::Message(message) = frame else { return None };
    let bytes = message.body.as_ref().map_or(0, |body| body.as_json().len());
    let (conversation_id, message_id) = (message.conversation_id, message.message_id);
    (bytes > body_bytes_max).then_some(Place { conversation_id, message_id })
}

fn publish(bus: &dyn Bus, users: &[UserId], payload: Bytes) {
    let subjects: Vec<Subject> = users.iter().copied().map(Subject::User).collect();
    if !subjects.is_empty() {
        bus.publish(&subjects, payload);
    }
}

/// Messages of live rooms, collected for a short while: an audience of thousands gets one frame per window, not one per
/// message.
pub(super) struct RoomBatches {
    window: Duration,
    due: Option<Instant>,
    collected: BTreeMap<ConversationId, Vec<Message>>,
}

impl RoomBatches {
    pub(super) fn new(window: Duration) -> RoomBatches {
        RoomBatches { window, due: None, collected: BTreeMap::new() }
    }

    /// When to flush; none: nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn add(&mut self, room: ConversationId, message: Message, bus: &dyn Bus) {
        self.due.get_or_insert_with(|| Instant::now() + self.window);
        let messages = self.collected.entry(room).or_default();
        messages.push(message);
        if messages.len() >= ROOM_BATCH_MESSAGES_MAX {
            let full = std::mem::take(messages);
            publish_room(bus, room, full);
        }
    }

    pub(super) fn flush(&mut self, bus: &dyn Bus) {
        self.due = None;
        for (room, messages) in std::mem::take(&mut self.collected) {
            publish_room(bus, room, messages);
        }
    }
}

fn publish_room(bus: &dyn Bus, room_id: ConversationId, messages: Vec<Message>) {
    let Some(last) = messages.last().map(|message| message.version.max(message.message_id)) else {
        return;
    };
    let frame = ServerFrame::Room(RoomBatch { room_id, messages, skipped: 0 });
    bus.publish(&[Subject::Room(room_id)], payload(Class::Room, last, None, &frame));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::world::message;

    #[test]
    fn a_message_is_fetched_elsewhere_if_its_body_is_above_the_limit() {
        let (user, id) = (UserId::random(), MessageId(7));
        let conversation_id = ConversationId::direct(user, user);
        let sent = message(conversation_id, id, "0123456789");
        let bytes = sent.body.as_ref().map_or(0, |body| body.as_json().len());
        let frame = ServerFrame::Message(sent.clone());
        assert_eq!(elsewhere(&frame, bytes), None);
        let place = Place { conversation_id, message_id: id };
        assert_eq!(elsewhere(&frame, bytes - 1), Some(place));
        assert_eq!(elsewhere(&frame, usize::MAX), None, "a node alone");
        let deleted = ServerFrame::Message(Message { body: None, ..sent });
        assert_eq!(elsewhere(&deleted, 0), None);
        let receipt = Receipt { conversation_id, user_id: user, seq: 1 };
        assert_eq!(elsewhere(&ServerFrame::Read(receipt), 0), None);
    }
}
