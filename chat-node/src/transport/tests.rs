//! Transports over real sockets on loopback.

use std::sync::Arc;
use std::time::Duration;

use chat_protocol::close::Close;
use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::Code;
use chat_protocol::frame::{
    ClientFrame, Heartbeat, SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGEPACK, ServerFrame,
};
use chat_protocol::limits::CLIENT_FRAME_BYTES_MAX;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{events, poll, websocket};
use crate::handover::tests::handover;
use crate::session::Settings;
use crate::session::tests::world::{World, id, world};

struct Server {
    world: World,
    address: std::net::SocketAddr,
}

async fn server(settings: Settings) -> Server {
    let world = world(Settings { rate: None, watermark_wait_ms: 0, ..settings }).await;
    world.announce(id(5), id(5));
    world.spawn();
    let gateway = world.gateway.clone();
    let router = websocket::router(gateway.clone())
        .merge(poll::router(gateway.clone()))
        .merge(events::router(gateway));
    let (router, _) = router.split_for_parts();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = world.stop.clone();
    tokio::spawn(serve(listener, router, stop));
    Server { world, address }
}

async fn serve(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    stop: tokio_util::sync::CancellationToken,
) {
    while let Some(Ok((socket, _))) = stop.run_until_cancelled(listener.accept()).await {
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let io = hyper_util::rt::TokioIo::new(socket);
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades();
        let stop = stop.clone();
        tokio::spawn(async move { _ = stop.run_until_cancelled(connection).await });
    }
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    encoding: Encoding,
}

impl Client {
    async fn open(server: &Server, encoding: Encoding) -> Client {
        let mut request =
            format!("ws://{}/v1/socket", server.address).into_client_request().unwrap();
        let protocol = match encoding {
            Encoding::Json => SUBPROTOCOL_JSON,
            Encoding::MessagePack => SUBPROTOCOL_MESSAGEPACK,
        };
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        Client { socket, encoding }
    }

    async fn welcomed(server: &Server, encoding: Encoding) -> Client {
        let mut client = Client::open(server, encoding).await;
        client.send(&ClientFrame::Hello(server.world.hello(None))).await;
        assert!(matches!(client.next().await, Ok(ServerFrame::Welcome(_))));
        client
    }

    async fn send(&mut self, frame: &ClientFrame) {
        let bytes = self.encoding.write(frame);
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(bytes).unwrap()),
            Encoding::MessagePack => Message::binary(bytes),
        };
        self.socket.send(message).await.unwrap();
    }

    /// The next frame, or the number of the close frame.
    async fn next(&mut self) -> Result<ServerFrame, u16> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.socket.next());
            match next.await.expect("a frame within 20 s") {
                Some(Ok(Message::Text(text))) => {
                    return Ok(Encoding::Json.read(text.as_bytes()).unwrap());
                }
                Some(Ok(Message::Binary(bytes))) => {
                    return Ok(Encoding::MessagePack.read(&bytes).unwrap());
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or(0, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(1006),
            }
        }
    }

    async fn until<T>(&mut self, wanted: impl Fn(&ServerFrame) -> Option<T>) -> T {
        loop {
            let frame = self.next().await.unwrap();
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    async fn error(&mut self) -> (Option<u64>, Code) {
        self.until(|frame| match frame {
            ServerFrame::Error(error) => Some((error.request_id, error.code)),
            _ => None,
        })
        .await
    }

    /// The close number, with the frames before it passed over.
    async fn closed(&mut self) -> u16 {
        loop {
            if let Err(number) = self.next().await {
                return number;
            }
        }
    }
}

#[tokio::test]
async fn frames_travel_in_both_encodings() {
    let server = server(Settings::default()).await;
    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let mut client = Client::welcomed(&server, encoding).await;
        client.send(&ClientFrame::Heartbeat(Heartbeat::default())).await;
        client.until(|f| matches!(f, ServerFrame::Heartbeat(_)).then_some(())).await;
        server.world.publish(id(900));
        let live = client
            .until(|frame| match frame {
                ServerFrame::Message(message) => Some(message.clone()),
                _ => None,
            })
            .await;
        assert_eq!(live, server.world.message(id(900)));
        let cursor = client.until(|frame| match frame {
            ServerFrame::Cursor(cursor) => Some(Cursor::decode(&cursor.cursor).unwrap()),
            _ => None,
        });
        server.world.announce(id(6), id(6));
        assert!(cursor.await.safe >= id(5));
    }
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_is_answered_and_repeated_ones_end_the_connection() {
    let server = server(Settings::default()).await;
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    client.socket.send(Message::text(r#"{"send":{"request_id":7}}"#)).await.unwrap();
    assert_eq!(client.error().await, (Some(7), Code::MalformedRequest));
    client.socket.send(Message::text(r#"{"dance":{}}"#)).await.unwrap();
    assert_eq!(client.error().await, (None, Code::UnknownFrame));
    for _ in 0..8 {
        client.socket.send(Message::text("{")).await.unwrap();
        assert_eq!(client.error().await, (None, Code::MalformedRequest));
    }
    assert_eq!(client.closed().await, Close::Protocol.number());
}

#[tokio::test]
async fn a_first_frame_that_is_no_hello_or_none_at_all_ends_the_connection() {
    let server = server(Settings { hello_timeout_ms: 200, ..Settings::default() }).await;
    let mut client = Client::open(&server, Encoding::Json).await;
    client.send(&ClientFrame::Heartbeat(Heartbeat::default())).await;
    assert_eq!(client.error().await.1, Code::HelloExpected);
    assert_eq!(client.closed().await, Close::Protocol.number());
    let mut client = Client::open(&server, Encoding::Json).await;
    assert_eq!(client.closed().await, Close::HelloTimeout.number());
    let mut client = Client::open(&server, Encoding::Json).await;
    let mut hello = server.world.hello(None);
    hello.token = "forged".into();
    client.send(&ClientFrame::Hello(hello)).await;
    assert_eq!(client.error().await.1, Code::Unauthenticated);
    assert_eq!(client.closed().await, Close::Unauthenticated.number());
}

#[tokio::test]
async fn a_client_that_discovery_sent_elsewhere_is_sent_on_once_and_then_served() {
    let server = server(Settings::default()).await;
    let mut hello = server.world.hello(None);
    hello.discovery_token = server.world.token_for_another_node();
    let mut client = Client::open(&server, Encoding::Json).await;
    client.send(&ClientFrame::Hello(hello.clone())).await;
    assert_eq!(client.error().await.1, Code::WrongNode);
    assert_eq!(client.closed().await, Close::WrongNode.number());
    let mut client = Client::open(&server, Encoding::Json).await;
    client.send(&ClientFrame::Hello(hello)).await;
    assert!(matches!(client.next().await, Ok(ServerFrame::Welcome(_))));
}

#[tokio::test]
async fn frames_of_the_wrong_encoding_and_too_large_ones_end_the_connection() {
    let server = server(Settings::default()).await;
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    client.socket.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(client.error().await.1, Code::WrongEncoding);
    assert_eq!(client.closed().await, Close::WrongEncoding.number());
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    let large = "x".repeat(CLIENT_FRAME_BYTES_MAX + 1);
    _ = client.socket.send(Message::text(large)).await;
    assert_eq!(client.error().await.1, Code::TooLarge);
    assert_eq!(client.closed().await, Close::TooLarge.number());
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    // A header that announces far too much; the body need not come.
    let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!() };
    stream.write_all(&[0x81, 0xff, 0, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
    assert_eq!(client.error().await.1, Code::TooLarge);
    assert_eq!(client.closed().await, Close::TooLarge.number());
}

#[tokio::test]
async fn a_revoked_device_is_closed_as_logged_out() {
    let server = server(Settings::default()).await;
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    let payload = crate::delivery::revoked(server.world.device);
    server.world.bus.publish(&[chat_broker::Subject::User(server.world.user)], payload);
    assert_eq!(client.closed().await, Close::LoggedOut.number());
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_as_slow_and_holds_up_nobody() {
    let server = server(Settings { write_timeout_ms: 300, ..Settings::default() }).await;
    let _slow = Client::welcomed(&server, Encoding::Json).await;
    let mut quick = Client::welcomed(&server, Encoding::Json).await;
    let closes = server.world.gateway.parts.metrics.closes.clone();
    let slow_closes = || {
        closes.get_or_create(&crate::session::metrics::ByClose { code: Close::Slow.number() }).get()
    };
    let text = "x".repeat(200_000);
    for n in 1..200 {
        let mut message = server.world.message(id(1000 + n));
        message.body = Some(chat_protocol::Body::text(&text));
        let frame = ServerFrame::Message(message);
        let class = crate::delivery::Class::Chat;
        let payload = crate::delivery::payload(class, id(1000 + n), None, &frame);
        server.world.bus.publish(&[chat_broker::Subject::User(server.world.user)], payload);
        let got = quick.until(|frame| match frame {
            ServerFrame::Message(message) => Some(message.message_id),
            _ => None,
        });
        assert_eq!(got.await, id(1000 + n));
        if server.world.gateway.sessions.len() == 1 {
            break;
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while slow_closes() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the slow one is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.world.gateway.parts.metrics.abrupt_closes.get(), 0);
}

#[tokio::test]
async fn a_drain_ends_sockets_and_long_polls_with_their_cursor() {
    let server = Arc::new(server(Settings::default()).await);
    let mut client = Client::welcomed(&server, Encoding::Json).await;
    let poll = tokio::spawn({
        let server = server.clone();
        async move { get(&server, "sync?wait_ms=20000", Some(server.world.token())).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let handover = handover(&server.world);
    let drain = tokio::spawn(async move { handover.leave(100).await });
    client.until(|f| matches!(f, ServerFrame::Reconnect(_)).then_some(())).await;
    assert_eq!(client.closed().await, Close::Restart.number());
    let answer = poll.await.unwrap();
    assert!(answer.has("connection: close"), "{}", answer.head);
    let sync: chat_protocol::api::Sync = answer.json();
    assert!(Cursor::decode(&sync.cursor).is_ok());
    let drained = drain.await.unwrap();
    assert_eq!((drained.told, drained.cut_off), (2, 0));
    assert_eq!(server.world.gateway.parts.metrics.abrupt_closes.get(), 0);
}

/// An answer to a plain request.
struct Answer {
    head: String,
    body: String,
    stream: TcpStream,
}

impl Answer {
    fn status(&self) -> &str {
        &self.head[9..12]
    }

    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One request on a connection of its own that is kept alive. The body is read if its length is told.
async fn get(server: &Server, path_and_query: &str, token: Option<String>) -> Answer {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET /v1/{path_and_query} HTTP/1.1\r\nhost: localhost\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![];
    let head_end = loop {
        stream.read_buf(&mut bytes).await.unwrap();
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head_end + length {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    let body = String::from_utf8(bytes[head_end..].to_vec()).unwrap();
    Answer { head, body, stream }
}

async fn sync(server: &Server, query: &str) -> chat_protocol::api::Sync {
    let answer = get(server, &format!("sync?{query}"), Some(server.world.token())).await;
    assert_eq!(answer.status(), "200", "{} {}", answer.head, answer.body);
    answer.json()
}

fn ids(sync: &chat_protocol::api::Sync) -> Vec<chat_protocol::MessageId> {
    let id = |frame: &ServerFrame| match frame {
        ServerFrame::Message(message) => Some(message.message_id),
        _ => None,
    };
    sync.frames.iter().filter_map(id).collect()
}

#[tokio::test]
async fn polls_bring_each_entry_once_also_above_the_watermark_and_at_most_twelve_of_those() {
    let server = server(Settings::default()).await;
    let mut cursor = sync(&server, "").await.cursor;
    for n in 10..40 {
        server.world.store_message(id(n), "text").await;
    }
    server.world.announce(id(14), id(40));
    let first = sync(&server, &format!("cursor={cursor}")).await;
    assert_eq!(ids(&first), (10..27).map(id).collect::<Vec<_>>(), "5 below and 12 above");
    cursor = first.cursor;
    let again = sync(&server, &format!("cursor={cursor}")).await;
    assert_eq!(ids(&again), [], "the same does not come again");
    server.world.announce(id(40), id(40));
    let rest = sync(&server, &format!("cursor={cursor}")).await;
    assert_eq!(ids(&rest), (27..40).map(id).collect::<Vec<_>>());
    let decoded = Cursor::decode(&rest.cursor).unwrap();
    assert_eq!((decoded.safe, decoded.extra), (id(40), vec![]));
}

#[tokio::test]
async fn a_long_poll_is_answered_by_what_happens_and_not_by_nothing() {
    let server = Arc::new(server(Settings::default()).await);
    let cursor = sync(&server, "").await.cursor;
    let waiting = tokio::spawn({
        let (server, cursor) = (server.clone(), cursor.clone());
        async move { sync(&server, &format!("cursor={cursor}&wait_ms=15000")).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    server.world.publish(id(700));
    let answer = waiting.await.unwrap();
    assert_eq!(ids(&answer), [id(700)]);
    server.world.store_message(id(700), "live").await;
    let next = sync(&server, &format!("cursor={}", answer.cursor)).await;
    assert_eq!(ids(&next), [], "the cursor says that it was sent");
}

#[tokio::test]
async fn without_a_token_polls_and_streams_are_refused_as_problems() {
    let server = server(Settings::default()).await;
    for path in ["sync", "events", "sync?cursor=x"] {
        let answer = get(&server, path, None).await;
        assert_eq!(answer.status(), "401", "{path}");
        assert!(answer.has("content-type: application/problem+json"), "{}", answer.head);
        let problem: chat_protocol::api::Problem = answer.json();
        assert_eq!(problem.code, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_stream_of_events_has_a_cursor_as_the_id_of_its_cursor_frames() {
    let server = server(Settings::default()).await;
    let mut answer = get(&server, "events", Some(server.world.token())).await;
    assert!(answer.has("content-type: text/event-stream"), "{}", answer.head);
    server.world.publish(id(800));
    let mut text = answer.body.into_bytes();
    let has = |text: &[u8], wanted: &str| String::from_utf8_lossy(text).contains(wanted);
    while !(has(&text, "id: ") && has(&text, "data: {\"message\":")) {
        let more = tokio::time::timeout(Duration::from_secs(10), answer.stream.read_buf(&mut text));
        assert!(more.await.expect("an event within 10 s").unwrap() > 0);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("retry: "), "{text}");
    let cursor = text.split("id: ").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(Cursor::decode(cursor).unwrap().safe, id(5));
}
