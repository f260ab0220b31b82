use chat_protocol::error::Refusal;
use chat_protocol::frame::{CursorFrame, ErrorFrame, Limits, Reconnect};
use chat_protocol::message::Reactions;
use chat_protocol::{Body, ClientMessageId, Code, DeviceId, MessageId, Millis, SessionId, UserId};
use uuid::Uuid;

use super::*;

const ME: UserId = UserId(Uuid::from_u128(1));

fn conversation() -> ConversationId {
    ConversationId::direct(ME, UserId(Uuid::from_u128(2)))
}

fn welcome(outcome: Outcome) -> ServerFrame {
    ServerFrame::Welcome(Welcome {
        version: 1,
        session_id: SessionId::random(),
        user_id: ME,
        device_id: DeviceId::random(),
        outcome,
        heartbeat_interval_ms: 5_000,
        offline_after_ms: 30_000,
        server_time: Millis(0),
        limits: Limits { text_chars: 1, body_bytes: 1, frame_bytes: 1 },
    })
}

fn message(id: u64, client_message_id: ClientMessageId) -> ServerFrame {
    ServerFrame::Message(Message {
        conversation_id: conversation(),
        message_id: MessageId(id),
        version: MessageId(id),
        seq: id,
        sender_id: ME,
        client_message_id,
        kind: "text".into(),
        body: Some(Body::text("hello")),
        created_at: Millis(0),
        edited_at: None,
        deleted: false,
        reply_to: None,
        mentions: Vec::new(),
        reactions: Reactions::default(),
    })
}

fn connected() -> Session {
    let mut session = Session::new(State::default(), 10, Backoff::default());
    session.hello("token".into(), None, "test", 0);
    session.on_frame(welcome(Outcome::New), 0, 0);
    session
}

fn sends(output: &Output) -> Vec<&chat_protocol::frame::Send> {
    let sends = output.frames.iter().filter_map(|frame| match frame {
        ClientFrame::Send(send) => Some(send),
        _ => None,
    });
    sends.collect()
}

fn closed(close: Close) -> Loss {
    Loss::Closed { code: close.number(), reason: close.reason().into() }
}

#[test]
fn what_was_not_acknowledged_is_repeated_as_a_retry_after_a_reconnect() {
    let mut session = connected();
    let first = session.send(Draft::text(conversation(), "one"), 0).unwrap();
    assert!(!sends(&first)[0].retry);
    session.on_loss(&Loss::Broken("gone".into()), 1, 0);
    session.hello("token".into(), None, "test", 2);
    let again = session.on_frame(welcome(Outcome::Resumed), 3, 0);
    assert!(sends(&again)[0].retry);
    assert_eq!(sends(&again)[0].client_message_id, sends(&first)[0].client_message_id);
}

#[test]
fn the_newest_cursor_goes_into_the_next_hello_and_a_reset_forgets_it() {
    let mut session = connected();
    let cursor = CursorFrame { cursor: "abc".into(), catching_up: false };
    session.on_frame(ServerFrame::Cursor(cursor), 0, 0);
    session.on_loss(&Loss::Broken("gone".into()), 1, 0);
    let cursor_of = |frame| match frame {
        ClientFrame::Hello(hello) => hello.cursor,
        _ => panic!("not a hello"),
    };
    assert_eq!(cursor_of(session.hello("t".into(), None, "test", 2)).as_deref(), Some("abc"));
    session.on_frame(welcome(Outcome::Reset), 3, 0);
    assert_eq!(cursor_of(session.hello("t".into(), None, "test", 4)), None);
}

#[test]
fn a_message_passes_once_and_again_after_a_reset() {
    let mut session = connected();
    let id = ClientMessageId::random();
    assert_eq!(session.on_frame(message(5, id), 0, 0).events.len(), 1);
    assert_eq!(session.on_frame(message(5, id), 0, 0).events.len(), 0);
    session.on_frame(welcome(Outcome::Reset), 0, 0);
    assert_eq!(session.on_frame(message(5, id), 0, 0).events.len(), 1);
}

#[test]
fn an_own_message_that_appears_settles_a_send_whose_answer_got_lost() {
    let mut session = connected();
    let draft = Draft::text(conversation(), "one");
    let id = draft.client_message_id;
    session.send(draft, 0).unwrap();
    session.on_loss(&Loss::Broken("gone".into()), 1, 0);
    session.on_frame(welcome(Outcome::Resumed), 2, 0);
    let events = session.on_frame(message(5, id), 3, 0).events;
    assert!(
        matches!(&events[1], Event::Sent { client_message_id, .. } if *client_message_id == id)
    );
    session.on_loss(&Loss::Broken("gone".into()), 4, 0);
    assert!(sends(&session.on_frame(welcome(Outcome::Resumed), 5, 0)).is_empty());
}

#[test]
fn a_retryable_refusal_waits_and_a_final_one_is_told() {
    let mut session = connected();
    let send = session.send(Draft::text(conversation(), "one"), 0).unwrap();
    let refused = |request_id, refusal: Refusal| {
        ServerFrame::Error(ErrorFrame {
            request_id: Some(request_id),
            code: refusal.code,
            detail: refusal.detail,
            retry_after_ms: refusal.retry_after_ms,
        })
    };
    let later = Refusal::new(Code::Moved, "Moved.").retry_after(200);
    let out = session.on_frame(refused(sends(&send)[0].request_id, later), 0, 0);
    assert!(out.frames.is_empty() && out.events.is_empty());
    assert_eq!(session.next_time_ms(), 200);
    let again = session.on_time(200);
    assert!(sends(&again)[0].retry);
    let out = session.on_frame(
        refused(sends(&again)[0].request_id, Refusal::new(Code::Blocked, "Blocked.")),
        201,
        0,
    );
    assert!(matches!(&out.events[..], [Event::Refused { .. }]));
}

#[test]
fn close_codes_decide_what_comes_next() {
    let next = |close| connected().on_loss(&closed(close), 0, u64::MAX).0;
    for close in [Close::Restart, Close::Slow, Close::Silent, Close::Internal, Close::Overloaded] {
        assert!(matches!(next(close), Next::Connect { .. }), "{close:?}");
    }
    for close in [Close::Protocol, Close::UnsupportedVersion, Close::TooLarge] {
        assert!(matches!(next(close), Next::End { .. }), "{close:?}");
    }
    assert_eq!(next(Close::LoggedOut), Next::LoggedOut);
    assert!(matches!(next(Close::Unauthenticated), Next::Renew { .. }));
}

#[test]
fn a_fresh_token_that_is_refused_ends_the_session() {
    let mut session = connected();
    session.on_loss(&closed(Close::Unauthenticated), 0, 0);
    session.on_renewed();
    assert_eq!(session.on_loss(&closed(Close::Unauthenticated), 0, 0).0, Next::LoggedOut);
}

#[test]
fn the_delay_of_a_reconnect_frame_is_kept_and_its_cursor_used() {
    let mut session = connected();
    let frame = Reconnect { cursor: "drain".into(), delay_ms: 1_234, token: Some("there".into()) };
    session.on_frame(ServerFrame::Reconnect(frame), 0, 0);
    assert!(!session.should_leave(1_233), "it goes on until then");
    assert!(session.next_time_ms() <= 1_234);
    assert!(session.should_leave(1_234));
    let (next, _) = session.on_loss(&closed(Close::Restart), 234, u64::MAX);
    assert_eq!(next, Next::Move { wait_ms: 1_000 }, "what is left of the delay");
    assert_eq!(session.state().cursor.as_deref(), Some("drain"));
    for is_welcome in [false, true] {
        let ClientFrame::Hello(hello) = session.hello("token".into(), None, "test", 1_300) else {
            panic!("the first frame is `hello`")
        };
        let expected = if is_welcome { None } else { Some("there") };
        assert_eq!(hello.discovery_token.as_deref(), expected);
        session.on_frame(welcome(Outcome::Resumed), 1_400, 0);
    }
}

#[test]
fn a_move_is_no_failure_and_a_device_that_is_logged_out_does_not_move() {
    let mut session = connected();
    let frame = |delay_ms| Reconnect { cursor: "drain".into(), delay_ms, token: None };
    session.on_frame(ServerFrame::Reconnect(frame(10)), 0, 0);
    assert_eq!(session.on_loss(&Loss::Left, 10, u64::MAX).0, Next::Move { wait_ms: 0 });
    let broken = session.on_loss(&Loss::Broken(String::new()), 20, u64::MAX).0;
    assert_eq!(broken, Next::Connect { wait_ms: 500 }, "the first failure");
    session.on_frame(welcome(Outcome::Resumed), 30, 0);
    session.on_frame(ServerFrame::Reconnect(frame(10)), 30, 0);
    assert_eq!(session.on_loss(&closed(Close::LoggedOut), 40, 0).0, Next::LoggedOut);
}

#[test]
fn waits_grow_with_failures_and_shrink_after_a_good_connection() {
    let mut session = connected();
    let mut lose = |now_ms| match session.on_loss(&Loss::Broken(String::new()), now_ms, u64::MAX).0
    {
        Next::Connect { wait_ms } => wait_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!([lose(1), lose(2), lose(3)], [500, 1_000, 2_000]);
    session.on_frame(welcome(Outcome::Resumed), 10, 0);
    let (next, _) = session.on_loss(&Loss::Broken(String::new()), 10 + GOOD_AFTER_MS, u64::MAX);
    assert_eq!(next, Next::Connect { wait_ms: 500 });
}

#[test]
fn heartbeats_go_out_when_nothing_else_does_and_silence_is_noticed() {
    let mut session = connected();
    assert!(session.on_time(4_999).frames.is_empty());
    assert_eq!(session.on_time(5_000).frames, [ClientFrame::Heartbeat(Heartbeat::default())]);
    session.typing(TypingNow { conversation_id: conversation(), active: true }, 7_000);
    assert!(session.on_time(11_000).frames.is_empty(), "typing counts as well");
    assert!(!session.is_silent(15_000));
    assert!(session.is_silent(15_001));
}

#[test]
fn a_stored_cursor_is_told_now_and_then_also_on_a_busy_connection() {
    let mut session = connected();
    let told = |output: Output| -> Vec<Option<String>> {
        let cursor = |frame| match frame {
            ClientFrame::Heartbeat(heartbeat) => Some(heartbeat.cursor),
            _ => None,
        };
        output.frames.into_iter().filter_map(cursor).collect()
    };
    session.confirm("one".into());
    session.confirm("two".into());
    assert_eq!(told(session.on_time(5_000)), [None], "not so soon after hello");
    session.typing(TypingNow { conversation_id: conversation(), active: true }, 299_000);
    assert_eq!(session.next_time_ms(), 300_000);
    assert_eq!(told(session.on_time(300_000)), [Some("two".into())]);
    assert_eq!(told(session.on_time(305_000)), [None], "nothing new");
    session.confirm("three".into());
    assert_eq!(told(session.on_time(599_999)), [None]);
    session.on_loss(&Loss::Broken("gone".into()), 600_000, 0);
    assert!(told(session.on_time(700_000)).is_empty());
    session.hello("token".into(), None, "test", 700_000);
    session.on_frame(welcome(Outcome::Resumed), 700_000, 0);
    assert_eq!(told(session.on_time(1_000_000)), [None], "hello has shown one");
}

#[test]
fn only_the_highest_read_mark_is_sent_and_again_until_acknowledged() {
    let mut session = Session::new(State::default(), 10, Backoff::default());
    session.read(conversation(), 5, 0);
    session.read(conversation(), 3, 0);
    let marks = |output: Output| -> Vec<(u64, u64)> {
        let mark = |frame| match frame {
            ClientFrame::Read(mark) => Some((mark.request_id, mark.seq)),
            _ => None,
        };
        output.frames.into_iter().filter_map(mark).collect()
    };
    let sent = marks(session.on_frame(welcome(Outcome::New), 0, 0));
    assert_eq!(sent[0].1, 5);
    assert!(marks(session.read(conversation(), 9, 0)).is_empty(), "one at a time");
    let ack = Ack { request_id: sent[0].0, message_id: None, seq: None, created_at: None };
    assert_eq!(marks(session.on_frame(ServerFrame::Ack(ack), 0, 0))[0].1, 9);
    session.on_loss(&Loss::Broken(String::new()), 0, 0);
    assert_eq!(marks(session.on_frame(welcome(Outcome::Resumed), 0, 0))[0].1, 9);
}

#[test]
fn live_rooms_are_joined_again_after_a_reconnect() {
    let mut session = connected();
    let room = ConversationId::room(ME, Uuid::from_u128(9));
    session.join_room(room, 0);
    session.on_loss(&Loss::Broken(String::new()), 0, 0);
    let frames = session.on_frame(welcome(Outcome::Resumed), 0, 0).frames;
    assert!(matches!(&frames[..], [ClientFrame::JoinRoom(join)] if join.room_id == room));
}

#[test]
fn a_client_that_is_sent_to_another_node_goes_at_once_but_not_in_circles() {
    let mut session = Session::new(State::default(), 10, Backoff::default());
    let mut sent_on = || session.on_loss(&closed(Close::WrongNode), 0, u64::MAX).0;
    assert_eq!(sent_on(), Next::Connect { wait_ms: 0 });
    assert_eq!(sent_on(), Next::Connect { wait_ms: 1_000 });
}
