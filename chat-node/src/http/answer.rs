//! What every answer has: a request id, the form of errors, security and cache headers.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response as HttpResponse};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use chat_protocol::Code;
use chat_protocol::error::Refusal;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tracing::Instrument as _;
use uuid::Uuid;

use super::SetupError;
use super::problem::{self, Failure, refuse};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Only this server's own scripts and styles run; pictures may come from any https server, as profiles refer to them.
const CONTENT_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: https:; \
    style-src 'self'; script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Wraps all routes. From the outside in: request id and error form, other origins, panics.
pub(super) fn finish(routes: Router, cross_origin: Option<CorsLayer>) -> Router {
    let routes = routes.layer(CatchPanicLayer::custom(panicked));
    let routes = match cross_origin {
        Some(layer) => routes.layer(layer),
        None => routes,
    };
    routes.layer(from_fn(complete))
}

/// Lets scripts of the listed origins call the API; none listed: no other origin may.
pub(super) fn cross_origin(origins: &[String]) -> Result<Option<CorsLayer>, SetupError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let parsed: Result<Vec<HeaderValue>, SetupError> =
        origins.iter().map(|origin| parse_origin(origin)).collect();
    Ok(Some(
        CorsLayer::new()
            .allow_origin(parsed?)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([AUTHORIZATION, CONTENT_TYPE, REQUEST_ID])
            .expose_headers([REQUEST_ID, RETRY_AFTER])
            .max_age(Duration::from_secs(3_600)),
    ))
}

fn parse_origin(origin: &str) -> Result<HeaderValue, SetupError> {
    let invalid = || SetupError::Origin(origin.to_owned());
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let host = host.ok_or_else(invalid)?;
    let authority: axum::http::uri::Authority = host.parse().map_err(|_| invalid())?;
    match authority.as_str() == host && !host.contains('@') {
        true => HeaderValue::from_str(origin).map_err(|_| invalid()),
        false => Err(invalid()),
    }
}

pub(super) async fn method_not_allowed(method: Method) -> Failure {
    let detail = format!("This address is not served with {method}. See the `Allow` header.");
    refuse(Code::MethodNotAllowed, detail)
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> HttpResponse<Body> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Failure::internal(format!("a request handler panicked: {text}")).into_response()
}

async fn complete(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", request_id = %id, %method, path);
    async {
        let mut response = next.run(request).await;
        if let Some(failure) = response.extensions_mut().remove::<Failure>() {
            log(&failure);
            problem::write(&mut response, &failure.refusal, &id);
        } else if is_foreign_error(&response) {
            response = translate(response, &id).await;
        }
        add_headers(response.headers_mut(), &id);
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    }
    .instrument(span)
    .await
}

/// The client's own id, if it is short and plain; otherwise a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = given.filter(|text| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    });
    sane.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

fn log(failure: &Failure) {
    let Failure { refusal, cause } = failure;
    match (cause, refusal.code) {
        (Some(cause), Code::Internal) => tracing::error!(cause, "request failed"),
        (Some(cause), code) => tracing::warn!(%code, cause, "request failed"),
        (None, code) => tracing::debug!(%code, detail = refusal.detail, "request refused"),
    }
}

/// An error that a library wrote, for example for a failed upgrade.
fn is_foreign_error(response: &Response) -> bool {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let status = response.status();
    (status.is_client_error() || status.is_server_error())
        && media_type.is_none_or(|text| text.starts_with("text/plain"))
}

/// Longest text of a library's error that is passed on.
const FOREIGN_TEXT_BYTES_MAX: usize = 1_000;

async fn translate(response: Response, request_id: &str) -> Response {
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, FOREIGN_TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = match text.trim() {
        "" => parts.status.canonical_reason().unwrap_or("The request was refused"),
        text => text,
    };
    let refusal = Refusal::new(problem::code_of(parts.status), format!("{text}."));
    let mut response = Response::from_parts(parts, Body::empty());
    problem::write(&mut response, &refusal, request_id);
    response
}

fn add_headers(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
