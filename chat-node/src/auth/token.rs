//! Access tokens of this platform: JSON Web Tokens (RFC 7519) signed with HS256.

use chat_protocol::error::Refusal;
use chat_protocol::{Code, DeviceId, Millis, UserId};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{Caller, KeyRing};

/// Longest token looked at. Those made here have about 350 bytes; an external issuer's may hold many claims.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: UserId,
    device: DeviceId,
    /// Seconds since 1970. A `NumericDate` may have a fraction (RFC 7519, section 2), and `exp` needs it: cut to whole
    /// seconds, a token would live up to a second shorter than it was promised.
    iat: u64,
    exp: f64,
}

/// Signs a token.
pub(super) fn sign(
    keys: &KeyRing,
    issuer: &str,
    user_id: UserId,
    device_id: DeviceId,
    now: Millis,
    life_ms: u64,
) -> Result<(String, Millis), jsonwebtoken::errors::Error> {
    let expires_at = now.plus(life_ms);
    let (iat, exp) = (now.0 / 1_000, expires_at.0 as f64 / 1_000.0);
    let claims = Claims { iss: issuer.into(), sub: user_id, device: device_id, iat, exp };
    let (id, key) = keys.signing();
    let header = Header { kid: Some(id.into()), ..Header::new(Algorithm::HS256) };
    let token = jsonwebtoken::encode(&header, &claims, key)?;
    Ok((token, expires_at))
}

/// Who a token names, if it was signed here and has not expired.
pub(super) fn verify(
    keys: &KeyRing,
    issuer: &str,
    token: &str,
    now: Millis,
) -> Result<Caller, Refusal> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(unauthenticated());
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| unauthenticated())?;
    let key =
        header.kid.as_deref().and_then(|id| keys.verifying(id)).ok_or_else(unauthenticated)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&[issuer]);
    // Expiry is checked below, by this node's clock.
    validation.validate_exp = false;
    let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
        .map_err(|_| unauthenticated())?
        .claims;
    let expires_at = Millis((claims.exp * 1_000.0).round() as u64);
    if expires_at <= now {
        return Err(expired());
    }
    Ok(Caller { user_id: claims.sub, device_id: claims.device, expires_at })
}

pub(super) fn unauthenticated() -> Refusal {
    Refusal::new(Code::Unauthenticated, "The access token is not valid. Log in again.")
}

pub(super) fn expired() -> Refusal {
    let detail = "The access token has expired. Get a new one with the refresh token.";
    Refusal::new(Code::TokenExpired, detail)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Millis = Millis(1_800_000_000_987);

    fn signed(keys: &KeyRing) -> (String, UserId, DeviceId) {
        let (user, device) = (UserId::random(), DeviceId::random());
        let (token, expires_at) = sign(keys, "chat", user, device, NOW, 900_000).unwrap();
        assert_eq!(expires_at, NOW.plus(900_000));
        (token, user, device)
    }

    #[test]
    fn a_token_names_its_user_and_device_until_it_expires() {
        let keys = KeyRing::random();
        let (token, user_id, device_id) = signed(&keys);
        let expires_at = NOW.plus(900_000);
        let caller = verify(&keys, "chat", &token, NOW.plus(899_999)).unwrap();
        assert_eq!(caller, Caller { user_id, device_id, expires_at });
        let refusal = verify(&keys, "chat", &token, NOW.plus(900_000)).unwrap_err();
        assert_eq!(refusal.code, Code::TokenExpired);
    }

    #[test]
    fn forged_tokens_are_refused() {
        let keys = KeyRing::random();
        let (token, ..) = signed(&keys);
        let parts: Vec<&str> = token.split('.').collect();
        let header = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let kid = keys.signing().0;
        let unsigned = header(&format!(r#"{{"typ":"JWT","alg":"none","kid":"{kid}"}}"#));
        let other_algorithm = header(&format!(r#"{{"typ":"JWT","alg":"HS512","kid":"{kid}"}}"#));
        let other_claims = URL_SAFE_NO_PAD.encode(
            serde_json::json!({
                "iss": "chat", "sub": UserId::random(), "device": DeviceId::random(),
                "iat": 1, "exp": 9_999_999_999_u64,
            })
            .to_string(),
        );
        for forged in [
            String::new(),
            "not.a.token".into(),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{unsigned}.{}.", parts[1]),
            format!("{unsigned}.{}.{}", parts[1], parts[2]),
            format!("{other_algorithm}.{}.{}", parts[1], parts[2]),
            format!("{}.{other_claims}.{}", parts[0], parts[2]),
            signed(&KeyRing::random()).0,
            "a".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            let refusal = verify(&keys, "chat", &forged, NOW).unwrap_err();
            assert_eq!(refusal.code, Code::Unauthenticated, "{forged}");
        }
        assert!(verify(&keys, "another platform", &token, NOW).is_err());
    }

    #[test]
    fn a_retired_key_still_verifies_while_it_is_in_the_ring() {
        let key = |id: &str, byte: u8| {
            let secret = URL_SAFE_NO_PAD.encode([byte; 32]);
            format!(r#"{{"kty":"oct","kid":"{id}","k":"{secret}"}}"#)
        };
        let ring = |keys: &[String]| {
            KeyRing::from_json(&format!(r#"{{"keys":[{}]}}"#, keys.join(","))).unwrap()
        };
        let (old, new) = (key("old", 1), key("new", 2));
        let (token, ..) = signed(&ring(std::slice::from_ref(&old)));
        let both = ring(&[new.clone(), old]);
        assert!(verify(&both, "chat", &token, NOW).is_ok());
        let (token_of_new, ..) = signed(&both);
        let only_new = ring(&[new]);
        assert!(verify(&only_new, "chat", &token_of_new, NOW).is_ok());
        assert!(verify(&only_new, "chat", &token, NOW).is_err());
    }
}
