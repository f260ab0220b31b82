//! Login, refresh, logout.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{LogIn, Refresh, Tokens};
use chat_protocol::error::Refusal;
use chat_protocol::frame::AccountPart;
use chat_protocol::{Code, UserId};
use chat_store::RefreshOutcome;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts::{device_name, new_device};
use super::extract::{Authenticated, ClientAddress, Json};
use super::problem::{Failure, refuse};
use super::{Api, State, field};
use crate::auth::RefreshToken;

/// Devices of one account. A login beyond it logs the longest unused one out.
const DEVICES_MAX: usize = 100;

#[utoipa::path(
    post, path = "/v1/sessions", tag = "sessions",
    summary = "Logs in on a new device",
    request_body = LogIn,
    responses((status = 201, description = "Tokens of the new device.", body = Tokens)),
)]
async fn log_in(
    Shared(api): Shared<State>,
    ClientAddress(from): ClientAddress,
    Json(body): Json<LogIn>,
) -> Result<(StatusCode, axum::Json<Tokens>), Failure> {
    let password = field::password("password", body.password)?;
    let device_name = device_name(body.device_name)?;
    api.limiter.login_from(from, api.clock.elapsed())?;
    // A text that is no handle is treated as one that nobody has.
    let account = match field::handle(&body.handle) {
        Ok(handle) => {
            api.limiter.login_of(&handle, api.clock.elapsed())?;
            api.store.account_by_handle(&handle).await?
        }
        Err(_) => None,
    };
    let hash = account.as_ref().map(|account| account.password_hash.clone());
    let right = api.auth.passwords().verify(password, hash).await?;
    let Some(account) = account.filter(|_| right) else {
        let detail = "Handle or password is wrong. Check both and try again.";
        return Err(refuse(Code::WrongCredentials, detail));
    };
    let user_id = account.profile.user_id;
    make_room(&api, user_id).await?;
    let (device, tokens) = new_device(&api, user_id, device_name)?;
    api.store.add_device(device).await?;
    api.tell_account(user_id, AccountPart::Devices);
    Ok((StatusCode::CREATED, axum::Json(tokens)))
}

async fn make_room(api: &Api, user_id: UserId) -> Result<(), Failure> {
    let mut devices = api.store.devices(user_id).await?;
    devices.sort_by_key(|row| row.device.last_seen_at);
    let surplus = (devices.len() + 1).saturating_sub(DEVICES_MAX);
    for row in &devices[..surplus] {
        api.log_out(user_id, row.device.device_id).await?;
    }
    Ok(())
}

#[utoipa::path(
    post, path = "/v1/sessions/refresh", tag = "sessions",
    summary = "Exchanges a refresh token",
    description = "Each refresh token works once. If one is used again, its device is logged out: somebody may have a copy.",
    request_body = Refresh,
    responses((status = 200, description = "New tokens of the same device.", body = Tokens)),
)]
async fn refresh(
    Shared(api): Shared<State>,
    ClientAddress(from): ClientAddress,
    Json(body): Json<Refresh>,
) -> Result<axum::Json<Tokens>, Failure> {
    api.limiter.login_from(from, api.clock.elapsed())?;
    let old = RefreshToken::parse(&body.refresh_token).ok_or_else(ended)?;
    let (user_id, device_id) = (old.user_id, old.device_id);
    let new = api.auth.new_session(user_id, device_id)?;
    let rotated = api.store.rotate_refresh(
        user_id,
        device_id,
        old.digest(),
        new.refresh_digest,
        api.clock.now(),
        new.refresh_expires_at,
    );
    match rotated.await? {
        RefreshOutcome::Rotated => Ok(axum::Json(new.tokens)),
        RefreshOutcome::Gone => Err(ended().into()),
        RefreshOutcome::Reused => {
            tracing::debug!(%user_id, %device_id, "a refresh token was used again");
            api.log_out(user_id, device_id).await?;
            api.tell_account(user_id, AccountPart::Devices);
            let detail =
                "The refresh token was used before, so this device was logged out. Log in again.";
            Err(refuse(Code::Unauthenticated, detail))
        }
    }
}

fn ended() -> Refusal {
    let detail = "The refresh token is not valid or has expired. Log in again.";
    Refusal::new(Code::Unauthenticated, detail)
}

#[utoipa::path(
    delete, path = "/v1/sessions/current", tag = "sessions",
    summary = "Logs this device out",
    security(("access_token" = [])),
    responses((status = 204, description = "Its tokens are void and its connections closed.")),
)]
async fn log_out(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<StatusCode, Failure> {
    api.log_out(caller.user_id, caller.device_id).await?;
    api.tell_account(caller.user_id, AccountPart::Devices);
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    delete, path = "/v1/sessions", tag = "sessions",
    summary = "Logs all devices out",
    security(("access_token" = [])),
    responses((status = 204, description = "All tokens are void and all connections closed.")),
)]
async fn log_out_everywhere(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<StatusCode, Failure> {
    for row in api.store.devices(caller.user_id).await? {
        api.log_out(caller.user_id, row.device.device_id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(log_in, log_out_everywhere))
        .routes(routes!(refresh))
        .routes(routes!(log_out))
}
