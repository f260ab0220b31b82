//! The block list.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{Page, Profile};
use chat_protocol::frame::{AccountPart, Friendship};
use chat_protocol::{Code, UserId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Path, Query, rows};
use super::problem::{Failure, refuse};
use super::{State, friends, users};

/// People that one person may block: each list is read as a whole.
const BLOCKS_MAX: usize = 2_000;

/// A page of the block list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// `next` of the page before.
    after: Option<UserId>,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/blocks", tag = "friends",
    summary = "Whom the caller has blocked",
    security(("access_token" = [])),
    params(Paging),
    responses((status = 200, description = "A page, by user id.", body = Page<Profile>)),
)]
async fn list_blocks(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<Profile>>, Failure> {
    let limit = rows(paging.limit)?;
    let mut ids = api.store.blocks(caller.user_id).await?;
    ids.retain(|id| paging.after.is_none_or(|after| *id > after));
    ids.sort_unstable();
    let more = ids.len() > limit;
    ids.truncate(limit);
    let next = ids.last().filter(|_| more).map(UserId::to_string);
    let mut profiles = users::profiles(&api, &ids).await?;
    let items = ids.iter().filter_map(|id| profiles.remove(id)).collect();
    Ok(axum::Json(Page { items, next }))
}

#[utoipa::path(
    put, path = "/v1/blocks/{user_id}", tag = "friends",
    summary = "Blocks a person",
    description = "Ends a friendship or request. Neither can write to the other directly, or invite them, until it ends.",
    security(("access_token" = [])),
    params(("user_id" = UserId, Path)),
    responses((status = 204, description = "Blocked.")),
)]
async fn block(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(user_id): Path<UserId>,
) -> Result<StatusCode, Failure> {
    if user_id == caller.user_id {
        return Err(refuse(Code::InvalidField, "Nobody can block themselves."));
    }
    users::existing(&api, user_id).await?;
    let blocks = api.store.blocks(caller.user_id).await?;
    if blocks.len() >= BLOCKS_MAX && !blocks.contains(&user_id) {
        let detail = format!("The block list has its {BLOCKS_MAX} people. Remove one first.");
        return Err(refuse(Code::Conflict, detail));
    }
    api.store.set_block(caller.user_id, user_id, true).await?;
    friends::step(&api, caller.user_id, user_id, |_| Friendship::None).await?;
    api.tell_account(caller.user_id, AccountPart::Blocks);
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    delete, path = "/v1/blocks/{user_id}", tag = "friends",
    summary = "Ends a block",
    security(("access_token" = [])),
    params(("user_id" = UserId, Path)),
    responses((status = 204, description = "Not blocked by the caller any more.")),
)]
async fn unblock(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(user_id): Path<UserId>,
) -> Result<StatusCode, Failure> {
    api.store.set_block(caller.user_id, user_id, false).await?;
    api.tell_account(caller.user_id, AccountPart::Blocks);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(list_blocks)).routes(routes!(block, unblock))
}
