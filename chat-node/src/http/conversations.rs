//! Conversations: the list, making one, changing one.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{ConversationChange, ConversationHead, NewConversation, Page};
use chat_protocol::limits::GROUP_MEMBERS_MAX;
use chat_protocol::message::Conversation;
use chat_protocol::{Code, ConversationId, UserId};
use futures_util::future::try_join_all;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Json, Path, Query, rows};
use super::friends::refuse_if_blocked;
use super::problem::{Failure, refuse};
use super::{Api, State, field, users};
use crate::conversation::{Action, Command, Reply};

/// A page of conversations.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// `next` of the page before.
    after: Option<ConversationId>,
    /// Rows wanted, 200 at most.
    limit: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/conversations", tag = "conversations",
    summary = "The own conversations",
    security(("access_token" = [])),
    params(Paging),
    responses((status = 200, description = "A page, by id.", body = Page<ConversationHead>)),
)]
async fn list_conversations(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<ConversationHead>>, Failure> {
    let limit = rows(paging.limit)?;
    let mut items = api.conversations.list(caller.user_id, paging.after, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    let next = last.map(|head| head.conversation.conversation_id.to_string());
    Ok(axum::Json(Page { items, next }))
}

#[utoipa::path(
    post, path = "/v1/conversations", tag = "conversations",
    summary = "Makes a conversation",
    description = "Asking twice names the same conversation: a direct one by its two people, a group or room by `request_id`.",
    security(("access_token" = [])),
    request_body = NewConversation,
    responses(
        (status = 201, description = "Made now.", body = Conversation),
        (status = 200, description = "It was there.", body = Conversation),
    ),
)]
async fn create_conversation(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Json(body): Json<NewConversation>,
) -> Result<(StatusCode, axum::Json<Conversation>), Failure> {
    let caller = caller.user_id;
    let (id, name, members) = match body {
        NewConversation::Direct { user_id } if user_id == caller => {
            let detail = "`user_id` must be somebody else: nobody can chat with themselves.";
            return Err(refuse(Code::InvalidField, detail));
        }
        NewConversation::Direct { user_id } => {
            (ConversationId::direct(caller, user_id), None, vec![user_id])
        }
        NewConversation::Group { request_id, name, members } => {
            let name = field::name("name", &name)?;
            let members = others(members, caller)?;
            (ConversationId::group(caller, request_id), Some(name), members)
        }
        NewConversation::Room { request_id, name } => {
            let name = field::name("name", &name)?;
            (ConversationId::room(caller, request_id), Some(name), Vec::new())
        }
    };
    match api.conversations.head(caller, id).await {
        Ok(head) => return Ok((StatusCode::OK, axum::Json(head.conversation))),
        Err(refusal) if refusal.code == Code::NotFound => {}
        Err(refusal) => return Err(refusal.into()),
    }
    reachable(&api, caller, &members).await?;
    let made = command(&api, caller, id, Action::Create { name, members }).await?;
    Ok((StatusCode::CREATED, axum::Json(conversation(made)?)))
}

/// Other people than the caller, each once.
fn others(mut users: Vec<UserId>, caller: UserId) -> Result<Vec<UserId>, Failure> {
    users.sort_unstable();
    users.dedup();
    users.retain(|user| *user != caller);
    match users.len() < GROUP_MEMBERS_MAX {
        true => Ok(users),
        false => {
            let detail = format!("A group has at most {GROUP_MEMBERS_MAX} members.");
            Err(refuse(Code::GroupFull, detail))
        }
    }
}

/// Refuses people who do not exist, or who and the caller have blocked each other.
async fn reachable(api: &Api, caller: UserId, users: &[UserId]) -> Result<(), Failure> {
    if users.is_empty() {
        return Ok(());
    }
    let profiles = users::profiles(api, users).await?;
    if let Some(unknown) = users.iter().find(|user| !profiles.contains_key(user)) {
        return Err(refuse(Code::NotFound, format!("There is no user {unknown}.")));
    }
    // At most as many as a group has members.
    try_join_all(users.iter().map(|user| refuse_if_blocked(api, caller, *user))).await?;
    Ok(())
}

/// Hands a command to the conversation's owner.
pub(super) async fn command(
    api: &Api,
    caller: UserId,
    conversation_id: ConversationId,
    action: Action,
) -> Result<Reply, Failure> {
    let received_at = api.clock.now();
    let command = Command { conversation_id, caller, origin: None, received_at, action };
    Ok(api.conversations.command(command).await?)
}

/// The answer to a command that changes a conversation.
pub(super) fn conversation(reply: Reply) -> Result<Conversation, Failure> {
    match reply {
        Reply::Conversation(conversation) => Ok(conversation),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(reply: &Reply) -> Failure {
    let kind = match reply {
        Reply::Sent(_) => "sent",
        Reply::Changed(_) => "changed",
        Reply::Conversation(_) => "conversation",
        Reply::Done => "done",
        Reply::Tail(_) | Reply::TailWithGaps(_) => "tail",
    };
    Failure::internal(format!("an owner answered with an unexpected `{kind}`"))
}

#[utoipa::path(
    get, path = "/v1/conversations/{conversation_id}", tag = "conversations",
    summary = "A conversation",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    responses((status = 200, description = "With its newest message and the own read mark.", body = ConversationHead)),
)]
async fn get_conversation(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
) -> Result<axum::Json<ConversationHead>, Failure> {
    Ok(axum::Json(api.conversations.head(caller.user_id, id).await?))
}

#[utoipa::path(
    patch, path = "/v1/conversations/{conversation_id}", tag = "conversations",
    summary = "Changes the name or picture of a group or room",
    security(("access_token" = [])),
    params(("conversation_id" = ConversationId, Path)),
    request_body = ConversationChange,
    responses((status = 200, description = "As it is now.", body = Conversation)),
)]
async fn change_conversation(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(id): Path<ConversationId>,
    Json(body): Json<ConversationChange>,
) -> Result<axum::Json<Conversation>, Failure> {
    let name = body.name.map(|text| field::name("name", &text)).transpose()?;
    let picture = body.picture.map(|text| field::picture(&text)).transpose()?;
    let changed = command(&api, caller.user_id, id, Action::Change { name, picture }).await?;
    Ok(axum::Json(conversation(changed)?))
}

/// Checks the people that someone wants to invite.
pub(super) async fn invitees(
    api: &Api,
    caller: UserId,
    users: Vec<UserId>,
) -> Result<Vec<UserId>, Failure> {
    let users = others(users, caller)?;
    if users.is_empty() {
        return Err(refuse(Code::InvalidField, "`user_ids` must name somebody else."));
    }
    reachable(api, caller, &users).await?;
    Ok(users)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list_conversations, create_conversation))
        .routes(routes!(get_conversation, change_conversation))
}
