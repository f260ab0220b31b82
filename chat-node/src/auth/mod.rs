//! Who a token names, and how one gets a token.
//!
//! Access tokens are short-lived and checked without a database; refresh tokens are single-use and kept as digests;
//! [`Revocations`] closes the gap between a logout and the end of an access token's life.

pub(crate) mod issuer;
mod key;
mod password;
mod refresh;
mod revocation;
mod service;
mod token;

use chat_protocol::error::Refusal;
use chat_protocol::{DeviceId, Millis, UserId};

pub use issuer::{Introduction, Issuer, IssuerSettings};
pub use key::{KeyError, KeyRing};
pub use password::{PasswordCost, Passwords};
pub use refresh::RefreshToken;
pub use revocation::{Revocation, Revocations};
pub use service::{Auth, NewSession, Settings, SetupError};

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

/// For tests of other tokens that the same keys sign.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;

    const ISSUER: &str = "chat";

    pub(crate) fn access_token(
        keys: &KeyRing,
        user: UserId,
        device: DeviceId,
        now: Millis,
    ) -> String {
        token::sign(keys, ISSUER, user, device, now, 900_000).unwrap().0
    }

    pub(crate) fn is_access_token(keys: &KeyRing, text: &str, now: Millis) -> bool {
        token::verify(keys, ISSUER, text, now).is_ok()
    }
}
