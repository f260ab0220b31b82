//! What travels on user and room subjects: a client frame, encoded once, with what a node must know of it.

use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chat_broker::{Bus, Subject};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use chat_protocol::{DeviceId, MessageId, SessionId, UserId};
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

/// How a `message` frame begins, as this code writes it.
const MESSAGE_START: &[u8] = b"{\"message\":";

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

    /// The frame in a payload; `None` if it is not one (a newer node may send what this one does not know).
    pub fn from_payload(mut payload: Bytes) -> Option<Arc<Frame>> {
        if payload.len() < HEADER_BYTES {
            return None;
        }
        let class = match payload.get_u8() {
            0 => Class::Chat,
            1 => Class::Ephemeral,
            2 => Class::Room,
            3 => Class::Revoked,
            _ => return None,
        };
        let id = MessageId(payload.get_u64());
        let origin = SessionId(Uuid::from_u128(payload.get_u128()));
        Some(Arc::new(Frame::made(class, id, origin, payload)))
    }
}

/// The payload that carries a frame.
pub fn payload(
    class: Class,
    id: MessageId,
    origin: Option<SessionId>,
    frame: &ServerFrame,
) -> Bytes {
    let json = Encoding::Json.write(frame);
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + json.len());
    bytes.put_u8(class as u8);
    bytes.put_u64(id.0);
    bytes.put_u128(origin.map_or(0, |session| session.0.as_u128()));
    bytes.put_slice(&json);
    bytes.freeze()
}

/// Tells every node that a device was logged out; published on its user's subject.
pub fn revoked(device: DeviceId) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
    bytes.put_u8(Class::Revoked as u8);
    bytes.put_u64(0);
    bytes.put_u128(device.0.as_u128());
    bytes.freeze()
}

/// Publishes a frame that tells of no log entry to some users.
pub fn publish_to_users(bus: &dyn Bus, users: &[UserId], class: Class, frame: &ServerFrame) {
    let subjects: Vec<Subject> = users.iter().copied().map(Subject::User).collect();
    if !subjects.is_empty() {
        bus.publish(&subjects, payload(class, MessageId::ZERO, None, frame));
    }
}
