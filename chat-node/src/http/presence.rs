//! Presence of all friends.

use axum::extract::State as Shared;
use chat_protocol::api::Presences;
use chat_protocol::frame::Friendship;
use chat_protocol::limits::PAGE_ROWS_MAX;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::extract::Authenticated;
use super::problem::Failure;

#[utoipa::path(
    get, path = "/v1/presence", tag = "friends",
    summary = "Who of the friends is online",
    security(("access_token" = [])),
    responses((status = 200, description = "One entry per friend.", body = Presences)),
)]
async fn get_presence(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<axum::Json<Presences>, Failure> {
    let mut users = Vec::new();
    let mut after = None;
    loop {
        let page = api.store.friends(caller.user_id, after, PAGE_ROWS_MAX).await?;
        let full = page.len() == PAGE_ROWS_MAX;
        after = page.last().map(|row| row.user_id);
        let friends = page.into_iter().filter(|row| row.friendship == Friendship::Friends);
        let ids: Vec<_> = friends.map(|row| row.user_id).collect();
        if !ids.is_empty() {
            users.extend(api.presences.snapshot(ids).await?);
        }
        if !full {
            return Ok(axum::Json(Presences { users }));
        }
    }
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(get_presence))
}
