//! Everything of authentication that one node holds.

use std::time::Duration;

use chat_protocol::api::Tokens;
use chat_protocol::error::Refusal;
use chat_protocol::{Code, DeviceId, Millis, UserId};

use super::{
    Authenticate, Caller, KeyRing, PasswordCost, Passwords, RefreshToken, Revocation, Revocations,
    token,
};
use crate::clock::Clock;

/// Clocks of two nodes may differ by this; beyond it a node takes no work.
const CLOCK_SKEW_MS: u64 = 10_000;

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who signs access tokens: the platform's name, the same on all nodes.
    pub issuer: String,
    /// Life of an access token.
    pub access_life_ms: u64,
    /// Life of a refresh token; each use starts it anew.
    pub refresh_life_ms: u64,
    /// What a password hash costs.
    pub password_cost: PasswordCost,
    /// Password hashes computed at the same time.
    pub password_concurrency: usize,
    /// Longest wait for the turn of a password hash.
    pub password_wait_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            issuer: "chat".into(),
            access_life_ms: 15 * 60 * 1_000,
            refresh_life_ms: 60 * 24 * 60 * 60 * 1_000,
            password_cost: PasswordCost::default(),
            // Hashing takes a whole processor; the rest of them is for messages.
            password_concurrency: 2,
            password_wait_ms: 3_000,
        }
    }
}

/// Why authentication cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The password cost is outside what the algorithm allows.
    #[error("the password cost is not possible: {0}")]
    PasswordCost(String),
}

/// A new session of a device: its tokens, and what the store keeps of them.
pub struct NewSession {
    /// For the client.
    pub tokens: Tokens,
    /// For the store.
    pub refresh_digest: [u8; 32],
    /// For the store.
    pub refresh_expires_at: Millis,
}

/// Authentication on one node.
pub struct Auth {
    settings: Settings,
    keys: KeyRing,
    clock: Clock,
    passwords: Passwords,
    revocations: Revocations,
}

impl Auth {
    /// Authentication with these keys. Computes one password hash.
    pub fn new(settings: Settings, keys: KeyRing, clock: Clock) -> Result<Auth, SetupError> {
        let passwords = Passwords::new(
            settings.password_cost,
            settings.password_concurrency,
            Duration::from_millis(settings.password_wait_ms),
        )?;
        Ok(Auth { settings, keys, clock, passwords, revocations: Revocations::default() })
    }

    /// Password hashes.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// New tokens for a device.
    pub fn new_session(&self, user_id: UserId, device_id: DeviceId) -> Result<NewSession, Refusal> {
        let now = self.clock.now();
        let life_ms = self.settings.access_life_ms;
        let (access_token, access_expires_at) =
            token::sign(&self.keys, &self.settings.issuer, user_id, device_id, now, life_ms)
                .map_err(|problem| {
                    tracing::error!(%problem, "an access token could not be signed");
                    Refusal::new(Code::Internal, "The login could not be finished. Try again.")
                })?;
        let refresh = RefreshToken::random(user_id, device_id);
        let refresh_token = refresh.to_text();
        Ok(NewSession {
            tokens: Tokens { user_id, device_id, access_token, access_expires_at, refresh_token },
            refresh_digest: refresh.digest(),
            refresh_expires_at: now.plus(self.settings.refresh_life_ms),
        })
    }

    /// Refuses a device's access tokens on this node from now on. What it returns is for the other nodes.
    pub fn revoke(&self, device_id: DeviceId) -> Revocation {
        let now = self.clock.now();
        let until = now.plus(self.settings.access_life_ms).plus(CLOCK_SKEW_MS);
        let revocation = Revocation { device_id, until };
        self.revocations.add(revocation, now);
        revocation
    }

    /// Takes note of what another node said on `Subject::Nodes`. `false`: it is no revocation.
    pub fn hear(&self, payload: &[u8]) -> bool {
        let Some(mut revocation) = Revocation::from_payload(payload) else {
            return false;
        };
        // The other node may have been started with a shorter life of tokens.
        let now = self.clock.now();
        revocation.until = revocation.until.max(now.plus(self.settings.access_life_ms));
        self.revocations.add(revocation, now);
        true
    }
}

impl Authenticate for Auth {
    fn authenticate(&self, text: &str) -> Result<Caller, Refusal> {
        let now = self.clock.now();
        let caller = token::verify(&self.keys, &self.settings.issuer, text, now)?;
        match self.revocations.contains(caller.device_id) {
            true => Err(Refusal::new(
                Code::Unauthenticated,
                "This device was logged out. Log in again.",
            )),
            false => Ok(caller),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> (Auth, Clock) {
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let settings = Settings { password_cost: PasswordCost::cheapest(), ..Settings::default() };
        (Auth::new(settings, KeyRing::random(), clock.clone()).unwrap(), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_device_is_refused_at_once_here_and_where_it_was_heard() {
        let (auth, _clock) = auth();
        let (user, device) = (UserId::random(), DeviceId::random());
        let token = auth.new_session(user, device).unwrap().tokens.access_token;
        assert_eq!(auth.authenticate(&token).unwrap().device_id, device);
        auth.revoke(device);
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::Unauthenticated);

        let other_device = DeviceId::random();
        let token = auth.new_session(user, other_device).unwrap().tokens.access_token;
        let heard = Revocation { device_id: other_device, until: Millis(1) };
        assert!(auth.hear(&heard.to_payload()));
        assert!(!auth.hear(b"something else"));
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::Unauthenticated);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_expires_by_the_clock_of_the_node() {
        let (auth, clock) = auth();
        let token =
            auth.new_session(UserId::random(), DeviceId::random()).unwrap().tokens.access_token;
        clock.step(15 * 60 * 1_000);
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::TokenExpired);
    }
}
