//! Members of groups and rooms.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{Invite, RoleChange};
use chat_protocol::message::Conversation;
use chat_protocol::{ConversationId, UserId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::conversations::{command, conversation, invitees};
use super::extract::{Authenticated, Json, Path};
use super::problem::Failure;
use crate::conversation::Action;

#[utoipa::path(
    post, path = "/v1/conversations/{conversation_id}/members", tag = "conversations",
    summary = "Invites people",
    description = "Those who are members already are passed over.",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = Invite,
    responses((status = 200, description = "The conversation as it is now.", body = Conversation)),
)]
async fn invite(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Json(body): Json<Invite>,
) -> Result<axum::Json<Conversation>, Failure> {
    // Asked first, so that a stranger to the group learns nothing about other people.
    api.conversations.head(caller.user_id, id).await?;
    let user_ids = invitees(&api, caller.user_id, body.user_ids).await?;
    let changed = command(&api, caller.user_id, id, Action::Invite { user_ids }).await?;
    Ok(axum::Json(conversation(changed)?))
}

#[utoipa::path(
    patch, path = "/v1/conversations/{conversation_id}/members/{user_id}", tag = "conversations",
    summary = "Changes a member's role",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path), ("user_id" = UserId, Path)),
    request_body = RoleChange,
    responses((status = 200, description = "The conversation as it is now.", body = Conversation)),
)]
async fn change_role(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, user_id)): Path<(ConversationId, UserId)>,
    Json(body): Json<RoleChange>,
) -> Result<axum::Json<Conversation>, Failure> {
    let action = Action::SetRole { user_id, role: body.role };
    let changed = command(&api, caller.user_id, id, action).await?;
    Ok(axum::Json(conversation(changed)?))
}

#[utoipa::path(
    delete, path = "/v1/conversations/{conversation_id}/members/{user_id}", tag = "conversations",
    summary = "Removes a member; oneself: leaves",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path), ("user_id" = UserId, Path)),
    responses((status = 204, description = "Not a member any more.")),
)]
async fn remove_member(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, user_id)): Path<(ConversationId, UserId)>,
) -> Result<StatusCode, Failure> {
    command(&api, caller.user_id, id, Action::Remove { user_id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(invite)).routes(routes!(change_role, remove_member))
}
