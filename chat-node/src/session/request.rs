//! Client frames as commands, and replies as answers: pure.

use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{Ack, ClientFrame, ErrorFrame, ServerFrame};
use chat_protocol::limits::BODY_BYTES_MAX;
use chat_protocol::{Body, ConversationId, Millis, SessionId, UserId};

use crate::conversation::command::Draft;
use crate::conversation::{Action, Command, Reply};

/// What a client frame asks for.
#[derive(Debug)]
pub enum Request {
    /// Something of a conversation's owner; the answer carries the id, if there is one.
    Command(Option<u64>, Command),
    /// To be told the server's time, with the cursor that the client has stored.
    Heartbeat(Option<String>),
    /// To receive a room.
    Join(u64, ConversationId),
    /// To stop that.
    Leave(u64, ConversationId),
    /// The presence of all friends.
    Presence(u64),
}

/// Who sends frames, and when.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The caller.
    pub user: UserId,
    /// The connection.
    pub connection: SessionId,
    /// Now.
    pub received_at: Millis,
}

/// The id that a frame's answer carries.
pub fn request_id(frame: &ClientFrame) -> Option<u64> {
    match frame {
        ClientFrame::Send(send) => Some(send.request_id),
        ClientFrame::Edit(edit) => Some(edit.request_id),
        ClientFrame::Delete(target) => Some(target.request_id),
        ClientFrame::React(react) => Some(react.request_id),
        ClientFrame::Read(mark) | ClientFrame::Delivered(mark) => Some(mark.request_id),
        ClientFrame::JoinRoom(room) => Some(room.request_id),
        ClientFrame::LeaveRoom(room) => Some(room.request_id),
        ClientFrame::Presence(request) => Some(request.request_id),
        ClientFrame::Hello(_) | ClientFrame::Heartbeat(_) | ClientFrame::Typing(_) => None,
    }
}

/// The id in a frame that could not be read, as far as it can be found.
pub fn recovered_request_id(json: &[u8]) -> Option<u64> {
    let frame: serde_json::Value = serde_json::from_slice(json).ok()?;
    frame.as_object()?.values().next()?.get("request_id")?.as_u64()
}

/// What the frame asks for.
pub fn request(frame: ClientFrame, sender: Sender) -> Result<Request, Refusal> {
    let id = request_id(&frame);
    let (conversation_id, action) = match frame {
        ClientFrame::Hello(_) => {
            let detail = "This connection has said hello already. Open a new one to change who is connected.";
            return Err(Refusal::new(Code::HelloExpected, detail));
        }
        ClientFrame::Heartbeat(heartbeat) => return Ok(Request::Heartbeat(heartbeat.cursor)),
        ClientFrame::JoinRoom(room) => return Ok(Request::Join(room.request_id, room.room_id)),
        ClientFrame::LeaveRoom(room) => return Ok(Request::Leave(room.request_id, room.room_id)),
        ClientFrame::Presence(request) => return Ok(Request::Presence(request.request_id)),
        ClientFrame::Send(send) => {
            let draft = Draft {
                client_message_id: send.client_message_id,
                retry: send.retry,
                kind: send.kind,
                body: compact(send.body),
                reply_to: send.reply_to,
                mentions: send.mentions,
            };
            (send.conversation_id, Action::Send(draft))
        }
        ClientFrame::Edit(edit) => {
            let action = Action::Edit {
                message_id: edit.message_id,
                body: compact(edit.body),
                mentions: edit.mentions,
            };
            (edit.conversation_id, action)
        }
        ClientFrame::Delete(target) => {
            (target.conversation_id, Action::Delete { message_id: target.message_id })
        }
        ClientFrame::React(react) => {
            let action = Action::React {
                message_id: react.message_id,
                emoji: react.emoji,
                remove: react.remove,
            };
            (react.conversation_id, action)
        }
        ClientFrame::Read(mark) => (mark.conversation_id, Action::Read { seq: mark.seq }),
        ClientFrame::Delivered(mark) => (mark.conversation_id, Action::Delivered { seq: mark.seq }),
        ClientFrame::Typing(typing) => {
            (typing.conversation_id, Action::Typing { active: typing.active })
        }
    };
    let command = Command {
        conversation_id,
        caller: sender.user,
        origin: Some(sender.connection),
        received_at: sender.received_at,
        action,
    };
    Ok(Request::Command(id, command))
}

/// A body without needless escapes, if it is over the limit with them: the limit is on what it says.
pub(crate) fn compact(body: Body) -> Body {
    if body.as_json().len() <= BODY_BYTES_MAX {
        return body;
    }
    let value = serde_json::from_str::<serde_json::Value>(body.as_json());
    value.and_then(|value| Body::from_value(&value)).unwrap_or(body)
}

/// The frame that answers a command; `None` where the frame asked for no answer.
pub fn answer(request_id: Option<u64>, reply: Result<Reply, Refusal>) -> Option<ServerFrame> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(refusal) => return Some(error(request_id, refusal)),
    };
    let ack = Ack { request_id: request_id?, message_id: None, seq: None, created_at: None };
    Some(ServerFrame::Ack(match reply {
        Reply::Sent(sent) => Ack {
            message_id: Some(sent.message_id),
            seq: Some(sent.seq),
            created_at: Some(sent.created_at),
            ..ack
        },
        Reply::Changed(changed) => Ack { message_id: Some(changed.version), ..ack },
        Reply::Done | Reply::Conversation(_) | Reply::Tail(_) | Reply::TailWithGaps(_) => ack,
    }))
}

/// A refusal as a frame.
pub fn error(request_id: Option<u64>, refusal: Refusal) -> ServerFrame {
    let Refusal { code, detail, retry_after_ms } = refusal;
    ServerFrame::Error(ErrorFrame { request_id, code, detail, retry_after_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_measured_without_its_escapes() {
        let escaped = format!("{{\"text\":\"{}\"}}", "\\u00fc".repeat(100_000));
        assert!(escaped.len() > BODY_BYTES_MAX);
        let body = compact(Body::from_json(escaped).unwrap());
        assert_eq!(body.as_json(), Body::text(&"ü".repeat(100_000)).as_json());
        let short = Body::from_json(r#"{"text":"\u00fc"}"#.into()).unwrap();
        assert_eq!(compact(short.clone()).as_json(), short.as_json());
    }

    #[test]
    fn the_request_id_of_a_broken_frame_is_found_if_it_is_there() {
        assert_eq!(recovered_request_id(br#"{"send":{"request_id":7,"body":1}}"#), Some(7));
        for broken in ["", "{", "[]", "{}", r#"{"send":1}"#, r#"{"send":{"request_id":"7"}}"#] {
            assert_eq!(recovered_request_id(broken.as_bytes()), None, "{broken}");
        }
    }
}
