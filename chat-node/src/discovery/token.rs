//! The token that ties a client to a pick: short-lived, signed with the platform's keys, useless for anything else.

use chat_protocol::{Millis, NodeId};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::auth::KeyRing;

/// The issuer in these tokens: an access token has another, so neither passes for the other.
const ISSUER: &str = "chat discovery";

/// Longest token looked at; those made here have about 250 bytes.
const BYTES_MAX: usize = 1_024;

/// Longest revision that a token carries.
const REVISION_BYTES_MAX: usize = 256;

/// Where a client should be: at one node, or at any node of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The node.
    pub node: Option<NodeId>,
    /// Without a node: the revision.
    pub revision: Option<String>,
    /// The generation of rollouts and rollbacks that the revision is of.
    pub generation: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// Milliseconds: nobody but these nodes reads it.
    until_ms: u64,
}

/// Signs a pick. `None`: the revision is too long.
pub fn sign(keys: &KeyRing, pick: &Pick, now: Millis, life_ms: u64) -> Option<String> {
    if pick.revision.as_ref().is_some_and(|revision| revision.len() > REVISION_BYTES_MAX) {
        return None;
    }
    let claims = Claims {
        iss: ISSUER.to_owned(),
        node: pick.node,
        revision: pick.revision.clone(),
        generation: pick.generation,
        until_ms: now.plus(life_ms).0,
    };
    let (id, key) = keys.signing();
    let header = Header { kid: Some(id.into()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, key).ok()
}

/// The pick in a token that was signed here and has not expired.
pub fn verify(keys: &KeyRing, token: &str, now: Millis) -> Option<Pick> {
    if token.len() > BYTES_MAX {
        return None;
    }
    let header = jsonwebtoken::decode_header(token).ok()?;
    let key = keys.verifying(header.kid.as_deref()?)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["iss"]);
    validation.validate_exp = false;
    let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).ok()?.claims;
    let Claims { node, revision, generation, until_ms, .. } = claims;
    (until_ms > now.0).then_some(Pick { node, revision, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    #[test]
    fn a_pick_is_read_until_it_expires_and_by_the_platforms_keys_only() {
        let (keys, others) = (KeyRing::random(), KeyRing::random());
        let pick = Pick { node: Some(NodeId::random()), revision: None, generation: None };
        let token = sign(&keys, &pick, NOW, 300_000).unwrap();
        assert!(token.len() < 300, "{} bytes", token.len());
        assert_eq!(verify(&keys, &token, NOW.plus(299_999)), Some(pick));
        assert_eq!(verify(&keys, &token, NOW.plus(300_000)), None);
        assert_eq!(verify(&others, &token, NOW), None);
        for forged in [String::new(), "a.b.c".to_owned(), format!("{token}x"), "x".repeat(2_000)] {
            assert_eq!(verify(&keys, &forged, NOW), None, "{forged}");
        }
    }

    #[test]
    fn a_revision_travels_and_a_huge_one_does_not() {
        let keys = KeyRing::random();
        let pick =
            |revision: String| Pick { node: None, revision: Some(revision), generation: None };
        let token = sign(&keys, &pick("2026.11-green".into()), NOW, 1_000).unwrap();
        assert_eq!(verify(&keys, &token, NOW), Some(pick("2026.11-green".into())));
        assert_eq!(sign(&keys, &pick("x".repeat(300)), NOW, 1_000), None);
    }

    #[test]
    fn an_access_token_is_no_pick_and_a_pick_no_access_token() {
        use chat_protocol::{DeviceId, UserId};
        let keys = KeyRing::random();
        let access = crate::auth::tests_support::access_token(
            &keys,
            UserId::random(),
            DeviceId::random(),
            NOW,
        );
        assert_eq!(verify(&keys, &access, NOW), None);
        let pick = Pick { node: Some(NodeId::random()), revision: None, generation: None };
        let token = sign(&keys, &pick, NOW, 300_000).unwrap();
        assert!(!crate::auth::tests_support::is_access_token(&keys, &token, NOW));
    }
}
