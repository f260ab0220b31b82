//! Stable error codes, the same in frames and in the HTTP API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])+ $variant:ident = $text:literal, $status:literal, $retryable:literal;)*) => {
        /// Why a request was refused. The text form never changes; new codes may be added, and a client treats one it does
        /// not know by its HTTP status or, in a frame, as final.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum Code {
            $($(#[$doc])+ #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The stable text.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// The HTTP status it is answered with.
            pub fn http_status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// Whether the same request may succeed later without anyone doing anything.
            pub fn is_retryable(self) -> bool {
                match self { $(Code::$variant => $retryable,)* }
            }
        }
    };
}

codes! {
    /// The request is not of the documented form.
    MalformedRequest = "malformed_request", 400, false;
    /// The frame's type is not known to this server.
    UnknownFrame = "unknown_frame", 400, false;
    /// A field's value is outside its limits; `detail` names the field.
    InvalidField = "invalid_field", 400, false;
    /// The server speaks none of the protocol versions offered.
    UnsupportedVersion = "unsupported_version", 400, false;
    /// The first frame must be `hello`, and only the first.
    HelloExpected = "hello_expected", 400, false;
    /// A binary frame on a JSON connection, or a text frame on a MessagePack one.
    WrongEncoding = "wrong_encoding", 400, false;
    /// The cursor was not made by this platform.
    InvalidCursor = "invalid_cursor", 400, false;
    /// No token, or one that is malformed, forged or revoked.
    Unauthenticated = "unauthenticated", 401, false;
    /// The access token has expired; refresh it.
    TokenExpired = "token_expired", 401, false;
    /// Handle or password is wrong.
    WrongCredentials = "wrong_credentials", 401, false;
    /// The caller may not do this.
    Forbidden = "forbidden", 403, false;
    /// The other side has blocked the caller, or the caller them.
    Blocked = "blocked", 403, false;
    /// No such thing, or none that the caller may see.
    NotFound = "not_found", 404, false;
    /// The method is not served at this address.
    MethodNotAllowed = "method_not_allowed", 405, false;
    /// The handle belongs to somebody else.
    HandleTaken = "handle_taken", 409, false;
    /// The request contradicts the present state, for example inviting a member.
    Conflict = "conflict", 409, false;
    /// The group has its 100 members.
    GroupFull = "group_full", 409, false;
    /// The message was deleted.
    MessageDeleted = "message_deleted", 409, false;
    /// Body, frame or text is over its limit.
    TooLarge = "too_large", 413, false;
    /// The body's media type is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415, false;
    /// Service discovery picked another node for this client; ask it again.
    WrongNode = "wrong_node", 421, true;
    /// Too many requests; wait `retry_after_ms`.
    RateLimited = "rate_limited", 429, true;
    /// Something broke on the server; it was logged with the request id.
    Internal = "internal", 500, true;
    /// The partition has just changed owners; the request is sent again by the gateway, or by the client.
    Moved = "moved", 503, true;
    /// The node has no room for more work at the moment.
    Overloaded = "overloaded", 503, true;
    /// The log has no room: sends are refused, reads go on.
    StorageFull = "storage_full", 507, true;
    /// The store does not answer.
    StoreUnavailable = "store_unavailable", 503, true;
    /// No owner answered in time. A send may have been committed: the message's appearance, or a repeat, settles it.
    DeadlineExceeded = "deadline_exceeded", 504, true;
    /// The node is leaving; connect again.
    Draining = "draining", 503, true;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal that a person and a program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// A plain sentence: what happened, what to do.
    pub detail: String,
    /// When the same request may be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal with this code and sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal { code, detail: detail.into(), retry_after_ms: None }
    }

    /// The same, to be tried again after a while.
    pub fn retry_after(self, retry_after_ms: u64) -> Refusal {
        Refusal { retry_after_ms: Some(retry_after_ms), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_are_written_as_their_text() {
        let texts: std::collections::HashSet<_> =
            Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
