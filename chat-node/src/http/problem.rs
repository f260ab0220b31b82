//! Errors as `application/problem+json` (RFC 9457), and a page in plain words for each code.

use axum::extract::Path;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use chat_protocol::Code;
use chat_protocol::api::Problem;
use chat_protocol::error::Refusal;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;

/// The media type of problems.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refused request. The body is written by the outermost layer, which knows the request's id.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the client is told.
    pub refusal: Refusal,
    /// What only the log is told.
    pub cause: Option<String>,
}

impl Failure {
    /// Something that must not happen.
    pub(super) fn internal(cause: impl Into<String>) -> Failure {
        let detail =
            "Something broke on the server. Try again; if it stays, report the request id.";
        Failure { refusal: Refusal::new(Code::Internal, detail), cause: Some(cause.into()) }
    }
}

/// A refusal as a failure.
pub(super) fn refuse(code: Code, detail: impl Into<String>) -> Failure {
    Refusal::new(code, detail).into()
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure { refusal, cause: None }
    }
}

impl From<chat_store::Error> for Failure {
    fn from(error: chat_store::Error) -> Failure {
        match error {
            chat_store::Error::Unavailable(cause) | chat_store::Error::Away(cause) => {
                let detail = "The store does not answer at this moment. Try again.";
                let refusal = Refusal::new(Code::StoreUnavailable, detail).retry_after(1_000);
                Failure { refusal, cause: Some(cause) }
            }
            chat_store::Error::Refused(cause) => Failure::internal(cause),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(self.refusal.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Turns an answer with the given status into the problem that a client reads. Other headers stay.
pub(super) fn write(response: &mut Response, refusal: &Refusal, request_id: &str) {
    let problem = Problem {
        kind: format!("/problems/{}", refusal.code),
        title: title(refusal.code),
        status: response.status().as_u16(),
        detail: refusal.detail.clone(),
        code: refusal.code,
        request_id: Some(request_id.into()),
        retry_after_ms: refusal.retry_after_ms,
    };
    let json = serde_json::to_vec(&problem).expect("a struct of strings and numbers serialises");
    let headers = response.headers_mut();
    headers.remove(axum::http::header::CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(wait_ms) = refusal.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000)));
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        let headers = response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = json.into();
}

/// The code for an answer that says only a status.
pub(super) fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        405 => Code::MethodNotAllowed,
        409 => Code::Conflict,
        413 => Code::TooLarge,
        415 => Code::UnsupportedMediaType,
        429 => Code::RateLimited,
        503 => Code::Overloaded,
        500.. => Code::Internal,
        _ => Code::MalformedRequest,
    }
}

fn title(code: Code) -> String {
    let words = code.as_str().replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// What happened, and what to do, for a person who looks a code up.
fn explanation(code: Code) -> &'static str {
    match code {
        Code::MalformedRequest => {
            "The request is not of the documented form. The detail says where. Compare it with /openapi.json."
        }
        Code::UnknownFrame => {
            "The server does not know a frame of this type. A newer server may, or the name is misspelt."
        }
        Code::InvalidField => {
            "A field's value is outside its limits. The detail names the field and the limit."
        }
        Code::UnsupportedVersion => {
            "Client and server speak no protocol version in common. Update the older of the two."
        }
        Code::HelloExpected => {
            "The first frame of a connection must be hello, and no other frame may be."
        }
        Code::WrongEncoding => {
            "JSON goes in text frames and MessagePack in binary frames, as chosen by the subprotocol."
        }
        Code::InvalidCursor => {
            "The cursor was not made by this platform. Connect without one and load the conversations anew."
        }
        Code::Unauthenticated => {
            "There is no access token, or it is malformed, forged or revoked. Log in again."
        }
        Code::TokenExpired => {
            "The access token has expired. Exchange the refresh token at POST /v1/sessions/refresh."
        }
        Code::WrongCredentials => "Handle or password is wrong. Check both and try again.",
        Code::Forbidden => {
            "The account may not do this. In a group, an admin or the owner may be able to."
        }
        Code::Blocked => {
            "One of the two people has blocked the other. Who blocked can end it in their block list."
        }
        Code::NotFound => {
            "There is no such thing, or none that this account may see. Check the address and the id."
        }
        Code::MethodNotAllowed => {
            "This address is not served with this method. The Allow header lists those that are."
        }
        Code::WrongNode => {
            "Service discovery picked another node for this client. Ask GET /v1/discovery again, and connect there."
        }
        Code::HandleTaken => "The handle belongs to somebody else. Choose another one.",
        Code::Conflict => {
            "The request contradicts the present state. Load the thing again, then decide."
        }
        Code::GroupFull => {
            "The group has all the members it can have. Use a live room for more people."
        }
        Code::MessageDeleted => "The message was deleted, so it can no longer be changed.",
        Code::TooLarge => {
            "Body, frame or text is over its limit. The detail says which and how much."
        }
        Code::UnsupportedMediaType => {
            "The body must be JSON. Send it with the header Content-Type: application/json."
        }
        Code::RateLimited => {
            "There were too many requests. Wait for the time in Retry-After, then go on more slowly."
        }
        Code::Internal => {
            "Something broke on the server. Try again; if it stays, give the request id to who runs it."
        }
        Code::Moved => {
            "The conversation has just moved to another node. Send the same request again at once."
        }
        Code::Overloaded => {
            "The node has no room for more work at this moment. Try again after the time in Retry-After."
        }
        Code::StorageFull => {
            "The platform has no room for new messages. Reading still works. Who runs it must add storage."
        }
        Code::StoreUnavailable => {
            "The store does not answer at this moment. Try again after the time in Retry-After."
        }
        Code::DeadlineExceeded => {
            "There was no answer in time. A message may have been sent all the same: repeat it with the same \
             client_message_id and retry set, and it is not sent twice."
        }
        Code::Draining => "The node is leaving. Connect again; another one takes over.",
    }
}

#[utoipa::path(
    get, path = "/problems/{code}", tag = "service",
    summary = "Explains an error code",
    params(("code" = String, Path, description = "The stable code of a problem.")),
    responses((status = 200, description = "A page for people.", content_type = "text/html", body = String)),
)]
async fn explain_problem(Path(text): Path<String>) -> Result<Html<String>, Failure> {
    let known = Code::ALL.iter().find(|code| code.as_str() == text);
    let code = *known.ok_or_else(|| {
        refuse(Code::NotFound, "There is no such error code. /openapi.json lists them all.")
    })?;
    Ok(Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<p>{explanation}</p>\n<p>Code <code>{code}</code>, HTTP status {status}{retry}.</p>\n</html>\n",
        title = title(code),
        explanation = explanation(code),
        status = code.http_status(),
        retry = if code.is_retryable() { "; the same request may succeed later" } else { "" },
    )))
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(explain_problem))
}
