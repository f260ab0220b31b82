//! Refresh tokens: whose they are, and 256 random bits of which only a digest is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_protocol::{DeviceId, UserId};
use sha2::{Digest as _, Sha256};

const BYTES: usize = 16 + 16 + 32;

/// A refresh token. It names its user and device, so that it is found without an index of digests.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    bytes: [u8; BYTES],
    /// Whose.
    pub user_id: UserId,
    /// Of which device.
    pub device_id: DeviceId,
}

impl RefreshToken {
    /// A new one for a device.
    pub fn random(user_id: UserId, device_id: DeviceId) -> RefreshToken {
        let secret: [u8; 32] = rand::random();
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(user_id.as_bytes());
        bytes[16..32].copy_from_slice(device_id.as_bytes());
        bytes[32..].copy_from_slice(&secret);
        RefreshToken { bytes, user_id, device_id }
    }

    /// The token in a text, if it has the form of one.
    pub fn parse(text: &str) -> Option<RefreshToken> {
        let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let user_id = UserId::from_bytes(&bytes[..16]).ok()?;
        let device_id = DeviceId::from_bytes(&bytes[16..32]).ok()?;
        Some(RefreshToken { bytes, user_id, device_id })
    }

    /// As the client keeps it.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes)
    }

    /// As the store keeps it.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_other_texts_are_none() {
        let token = RefreshToken::random(UserId::random(), DeviceId::random());
        let read = RefreshToken::parse(&token.to_text()).unwrap();
        assert!(read == token && read.digest() == token.digest());
        let text = token.to_text();
        for other in ["", "abc", &text[1..], &format!("{text}A"), "é"] {
            assert!(RefreshToken::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn tokens_of_one_device_differ() {
        let (user, device) = (UserId::random(), DeviceId::random());
        let one = RefreshToken::random(user, device);
        assert!(one.digest() != RefreshToken::random(user, device).digest());
    }
}
