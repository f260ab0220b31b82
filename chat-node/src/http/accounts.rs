//! Sign-up.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{Device, Profile, SignUp, Tokens};
use chat_protocol::{Code, DeviceId, UserId};
use chat_store::{Account, DeviceRow};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{ClientAddress, Json};
use super::problem::{Failure, refuse};
use super::{Api, State, field};

/// Name of a device that did not give one.
const DEVICE_NAME: &str = "Unnamed device";

#[utoipa::path(
    post, path = "/v1/accounts", tag = "accounts",
    summary = "Signs up",
    request_body = SignUp,
    responses((status = 201, description = "The account, logged in on this device.", body = Tokens)),
)]
async fn sign_up(
    Shared(api): Shared<State>,
    ClientAddress(from): ClientAddress,
    Json(body): Json<SignUp>,
) -> Result<(StatusCode, axum::Json<Tokens>), Failure> {
    let handle = field::handle(&body.handle)?;
    let password = field::new_password("password", body.password)?;
    let name = body.name.map_or_else(|| Ok(handle.clone()), |name| field::name("name", &name))?;
    let device_name = device_name(body.device_name)?;
    api.limiter.sign_up_from(from, api.clock.elapsed())?;
    // Spares the work of hashing; who decides is the store, below.
    if api.store.account_by_handle(&handle).await?.is_some() {
        return Err(taken(&handle));
    }
    let password_hash = api.auth.passwords().hash(password).await?;
    let user_id = UserId::random();
    let (device, tokens) = new_device(&api, user_id, device_name)?;
    let profile = Profile { user_id, handle, name, picture: None, status: None };
    let account = Account { profile, password_hash, created_at: api.clock.now() };
    let handle = account.profile.handle.clone();
    match api.store.create_account(account, device).await? {
        true => Ok((StatusCode::CREATED, axum::Json(tokens))),
        false => Err(taken(&handle)),
    }
}

fn taken(handle: &str) -> Failure {
    let detail = format!("The handle `{handle}` belongs to somebody else. Choose another one.");
    refuse(Code::HandleTaken, detail)
}

/// The name of a device that logs in.
pub(super) fn device_name(given: Option<String>) -> Result<String, Failure> {
    given.map_or_else(|| Ok(DEVICE_NAME.into()), |name| field::name("device_name", &name))
}

/// A new device, as it goes to the store, and its tokens.
pub(super) fn new_device(
    api: &Api,
    user_id: UserId,
    name: String,
) -> Result<(DeviceRow, Tokens), Failure> {
    let device_id = DeviceId::random();
    let now = api.clock.now();
    let session = api.auth.new_session(user_id, device_id)?;
    let device = Device {
        device_id,
        name,
        created_at: now,
        last_seen_at: now,
        received_until: None,
        current: false,
    };
    let row = DeviceRow {
        user_id,
        device,
        refresh_digest: session.refresh_digest,
        refresh_expires_at: session.refresh_expires_at,
    };
    Ok((row, session.tokens))
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(sign_up))
}
