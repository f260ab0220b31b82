//! The own profile, password and settings.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{ChangePassword, Profile, ProfileChange, Settings};
use chat_protocol::frame::AccountPart;
use chat_protocol::limits::{SETTINGS_BYTES_MAX, STATUS_CHARS_MAX};
use chat_protocol::{Code, UserId};
use chat_store::Account;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Json};
use super::problem::{Failure, refuse};
use super::{Api, State, field};

async fn own_account(api: &Api, user_id: UserId) -> Result<Account, Failure> {
    api.store.account(user_id).await?.ok_or_else(gone)
}

fn gone() -> Failure {
    refuse(Code::NotFound, "This account does not exist any more.")
}

#[utoipa::path(
    get, path = "/v1/me", tag = "me",
    summary = "The own profile",
    security(("access_token" = [])),
    responses((status = 200, description = "The profile.", body = Profile)),
)]
async fn get_me(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<axum::Json<Profile>, Failure> {
    Ok(axum::Json(own_account(&api, caller.user_id).await?.profile))
}

#[utoipa::path(
    patch, path = "/v1/me", tag = "me",
    summary = "Changes the own profile",
    security(("access_token" = [])),
    request_body = ProfileChange,
    responses((status = 200, description = "The profile as it is now.", body = Profile)),
)]
async fn change_me(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Json(body): Json<ProfileChange>,
) -> Result<axum::Json<Profile>, Failure> {
    let change = ProfileChange {
        name: body.name.map(|text| field::name("name", &text)).transpose()?,
        picture: body.picture.map(|text| field::picture(&text)).transpose()?,
        status: body
            .status
            .map(|text| field::line("status", &text, STATUS_CHARS_MAX))
            .transpose()?,
    };
    let profile = api.store.change_profile(caller.user_id, change).await?.ok_or_else(gone)?;
    api.tell_account(caller.user_id, AccountPart::Profile);
    Ok(axum::Json(profile))
}

#[utoipa::path(
    put, path = "/v1/me/password", tag = "me",
    summary = "Changes the password",
    description = "Every other device is logged out.",
    security(("access_token" = [])),
    request_body = ChangePassword,
    responses((status = 204, description = "The new password is in force.")),
)]
async fn change_password(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Json(body): Json<ChangePassword>,
) -> Result<StatusCode, Failure> {
    let old = field::password("old_password", body.old_password)?;
    let new = field::new_password("new_password", body.new_password)?;
    let account = own_account(&api, caller.user_id).await?;
    // A stolen access token must not be a way to try passwords.
    api.limiter.login_of(&account.profile.handle, api.clock.elapsed())?;
    if !api.auth.passwords().verify(old, Some(account.password_hash)).await? {
        return Err(refuse(Code::WrongCredentials, "The old password is wrong."));
    }
    let hash = api.auth.passwords().hash(new).await?;
    api.store.change_password(caller.user_id, hash).await?;
    for row in api.store.devices(caller.user_id).await? {
        if row.device.device_id != caller.device_id {
            api.log_out(caller.user_id, row.device.device_id).await?;
        }
    }
    api.tell_account(caller.user_id, AccountPart::Devices);
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    get, path = "/v1/me/settings", tag = "me",
    summary = "The settings that all own devices share",
    security(("access_token" = [])),
    responses((status = 200, description = "The settings; empty if never set.", body = Settings)),
)]
async fn get_settings(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<axum::Json<Settings>, Failure> {
    let settings = match api.store.settings(caller.user_id).await? {
        Some(json) => serde_json::from_str(&json)
            .map_err(|e| Failure::internal(format!("stored settings are unreadable: {e}")))?,
        None => serde_json::Map::new(),
    };
    Ok(axum::Json(Settings { settings }))
}

#[utoipa::path(
    put, path = "/v1/me/settings", tag = "me",
    summary = "Replaces the settings",
    security(("access_token" = [])),
    request_body = Settings,
    responses((status = 200, description = "The settings as they are now.", body = Settings)),
)]
async fn put_settings(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Json(body): Json<Settings>,
) -> Result<axum::Json<Settings>, Failure> {
    let json = serde_json::to_string(&body.settings)
        .map_err(|e| Failure::internal(format!("settings do not serialise: {e}")))?;
    if json.len() > SETTINGS_BYTES_MAX {
        let detail = format!("The settings are over the limit of {SETTINGS_BYTES_MAX} bytes.");
        return Err(refuse(Code::TooLarge, detail));
    }
    api.store.put_settings(caller.user_id, json).await?;
    api.tell_account(caller.user_id, AccountPart::Settings);
    Ok(axum::Json(body))
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(get_me, change_me))
        .routes(routes!(change_password))
        .routes(routes!(get_settings, put_settings))
}
