//! Friends: asking, accepting, refusing, ending.

use axum::extract::State as Shared;
use chat_protocol::api::{Friend, Page};
use chat_protocol::frame::{FriendChanged, Friendship, ServerFrame};
use chat_protocol::{Code, UserId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Path, Query, rows};
use super::problem::{Failure, refuse};
use super::{Api, State, users};

/// A page of friends.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// `next` of the page before.
    after: Option<UserId>,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/friends", tag = "friends",
    summary = "Friends and requests",
    security(("access_token" = [])),
    params(Paging),
    responses((status = 200, description = "A page, by user id.", body = Page<Friend>)),
)]
async fn list_friends(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<Friend>>, Failure> {
    let limit = rows(paging.limit)?;
    let mut found = api.store.friends(caller.user_id, paging.after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|row| row.user_id.to_string());
    let ids: Vec<UserId> = found.iter().map(|row| row.user_id).collect();
    let mut profiles = users::profiles(&api, &ids).await?;
    let items = found
        .into_iter()
        .filter_map(|row| {
            let profile = profiles.remove(&row.user_id)?;
            Some(Friend { profile, friendship: row.friendship, since: row.since })
        })
        .collect();
    Ok(axum::Json(Page { items, next }))
}

/// What asking for a friendship leads to.
fn asked(now: Friendship) -> Friendship {
    match now {
        Friendship::None | Friendship::Requested => Friendship::Requested,
        Friendship::Received | Friendship::Friends => Friendship::Friends,
    }
}

/// The same, seen from the other side.
fn mirrored(friendship: Friendship) -> Friendship {
    match friendship {
        Friendship::Requested => Friendship::Received,
        Friendship::Received => Friendship::Requested,
        same => same,
    }
}

/// Steps of a friendship that may come in between before this one gives up.
const ATTEMPTS: usize = 8;

/// Takes a friendship one step, whatever the other side does at the same time, and tells both. Returns how they stand.
pub(super) async fn step(
    api: &Api,
    user: UserId,
    other: UserId,
    decide: fn(Friendship) -> Friendship,
) -> Result<Friendship, Failure> {
    let mut now = api.store.friendship(user, other).await?;
    for _ in 0..ATTEMPTS {
        let wanted = decide(now);
        if wanted == now {
            return Ok(now);
        }
        let moment = api.clock.now();
        let found = api.store.set_friendship(user, other, now, wanted, moment).await?;
        if found == wanted {
            let changed =
                |user_id, friendship| ServerFrame::Friend(FriendChanged { user_id, friendship });
            api.tell(user, &changed(other, wanted));
            api.tell(other, &changed(user, mirrored(wanted)));
            return Ok(wanted);
        }
        now = found;
    }
    let detail = "The other side is changing this friendship at the same time. Load it again.";
    Err(refuse(Code::Conflict, detail))
}

#[utoipa::path(
    put, path = "/v1/friends/{user_id}", tag = "friends",
    summary = "Asks for a friendship, or accepts",
    description = "Asking again changes nothing. If the other person has asked, both are friends from now on.",
    security(("access_token" = [])),
    params(("user_id" = UserId, Path)),
    responses((status = 200, description = "How the two stand now.", body = FriendChanged)),
)]
async fn ask(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(user_id): Path<UserId>,
) -> Result<axum::Json<FriendChanged>, Failure> {
    if user_id == caller.user_id {
        return Err(refuse(Code::InvalidField, "Nobody can be their own friend."));
    }
    users::existing(&api, user_id).await?;
    refuse_if_blocked(&api, caller.user_id, user_id).await?;
    let friendship = step(&api, caller.user_id, user_id, asked).await?;
    // A block that came in between has already ended what there was then.
    if let Err(blocked) = refuse_if_blocked(&api, caller.user_id, user_id).await {
        step(&api, caller.user_id, user_id, |_| Friendship::None).await?;
        return Err(blocked);
    }
    Ok(axum::Json(FriendChanged { user_id, friendship }))
}

#[utoipa::path(
    delete, path = "/v1/friends/{user_id}", tag = "friends",
    summary = "Refuses or cancels a request, or ends a friendship",
    security(("access_token" = [])),
    params(("user_id" = UserId, Path)),
    responses((status = 200, description = "How the two stand now.", body = FriendChanged)),
)]
async fn end(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(user_id): Path<UserId>,
) -> Result<axum::Json<FriendChanged>, Failure> {
    let friendship = step(&api, caller.user_id, user_id, |_| Friendship::None).await?;
    Ok(axum::Json(FriendChanged { user_id, friendship }))
}

/// Refuses what two people cannot do while one of them has blocked the other.
pub(super) async fn refuse_if_blocked(
    api: &Api,
    user: UserId,
    other: UserId,
) -> Result<(), Failure> {
    match api.store.is_blocked(user, other).await? {
        true => Err(refuse(Code::Blocked, format!("You and the user {other} are not in contact."))),
        false => Ok(()),
    }
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(list_friends)).routes(routes!(ask, end))
}
