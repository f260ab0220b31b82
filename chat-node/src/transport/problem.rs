//! A refusal as an HTTP answer (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chat_protocol::Code;
use chat_protocol::api::Problem;
use chat_protocol::error::Refusal;

/// The answer that says what was refused.
pub fn response(refusal: Refusal) -> Response {
    let code = refusal.code;
    let status = StatusCode::from_u16(code.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = Problem {
        kind: format!("/problems/{code}"),
        title: code.as_str().replace('_', " "),
        status: status.as_u16(),
        detail: refusal.detail,
        code,
        request_id: None,
        retry_after_ms: refusal.retry_after_ms,
    };
    let mut response = (status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(wait_ms) = refusal.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
    }
    if code == Code::Draining {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
