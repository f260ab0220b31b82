//! The list of live rooms.

use std::fmt;
use std::str::FromStr;

use axum::extract::State as Shared;
use chat_protocol::api::Page;
use chat_protocol::message::Conversation;
use chat_protocol::{Code, ConversationId, MessageId, Millis};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::extract::{Authenticated, Query, rows};
use super::problem::{Failure, refuse};

/// A page of rooms.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// `next` of the page before.
    after: Option<String>,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

/// Where a page of rooms ended. Several rooms may have been made in one millisecond, so the last one is named.
#[derive(Debug, PartialEq, Eq)]
struct PageEnd {
    created_at: Millis,
    room: ConversationId,
}

impl fmt::Display for PageEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at.0, self.room)
    }
}

impl FromStr for PageEnd {
    type Err = Failure;

    fn from_str(text: &str) -> Result<PageEnd, Failure> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(time, room)| Some((time.parse().ok()?, room.parse().ok()?)));
        let (created_at, room) = parsed.ok_or_else(|| {
            refuse(Code::InvalidField, "`after` must be the `next` of the page before.")
        })?;
        Ok(PageEnd { created_at: Millis(created_at), room })
    }
}

/// Rooms made within one millisecond that a page may have to look past.
const SAME_MOMENT_MAX: usize = 64;

#[utoipa::path(
    get, path = "/v1/rooms", tag = "rooms",
    summary = "Live rooms, newest first",
    security(("access_token" = [])),
    params(Paging),
    responses((status = 200, description = "A page.", body = Page<Conversation>)),
)]
async fn list_rooms(
    Shared(api): Shared<State>,
    _caller: Authenticated,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<Conversation>>, Failure> {
    let limit = rows(paging.limit)?;
    let end: Option<PageEnd> = paging.after.as_deref().map(str::parse).transpose()?;
    // Just above everything made in that millisecond; what the page before showed of it is skipped below.
    let before = end.as_ref().map(|end| MessageId(MessageId::last_of(end.created_at).0 + 1));
    let wanted = limit + 1 + end.as_ref().map_or(0, |_| SAME_MOMENT_MAX);
    let found = api.conversations.rooms(before, wanted).await?;
    let mut items = after(found, end.as_ref());
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    let next = last.map(|room| {
        PageEnd { created_at: room.created_at, room: room.conversation_id }.to_string()
    });
    Ok(axum::Json(Page { items, next }))
}

/// The rooms behind the end of the page before.
fn after(rooms: Vec<Conversation>, end: Option<&PageEnd>) -> Vec<Conversation> {
    let Some(end) = end else {
        return rooms;
    };
    let shown = rooms.iter().position(|room| room.conversation_id == end.room);
    let skipped = shown.map_or(0, |position| position + 1);
    rooms.into_iter().skip(skipped).collect()
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(list_rooms))
}

#[cfg(test)]
mod tests {
    use chat_protocol::UserId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_end_of_a_page_survives_its_text_and_other_texts_are_refused() {
        let room = ConversationId::room(UserId::random(), Uuid::new_v4());
        let end = PageEnd { created_at: Millis(1_800_000_000_000), room };
        assert_eq!(end.to_string().parse::<PageEnd>().unwrap(), end);
        for bad in ["", "1", "1.", ".x", "1.x", "-1.r_AAAAAAAAAAAAAAAAAAAA"] {
            assert!(bad.parse::<PageEnd>().is_err(), "{bad}");
        }
    }
}
