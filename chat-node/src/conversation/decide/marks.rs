//! Read marks, delivery marks, typing.

use chat_protocol::frame::{Receipt, ServerFrame, Typing};
use chat_protocol::record::{Change, ReadMarked};
use chat_protocol::{ConversationKind, UserId};
use chat_store::{MarkRow, Write};

use super::{Answer, Decision, bytes};
use crate::conversation::command::Reply;
use crate::conversation::state::State;

/// A mark never goes back, and never past the newest message. A live room has no marks.
pub(super) fn read(state: &State, caller: UserId, seq: u64) -> Decision {
    let seq = seq.min(state.last_seq);
    let (read, _) = state.marks_of(caller);
    if seq <= read || state.kind() == ConversationKind::Room {
        return Decision::Reply(Reply::Done);
    }
    Decision::Commit(vec![Change::Read(ReadMarked { user: bytes(caller), seq })], Answer::Done)
}

/// Not in the log: every device repeats it, and losing one costs only a tick shown late.
pub(super) fn delivered(state: &State, caller: UserId, seq: u64) -> Decision {
    let seq = seq.min(state.last_seq);
    let (read, delivered) = state.marks_of(caller);
    if seq <= delivered.max(read) || state.kind() == ConversationKind::Room {
        return Decision::Reply(Reply::Done);
    }
    let conversation_id = state.id;
    Decision::Tell {
        frame: Box::new(ServerFrame::Delivered(Receipt { conversation_id, user_id: caller, seq })),
        write: Some(Write::Delivered(MarkRow { conversation_id, user_id: caller, seq })),
    }
}

/// Nobody is told who types in a live room: there is no list of its audience.
pub(super) fn typing(state: &State, caller: UserId, active: bool) -> Decision {
    if state.kind() == ConversationKind::Room {
        return Decision::Reply(Reply::Done);
    }
    let typing = Typing { conversation_id: state.id, user_id: caller, active };
    Decision::Tell { frame: Box::new(ServerFrame::Typing(typing)), write: None }
}
