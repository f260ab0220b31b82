//! What travels on user and room subjects: client frames, encoded once, with what a node must know of them.

use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chat_broker::{Bus, Subject};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use chat_protocol::message::Message;
use chat_protocol::{ConversationId, DeviceId, MessageId, SessionId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What happens to a frame when a socket does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Never left out: the connection is closed as slow instead, and resumes.
    Chat = 0,
    /// Dropped: typing, presence, marks of others.
    Ephemeral = 1,
    /// Skipped ahead, and counted: batches of a live room.
    Room = 2,
    /// For the node, not the client: the device whose id is in `origin` was logged out.
    Revoked = 3,
}

/// In place of a class: a message too large for the bus follows as a pointer. Nodes that do not know it leave it out.
const POINTER: u8 = 4;

/// How a `message` frame begins, as this code writes it.
const MESSAGE_START: &[u8] = b"{\"message\":";

/// In front of each frame stands how long it is,
const LENGTH_BYTES: usize = 4;
/// and then its class, id and origin.
const HEADER_BYTES: usize = 1 + 8 + 16;

/// A frame shared by every session that sends it.
#[derive(Debug)]
pub struct Frame {
    /// What happens when a socket is slow.
    pub class: Class,
    /// Id of the log entry it tells of; zero if it tells of none. For a room batch: the last one's.
    pub id: MessageId,
    /// The connection that caused it and needs no copy; nil for none.
    pub origin: SessionId,
    /// It shows a message of a conversation as it is.
    pub tells_message: bool,
    json: Bytes,
    messagepack: OnceLock<Bytes>,
}

impl Frame {
    /// A frame that tells of no log entry, or of one that its session read itself.
    pub fn new(class: Class, id: MessageId, frame: &ServerFrame) -> Frame {
        let json = Encoding::Json.write(frame).into();
        Frame::made(class, id, SessionId(Uuid::nil()), json)
    }

    fn made(class: Class, id: MessageId, origin: SessionId, json: Bytes) -> Frame {
        let tells_message = class == Class::Chat && json.starts_with(MESSAGE_START);
        Frame { class, id, origin, tells_message, json, messagepack: OnceLock::new() }
    }

    /// Its bytes. MessagePack is made when the first session wants it.
    pub fn encoded(&self, encoding: Encoding) -> Bytes {
        match encoding {
            Encoding::Json => self.json.clone(),
            Encoding::MessagePack => {
                self.messagepack.get_or_init(|| encoding.from_json(&self.json).into()).clone()
            }
        }
    }

    /// Bytes that wait in an outbox because of it.
    pub fn len_bytes(&self) -> usize {
        self.json.len()
    }

    /// Whether a conversation's id stands in it, as it does in every frame about that conversation. It may also stand in a
    /// text.
    pub fn names(&self, conversation: &ConversationId) -> bool {
        let text = conversation.to_string();
        self.json.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The whole frames in a payload, in order.
    pub fn all(payload: Bytes) -> Vec<Arc<Frame>> {
        let whole = |part| match part {
            Part::Frame(frame) => Some(frame),
            Part::Pointer(_) => None,
        };
        Part::all(payload).into_iter().filter_map(whole).collect()
    }
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its id.
    pub message_id: MessageId,
}

/// Says where a message is whose body is too large for the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Id of the log entry it tells of: the message's version, and unlike any other pointer's.
    pub id: MessageId,
    /// The connection that caused it and needs no copy; nil for none.
    pub origin: SessionId,
    /// The message.
    pub place: Place,
}

impl Pointer {
    /// The frame that it stands for. `None`: the message is another one, or older than the entry.
    pub fn frame(&self, message: Message) -> Option<Arc<Frame>> {
        let Place { conversation_id, message_id } = self.place;
        let is_it = message.conversation_id == conversation_id && message.message_id == message_id;
        // What has changed since is shown as it is: the frames of those changes say no less.
        (is_it && message.version >= self.id).then(|| {
            let json = Encoding::Json.write(&ServerFrame::Message(message)).into();
            Arc::new(Frame::made(Class::Chat, self.id, self.origin, json))
        })
    }
}

/// Part of a payload.
#[derive(Clone, Debug)]
pub enum Part {
    /// A frame.
    Frame(Arc<Frame>),
    /// In place of a frame.
    Pointer(Pointer),
}

impl Part {
    /// The parts of a payload, in order. Those that a newer node may send and this one does not know are left out.
    pub fn all(mut payload: Bytes) -> Vec<Part> {
        let mut parts = Vec::new();
        while payload.len() >= LENGTH_BYTES {
            let length = payload.get_u32() as usize;
            if length < HEADER_BYTES || length > payload.len() {
                break;
            }
            parts.extend(Part::one(payload.split_to(length)));
        }
        parts
    }

    fn one(mut bytes: Bytes) -> Option<Part> {
        let class = bytes.get_u8();
        let id = MessageId(bytes.get_u64());
        let origin = SessionId(Uuid::from_u128(bytes.get_u128()));
        let class = match class {
            0 => Class::Chat,
            1 => Class::Ephemeral,
            2 => Class::Room,
            3 => Class::Revoked,
            POINTER => {
                let place = serde_json::from_slice(&bytes).ok()?;
                return Some(Part::Pointer(Pointer { id, origin, place }));
            }
            _ => return None,
        };
        Some(Part::Frame(Arc::new(Frame::made(class, id, origin, bytes))))
    }
}

/// A payload that is being put together: frames for the same people, which travel and are queued as one.
#[derive(Debug, Default)]
pub struct Payload(BytesMut);

impl Payload {
    /// Adds a frame behind the others.
    pub fn add(
        &mut self,
        class: Class,
        id: MessageId,
        origin: Option<SessionId>,
        frame: &ServerFrame,
    ) {
        let origin = origin.map_or(0, |session| session.0.as_u128());
        self.put(class as u8, id, origin, &Encoding::Json.write(frame));
    }

    /// Adds a pointer behind the others.
    pub fn point(&mut self, pointer: &Pointer) {
        let place = serde_json::to_vec(&pointer.place).expect("ids are strings");
        self.put(POINTER, pointer.id, pointer.origin.0.as_u128(), &place);
    }

    fn put(&mut self, class: u8, id: MessageId, origin: u128, json: &[u8]) {
        let length = HEADER_BYTES + json.len();
        self.0.reserve(LENGTH_BYTES + length);
        // A frame is far below 4 GB: bodies are limited.
        self.0.put_u32(length as u32);
        self.0.put_u8(class);
        self.0.put_u64(id.0);
        self.0.put_u128(origin);
        self.0.put_slice(json);
    }

    /// Its size so far.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// For the bus.
    pub fn freeze(self) -> Bytes {
        self.0.freeze()
    }
}

/// The payload that carries one frame.
pub fn payload(
    class: Class,
    id: MessageId,
    origin: Option<SessionId>,
    frame: &ServerFrame,
) -> Bytes {
    let mut payload = Payload::default();
    payload.add(class, id, origin, frame);
    payload.freeze()
}

/// Tells every node that a device was logged out; published on its user's subject.
pub fn revoked(device: DeviceId) -> Bytes {
    let mut payload = Payload::default();
    payload.put(Class::Revoked as u8, MessageId::ZERO, device.0.as_u128(), b"");
    payload.freeze()
}

/// Publishes a frame that tells of no log entry to some users.
pub fn publish_to_users(bus: &dyn Bus, users: &[UserId], class: Class, frame: &ServerFrame) {
    let subjects: Vec<Subject> = users.iter().copied().map(Subject::User).collect();
    if !subjects.is_empty() {
        bus.publish(&subjects, payload(class, MessageId::ZERO, None, frame));
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::Millis;
    use chat_protocol::frame::ServerTime;

    use super::*;

    fn frame(n: u64) -> ServerFrame {
        ServerFrame::Heartbeat(ServerTime { server_time: Millis(n) })
    }

    #[test]
    fn frames_come_out_of_a_payload_as_they_went_in() {
        let origin = SessionId::random();
        let mut payload = Payload::default();
        payload.add(Class::Chat, MessageId(7), Some(origin), &frame(1));
        payload.add(Class::Ephemeral, MessageId::ZERO, None, &frame(2));
        let frames = Frame::all(payload.freeze());
        assert_eq!(frames.len(), 2);
        assert_eq!(
            (frames[0].class, frames[0].id, frames[0].origin),
            (Class::Chat, MessageId(7), origin)
        );
        assert_eq!(frames[1].class, Class::Ephemeral);
        assert_eq!(frames[1].encoded(Encoding::Json), Encoding::Json.write(&frame(2)));
    }

    #[test]
    fn a_pointer_keeps_its_place_and_stands_for_its_message_or_a_later_version() {
        let alice = UserId::random();
        let place = Place {
            conversation_id: ConversationId::direct(alice, alice),
            message_id: MessageId(7),
        };
        let pointer = Pointer { id: MessageId(9), origin: SessionId::random(), place };
        let mut payload = Payload::default();
        payload.add(Class::Chat, MessageId(8), None, &frame(1));
        payload.point(&pointer);
        payload.add(Class::Chat, MessageId(10), None, &frame(2));
        let bytes = payload.freeze();
        let parts = Part::all(bytes.clone());
        let [Part::Frame(_), Part::Pointer(found), Part::Frame(_)] = &parts[..] else {
            panic!("{parts:?}");
        };
        assert_eq!(*found, pointer);
        assert_eq!(Frame::all(bytes).len(), 2);

        let sent =
            crate::session::tests::world::message(place.conversation_id, place.message_id, "");
        let frame = pointer.frame(Message { version: MessageId(9), ..sent.clone() }).unwrap();
        assert_eq!(
            (frame.class, frame.id, frame.origin),
            (Class::Chat, MessageId(9), pointer.origin)
        );
        assert!(frame.tells_message);
        assert!(frame.names(&place.conversation_id));
        assert!(pointer.frame(Message { version: MessageId(10), ..sent.clone() }).is_some());
        assert!(pointer.frame(sent.clone()).is_none(), "the edit is not in it");
        let other = Message { message_id: MessageId(6), version: MessageId(9), ..sent };
        assert!(pointer.frame(other).is_none());
    }

    #[test]
    fn a_payload_that_is_cut_or_of_another_kind_gives_what_can_be_read() {
        let mut payload = Payload::default();
        payload.add(Class::Chat, MessageId(1), None, &frame(1));
        let first = payload.len_bytes();
        payload.add(Class::Chat, MessageId(2), None, &frame(2));
        let bytes = payload.freeze();
        for cut in 0..bytes.len() {
            assert_eq!(Frame::all(bytes.slice(..cut)).len(), usize::from(cut >= first), "{cut}");
        }
        let mut unknown = bytes.to_vec();
        unknown[LENGTH_BYTES] = 99;
        let frames = Frame::all(unknown.into());
        assert_eq!(frames.iter().map(|frame| frame.id).collect::<Vec<_>>(), [MessageId(2)]);
        assert!(Frame::all(Bytes::from_static(&[0, 0, 0, 1, 0])).is_empty(), "no header fits");
    }
}
