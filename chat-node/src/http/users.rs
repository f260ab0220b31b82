//! Other people.

use std::collections::HashMap;

use axum::extract::State as Shared;
use chat_protocol::api::{Page, Profile};
use chat_protocol::limits::PAGE_ROWS_MAX;
use chat_protocol::{Code, UserId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Path, Query, rows};
use super::problem::{Failure, refuse};
use super::{Api, State, field};

/// A search for people.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Search {
    /// The beginning of a handle.
    handle: String,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/users", tag = "users",
    summary = "Finds people by the beginning of their handle",
    security(("access_token" = [])),
    params(Search),
    responses((status = 200, description = "People, by handle.", body = Page<Profile>)),
)]
async fn find_users(
    Shared(api): Shared<State>,
    _caller: Authenticated,
    Query(search): Query<Search>,
) -> Result<axum::Json<Page<Profile>>, Failure> {
    let prefix = field::handle_prefix(&search.handle)?;
    let items = api.store.search_handles(&prefix, rows(search.limit)?).await?;
    Ok(axum::Json(Page { items, next: None }))
}

#[utoipa::path(
    get, path = "/v1/users/{user_id}", tag = "users",
    summary = "A person",
    security(("access_token" = [])),
    params(("user_id" = UserId, Path)),
    responses((status = 200, description = "Their profile.", body = Profile)),
)]
async fn get_user(
    Shared(api): Shared<State>,
    _caller: Authenticated,
    Path(user_id): Path<UserId>,
) -> Result<axum::Json<Profile>, Failure> {
    existing(&api, user_id).await.map(axum::Json)
}

/// The profile of somebody who must exist.
pub(super) async fn existing(api: &Api, user_id: UserId) -> Result<Profile, Failure> {
    let found = api.store.profiles(vec![user_id]).await?.into_iter().next();
    found.ok_or_else(|| refuse(Code::NotFound, format!("There is no user {user_id}.")))
}

/// Profiles by id, asked for a page at a time.
pub(super) async fn profiles(
    api: &Api,
    users: &[UserId],
) -> Result<HashMap<UserId, Profile>, Failure> {
    let mut found = HashMap::with_capacity(users.len());
    for page in users.chunks(PAGE_ROWS_MAX) {
        let profiles = api.store.profiles(page.to_vec()).await?;
        found.extend(profiles.into_iter().map(|profile| (profile.user_id, profile)));
    }
    Ok(found)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(find_users)).routes(routes!(get_user))
}
