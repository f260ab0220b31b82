//! Who a token names.

use chat_protocol::error::Refusal;
use chat_protocol::{DeviceId, Millis, UserId};

/// Who asks, proven by an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub user_id: UserId,
    /// The device that the token was given to.
    pub device_id: DeviceId,
    /// When the token expires.
    pub expires_at: Millis,
}

/// Checks access tokens, without a database.
pub trait Authenticate: Send + Sync {
    /// Who the token names. Refused as `unauthenticated` or `token_expired`.
    fn authenticate(&self, token: &str) -> Result<Caller, Refusal>;
}
