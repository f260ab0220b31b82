//! WebSocket (RFC 6455). One task per connection, no timer and no large buffer while it is idle.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;
use chat_protocol::close::Close;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{ClientFrame, Hello, SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGEPACK};
use chat_protocol::limits::CLIENT_FRAME_BYTES_MAX;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem;
use crate::hub::{Item, Taken};
use crate::session::registry::End;
use crate::session::{Connection, Gateway, request};

/// Most client frames are a few hundred bytes. Larger ones grow the buffer for as long as they are read.
const READ_BUFFER_BYTES: usize = 1_024;
/// Frames over the limit are read up to here: what is left unread when a socket is closed would reset the connection, and
/// the client might never see why.
const READ_BYTES_MAX: usize = 2 * CLIENT_FRAME_BYTES_MAX;
/// Frames are gathered up to here before the socket is written to.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How long the client has to answer a close frame, so that it reads what was sent before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The route.
pub fn router(gateway: Arc<Gateway>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(upgrade)).with_state(gateway)
}

/// Opens a WebSocket
///
/// Offer the subprotocol `chat.v1.json` or `chat.v1.msgpack`; none means JSON. The first frame must be `hello`; it
/// carries the access token.
#[utoipa::path(
    get,
    path = "/v1/socket",
    tag = "chat",
    responses(
        (status = 101, description = "The connection is a WebSocket from here on."),
        (status = 403, description = "Pages of this origin may not connect.", body = chat_protocol::api::Problem),
        (status = 503, description = "The node is leaving or full.", body = chat_protocol::api::Problem),
    ),
)]
async fn upgrade(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let detail = format!("This address speaks WebSocket only: {rejection}.");
            return problem::response(Refusal::new(Code::MalformedRequest, detail));
        }
    };
    if !may_connect(&headers, &gateway.parts.settings.allowed_origins) {
        let detail =
            "Pages of this origin may not connect. Add it to the allowed origins of the server.";
        return problem::response(Refusal::new(Code::Forbidden, detail));
    }
    if let Err(refusal) = gateway.check_room() {
        return problem::response(refusal);
    }
    let upgrade = upgrade
        .protocols([SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGEPACK])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_frame_size(READ_BYTES_MAX)
        .max_message_size(READ_BYTES_MAX);
    let is_messagepack =
        upgrade.selected_protocol().is_some_and(|chosen| chosen == SUBPROTOCOL_MESSAGEPACK);
    let encoding = if is_messagepack { Encoding::MessagePack } else { Encoding::Json };
    upgrade.on_upgrade(move |socket| serve(gateway, socket, encoding))
}

/// Whether the page that asks may connect. Programs that are no browsers send no origin.
fn may_connect(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin_host = origin.split_once("://").map(|(_, host)| host);
    let is_own = host
        .is_some_and(|host| origin_host.is_some_and(|origin| origin.eq_ignore_ascii_case(host)));
    is_own || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
}

/// Serves a socket from its first frame to its end.
async fn serve<S>(gateway: Arc<Gateway>, mut socket: S, encoding: Encoding)
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    // Boxed, here and below: what is rare must not make the future of every idle connection larger.
    match Box::pin(hello(&gateway, &mut socket, encoding)).await {
        Ok(connection) => run(&gateway, &mut socket, connection, encoding).await,
        Err(None) => {}
        Err(Some((close, refusal))) => {
            let frame = refusal.map(|refusal| encoding.write(&request::error(None, refusal)));
            let limit = Duration::from_millis(gateway.parts.settings.flush_timeout_ms);
            Box::pin(end(&mut socket, encoding, frame.map(Bytes::from), close, limit)).await;
        }
    }
}

type Refused = Option<(Close, Option<Refusal>)>;

/// The first frame, and what comes of it. `Err(None)`: the client left.
async fn hello<S>(
    gateway: &Arc<Gateway>,
    socket: &mut S,
    encoding: Encoding,
) -> Result<Connection, Refused>
where
    S: Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    let limit = Duration::from_millis(gateway.parts.settings.hello_timeout_ms);
    let first = tokio::time::timeout(limit, first_frame(socket, encoding)).await;
    let hello = first.map_err(|_| Some((Close::HelloTimeout, None)))??;
    let opened = gateway.hello(&hello, encoding).await;
    opened.map_err(|refusal| Some((close_for(refusal.code), Some(refusal))))
}

async fn first_frame<S>(socket: &mut S, encoding: Encoding) -> Result<Hello, Refused>
where
    S: Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    loop {
        let refusal = match incoming(socket.next().await, encoding) {
            Incoming::Frame(ClientFrame::Hello(hello)) => return Ok(hello),
            Incoming::Frame(_) => {
                Refusal::new(Code::HelloExpected, "The first frame must be `hello`.")
            }
            Incoming::Nothing => continue,
            Incoming::Left | Incoming::Gone => return Err(None),
            Incoming::Unreadable(_, refusal) | Incoming::Fatal(refusal) => refusal,
        };
        return Err(Some((close_for(refusal.code), Some(refusal))));
    }
}

async fn run<S>(gateway: &Gateway, socket: &mut S, mut connection: Connection, encoding: Encoding)
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    let session = connection.session.clone();
    let mut silent = pin!(session.attendance.silent());
    let settings = &gateway.parts.settings;
    let limit = Duration::from_millis(settings.write_timeout_ms);
    loop {
        tokio::select! {
            taken = session.outbox.take() => match taken {
                Taken::Items(items) => {
                    match write(socket, &mut connection, encoding, items, limit).await {
                        Ok(()) => {}
                        Err(Unwritten::Gone) => return connection.ended(End::ByPeer),
                        Err(Unwritten::Slow) => session.outbox.close(Close::Slow),
                    }
                }
                Taken::End(close) => {
                    let limit = Duration::from_millis(settings.flush_timeout_ms);
                    return match Box::pin(end(socket, encoding, None, close, limit)).await {
                        Told::Answered => {
                            connection.acknowledged();
                            connection.ended(End::Closed(close));
                        }
                        Told::Taken => connection.ended(End::Closed(close)),
                        // A slow reader may not even take the close frame: that is its own doing.
                        Told::Slow => connection.ended(End::Closed(Close::Slow)),
                        Told::Gone => connection.ended(End::ByPeer),
                    };
                }
            },
            message = socket.next(), if connection.has_room() && !session.outbox.has_ended() => {
                connection.beat();
                match incoming(message, encoding) {
                    Incoming::Frame(frame) => connection.receive(frame),
                    Incoming::Unreadable(id, refusal) => connection.fault(id, refusal),
                    Incoming::Nothing => {}
                    Incoming::Left => {
                        connection.acknowledged();
                        _ = tokio::time::timeout(CLOSE_TIMEOUT, Box::pin(socket.close())).await;
                        return connection.ended(End::ByPeer);
                    }
                    Incoming::Gone => {
                        _ = tokio::time::timeout(CLOSE_TIMEOUT, Box::pin(socket.close())).await;
                        return connection.ended(End::ByPeer);
                    }
                    Incoming::Fatal(refusal) => {
                        let close = close_for(refusal.code);
                        connection.fault(None, refusal);
                        session.outbox.end_after_flush(close);
                    }
                }
            },
            () = connection.carry_on(), if connection.is_busy() => {},
            () = &mut silent, if !session.outbox.has_ended() => session.outbox.close(Close::Silent),
        }
    }
}

/// What a socket brought.
enum Incoming {
    Frame(ClientFrame),
    /// A frame that cannot be read, with its request id if that can be found.
    Unreadable(Option<u64>, Refusal),
    /// Ping or pong; pings are answered below this layer.
    Nothing,
    /// With a close frame.
    Left,
    /// Without.
    Gone,
    /// Nothing more can be read from this socket.
    Fatal(Refusal),
}

fn incoming(message: Option<Result<Message, axum::Error>>, encoding: Encoding) -> Incoming {
    let bytes = match (message, encoding) {
        (Some(Ok(Message::Close(_))), _) => return Incoming::Left,
        (None, _) => return Incoming::Gone,
        (Some(Ok(Message::Ping(_) | Message::Pong(_))), _) => return Incoming::Nothing,
        (Some(Ok(Message::Text(text))), Encoding::Json) => Bytes::from(text),
        (Some(Ok(Message::Binary(bytes))), Encoding::MessagePack) => bytes,
        (Some(Ok(Message::Text(_) | Message::Binary(_))), _) => {
            let (due, chosen) = match encoding {
                Encoding::Json => ("text", SUBPROTOCOL_JSON),
                Encoding::MessagePack => ("binary", SUBPROTOCOL_MESSAGEPACK),
            };
            let detail = format!("Frames of {chosen} are {due} frames.");
            return Incoming::Fatal(Refusal::new(Code::WrongEncoding, detail));
        }
        (Some(Err(error)), _) => return broken(&error),
    };
    if bytes.len() > CLIENT_FRAME_BYTES_MAX {
        return Incoming::Fatal(too_large());
    }
    match encoding.read(&bytes) {
        Ok(frame) => Incoming::Frame(frame),
        Err(refusal) => {
            let id = match encoding {
                Encoding::Json => request::recovered_request_id(&bytes),
                Encoding::MessagePack => encoding
                    .read::<serde_json::Value>(&bytes)
                    .ok()
                    .and_then(|value| request::recovered_request_id(value.to_string().as_bytes())),
            };
            Incoming::Unreadable(id, refusal)
        }
    }
}

fn broken(error: &axum::Error) -> Incoming {
    // The error's type is that of a crate below axum's; its text is the one thing to tell it by. A test holds this.
    let text = error.to_string();
    if text.contains("too long") {
        return Incoming::Fatal(too_large());
    }
    if text.contains("protocol") && !text.contains("without closing handshake")
        || text.contains("UTF-8")
    {
        let detail = format!("That is not WebSocket as RFC 6455 has it: {text}.");
        return Incoming::Fatal(Refusal::new(Code::MalformedRequest, detail));
    }
    Incoming::Gone
}

fn too_large() -> Refusal {
    let detail = format!("A frame may have {CLIENT_FRAME_BYTES_MAX} bytes at most.");
    Refusal::new(Code::TooLarge, detail)
}

fn close_for(code: Code) -> Close {
    match code {
        Code::Unauthenticated | Code::TokenExpired => Close::Unauthenticated,
        Code::UnsupportedVersion => Close::UnsupportedVersion,
        Code::Draining => Close::Restart,
        Code::Overloaded | Code::RateLimited => Close::Overloaded,
        Code::WrongNode => Close::WrongNode,
        Code::TooLarge => Close::TooLarge,
        Code::WrongEncoding => Close::WrongEncoding,
        code if code.http_status() < 500 => Close::Protocol,
        _ => Close::Internal,
    }
}

enum Unwritten {
    Gone,
    Slow,
}

/// Writes all of it with one flush, within `limit`.
async fn write<S>(
    socket: &mut S,
    connection: &mut Connection,
    encoding: Encoding,
    items: impl IntoIterator<Item = Item>,
    limit: Duration,
) -> Result<(), Unwritten>
where
    S: Sink<Message, Error = axum::Error> + Unpin,
{
    let mut writing = pin!(async {
        for item in items {
            if let Some(written) = connection.write(item) {
                socket.feed(message(encoding, written.bytes)).await?;
            }
        }
        socket.flush().await
    });
    // A timer only for the socket that does not take it at once.
    let written = match poll_once(writing.as_mut()).await {
        Poll::Ready(written) => written,
        Poll::Pending => match Box::pin(tokio::time::timeout(limit, writing)).await {
            Ok(written) => written,
            Err(_) => return Err(Unwritten::Slow),
        },
    };
    written.map_err(|_| Unwritten::Gone)
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

fn message(encoding: Encoding, bytes: Bytes) -> Message {
    match encoding {
        Encoding::Json => Message::Text(
            Utf8Bytes::try_from(bytes).unwrap_or_else(|_| Utf8Bytes::from_static("{}")),
        ),
        Encoding::MessagePack => Message::Binary(bytes),
    }
}

/// What came of a close frame.
enum Told {
    /// The client answered it.
    Answered,
    /// The socket took it.
    Taken,
    /// The socket took nothing in time.
    Slow,
    /// The client is gone.
    Gone,
}

/// Sends a last frame and the close frame, and waits for the client's.
async fn end<S>(
    socket: &mut S,
    encoding: Encoding,
    last: Option<Bytes>,
    close: Close,
    limit: Duration,
) -> Told
where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin,
{
    let told = tokio::time::timeout(limit, async {
        if let Some(bytes) = last {
            socket.feed(message(encoding, bytes)).await?;
        }
        let reason = Utf8Bytes::from_static(close.reason());
        socket.send(Message::Close(Some(CloseFrame { code: close.number(), reason }))).await
    });
    match told.await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Told::Gone,
        Err(_) => return Told::Slow,
    }
    // Closing with unread data would reset the connection, and the client might lose what was sent.
    let answer = async {
        while let Some(Ok(message)) = socket.next().await {
            if matches!(message, Message::Close(_)) {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(CLOSE_TIMEOUT, answer).await {
        Ok(true) => Told::Answered,
        _ => Told::Taken,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// A socket of no size, which never brings anything.
    struct Silent;

    impl Stream for Silent {
        type Item = Result<Message, axum::Error>;
        fn poll_next(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            Poll::Pending
        }
    }

    impl Sink<Message> for Silent {
        type Error = axum::Error;
        fn poll_ready(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Result<(), axum::Error>> {
            Poll::Ready(Ok(()))
        }
        fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), axum::Error> {
            Ok(())
        }
        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Result<(), axum::Error>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Result<(), axum::Error>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let settings = crate::session::Settings::default();
        let world = crate::session::tests::world::world(settings).await;
        let future = serve(world.gateway.clone(), Silent, Encoding::Json);
        let bytes = std::mem::size_of_val(&future);
        println!("{bytes} bytes");
        assert!(bytes < 2_048, "{bytes} bytes");
    }

    #[test]
    fn pages_of_the_own_host_and_of_allowed_origins_may_connect() {
        let may = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("chat.example.org:8080"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            may_connect(&headers, &["https://app.example.org".into()])
        };
        for origin in [
            "http://chat.example.org:8080",
            "https://CHAT.example.org:8080",
            "https://app.example.org",
        ] {
            assert!(may(Some(origin)), "{origin}");
        }
        assert!(may(None));
        for origin in [
            "null",
            "",
            "https://chat.example.org",
            "http://app.example.org",
            "https://app.example.org.evil.example",
            "https://evil.example",
        ] {
            assert!(!may(Some(origin)), "{origin}");
        }
    }
}
