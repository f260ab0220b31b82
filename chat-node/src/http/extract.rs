//! Parts of requests, each parsed once, here; what does not parse is refused with a sentence that says why.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use chat_protocol::Code;
use chat_protocol::limits::{CLIENT_FRAME_BYTES_MAX, PAGE_ROWS_MAX};
use serde::de::DeserializeOwned;

use super::problem::{Failure, refuse};
use super::{State, introduced};
use crate::auth::Caller;

/// Largest body where no message is in it.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Rows of a page when the client does not say.
const PAGE_ROWS: usize = 50;

/// A JSON body, of 64 KiB at most.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<State> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &State) -> Result<Json<T>, Failure> {
        read_json(request, state, BODY_BYTES_MAX).await.map(Json)
    }
}

/// A JSON body that may hold a message.
pub(super) struct MessageJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<State> for MessageJson<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &State) -> Result<MessageJson<T>, Failure> {
        read_json(request, state, CLIENT_FRAME_BYTES_MAX).await.map(MessageJson)
    }
}

async fn read_json<T: DeserializeOwned>(
    request: Request,
    state: &State,
    bytes_max: usize,
) -> Result<T, Failure> {
    let headers = request.headers();
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !is_json(media_type) {
        let detail =
            "The body must be JSON, sent with the header `Content-Type: application/json`.";
        return Err(refuse(Code::UnsupportedMediaType, detail));
    }
    let too_large = || {
        let detail = format!("The body is over the limit of {bytes_max} bytes at this address.");
        refuse(Code::TooLarge, detail)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > bytes_max as u64) {
        return Err(too_large());
    }
    let wait = Duration::from_millis(state.settings.body_wait_ms);
    let body = axum::body::to_bytes(request.into_body(), bytes_max);
    let bytes = match tokio::time::timeout(wait, body).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(problem)) if is_length_limit(&problem) => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(refuse(Code::MalformedRequest, "The body broke off before its end."));
        }
        Err(_) => {
            return Err(refuse(Code::MalformedRequest, "The body did not arrive in time."));
        }
    };
    match axum::Json::<T>::from_bytes(&bytes) {
        Ok(axum::Json(value)) => Ok(value),
        Err(rejection) => Err(refuse(Code::MalformedRequest, explain(&rejection))),
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn is_length_limit(problem: &axum::Error) -> bool {
    let mut source = std::error::Error::source(problem);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost error names the field and the place; the outer ones only repeat that it failed.
fn explain(rejection: &JsonRejection) -> String {
    let text = rejection.body_text();
    let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
    match rejection {
        JsonRejection::JsonSyntaxError(_) => format!("The body is not JSON: {cause}."),
        _ => format!("The body is not of the documented form: {cause}."),
    }
}

/// Ids in the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<State> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Path<T>, Failure> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(PathRejection::FailedToDeserializePathParams(problem)) => Err(refuse(
                Code::InvalidField,
                format!("The address holds something that is no id: {}.", problem.body_text()),
            )),
            Err(problem) => Err(Failure::internal(problem.body_text())),
        }
    }
}

/// Values in the query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<State> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Query<T>, Failure> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(problem)) => {
                let text = problem.body_text();
                let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
                Err(refuse(Code::InvalidField, format!("The query cannot be read: {cause}.")))
            }
            Err(problem) => Err(Failure::internal(problem.body_text())),
        }
    }
}

/// How many rows a client wants.
pub(super) fn rows(limit: Option<usize>) -> Result<usize, Failure> {
    match limit {
        None => Ok(PAGE_ROWS),
        Some(limit @ 1..=PAGE_ROWS_MAX) => Ok(limit),
        Some(_) => Err(refuse(
            Code::InvalidField,
            format!("`limit` must be between 1 and {PAGE_ROWS_MAX}."),
        )),
    }
}

/// Who asks, by the access token in the `Authorization` header, within the rate that is allowed to them.
pub(super) struct Authenticated(pub(super) Caller);

impl FromRequestParts<State> for Authenticated {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Failure> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let Some(token) = token else {
            let detail =
                "This address needs an access token in the header `Authorization: Bearer …`.";
            return Err(refuse(Code::Unauthenticated, detail));
        };
        let (caller, introduction) = state.auth.identify(token)?;
        state.limiter.request_of(caller.user_id, state.clock.elapsed())?;
        if let Some(introduction) = introduction {
            introduced::welcome(state, introduction).await?;
        }
        Ok(Authenticated(caller))
    }
}

/// Where a request comes from: the peer, or what a trusted proxy says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientAddress(pub(super) Option<IpAddr>);

impl FromRequestParts<State> for ClientAddress {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Failure> {
        if state.settings.trust_forwarded {
            // The last entry is the trusted proxy's own; those before it are what the client claimed.
            let entries = parts.headers.get_all("x-forwarded-for").iter().next_back();
            let last = entries.and_then(|value| value.to_str().ok()?.rsplit(',').next());
            if let Some(address) = last.and_then(|text| text.trim().parse().ok()) {
                return Ok(ClientAddress(Some(address)));
            }
        }
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(ClientAddress(peer.map(|ConnectInfo(address)| address.ip())))
    }
}
