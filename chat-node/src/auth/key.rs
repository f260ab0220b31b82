//! The keys that sign and verify access tokens: a JSON Web Key Set (RFC 7517) of symmetric keys in a file.
//!
//! The first key signs, all of them verify. To rotate: put a new key in front, wait until every node has it and the old
//! tokens have expired, then remove the old one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};

/// RFC 7518, 3.2: a key for HS256 has at least the size of the hash.
const KEY_BYTES_MIN: usize = 32;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key file {path} cannot be used: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content is not a set of usable keys.
    #[error("the key set is not usable: {0}")]
    Content(String),
}

/// Keys of access tokens. The first one signs.
pub struct KeyRing {
    signing_id: String,
    signing: EncodingKey,
    verifying: HashMap<String, DecodingKey>,
}

#[derive(Serialize, Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
struct Key {
    kty: String,
    kid: String,
    k: String,
}

impl KeyRing {
    /// The keys in the text of a JSON Web Key Set.
    pub fn from_json(text: &str) -> Result<KeyRing, KeyError> {
        let unusable = |problem: String| KeyError::Content(problem);
        let set: KeySet = serde_json::from_str(text).map_err(|e| unusable(e.to_string()))?;
        let mut verifying = HashMap::new();
        let mut signing = None;
        for key in set.keys {
            if key.kty != "oct" {
                return Err(unusable(format!(
                    "key `{}` has kty `{}`, not `oct`",
                    key.kid, key.kty
                )));
            }
            let secret = URL_SAFE_NO_PAD
                .decode(&key.k)
                .map_err(|_| unusable(format!("`k` of key `{}` is not base64url", key.kid)))?;
            if secret.len() < KEY_BYTES_MIN {
                return Err(unusable(format!(
                    "key `{}` has {} bytes, {KEY_BYTES_MIN} are the least",
                    key.kid,
                    secret.len()
                )));
            }
            if verifying.insert(key.kid.clone(), DecodingKey::from_secret(&secret)).is_some() {
                return Err(unusable(format!("two keys are called `{}`", key.kid)));
            }
            signing.get_or_insert((key.kid, EncodingKey::from_secret(&secret)));
        }
        let (signing_id, signing) = signing.ok_or_else(|| unusable("it is empty".into()))?;
        Ok(KeyRing { signing_id, signing, verifying })
    }

    /// A ring of one new random key, kept nowhere.
    pub fn random() -> KeyRing {
        KeyRing::from_json(&new_key_set()).expect("a key set made here is usable")
    }

    /// The keys in a file. A file that is missing is made with one new key, readable by its owner only; one that exists
    /// is never written.
    pub fn open_or_create(path: &Path) -> Result<KeyRing, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => KeyRing::from_json(&text),
            Err(problem) if problem.kind() == ErrorKind::NotFound => {
                create(path).map_err(failed)?;
                KeyRing::from_json(&std::fs::read_to_string(path).map_err(failed)?)
            }
            Err(problem) => Err(failed(problem)),
        }
    }

    pub(crate) fn signing(&self) -> (&str, &EncodingKey) {
        (&self.signing_id, &self.signing)
    }

    pub(crate) fn verifying(&self, id: &str) -> Option<&DecodingKey> {
        self.verifying.get(id)
    }
}

fn new_key_set() -> String {
    let secret: [u8; 32] = rand::random();
    let name: [u8; 6] = rand::random();
    let key = Key {
        kty: "oct".into(),
        kid: URL_SAFE_NO_PAD.encode(name),
        k: URL_SAFE_NO_PAD.encode(secret),
    };
    serde_json::to_string(&KeySet { keys: vec![key] }).expect("a key set of strings serialises")
}

/// Makes the file whole or not at all. If another process makes it at the same moment, the first one's stays.
fn create(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let draft = directory.join(format!(".key-{:016x}", rand::random::<u64>()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(new_key_set().as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces a file.
        match std::fs::hard_link(&draft, path) {
            Err(problem) if problem.kind() != ErrorKind::AlreadyExists => Err(problem),
            _ => File::open(directory)?.sync_all(),
        }
    })();
    let removed = std::fs::remove_file(&draft);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_missing_key_file_is_made_for_its_owner_only_and_never_changed_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/tokens.json");
        KeyRing::open_or_create(&path).unwrap();
        let made = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        create(&path).unwrap();
        KeyRing::open_or_create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), made);
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left behind");
    }

    #[test]
    fn unusable_key_sets_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "EOF"),
            (r#"{"keys":[]}"#, "empty"),
            (r#"{"keys":[{"kty":"RSA","kid":"a","k":""}]}"#, "kty"),
            (r#"{"keys":[{"kty":"oct","kid":"a","k":"!"}]}"#, "base64url"),
            (r#"{"keys":[{"kty":"oct","kid":"a","k":"c2hvcnQ"}]}"#, "5 bytes"),
        ] {
            let problem = KeyRing::from_json(text).err().expect(text).to_string();
            assert!(problem.contains(reason), "{text}: {problem}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "not keys").unwrap();
        assert!(KeyRing::open_or_create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not keys", "it is left as it was");
    }
}
