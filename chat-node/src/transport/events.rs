//! Server-sent events (HTML Living Standard, 9.2): frames one way; requests go by plain HTTP.
//!
//! Browsers' `EventSource` cannot send a token, and tokens do not belong into URLs: a page reads this stream with `fetch`.
//! Only cursor frames have an `id`, so `Last-Event-ID` is a cursor. Presence: the server writes a comment at every
//! heartbeat, and each one that the connection takes counts as a beat; so a client that vanishes without closing is
//! noticed only once the kernel's send buffer is full or TCP gives up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use chat_protocol::error::Refusal;
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{caller, problem};
use crate::hub::Taken;
use crate::session::registry::End;
use crate::session::{Connection, Gateway, Written};

/// A browser waits this long before it connects again, unless told otherwise.
const RETRY_MS: u64 = 2_000;

/// The route.
pub fn router(gateway: Arc<Gateway>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(events)).with_state(gateway)
}

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
struct From {
    /// The last cursor; the header `Last-Event-ID` goes first.
    cursor: Option<String>,
}

/// Streams frames
///
/// Each event's data is one frame in JSON. Events with an `id` are cursor frames; the id is the cursor.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "chat",
    params(From, ("Last-Event-ID" = Option<String>, Header, description = "The last cursor")),
    responses(
        (status = 200, description = "Frames, as they happen.", content_type = "text/event-stream", body = String),
        (status = 401, description = "Not authenticated.", body = chat_protocol::api::Problem),
        (status = 503, description = "The node is leaving or full.", body = chat_protocol::api::Problem),
    ),
)]
async fn events(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Query(from): Query<From>,
) -> Response {
    match open(&gateway, &headers, from).await {
        Ok(body) => stream(body),
        Err(refusal) => problem::response(refusal),
    }
}

async fn open(gateway: &Arc<Gateway>, headers: &HeaderMap, from: From) -> Result<Body, Refusal> {
    let caller = caller(gateway, headers)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let cursor = last.filter(|id| !id.is_empty()).or(from.cursor.as_deref());
    let mut connection = gateway.open_events(caller, cursor).await?;
    // The server drops the body when the client is gone; an end of its own says so first.
    connection.ended(End::ByPeer);
    let interval = Duration::from_millis(gateway.parts.settings.heartbeat_interval_ms.max(100));
    let mut beats = tokio::time::interval(interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = Bytes::from(format!("retry: {RETRY_MS}\n\n"));
    let events = Events { connection, beats, waiting: VecDeque::from([first]), is_over: false };
    let chunks = futures_util::stream::unfold(events, |mut events| async {
        let chunk = events.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), events))
    });
    Ok(Body::from_stream(chunks))
}

fn stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather answers would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Events {
    connection: Connection,
    beats: Interval,
    waiting: VecDeque<Bytes>,
    is_over: bool,
}

impl Events {
    /// The next bytes. The server asks once the connection took those before.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.waiting.pop_front() {
                return Some(chunk);
            }
            if self.is_over {
                return None;
            }
            let session = self.connection.session.clone();
            tokio::select! {
                taken = session.outbox.take() => match taken {
                    Taken::Items(items) => {
                        let mut chunk = BytesMut::new();
                        for item in items {
                            if let Some(written) = self.connection.write(item) {
                                write_event(&mut chunk, &written);
                            }
                        }
                        self.waiting.push_back(chunk.freeze());
                    }
                    Taken::End(close) => {
                        self.is_over = true;
                        self.connection.ended(End::Closed(close));
                        let (number, reason) = (close.number(), close.reason());
                        self.waiting.push_back(format!(": {number} {reason}\n\n").into());
                    }
                },
                () = self.connection.carry_on(), if self.connection.is_busy() => {}
                _ = self.beats.tick() => {
                    self.connection.beat();
                    self.waiting.push_back(Bytes::from_static(b":\n\n"));
                }
            }
        }
    }
}

fn write_event(chunk: &mut BytesMut, written: &Written) {
    if let Some(cursor) = &written.cursor {
        chunk.put_slice(b"id: ");
        chunk.put_slice(cursor.as_bytes());
        chunk.put_slice(b"\n");
    }
    if let Some(delay_ms) = written.reconnect_delay_ms {
        chunk.put_slice(format!("retry: {delay_ms}\n").as_bytes());
    }
    // JSON written by this code has no line breaks outside strings, and escapes those inside.
    chunk.put_slice(b"data: ");
    chunk.put_slice(&written.bytes);
    chunk.put_slice(b"\n\n");
}
