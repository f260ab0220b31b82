//! Messages: history, sending, changing; marks and typing.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{
    Changed, History, MessageChange, NewMessage, Position, Sent, TypingState,
};
use chat_protocol::limits::REACTION_BYTES_MAX;
use chat_protocol::{Code, ConversationId, MessageId, UserId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::conversations::{command, unexpected};
use super::extract::{Authenticated, Json, MessageJson, Path, Query, rows};
use super::problem::{Failure, refuse};
use super::{Api, State};
use crate::conversation::command::Draft;
use crate::conversation::{Action, Reply};
use crate::session::request::compact;

/// A page of history: from the newest backwards, or from `after` forwards.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// Messages below this id, newest first. Neither this nor `after`: from the newest.
    before: Option<MessageId>,
    /// Messages above this id, oldest first.
    after: Option<MessageId>,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/conversations/{conversation_id}/messages", tag = "messages",
    summary = "History",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path), Paging),
    responses((status = 200, description = "A page.", body = History)),
)]
async fn get_history(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Query(Paging { before, after, limit }): Query<Paging>,
) -> Result<axum::Json<History>, Failure> {
    let limit = rows(limit)?;
    let page = match (before, after) {
        (Some(_), Some(_)) => {
            let detail = "Give `before` or `after`, not both.";
            return Err(refuse(Code::InvalidField, detail));
        }
        (before, None) => {
            api.conversations.history_before(caller.user_id, id, before, limit).await?
        }
        (None, Some(after)) => {
            api.conversations.history_after(caller.user_id, id, after, limit).await?
        }
    };
    Ok(axum::Json(page))
}

#[utoipa::path(
    post, path = "/v1/conversations/{conversation_id}/messages", tag = "messages",
    summary = "Sends a message",
    description = "A repeat with the same `client_message_id` and `retry` set gets the first answer again, for 7 days.",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = NewMessage,
    responses((status = 201, description = "Committed.", body = Sent)),
)]
async fn send(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    MessageJson(body): MessageJson<NewMessage>,
) -> Result<(StatusCode, axum::Json<Sent>), Failure> {
    let NewMessage { client_message_id, retry, kind, body, reply_to, mentions } = body;
    let body = compact(body);
    let draft = Draft { client_message_id, retry, kind, body, reply_to, mentions };
    match command(&api, caller.user_id, id, Action::Send(draft)).await? {
        Reply::Sent(sent) => Ok((StatusCode::CREATED, axum::Json(sent))),
        other => Err(unexpected(&other)),
    }
}

#[utoipa::path(
    patch, path = "/v1/conversations/{conversation_id}/messages/{message_id}", tag = "messages",
    summary = "Edits an own message",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path), ("message_id" = MessageId, Path)),
    request_body = MessageChange,
    responses((status = 200, description = "Committed.", body = Changed)),
)]
async fn edit(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, message_id)): Path<(ConversationId, MessageId)>,
    MessageJson(MessageChange { body, mentions }): MessageJson<MessageChange>,
) -> Result<axum::Json<Changed>, Failure> {
    let action = Action::Edit { message_id, body: compact(body), mentions };
    change(&api, caller.user_id, id, action).await
}

#[utoipa::path(
    delete, path = "/v1/conversations/{conversation_id}/messages/{message_id}", tag = "messages",
    summary = "Deletes a message for everyone",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path), ("message_id" = MessageId, Path)),
    responses((status = 200, description = "Committed.", body = Changed)),
)]
async fn delete(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, message_id)): Path<(ConversationId, MessageId)>,
) -> Result<axum::Json<Changed>, Failure> {
    change(&api, caller.user_id, id, Action::Delete { message_id }).await
}

#[utoipa::path(
    put, path = "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}", tag = "messages",
    summary = "Reacts to a message",
    security(("access_token" = [])),
    params(
        ("conversation_id" = ConversationId, Path), ("message_id" = MessageId, Path),
        ("emoji" = String, Path, description = "The emoji, percent-encoded, at most 64 bytes.")
    ),
    responses((status = 200, description = "Committed.", body = Changed)),
)]
async fn react(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, message_id, emoji)): Path<(ConversationId, MessageId, String)>,
) -> Result<axum::Json<Changed>, Failure> {
    let emoji = reaction(emoji)?;
    change(&api, caller.user_id, id, Action::React { message_id, emoji, remove: false }).await
}

#[utoipa::path(
    delete, path = "/v1/conversations/{conversation_id}/messages/{message_id}/reactions/{emoji}", tag = "messages",
    summary = "Takes a reaction back",
    security(("access_token" = [])),
    params(
        ("conversation_id" = ConversationId, Path), ("message_id" = MessageId, Path),
        ("emoji" = String, Path, description = "The emoji, percent-encoded, at most 64 bytes.")
    ),
    responses((status = 200, description = "Committed.", body = Changed)),
)]
async fn take_reaction_back(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path((id, message_id, emoji)): Path<(ConversationId, MessageId, String)>,
) -> Result<axum::Json<Changed>, Failure> {
    let emoji = reaction(emoji)?;
    change(&api, caller.user_id, id, Action::React { message_id, emoji, remove: true }).await
}

fn reaction(emoji: String) -> Result<String, Failure> {
    let plain = emoji.chars().all(|c| !c.is_control() && !c.is_whitespace());
    match (1..=REACTION_BYTES_MAX).contains(&emoji.len()) && plain {
        true => Ok(emoji),
        false => Err(refuse(
            Code::InvalidField,
            format!("`emoji` must be one emoji of at most {REACTION_BYTES_MAX} bytes."),
        )),
    }
}

async fn change(
    api: &Api,
    caller: UserId,
    id: ConversationId,
    action: Action,
) -> Result<axum::Json<Changed>, Failure> {
    match command(api, caller, id, action).await? {
        Reply::Changed(changed) => Ok(axum::Json(changed)),
        other => Err(unexpected(&other)),
    }
}

#[utoipa::path(
    put, path = "/v1/conversations/{conversation_id}/read", tag = "messages",
    summary = "Has read everything up to a message",
    description = "A mark never goes back.",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = Position,
    responses((status = 204, description = "Noted.")),
)]
async fn mark_read(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Json(Position { seq }): Json<Position>,
) -> Result<StatusCode, Failure> {
    command(&api, caller.user_id, id, Action::Read { seq }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    put, path = "/v1/conversations/{conversation_id}/delivered", tag = "messages",
    summary = "Everything up to a message has reached this device",
    description = "A mark never goes back.",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = Position,
    responses((status = 204, description = "Noted.")),
)]
async fn mark_delivered(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Json(Position { seq }): Json<Position>,
) -> Result<StatusCode, Failure> {
    command(&api, caller.user_id, id, Action::Delivered { seq }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    post, path = "/v1/conversations/{conversation_id}/typing", tag = "messages",
    summary = "Is typing, or has stopped",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = TypingState,
    responses((status = 204, description = "Passed on.")),
)]
async fn set_typing(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Json(TypingState { active }): Json<TypingState>,
) -> Result<StatusCode, Failure> {
    command(&api, caller.user_id, id, Action::Typing { active }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(get_history, send))
        .routes(routes!(edit, delete))
        .routes(routes!(react, take_reaction_back))
        .routes(routes!(mark_read))
        .routes(routes!(mark_delivered))
        .routes(routes!(set_typing))
}
