//! Poll and long poll: each request goes on from its cursor, on any node.
//!
//! Presence: a poll counts as a beat, and a lineage's attendance is kept between polls. A long poll is answered before its
//! own silence would count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chat_broker::Subject;
use chat_protocol::api::Sync;
use chat_protocol::close::Close;
use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{Outcome, ServerFrame};
use chat_protocol::limits::CURSOR_ROOMS_MAX;
use chat_protocol::{ConversationId, MessageId, SessionId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{caller, problem};
use crate::auth::Caller;
use crate::delivery::{Class, Frame};
use crate::hub::{Item, Outbox, Subscription, Taken};
use crate::session::hello::Start;
use crate::session::pull::{self, Pulled};
use crate::session::{Client, Gateway, Settings, Transport};

/// A plain poll with nothing to tell asks for this pause.
const POLL_PAUSE_MS: u64 = 5_000;

/// The route.
pub fn router(gateway: Arc<Gateway>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(sync)).with_state(gateway)
}

/// What a poll asks for.
#[derive(Debug, Deserialize, IntoParams)]
struct Asked {
    /// The cursor of the last answer; none on a new device.
    cursor: Option<String>,
    /// Wait this long for something to happen; 0 or absent: answer at once. Shortened to what presence allows.
    wait_ms: Option<u64>,
    /// Live rooms to receive, besides those in the cursor: ids with commas between them.
    room: Option<String>,
}

/// Gets what happened since a cursor
///
/// Store the answer's frames and its cursor together, and pass the cursor in the next request.
#[utoipa::path(
    get,
    path = "/v1/sync",
    tag = "chat",
    params(Asked),
    responses(
        (status = 200, description = "What happened.", body = Sync),
        (status = 400, description = "The cursor is not one of this platform.", body = chat_protocol::api::Problem),
        (status = 401, description = "Not authenticated.", body = chat_protocol::api::Problem),
        (status = 503, description = "The node is leaving, or the store is away.", body = chat_protocol::api::Problem),
    ),
)]
async fn sync(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let answer = async {
        let caller = caller(&gateway, &headers)?;
        answer(&gateway, caller, asked).await
    };
    match answer.await {
        Ok((sync, closes)) => {
            let mut response = Json(sync).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if closes {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(refusal) => problem::response(refusal),
    }
}

/// The answer, and whether the connection should close behind it.
async fn answer(
    gateway: &Arc<Gateway>,
    caller: Caller,
    asked: Asked,
) -> Result<(Sync, bool), Refusal> {
    let rooms = parse_rooms(asked.room.as_deref())?;
    let mut start = gateway.start(&caller, asked.cursor.as_deref()).await?;
    let parts = &gateway.parts;
    let (state, is_new) = gateway.polls.arrive(
        (caller.user_id, start.lineage),
        &*parts.presences,
        &parts.watermarks,
        gateway.elapsed(),
    );
    if is_new && start.outcome != Outcome::New {
        gateway.sessions.returned(start.lineage);
    }
    let wait = wait(asked.wait_ms.unwrap_or(0), &parts.settings);
    let outbox = Arc::new(Outbox::new(SessionId::random(), caller.device_id));
    let mut waiting = gateway.sessions.wait(Client {
        lineage: start.lineage,
        transport: Transport::Poll,
        outbox: outbox.clone(),
        attendance: state.attendance.clone(),
    });
    add_rooms(gateway, &caller, &mut start, rooms).await?;
    // Before the read: what is published after it is not missed.
    let _live = listen(gateway, &caller, &start, &outbox, wait).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut poll =
        Poll { gateway, caller, start, frames: Vec::new(), more: false, leave_after_ms: None };
    poll.pull(state.ticket, &state.is_complete).await?;
    if poll.frames.is_empty() && !wait.is_zero() {
        let happened = tokio::select! {
            taken = outbox.take() => Some(taken),
            () = tokio::time::sleep_until(deadline) => None,
        };
        match happened {
            Some(Taken::Items(items)) => poll.take_live(items),
            Some(Taken::End(Close::LoggedOut)) => {
                let detail = "This device was logged out. Log in again.";
                return Err(Refusal::new(Code::Unauthenticated, detail));
            }
            Some(Taken::End(_)) | None => {}
        }
        if poll.frames.is_empty() {
            // Live delivery may have lost something.
            poll.pull(state.ticket, &state.is_complete).await?;
        }
    }
    state.attendance.beat(gateway.elapsed());
    waiting.answered();
    let closes = poll.leave_after_ms.is_some() || gateway.sessions.sends_away();
    Ok((poll.into_answer(!state.is_complete.load(Ordering::Relaxed), wait), closes))
}

/// How long to wait: what was asked, and no longer than a connection may be silent.
fn wait(asked_ms: u64, settings: &Settings) -> Duration {
    let allowed_ms = settings.poll_wait_ms_max.min(settings.offline_after_ms * 5 / 6);
    Duration::from_millis(asked_ms.min(allowed_ms))
}

fn parse_rooms(asked: Option<&str>) -> Result<Vec<ConversationId>, Refusal> {
    let names = asked.unwrap_or("").split(',').filter(|name| !name.is_empty());
    let parsed = names.map(|name| {
        name.parse::<ConversationId>().map_err(|_| {
            let detail = "`room` must be ids of live rooms with commas between them.";
            Refusal::new(Code::InvalidField, detail)
        })
    });
    parsed.collect()
}

/// Adds rooms that the cursor does not have; they begin at their newest message.
async fn add_rooms(
    gateway: &Gateway,
    caller: &Caller,
    start: &mut Start,
    rooms: Vec<ConversationId>,
) -> Result<(), Refusal> {
    for room in rooms {
        if start.rooms.iter().any(|(held, _)| *held == room) {
            continue;
        }
        if start.rooms.len() == CURSOR_ROOMS_MAX {
            let detail = format!("At most {CURSOR_ROOMS_MAX} rooms can be received at once.");
            return Err(Refusal::new(Code::InvalidField, detail));
        }
        let head = gateway.parts.conversations.head(caller.user_id, room).await?;
        let newest = head.last_message.map_or(MessageId::ZERO, |message| message.message_id);
        start.rooms.push((room, newest));
    }
    Ok(())
}

/// Receives live while a long poll waits.
async fn listen(
    gateway: &Gateway,
    caller: &Caller,
    start: &Start,
    outbox: &Arc<Outbox>,
    wait: Duration,
) -> Result<Vec<Subscription>, Refusal> {
    let mut subscriptions = Vec::new();
    if wait.is_zero() {
        return Ok(subscriptions);
    }
    let rooms = start.rooms.iter().map(|(room, _)| Subject::Room(*room));
    for subject in [Subject::User(caller.user_id)].into_iter().chain(rooms) {
        let joined = gateway.parts.hub.join(subject, outbox.clone()).await;
        subscriptions.push(joined.map_err(|error| {
            tracing::warn!(%error, "subscribing for a long poll failed");
            let detail = "The server cannot receive messages at the moment. Ask again.";
            Refusal::new(Code::Internal, detail).retry_after(1_000)
        })?);
    }
    Ok(subscriptions)
}

/// One poll on its way to the answer.
struct Poll<'a> {
    gateway: &'a Arc<Gateway>,
    caller: Caller,
    start: Start,
    frames: Vec<ServerFrame>,
    more: bool,
    /// The client is asked to come back elsewhere, after this time.
    leave_after_ms: Option<u64>,
}

impl Poll<'_> {
    /// What the inbox and the rooms have above the cursor.
    async fn pull(
        &mut self,
        ticket: crate::watermark::Ticket,
        is_complete: &std::sync::atomic::AtomicBool,
    ) -> Result<(), Refusal> {
        let parts = &self.gateway.parts;
        let user = self.caller.user_id;
        // The watermark first, then the inbox.
        let safe = parts.watermarks.safe();
        let settled = parts.watermarks.settled(ticket);
        let pulled =
            pull::pull(&*parts.store, user, self.start.position, &self.start.extra, safe).await;
        let Pulled { frames, position, extra, more } = pulled.map_err(|error| {
            tracing::debug!(%error, "reading an inbox for a poll failed");
            let detail = "Messages cannot be read at the moment. Ask again with the same cursor.";
            Refusal::new(Code::StoreUnavailable, detail).retry_after(1_000)
        })?;
        self.frames.extend(frames);
        (self.start.position, self.start.extra, self.more) = (position, extra, more);
        if !more && settled.is_some_and(|settled| safe >= settled) {
            is_complete.store(true, Ordering::Relaxed);
        }
        for (room, position) in &mut self.start.rooms {
            let missed = pull::missed(&*parts.conversations, user, *room, *position).await;
            match missed {
                Ok((batch, newest)) => {
                    *position = newest;
                    self.frames.extend(batch.map(ServerFrame::Room));
                }
                // The position stays, so the next poll asks again.
                Err(refusal) => tracing::debug!(%room, %refusal, "reading a room failed"),
            }
        }
        Ok(())
    }

    /// What came while the poll waited.
    fn take_live(&mut self, items: VecDeque<Item>) {
        for item in items {
            let frame: Arc<Frame> = match item {
                Item::Live(frame) | Item::Read(frame) => frame,
                Item::Room { batch, skipped } => {
                    if let Some((_, position)) =
                        self.start.rooms.iter_mut().find(|(room, _)| *room == batch.room)
                    {
                        *position = batch.frame.id.max(*position);
                    }
                    batch.with_skipped(skipped)
                }
                Item::Reconnect(farewell) => {
                    self.leave_after_ms = Some(farewell.delay_ms);
                    continue;
                }
                Item::Cursor { .. } => continue,
            };
            let Ok(parsed) = Encoding::Json.read::<ServerFrame>(&frame.encoded(Encoding::Json))
            else {
                continue;
            };
            // Only a message frame says for sure all that its log entry does; others may come once more by the inbox.
            let stands_for_its_entry =
                frame.class == Class::Chat && matches!(parsed, ServerFrame::Message(_));
            if stands_for_its_entry && !pull::note_sent(&mut self.start, frame.id) {
                continue;
            }
            self.frames.push(parsed);
        }
    }

    fn into_answer(self, catching_up: bool, wait: Duration) -> Sync {
        let retry_after_ms = match self.leave_after_ms {
            Some(leave_after_ms) => leave_after_ms,
            None if self.more || !wait.is_zero() => 0,
            None => POLL_PAUSE_MS,
        };
        let cursor = Cursor {
            store_epoch: self.gateway.parts.store_epoch,
            safe: self.start.position,
            extra: self.start.extra,
            rooms: self.start.rooms,
            session: self.start.lineage,
        };
        Sync {
            outcome: self.start.outcome,
            session_id: self.start.lineage,
            frames: self.frames,
            cursor: cursor.encode(),
            catching_up,
            retry_after_ms,
        }
    }
}
