use std::time::Duration;

use chat_client::backoff::Backoff;
use chat_client::client::{Config, Credentials, RequestError};
use chat_client::event::{Ended, Event};
use chat_client::session::Asked;
use chat_client::{Api, Client, Draft, Encoding, State};
use chat_protocol::api::Tokens;
use chat_protocol::close::Close;
use chat_protocol::frame::{Ack, CursorFrame, Outcome, Reconnect, ServerFrame};
use chat_protocol::message::{Message, Reactions};
use chat_protocol::{Body, ClientMessageId, ConversationId, DeviceId, MessageId, Millis, UserId};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::mock::{ME, Server, welcome};

fn conversation() -> ConversationId {
    ConversationId::direct(ME, UserId(Uuid::from_u128(2)))
}

fn tokens() -> Tokens {
    Tokens {
        user_id: ME,
        device_id: DeviceId::random(),
        access_token: "the token".into(),
        access_expires_at: Millis(u64::MAX),
        refresh_token: "the refresh token".into(),
    }
}

fn config(server: &Server) -> Config {
    let mut config = Config::new(server.url.clone());
    config.backoff = Backoff { first_ms: 10, most_ms: 50 };
    config
}

fn start(config: Config, state: State) -> (Client, Receiver<Event>) {
    // No call is made to it unless a test says so.
    let api = Api::new("http://127.0.0.1:1").unwrap();
    Client::start(config, Credentials::new(api, tokens()), state)
}

async fn next(events: &mut Receiver<Event>) -> Event {
    let event = timeout(Duration::from_secs(10), events.recv()).await.expect("an event");
    event.expect("the client goes on")
}

/// The next event that is not about the connection.
async fn next_content(events: &mut Receiver<Event>) -> Event {
    loop {
        match next(events).await {
            Event::Connected(_) | Event::Disconnected { .. } => {}
            other => return other,
        }
    }
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

fn cursor(text: &str) -> ServerFrame {
    ServerFrame::Cursor(CursorFrame { cursor: text.into(), catching_up: false })
}

fn ack(request_id: u64, id: u64) -> ServerFrame {
    let created_at = Some(Millis(0));
    ServerFrame::Ack(Ack { request_id, message_id: Some(MessageId(id)), seq: Some(id), created_at })
}

#[tokio::test]
async fn a_lost_connection_is_resumed_with_the_cursor_and_repeats_are_dropped() {
    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let server = Server::start().await;
        let (_client, mut events) = start(Config { encoding, ..config(&server) }, State::default());
        let (mut socket, hello) = server.welcome(Outcome::New).await;
        assert_eq!((hello.token.as_str(), hello.cursor), ("the token", None));
        let other = ClientMessageId::random();
        socket.write(message(5, other)).await;
        socket.write(cursor("after five")).await;
        assert!(matches!(next_content(&mut events).await, Event::Message(_)));
        assert!(matches!(next_content(&mut events).await, Event::Cursor { .. }));
        drop(socket);

        let (mut socket, hello) = server.welcome(Outcome::Resumed).await;
        assert_eq!(hello.cursor.as_deref(), Some("after five"));
        socket.write(message(5, other)).await;
        socket.write(message(6, ClientMessageId::random())).await;
        match next_content(&mut events).await {
            Event::Message(message) => assert_eq!(message.message_id, MessageId(6)),
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn a_send_that_was_cut_off_is_repeated_with_the_same_id_as_a_retry() {
    let server = Server::start().await;
    let (client, mut events) = start(config(&server), State::default());
    let draft = Draft::text(conversation(), "hello");
    client.send(draft.clone()).await.unwrap();
    let (mut socket, _) = server.welcome(Outcome::New).await;
    let first = socket.read_send().await;
    assert!(!first.retry);
    drop(socket);

    let (mut socket, _) = server.welcome(Outcome::Resumed).await;
    let second = socket.read_send().await;
    assert!(second.retry);
    assert_eq!(second.client_message_id, first.client_message_id);
    socket.write(ack(second.request_id, 9)).await;
    match next_content(&mut events).await {
        Event::Sent { client_message_id, sent } => {
            assert_eq!(client_message_id, draft.client_message_id);
            assert_eq!(sent.map(|sent| sent.message_id), Some(MessageId(9)));
        }
        event => panic!("{event:?}"),
    }
    drop(socket);

    // Acknowledged once is enough: nothing is sent on the next connection but the new message.
    let (mut socket, _) = server.welcome(Outcome::Resumed).await;
    client.send(Draft::text(conversation(), "another")).await.unwrap();
    let third = socket.read_send().await;
    assert!(!third.retry);
    assert_ne!(third.client_message_id, first.client_message_id);
}

#[tokio::test]
async fn the_outbox_of_an_earlier_run_goes_out_as_a_retry() {
    let server = Server::start().await;
    let draft = Draft::text(conversation(), "left over");
    let state = State { cursor: Some("stored".into()), outbox: vec![draft.clone()] };
    let (_client, _events) = start(config(&server), state);
    let (mut socket, hello) = server.welcome(Outcome::Resumed).await;
    assert_eq!(hello.cursor.as_deref(), Some("stored"));
    let send = socket.read_send().await;
    assert!(send.retry);
    assert_eq!(send.client_message_id, draft.client_message_id);
}

#[tokio::test]
async fn close_codes_that_allow_it_lead_to_a_new_connection_and_others_end_the_session() {
    let server = Server::start().await;
    let (_client, mut events) = start(config(&server), State::default());
    for close in [Close::Restart, Close::Slow, Close::Internal, Close::Overloaded] {
        let (socket, _) = server.welcome(Outcome::New).await;
        socket.close(close.number(), close.reason()).await;
    }
    let (socket, _) = server.welcome(Outcome::New).await;
    socket.close(Close::Protocol.number(), Close::Protocol.reason()).await;
    match next_content(&mut events).await {
        Event::Ended(Ended::Refused { close_code, .. }) => assert_eq!(close_code, 3500),
        event => panic!("{event:?}"),
    }
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn a_logged_out_device_does_not_come_back() {
    let server = Server::start().await;
    let (client, mut events) = start(config(&server), State::default());
    let (socket, _) = server.welcome(Outcome::New).await;
    socket.close(Close::LoggedOut.number(), Close::LoggedOut.reason()).await;
    assert_eq!(next_content(&mut events).await, Event::Ended(Ended::LoggedOut));
    let refused = client.send(Draft::text(conversation(), "too late")).await;
    assert_eq!(refused, Err(RequestError::Ended));
}

#[tokio::test]
async fn a_reconnect_frame_is_followed_after_its_delay_with_its_cursor() {
    let server = Server::start().await;
    let (_client, _events) = start(config(&server), State::default());
    let (mut socket, _) = server.welcome(Outcome::New).await;
    let told = Instant::now();
    let frame = Reconnect { cursor: "drained".into(), delay_ms: 400, token: None };
    socket.write(ServerFrame::Reconnect(frame)).await;
    socket.close(Close::Restart.number(), Close::Restart.reason()).await;
    let (_socket, hello) = server.welcome(Outcome::Resumed).await;
    assert_eq!(hello.cursor.as_deref(), Some("drained"));
    // The backoff of this test is at most 50 ms.
    assert!(told.elapsed() >= Duration::from_millis(400), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_client_that_is_asked_to_leave_does_so_by_itself_with_the_token_and_tells_of_no_outage() {
    let server = Server::start().await;
    let (_client, mut events) = start(config(&server), State::default());
    let (mut socket, _) = server.welcome(Outcome::New).await;
    assert!(matches!(next(&mut events).await, Event::Connected(_)));
    let told = Instant::now();
    let token = Some("to-green".to_owned());
    let frame = Reconnect { cursor: "drained".into(), delay_ms: 300, token: token.clone() };
    socket.write(ServerFrame::Reconnect(frame)).await;
    socket.write(message(1, ClientMessageId::random())).await;
    let (_socket, hello) = server.welcome(Outcome::Resumed).await;
    assert!(told.elapsed() >= Duration::from_millis(300), "{:?}", told.elapsed());
    assert_eq!((hello.cursor.as_deref(), hello.discovery_token), (Some("drained"), token));
    assert!(matches!(next(&mut events).await, Event::Cursor { .. }));
    assert!(matches!(next(&mut events).await, Event::Message(_)), "it was served until then");
    let event = next(&mut events).await;
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
}

#[tokio::test]
async fn a_server_that_has_gone_silent_is_left_for_a_new_connection() {
    let server = Server::start().await;
    let (_client, mut events) = start(config(&server), State::default());
    let (mut silent, _) = server.accept().await;
    silent.write(welcome(Outcome::New, 100)).await;
    let (_socket, _) = server.welcome(Outcome::New).await;
    assert!(matches!(next(&mut events).await, Event::Connected(_)));
    match next(&mut events).await {
        Event::Disconnected { reason, .. } => assert!(reason.contains("silent"), "{reason}"),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn a_program_that_does_not_take_events_stops_the_reading_but_not_the_heartbeats() {
    let server = Server::start().await;
    let config = Config { event_capacity: 2, ..config(&server) };
    let (_client, mut events) = start(config, State::default());
    let (mut socket, _) = server.accept().await;
    socket.write(welcome(Outcome::New, 100)).await;
    for id in 1..=20 {
        socket.write(message(id, ClientMessageId::random())).await;
    }
    for _ in 0..8 {
        let frame = socket.read().await;
        assert!(matches!(frame, chat_protocol::frame::ClientFrame::Heartbeat(_)), "{frame:?}");
    }
    for id in 1..=20 {
        match next_content(&mut events).await {
            Event::Message(message) => assert_eq!(message.message_id, MessageId(id)),
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn a_question_that_is_cut_off_is_answered_as_disconnected() {
    let server = Server::start().await;
    let (client, mut events) = start(config(&server), State::default());
    let (mut socket, _) = server.welcome(Outcome::New).await;
    assert!(matches!(next(&mut events).await, Event::Connected(_)));
    let asking = tokio::spawn(async move { client.ask(Asked::Presence).await });
    socket.read().await;
    drop(socket);
    assert_eq!(asking.await.unwrap(), Err(RequestError::Disconnected));
}
