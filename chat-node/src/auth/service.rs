//! Everything of authentication that one node holds.

use std::sync::Arc;
use std::time::Duration;

use chat_protocol::api::Tokens;
use chat_protocol::error::Refusal;
use chat_protocol::{Code, DeviceId, Millis, UserId};

use super::{
    Authenticate, Caller, Introduction, Issuer, IssuerSettings, KeyError, KeyRing, PasswordCost,
    Passwords, RefreshToken, Revocation, Revocations, issuer, token,
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
    /// An OpenID Connect issuer whose tokens are taken as well. Its people's accounts are made when they first use the API.
    pub external_issuer: Option<IssuerSettings>,
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
            external_issuer: None,
        }
    }
}

/// Why authentication cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The password cost is outside what the algorithm allows.
    #[error("the password cost is not possible: {0}")]
    PasswordCost(String),
    /// The external issuer's keys cannot be used.
    #[error("the external issuer cannot be used: {0}")]
    ExternalIssuer(#[from] KeyError),
    /// The external issuer has the name of this platform: its tokens could not be told apart.
    #[error("the external issuer must not have the platform's own name `{0}`")]
    SameIssuer(String),
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
    keys: Arc<KeyRing>,
    clock: Clock,
    passwords: Passwords,
    revocations: Revocations,
    external: Option<Issuer>,
}

impl Auth {
    /// Authentication with these keys. Computes one password hash, and reads the external issuer's key file.
    pub fn new(settings: Settings, keys: Arc<KeyRing>, clock: Clock) -> Result<Auth, SetupError> {
        let passwords = Passwords::new(
            settings.password_cost,
            settings.password_concurrency,
            Duration::from_millis(settings.password_wait_ms),
        )?;
        let external = match &settings.external_issuer {
            Some(external) if external.issuer == settings.issuer => {
                return Err(SetupError::SameIssuer(external.issuer.clone()));
            }
            Some(external) => Some(Issuer::open(external.clone())?),
            None => None,
        };
        let revocations = Revocations::default();
        Ok(Auth { settings, keys, clock, passwords, revocations, external })
    }

    /// The external issuer, if there is one: for reading its keys again.
    pub fn external_issuer(&self) -> Option<&Issuer> {
        self.external.as_ref()
    }

    /// Who a token names; for an external issuer's token also what that says of them.
    pub fn identify(&self, text: &str) -> Result<(Caller, Option<Introduction>), Refusal> {
        let now = self.clock.now();
        let external = self.external.as_ref().filter(|issuer| issuer.is_named_in(text));
        match external {
            Some(issuer) => {
                let introduction = issuer.verify(text, now)?;
                let revoked_at = self.revocations.revoked_at(introduction.caller.device_id);
                // The same login at the issuer may come back with a token made since.
                if revoked_at.is_some_and(|at| introduction.issued_at <= at.plus(CLOCK_SKEW_MS)) {
                    return Err(logged_out());
                }
                Ok((introduction.caller, Some(introduction)))
            }
            None => {
                let caller = token::verify(&self.keys, &self.settings.issuer, text, now)?;
                match self.revocations.revoked_at(caller.device_id) {
                    Some(_) => Err(logged_out()),
                    None => Ok((caller, None)),
                }
            }
        }
    }

    /// Longest life of any token that may be about.
    fn life_ms(&self) -> u64 {
        let external_ms = self.external.as_ref().map_or(0, |_| issuer::LIFE_MS_MAX);
        self.settings.access_life_ms.max(external_ms)
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
        let until = now.plus(self.life_ms()).plus(CLOCK_SKEW_MS);
        let revocation = Revocation { device_id, at: now, until };
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
        revocation.until = revocation.until.max(now.plus(self.life_ms()));
        self.revocations.add(revocation, now);
        true
    }
}

fn logged_out() -> Refusal {
    Refusal::new(Code::Unauthenticated, "This device was logged out. Log in again.")
}

impl Authenticate for Auth {
    fn authenticate(&self, text: &str) -> Result<Caller, Refusal> {
        self.identify(text).map(|(caller, _)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> (Auth, Clock) {
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let settings = Settings { password_cost: PasswordCost::cheapest(), ..Settings::default() };
        (Auth::new(settings, Arc::new(KeyRing::random()), clock.clone()).unwrap(), clock)
    }

    #[test]
    fn a_revoked_device_is_refused_at_once_here_and_where_it_was_heard() {
        let (auth, _clock) = auth();
        let (user, device) = (UserId::random(), DeviceId::random());
        let token = auth.new_session(user, device).unwrap().tokens.access_token;
        assert_eq!(auth.authenticate(&token).unwrap().device_id, device);
        auth.revoke(device);
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::Unauthenticated);

        let other_device = DeviceId::random();
        let token = auth.new_session(user, other_device).unwrap().tokens.access_token;
        let heard = Revocation { device_id: other_device, at: Millis(1), until: Millis(1) };
        assert!(auth.hear(&heard.to_payload()));
        assert!(!auth.hear(b"something else"));
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn after_a_logout_an_external_login_needs_a_newer_token() {
        let (issuer, _directory) = crate::auth::issuer::tests::issuer();
        let token = |iat: u64| crate::auth::issuer::tests::token(serde_json::json!({ "iat": iat }));
        let (mut auth, clock) = auth();
        auth.external = Some(issuer);
        let now_s = clock.now().0 / 1_000;
        let device = auth.authenticate(&token(now_s)).unwrap().device_id;
        auth.revoke(device);
        assert!(auth.authenticate(&token(now_s)).is_err());
        clock.step(60_000);
        assert!(auth.authenticate(&token(now_s)).is_err());
        assert!(auth.authenticate(&token(now_s + 59)).is_ok());
    }

    #[test]
    fn a_token_expires_by_the_clock_of_the_node() {
        let (auth, clock) = auth();
        let token =
            auth.new_session(UserId::random(), DeviceId::random()).unwrap().tokens.access_token;
        clock.step(15 * 60 * 1_000);
        assert_eq!(auth.authenticate(&token).unwrap_err().code, Code::TokenExpired);
    }
}
