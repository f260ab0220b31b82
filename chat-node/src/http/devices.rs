//! The own devices.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_protocol::api::{Device, DeviceChange, Page};
use chat_protocol::frame::AccountPart;
use chat_protocol::{Code, DeviceId, UserId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Authenticated, Json, Path};
use super::problem::{Failure, refuse};
use super::{Api, State, field};

async fn own_devices(
    api: &Api,
    user_id: UserId,
    current: DeviceId,
) -> Result<Vec<Device>, Failure> {
    let (rows, confirmed) =
        futures_util::try_join!(api.store.devices(user_id), api.store.confirmed(user_id))?;
    let marked = |device: Device| {
        let confirmed = confirmed.iter().find(|row| row.device_id == device.device_id);
        let received_until = confirmed.map(|row| row.safe.created_at());
        Device { current: device.device_id == current, received_until, ..device }
    };
    Ok(rows.into_iter().map(|row| marked(row.device)).collect())
}

fn unknown() -> Failure {
    refuse(Code::NotFound, "There is no such device on this account.")
}

#[utoipa::path(
    get, path = "/v1/devices", tag = "devices",
    summary = "The own devices, oldest first",
    security(("access_token" = [])),
    responses((status = 200, description = "All of them on one page.", body = Page<Device>)),
)]
async fn list_devices(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
) -> Result<axum::Json<Page<Device>>, Failure> {
    let items = own_devices(&api, caller.user_id, caller.device_id).await?;
    Ok(axum::Json(Page { items, next: None }))
}

#[utoipa::path(
    patch, path = "/v1/devices/{device_id}", tag = "devices",
    summary = "Renames a device",
    security(("access_token" = [])),
    params(("device_id" = DeviceId, Path)),
    request_body = DeviceChange,
    responses((status = 200, description = "The device as it is now.", body = Device)),
)]
async fn rename_device(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(device_id): Path<DeviceId>,
    Json(body): Json<DeviceChange>,
) -> Result<axum::Json<Device>, Failure> {
    let name = field::name("name", &body.name)?;
    if !api.store.rename_device(caller.user_id, device_id, name).await? {
        return Err(unknown());
    }
    api.tell_account(caller.user_id, AccountPart::Devices);
    let devices = own_devices(&api, caller.user_id, caller.device_id).await?;
    let renamed = devices.into_iter().find(|device| device.device_id == device_id);
    renamed.map(axum::Json).ok_or_else(unknown)
}

#[utoipa::path(
    delete, path = "/v1/devices/{device_id}", tag = "devices",
    summary = "Logs a device out",
    security(("access_token" = [])),
    params(("device_id" = DeviceId, Path)),
    responses((status = 204, description = "Its tokens are void and its connections closed.")),
)]
async fn remove_device(
    Shared(api): Shared<State>,
    Authenticated(caller): Authenticated,
    Path(device_id): Path<DeviceId>,
) -> Result<StatusCode, Failure> {
    // Looked up first: nobody may revoke another account's device by its id.
    let devices = api.store.devices(caller.user_id).await?;
    if !devices.iter().any(|row| row.device.device_id == device_id) {
        return Err(unknown());
    }
    api.log_out(caller.user_id, device_id).await?;
    api.tell_account(caller.user_id, AccountPart::Devices);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(list_devices)).routes(routes!(rename_device, remove_device))
}
