//! What a client must not do: each has its stable code, and the connection its fate.

use std::time::Duration;

use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ClientFrame, Hello, ServerFrame};
use chat_protocol::limits::{CLIENT_FRAME_BYTES_MAX, GROUP_MEMBERS_MAX, TEXT_CHARS_MAX};
use chat_protocol::{Code, ConversationId, MessageId};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message as WsMessage;

use crate::client::{Gone, PATIENCE, Person, Socket, api, drain, hello, send, sign_up, text};
use crate::process::{NodeProcess, http};

/// A person in a group of one, and a connection.
struct Scene {
    node: NodeProcess,
    ann: Person,
    group: ConversationId,
}

impl Scene {
    async fn new(flags: &[&str]) -> Scene {
        let node = NodeProcess::start(flags).await;
        let ann = Person::new(&node, "ann").await;
        let group = ann.group(&node, &[]).await;
        Scene { node, ann, group }
    }

    async fn socket(&self) -> Socket {
        Socket::of(&self.node, &self.ann, None).await
    }
}

/// Makes a request; the status and the code of its refusal.
async fn call(
    node: &NodeProcess,
    person: &Person,
    method: Method,
    path: &str,
    body: Value,
) -> (u16, String) {
    let request = http().request(method, format!("{}{path}", node.url()));
    let response = request.bearer_auth(person.token()).json(&body).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    assert_eq!(body["status"], status, "{body}");
    assert!(!body["detail"].as_str().unwrap().is_empty(), "{body}");
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// Passes over what comes on its own until something is refused; the code, and the request it is the answer to.
async fn error(socket: &mut Socket) -> (Code, Option<u64>) {
    loop {
        if let ServerFrame::Error(error) = socket.next().await.unwrap() {
            return (error.code, error.request_id);
        }
    }
}

async fn assert_alive(socket: &mut Socket) {
    socket.send(&ClientFrame::Heartbeat(Default::default())).await.unwrap();
    while !matches!(socket.next().await.unwrap(), ServerFrame::Heartbeat(_)) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_bodies_over_their_limits_are_refused_and_the_connection_goes_on() {
    let scene = Scene::new(&[]).await;
    let mut socket = scene.socket().await;
    let longest = text(&"🧗".repeat(TEXT_CHARS_MAX));
    let too_long = text(&"x".repeat(TEXT_CHARS_MAX + 1));
    let mut asked = Vec::new();
    let sent = socket.ask(1, &send(scene.group, 1, &longest), &mut asked).await.unwrap();
    sent.expect("the longest text that may be");
    let refused = socket.ask(2, &send(scene.group, 2, &too_long), &mut asked).await.unwrap();
    assert_eq!(refused.unwrap_err().code, Code::TooLarge);
    let refused = socket.ask(3, &send(scene.group, 3, &text("")), &mut asked).await.unwrap();
    assert_eq!(refused.unwrap_err().code, Code::InvalidField);
    assert_alive(&mut socket).await;

    let path = format!("/v1/conversations/{}/messages", scene.group);
    let post = |body: Value| call(&scene.node, &scene.ann, Method::POST, &path, body);
    let body = serde_json::to_value(&too_long).unwrap();
    assert_eq!(post(body).await, (413, "too_large".to_owned()));
    let body = serde_json::to_value(text(&"x".repeat(3_000_000))).unwrap();
    assert_eq!(post(body).await, (413, "too_large".to_owned()));
    assert_eq!(post(json!({"type": "text"})).await, (400, "malformed_request".to_owned()));
    assert_eq!(post(json!([])).await, (400, "malformed_request".to_owned()));

    let url = format!("{}{path}", scene.node.url());
    let plain = http().post(url).bearer_auth(scene.ann.token()).body("{}").send().await.unwrap();
    assert_eq!(plain.status(), 415);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cannot_be_read_are_answered_and_several_of_them_close() {
    let scene = Scene::new(&[]).await;
    let mut socket = scene.socket().await;
    for (raw, expected) in [
        ("not json", (Code::MalformedRequest, None)),
        (r#"{"send": {"request_id": 7}}"#, (Code::MalformedRequest, Some(7))),
        (r#"{"dance": {"request_id": 9}}"#, (Code::UnknownFrame, Some(9))),
        ("[]", (Code::MalformedRequest, None)),
    ] {
        socket.send_raw(WsMessage::text(raw)).await.unwrap();
        assert_eq!(error(&mut socket).await, expected, "{raw}");
    }
    socket.send(&hello(scene.ann.token(), None)).await.unwrap();
    assert_eq!(error(&mut socket).await.0, Code::HelloExpected);
    assert_alive(&mut socket).await;

    for _ in 0..20 {
        // The connection may be closed by now.
        _ = socket.send_raw(WsMessage::text("{")).await;
    }
    assert_eq!(socket.refused().await, (Some(Code::MalformedRequest), Gone::Closed(3500)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_the_wrong_encoding_or_too_large_close() {
    let scene = Scene::new(&[]).await;
    let node = &scene.node;
    let mut socket = scene.socket().await;
    socket.send_raw(WsMessage::binary(b"{}".to_vec())).await.unwrap();
    assert_eq!(socket.refused().await, (Some(Code::WrongEncoding), Gone::Closed(3505)));

    let packed = Socket::connect(&node.url(), scene.ann.token(), None, Encoding::MessagePack).await;
    let mut socket = packed.unwrap().0;
    socket.send_raw(WsMessage::text(r#"{"heartbeat": {}}"#)).await.unwrap();
    assert_eq!(socket.refused().await, (Some(Code::WrongEncoding), Gone::Closed(3505)));

    for bytes in [CLIENT_FRAME_BYTES_MAX + 1, 4 * CLIENT_FRAME_BYTES_MAX] {
        let mut socket = scene.socket().await;
        // A frame far over the limit is not read to its end, so it may not even be taken.
        _ = socket.send_raw(WsMessage::text("x".repeat(bytes))).await;
        assert_eq!(
            socket.refused().await,
            (Some(Code::TooLarge), Gone::Closed(3504)),
            "{bytes} bytes"
        );
    }
    let mut socket = scene.socket().await;
    let padded = format!(r#"{{"heartbeat": {{}}{}}}"#, " ".repeat(CLIENT_FRAME_BYTES_MAX - 17));
    assert!(padded.len() <= CLIENT_FRAME_BYTES_MAX);
    socket.send_raw(WsMessage::text(padded)).await.unwrap();
    while !matches!(socket.next().await.unwrap(), ServerFrame::Heartbeat(_)) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_frame_that_is_no_good_hello_closes() {
    let scene = Scene::new(&[]).await;
    let token = scene.ann.token();
    let mut forged = token.to_owned();
    let last = forged.pop().unwrap();
    let before = forged.pop().unwrap();
    forged.extend([if before == 'A' { 'B' } else { 'A' }, last]);
    let good = |versions: Vec<u16>, token: &str, cursor: Option<&str>| {
        ClientFrame::Hello(Hello {
            versions,
            token: token.to_owned(),
            cursor: cursor.map(str::to_owned),
            discovery_token: None,
            capabilities: vec![],
            client: None,
        })
    };
    let heartbeat = ClientFrame::Heartbeat(Default::default());
    for (frame, code, close) in [
        (good(vec![9], token, None), Code::UnsupportedVersion, 3503),
        (good(vec![1], &forged, None), Code::Unauthenticated, 3501),
        (good(vec![1], "", None), Code::Unauthenticated, 3501),
        (good(vec![1], token, Some("no cursor")), Code::InvalidCursor, 3500),
        (heartbeat, Code::HelloExpected, 3500),
        (send(scene.group, 1, &text("too early")), Code::HelloExpected, 3500),
    ] {
        let mut socket = Socket::open(&scene.node.url(), Encoding::Json).await.unwrap();
        socket.send(&frame).await.unwrap();
        assert_eq!(socket.refused().await, (Some(code), Gone::Closed(close)), "{frame:?}");
    }
    let mut socket = Socket::open(&scene.node.url(), Encoding::Json).await.unwrap();
    socket.send_raw(WsMessage::text("hello")).await.unwrap();
    assert_eq!(socket.refused().await, (Some(Code::MalformedRequest), Gone::Closed(3500)));

    let mut stranger = scene.ann.clone();
    stranger.tokens.access_token = forged;
    let answer = call(&scene.node, &stranger, Method::GET, "/v1/me", Value::Null).await;
    assert_eq!(answer, (401, "unauthenticated".to_owned()));
    let answer = call(&scene.node, &scene.ann, Method::GET, "/v1/sync?cursor=x", Value::Null).await;
    assert_eq!(answer, (400, "invalid_cursor".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hello_a_connection_closes_after_a_while() {
    let node = NodeProcess::start(&[]).await;
    let began = Instant::now();
    let mut socket = Socket::open(&node.url(), Encoding::Json).await.unwrap();
    assert_eq!(socket.refused().await, (None, Gone::Closed(3005)));
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_told_from_a_bad_one_and_can_be_refreshed() {
    let node = NodeProcess::start(&["--token-access-lifetime-ms=5000"]).await;
    let ann = Person::new(&node, "ann").await;
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    let answer = call(&node, &ann, Method::GET, "/v1/me", Value::Null).await;
    assert_eq!(answer, (401, "token_expired".to_owned()));
    let mut socket = Socket::open(&node.url(), Encoding::Json).await.unwrap();
    socket.send(&hello(ann.token(), None)).await.unwrap();
    assert_eq!(socket.refused().await, (Some(Code::TokenExpired), Gone::Closed(3501)));

    let tokens = api(&node).refresh(&ann.tokens.refresh_token).await.unwrap();
    api(&node).me(&tokens.access_token).await.expect("the new token is good");
    let again = api(&node).refresh(&ann.tokens.refresh_token).await.unwrap_err();
    assert_eq!(again.code(), Some(Code::Unauthenticated), "a refresh token works once");
    let after = api(&node).refresh(&tokens.refresh_token).await.unwrap_err();
    assert_eq!(after.code(), Some(Code::Unauthenticated), "its second use logs the device out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conversations_of_others_are_not_there() {
    let scene = Scene::new(&[]).await;
    let node = &scene.node;
    let message = text("between us");
    let sent = api(node).send(scene.ann.token(), scene.group, &message).await.unwrap();
    let eve = Person::new(node, "eve").await;
    let missing = (404, "not_found".to_owned());
    let path = format!("/v1/conversations/{}", scene.group);
    let one = format!("{path}/messages/{}", sent.message_id);
    let new = serde_json::to_value(text("hello")).unwrap();
    for (method, path, body) in [
        (Method::GET, path.clone(), Value::Null),
        (Method::PATCH, path.clone(), json!({"name": "Mine"})),
        (Method::GET, format!("{path}/messages"), Value::Null),
        (Method::POST, format!("{path}/messages"), new),
        (Method::PATCH, one.clone(), json!({"body": {"text": "mine"}})),
        (Method::DELETE, one.clone(), Value::Null),
        (Method::PUT, format!("{one}/reactions/x"), Value::Null),
        (Method::PUT, format!("{path}/read"), json!({"seq": 1})),
        (Method::POST, format!("{path}/members"), json!({"user_ids": [eve.id()]})),
        (Method::DELETE, format!("{path}/members/{}", scene.ann.id()), Value::Null),
    ] {
        assert_eq!(call(node, &eve, method.clone(), &path, body).await, missing, "{method} {path}");
    }
    let mut socket = Socket::of(node, &eve, None).await;
    let frame = send(scene.group, 1, &text("hello"));
    let refused = socket.ask(1, &frame, &mut Vec::new()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
    assert_alive(&mut socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sign_ups_with_one_handle_at_once_one_succeeds() {
    let node = NodeProcess::start(&[]).await;
    for round in 0..5 {
        let body = sign_up(&format!("same_handle_{round}"));
        let api = api(&node);
        let outcomes = join_all((0..6).map(|_| api.sign_up(&body))).await;
        let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        for error in refused {
            assert_eq!(error.unwrap_err().code(), Some(Code::HandleTaken));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_takes_a_hundred_members_and_no_more() {
    let scene = Scene::new(&[]).await;
    let (node, ann) = (&scene.node, &scene.ann);
    let mut people = Vec::new();
    while people.len() < GROUP_MEMBERS_MAX {
        // A few at once: the node hashes two passwords at a time, and lets only some wait.
        people.extend(join_all((0..4).map(|_| Person::new(node, "member"))).await);
    }
    let ids: Vec<_> = people.iter().map(Person::id).collect();
    let (last, fitting) = ids.split_last().unwrap();
    api(node).invite(ann.token(), scene.group, fitting.to_vec()).await.unwrap();
    let refused = api(node).invite(ann.token(), scene.group, vec![*last]).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::GroupFull));
    let again = api(node).invite(ann.token(), scene.group, vec![fitting[0]]).await;
    again.expect("who is a member already is passed over");

    let two_at_once = ann.group(node, &people[..98].iter().collect::<Vec<_>>()).await;
    let api = api(node);
    let outcomes = tokio::join!(
        api.invite(ann.token(), two_at_once, vec![ids[98]]),
        api.invite(ann.token(), two_at_once, vec![ids[99]]),
    );
    let refused = match outcomes {
        (Ok(()), Err(error)) | (Err(error), Ok(())) => error,
        other => panic!("one place was left: {other:?}"),
    };
    assert_eq!(refused.code(), Some(Code::GroupFull));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_is_closed_and_gets_everything_after_it_resumed() {
    const MESSAGES: usize = 2_000;
    let node = NodeProcess::start(&[]).await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let cursor = ben.first_cursor(&node).await;
    let mut slow = Socket::with_small_buffer(&node, &ben, &cursor).await;

    let mut sender = Socket::of(&node, &ann, None).await;
    let long = "x".repeat(5_000);
    let mut sent: Vec<MessageId> = Vec::new();
    let mut next = 0;
    while sent.len() < MESSAGES {
        while next < MESSAGES && next - sent.len() < 30 {
            sender.send(&send(group, next as u64, &text(&long))).await.unwrap();
            next += 1;
        }
        match sender.next().await.unwrap() {
            ServerFrame::Ack(ack) => sent.push(ack.message_id.unwrap()),
            ServerFrame::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while !node.metrics().await.unwrap().contains("chat_outbox_overflows_total 1\n") {
        assert!(Instant::now() < deadline, "{}", node.metrics().await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut came = Vec::new();
    let mut stored = (Some(cursor.clone()), 0);
    let gone = loop {
        match slow.next().await {
            Ok(ServerFrame::Message(message)) => came.push(message.message_id),
            Ok(ServerFrame::Cursor(frame)) => stored = (Some(frame.cursor), came.len()),
            Ok(_) => {}
            Err(gone) => break gone,
        }
    };
    assert!(came.len() < MESSAGES / 2, "{} came over a connection that nobody read", came.len());
    assert_eq!(gone, Gone::Closed(3000));

    came.truncate(stored.1);
    let (frames, _) = drain(&api(&node), ben.token(), &stored.0.unwrap()).await;
    came.extend(frames.iter().filter_map(|frame| match frame {
        ServerFrame::Message(message) if message.kind == "text" => Some(message.message_id),
        _ => None,
    }));
    came.sort();
    came.dedup();
    sent.sort();
    came.retain(|id| sent.binary_search(id).is_ok());
    assert_eq!(came, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_and_no_more() {
    const LIMIT: usize = 5;
    let flag = format!("--connections-per-address-max={LIMIT}");
    let node = NodeProcess::start(&[&flag]).await;
    let ann = Person::new(&node, "ann").await;
    let mut sockets = Vec::new();
    // The connection that signed up may take a moment to be gone.
    let deadline = Instant::now() + PATIENCE;
    while sockets.len() < LIMIT {
        match Socket::connect(&node.url(), ann.token(), None, Encoding::Json).await {
            Ok((socket, _)) => sockets.push(socket),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
    for _ in 0..3 {
        let refused = Socket::connect(&node.url(), ann.token(), None, Encoding::Json).await;
        assert!(refused.is_err(), "one more than {LIMIT}");
    }
    assert_alive(&mut sockets[0]).await;
    drop(sockets.pop());
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = Socket::connect(&node.url(), ann.token(), None, Encoding::Json).await {
        assert!(Instant::now() < deadline, "a place is free again: {error}");
    }
}
