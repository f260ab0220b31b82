//! The frames of the chat service as bytes, written and recognised without a JSON parser.

use chat_protocol::frame::SUBPROTOCOL_JSON;
use chat_protocol::{ClientMessageId, ConversationId};
use uuid::Uuid;

use crate::frame;
use crate::link::{Address, Link};
use crate::process::Server;

/// Where a node's clients connect.
pub(crate) fn address(server: &Server) -> Address {
    Address::new(&server.sockets, "/v1/socket", Some(SUBPROTOCOL_JSON))
}

pub(crate) fn hello(link: &Link, token: &str, cursor: Option<&str>) {
    let cursor = cursor.map(|cursor| format!(r#","cursor":"{cursor}""#)).unwrap_or_default();
    let text = format!(
        r#"{{"hello":{{"versions":[1],"token":"{token}"{cursor},"client":"chat-bench"}}}}"#
    );
    link.send(frame::TEXT, text.as_bytes());
}

pub(crate) fn join_room(link: &Link, room: ConversationId) {
    let text = format!(r#"{{"join_room":{{"request_id":1,"room_id":"{room}"}}}}"#);
    link.send(frame::TEXT, text.as_bytes());
}

pub(crate) fn heartbeat(link: &Link) {
    link.send(frame::TEXT, br#"{"heartbeat":{}}"#);
}

/// Ids of client messages: distinct, and cheap to make.
pub(crate) struct MessageIds(u128);

impl MessageIds {
    pub(crate) fn new() -> MessageIds {
        // The low half counts, the rest stays random.
        MessageIds(Uuid::new_v4().as_u128() & !u128::from(u64::MAX))
    }

    pub(crate) fn next(&mut self) -> ClientMessageId {
        self.0 += 1;
        ClientMessageId(Uuid::from_u128(self.0))
    }
}

/// Queues a message; the caller flushes.
pub(crate) fn queue_send(
    link: &Link,
    conversation: ConversationId,
    request_id: u64,
    id: ClientMessageId,
    retry: bool,
    text: &[u8],
) {
    use std::io::Write;
    let mut out = Vec::with_capacity(420);
    write!(
        out,
        r#"{{"send":{{"request_id":{request_id},"conversation_id":"{conversation}","client_message_id":"{id}","retry":{retry},"type":"text","body":{{"text":""#
    )
    .expect("writing to memory does not fail");
    out.extend_from_slice(text);
    out.extend_from_slice(br#""}}}"#);
    link.queue(frame::TEXT, &out);
}

/// The frames a generator tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    Room,
    Ack,
    Error,
    Cursor,
    Welcome,
    Reconnect,
    Other,
}

/// What kind of frame this is: its first and only key.
pub(crate) fn kind(payload: &[u8]) -> Kind {
    let key = payload.strip_prefix(br#"{""#).unwrap_or_default();
    let end = key.iter().take(12).position(|byte| *byte == b'"').unwrap_or(0);
    match &key[..end] {
        b"message" => Kind::Message,
        b"room" => Kind::Room,
        b"ack" => Kind::Ack,
        b"error" => Kind::Error,
        b"cursor" => Kind::Cursor,
        b"welcome" => Kind::Welcome,
        b"reconnect" => Kind::Reconnect,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::encoding::Encoding;
    use chat_protocol::frame::{Ack, ServerFrame, ServerTime};
    use chat_protocol::{MessageId, Millis};

    use super::*;

    #[test]
    fn frames_as_the_protocol_writes_them_are_recognised() {
        let ack =
            Ack { request_id: 5, message_id: Some(MessageId(9)), seq: None, created_at: None };
        let bytes = Encoding::Json.write(&ServerFrame::Ack(ack));
        assert_eq!(kind(&bytes), Kind::Ack);
        assert_eq!(crate::payload::number_after(&bytes, b"\"request_id\":"), Some(5));
        assert_eq!(crate::payload::number_after(&bytes, b"\"message_id\":"), Some(9));
        let heartbeat = ServerFrame::Heartbeat(ServerTime { server_time: Millis(1) });
        assert_eq!(kind(&Encoding::Json.write(&heartbeat)), Kind::Other);
        assert_eq!(kind(b""), Kind::Other);
        assert_eq!(kind(br#"{"room":{"room_id"#), Kind::Room);
    }
}
