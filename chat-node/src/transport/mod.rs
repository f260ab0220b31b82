//! How frames travel: WebSocket, server-sent events, long poll and poll. All carry the same frames and the same cursor.

pub mod events;
pub mod poll;
pub mod problem;
pub mod websocket;

use axum::http::{HeaderMap, header};
use chat_protocol::error::{Code, Refusal};

use crate::auth::Caller;
use crate::session::Gateway;

/// Who the `Authorization: Bearer` header names. Tokens are never taken from a URL: those end up in logs.
fn caller(gateway: &Gateway, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let missing = || {
        let detail = "Send an access token in the Authorization header: `Bearer …`.";
        Refusal::new(Code::Unauthenticated, detail)
    };
    let header = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, token) = header.to_str().ok().and_then(|h| h.split_once(' ')).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    gateway.parts.authenticate.authenticate(token.trim())
}

#[cfg(test)]
mod tests;
