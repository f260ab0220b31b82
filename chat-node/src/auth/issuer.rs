//! Tokens of an external OpenID Connect issuer, in place of own ones.
//!
//! User and device ids derive from what the token says, so that every node finds the same without asking anyone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use chat_protocol::error::Refusal;
use chat_protocol::{Code, DeviceId, Millis, UserId};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::token::{TOKEN_BYTES_MAX, expired, unauthenticated};
use super::{Caller, KeyError};

/// Longest life that a token may have left. A logout must be remembered that long.
pub(super) const LIFE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// A token may come from a clock that is this far ahead.
const CLOCK_SKEW_S: u64 = 60;

/// An issuer to trust.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// Its name, exactly as in the `iss` claim.
    pub issuer: String,
    /// This platform's name at the issuer, as in the `aud` claim.
    pub audience: String,
    /// A file with the issuer's JSON Web Key Set. RS256 and ES256 keys with a `kid` are used, others passed over.
    pub keys_file: PathBuf,
}

/// What an issuer says of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Who asks.
    pub caller: Caller,
    /// When the token was made; 1970 if it does not say.
    pub issued_at: Millis,
    /// The name they would like to be found by.
    pub handle: Option<String>,
    /// Their name.
    pub name: Option<String>,
}

/// Checks an external issuer's tokens.
pub struct Issuer {
    settings: IssuerSettings,
    keys: RwLock<HashMap<String, (Algorithm, DecodingKey)>>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: f64,
    #[serde(default)]
    iat: f64,
    #[serde(default)]
    nbf: Option<f64>,
    /// The login at the issuer: one per device.
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    preferred_username: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

impl Issuer {
    /// Reads the issuer's keys.
    pub fn open(settings: IssuerSettings) -> Result<Issuer, KeyError> {
        let issuer = Issuer { settings, keys: RwLock::default() };
        issuer.reload()?;
        Ok(issuer)
    }

    /// What was set.
    pub fn settings(&self) -> &IssuerSettings {
        &self.settings
    }

    /// Reads the keys again. If they cannot be used, the present ones stay.
    pub fn reload(&self) -> Result<(), KeyError> {
        let path = &self.settings.keys_file;
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeyError::File { path: path.clone(), source })?;
        let read = read_keys(&text)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Whether a token claims to be of this issuer. Proves nothing.
    pub(super) fn is_named_in(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Name {
            iss: String,
        }
        token.len() <= TOKEN_BYTES_MAX
            && jsonwebtoken::dangerous::insecure_decode::<Name>(token)
                .is_ok_and(|data| data.claims.iss == self.settings.issuer)
    }

    /// Who a token names, if the issuer signed it for this platform and it has not expired.
    pub(super) fn verify(&self, token: &str, now: Millis) -> Result<Introduction, Refusal> {
        let claims = self.claims(token)?;
        let now_s = now.0 / 1_000;
        // As an integer: a saturating cast, so that neither NaN nor infinity gets through.
        let expires_at = Millis((claims.exp as u64).saturating_mul(1_000));
        if expires_at <= now {
            return Err(expired());
        }
        let is_early = claims.nbf.is_some_and(|nbf| nbf as u64 > now_s + CLOCK_SKEW_S);
        if is_early || expires_at.since(now) > LIFE_MS_MAX || claims.sub.is_empty() {
            return Err(unauthenticated());
        }
        let Claims { iss, sub, iat, sid, preferred_username, name, .. } = claims;
        let user_id = UserId(derive(&["user", &iss, &sub]));
        let device_id = DeviceId(derive(&["device", &iss, &sub, sid.as_deref().unwrap_or("")]));
        let caller = Caller { user_id, device_id, expires_at };
        let issued_at = Millis((iat as u64).saturating_mul(1_000));
        Ok(Introduction { caller, issued_at, handle: preferred_username, name })
    }

    fn claims(&self, token: &str) -> Result<Claims, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| unauthenticated())?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let known = header.kid.as_deref().and_then(|id| keys.get(id));
        let (algorithm, key) = known.ok_or_else(unauthenticated)?;
        // The key says which algorithm it is for; the token's word on that counts for nothing.
        let mut validation = Validation::new(*algorithm);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Expiry is checked by this node's clock.
        validation.validate_exp = false;
        let data = jsonwebtoken::decode(token, key, &validation).map_err(|problem| {
            tracing::debug!(%problem, "a token of the external issuer was refused");
            let detail = "The access token is not valid for this platform. Log in again.";
            Refusal::new(Code::Unauthenticated, detail)
        })?;
        Ok(data.claims)
    }
}

fn read_keys(text: &str) -> Result<HashMap<String, (Algorithm, DecodingKey)>, KeyError> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<serde_json::Value>,
    }
    let set: KeySet = serde_json::from_str(text).map_err(|e| KeyError::Content(e.to_string()))?;
    let parsed = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let usable: HashMap<_, _> = parsed.filter_map(|key| usable_key(&key)).collect();
    match usable.is_empty() {
        true => Err(KeyError::Content("it holds no RS256 or ES256 key with a `kid`".into())),
        false => Ok(usable),
    }
}

fn usable_key(key: &Jwk) -> Option<(String, (Algorithm, DecodingKey))> {
    if key.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
    {
        return None;
    }
    let (algorithm, named) = match &key.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    if key.common.key_algorithm.is_some_and(|declared| declared != named) {
        return None;
    }
    let id = key.common.key_id.clone()?;
    Some((id, (algorithm, DecodingKey::from_jwk(key).ok()?)))
}

/// A UUID of version 8 (RFC 9562, 5.8) from some texts; their lengths keep them apart.
fn derive(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
pub(crate) mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    /// Made for these tests, used nowhere else.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgi3UAu5oE5GHWtTD9
rBu1mqS+YY0VVDtDYChtSmKzWE6hRANCAAQPGAao5r9C0iM3OQkhMvIwEzc/mjUV
SaqV7ovbZz5RWEf+RkqRBs8rvpsa5oNHTuTgTgDQy+L8EPWwquFgjmgV
-----END PRIVATE KEY-----";

    const NOW: Millis = Millis(1_800_000_000_000);

    fn public(id: &str) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "kid": id, "use": "sig",
            "x": "DxgGqOa_QtIjNzkJITLyMBM3P5o1FUmqle6L22c-UVg",
            "y": "R_5GSpEGzyu-mxrmg0dO5OBOANDL4vwQ9bCq4WCOaBU",
        })
    }

    /// An issuer with the test key, and the directory of its file.
    pub(crate) fn issuer() -> (Issuer, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let keys_file = directory.path().join("keys.json");
        let set = json!({ "keys": [{ "kty": "unheard-of" }, public("one")] });
        std::fs::write(&keys_file, set.to_string()).unwrap();
        let settings = IssuerSettings {
            issuer: "https://login.example.org".into(),
            audience: "chat".into(),
            keys_file,
        };
        (Issuer::open(settings).unwrap(), directory)
    }

    /// A token of that issuer, with some claims changed; `null` removes one.
    pub(crate) fn token(changes: Value) -> String {
        let mut claims = json!({
            "iss": "https://login.example.org", "aud": "chat", "sub": "4711",
            "exp": NOW.0 / 1_000 + 600, "sid": "a",
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_pem(PRIVATE.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    #[test]
    fn one_subject_is_one_user_and_one_login_is_one_device() {
        let (issuer, _directory) = issuer();
        let caller = |changes: Value| issuer.verify(&token(changes), NOW).unwrap().caller;
        let first = caller(json!({}));
        assert_eq!(first.user_id.0.get_version_num(), 8);
        assert_eq!(caller(json!({ "exp": NOW.0 / 1_000 + 900 })).user_id, first.user_id);
        assert_eq!(caller(json!({ "aud": ["other", "chat"] })).device_id, first.device_id);
        let other_login = caller(json!({ "sid": "b" }));
        assert_eq!(other_login.user_id, first.user_id);
        assert_ne!(other_login.device_id, first.device_id);
        assert_ne!(caller(json!({ "sub": "4712" })).user_id, first.user_id);
    }

    #[test]
    fn tokens_that_are_not_for_this_platform_are_refused() {
        let (issuer, _directory) = issuer();
        for bad in [
            json!({ "iss": "https://evil.example.org" }),
            json!({ "aud": "another" }),
            json!({ "aud": null }),
            json!({ "sub": null }),
            json!({ "sub": "" }),
            json!({ "exp": null }),
            json!({ "exp": "soon" }),
            json!({ "exp": 1e300 }),
            json!({ "nbf": NOW.0 / 1_000 + 300 }),
        ] {
            let refusal = issuer.verify(&token(bad.clone()), NOW).unwrap_err();
            assert_eq!(refusal.code, Code::Unauthenticated, "{bad}");
        }
        let late = issuer.verify(&token(json!({})), NOW.plus(600_000)).unwrap_err();
        assert_eq!(late.code, Code::TokenExpired);
        let mut forged = token(json!({}));
        let end = if forged.ends_with('A') { 'Q' } else { 'A' };
        forged.pop();
        forged.push(end);
        assert!(issuer.verify(&forged, NOW).is_err());
    }

    #[test]
    fn a_public_key_does_not_serve_as_a_shared_secret() {
        let (issuer, _directory) = issuer();
        let claims =
            json!({ "iss": "https://login.example.org", "aud": "chat", "sub": "1", "exp": NOW.0 });
        let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(public("one").to_string().as_bytes());
        let forged = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert!(issuer.verify(&forged, NOW).is_err());
    }

    #[test]
    fn keys_are_exchanged_without_a_restart_and_bad_files_change_nothing() {
        let (issuer, _directory) = issuer();
        let file = issuer.settings.keys_file.clone();
        std::fs::write(&file, "{}").unwrap();
        assert!(issuer.reload().is_err());
        assert!(issuer.verify(&token(json!({})), NOW).is_ok());
        std::fs::write(&file, json!({ "keys": [public("two")] }).to_string()).unwrap();
        issuer.reload().unwrap();
        assert!(issuer.verify(&token(json!({})), NOW).is_err());
    }
}
