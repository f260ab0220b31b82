//! Where to connect: the node that is picked, and how it is reached.

use axum::extract::State as Shared;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use chat_protocol::Code;
use chat_protocol::api::Discovery;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{ClientAddress, Query};
use super::problem::{Failure, refuse};
use super::{Settings, State};
use crate::discovery::region::{Hints, region};

/// Nodes fill up and go: after this time another pick may be better.
const VALID_FOR_MS: u64 = 300_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// A region to have the node in. Without it the client's address decides.
    region: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/discovery", tag = "service",
    summary = "The node to connect to",
    params(Wanted),
    responses(
        (status = 200, description = "Addresses.", body = Discovery),
        (status = 503, description = "Every node is leaving.", body = chat_protocol::api::Problem),
    ),
)]
async fn discover(
    Shared(api): Shared<State>,
    ClientAddress(address): ClientAddress,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<axum::Json<Discovery>, Failure> {
    let base = base_url(&api.settings, &headers, &uri)?;
    let told = api.settings.region_header.as_ref().and_then(|name| headers.get(name.as_str()));
    let hints = Hints {
        asked: wanted.region.as_deref(),
        address,
        told: told.and_then(|value| value.to_str().ok()),
    };
    let region = region(hints, &api.settings.regions);
    let answer = api.directory.answer(region.as_ref(), api.clock.now()).ok_or_else(|| {
        refuse(Code::Draining, "Every node is leaving at this moment. Ask again in a second.")
    })?;
    let url = match &answer.node.host {
        Some(host) => format!("{}://{host}", base.split("://").next().unwrap_or("https")),
        None => base,
    };
    Ok(axum::Json(Discovery {
        websocket_url: websocket_url(&url),
        url,
        node: answer.node.name,
        region: answer.node.region.map(|region| region.as_str().to_owned()),
        discovery_token: answer.token,
        valid_for_ms: VALID_FOR_MS,
    }))
}

fn websocket_url(url: &str) -> String {
    match url.strip_prefix("https://") {
        Some(rest) => format!("wss://{rest}/v1/socket"),
        None => format!("ws://{}/v1/socket", url.strip_prefix("http://").unwrap_or(url)),
    }
}

/// The configured address, or the one that the client used.
fn base_url(settings: &Settings, headers: &HeaderMap, uri: &Uri) -> Result<String, Failure> {
    if let Some(url) = &settings.public_url {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let forwarded = |name: &str| header(name).filter(|_| settings.trust_forwarded);
    let scheme = match forwarded("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let host = forwarded("x-forwarded-host").or(header(HOST.as_str())).or(uri.host());
    let authority: Option<Authority> = host.and_then(|host| host.trim().parse().ok());
    match authority.filter(|authority| !authority.as_str().contains('@')) {
        Some(authority) => Ok(format!("{scheme}://{authority}")),
        None => Err(refuse(Code::MalformedRequest, "The request has no usable `Host` header.")),
    }
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(discover))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(settings: &Settings, headers: &[(&'static str, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        base_url(settings, &map, &Uri::from_static("/v1/discovery")).ok()
    }

    #[test]
    fn the_configured_address_wins_over_the_request() {
        let public_url = Some("https://chat.example.org/".into());
        let settings = Settings { public_url, ..Settings::default() };
        let found = url(&settings, &[("host", "elsewhere:1")]);
        assert_eq!(found.as_deref(), Some("https://chat.example.org"));
    }

    #[test]
    fn forwarded_headers_count_only_if_they_are_trusted() {
        let headers = [
            ("host", "127.0.0.1:8080"),
            ("x-forwarded-host", "chat.example.org"),
            ("x-forwarded-proto", "https"),
        ];
        let plain = url(&Settings::default(), &headers);
        assert_eq!(plain.as_deref(), Some("http://127.0.0.1:8080"));
        let trusting = Settings { trust_forwarded: true, ..Settings::default() };
        assert_eq!(url(&trusting, &headers).as_deref(), Some("https://chat.example.org"));
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for host in ["", "a b", "user@host", "host/path"] {
            assert_eq!(url(&Settings::default(), &[("host", host)]), None, "{host}");
        }
        assert_eq!(url(&Settings::default(), &[]), None);
    }
}
