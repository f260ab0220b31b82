//! Secrets: which ones a platform uses, and what is generated if nobody gave it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use crds::{ChatCluster, DeletionPolicy};
use k8s_openapi::api::core::v1::Secret;
use rand::RngExt as _;

use super::object::{Intent, entry, metadata};
use super::place;
use crate::names::{self, Component};

/// How keys of a Secret begin that hold what was valid before, for those who still use it.
pub const PREVIOUS: &str = "previous-";

/// A Secret that the platform needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Keys that it must have.
    pub keys: Vec<&'static str>,
    /// Whether it is generated when it is not there.
    pub generated: bool,
}

/// The Secrets of a platform.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretPlan {
    /// Keys that sign access tokens.
    pub token_keys: Wanted,
    /// Token of the nodes' admin ports.
    pub admin_token: Wanted,
    /// Name and password of the NATS servers.
    pub nats: Option<Wanted>,
    /// What vouches for external NATS servers.
    pub nats_authority: Option<Wanted>,
    /// Name and password of an external database.
    pub scylla: Option<Wanted>,
    /// What vouches for an external database.
    pub scylla_authority: Option<Wanted>,
}

impl SecretPlan {
    /// All of them.
    pub fn all(&self) -> Vec<&Wanted> {
        let always = [Some(&self.token_keys), Some(&self.admin_token)];
        let optional = [&self.nats, &self.nats_authority, &self.scylla, &self.scylla_authority];
        always.into_iter().chain(optional.map(Option::as_ref)).flatten().collect()
    }

    /// Names of all.
    pub fn used(&self) -> Vec<String> {
        self.all().into_iter().map(|wanted| wanted.name.clone()).collect()
    }
}

/// The Secrets that this platform uses.
pub fn secrets(cluster: &ChatCluster) -> SecretPlan {
    let (own, _) = place(cluster);
    let spec = &cluster.spec;
    let chosen = |given: &Option<crds::SecretReference>, default: String, key| Wanted {
        name: given.as_ref().map_or(default, |secret| secret.name.clone()),
        keys: vec![key],
        generated: given.is_none(),
    };
    let given = |secret: &crds::SecretReference, keys: &[&'static str]| Wanted {
        name: secret.name.clone(),
        keys: keys.to_vec(),
        generated: false,
    };
    let login: &[&str] = &["user", "password"];
    let nats = match &spec.nats.external {
        Some(external) => external.credentials.as_ref().map(|secret| given(secret, login)),
        None => Some(Wanted {
            name: names::nats_credentials(&own),
            keys: login.to_vec(),
            generated: true,
        }),
    };
    let authority = |secret: Option<&crds::SecretReference>| secret.map(|s| given(s, &["ca.crt"]));
    let external = spec.scylla.external.as_ref();
    SecretPlan {
        token_keys: chosen(&spec.secrets.token_keys, names::token_keys(&own), "keys.json"),
        admin_token: chosen(&spec.secrets.admin_token, names::admin_token(&own), "token"),
        nats,
        nats_authority: authority(
            spec.nats.external.as_ref().and_then(|nats| nats.certificate_authority.as_ref()),
        ),
        scylla: external.and_then(|scylla| scylla.credentials.as_ref().map(|s| given(s, login))),
        scylla_authority: authority(
            external.and_then(|scylla| scylla.certificate_authority.as_ref()),
        ),
    }
}

/// A new Secret of this plan. It is created, never applied: one that exists is never overwritten.
pub fn generate(cluster: &ChatCluster, wanted: &Wanted) -> Intent {
    let data = match wanted.keys.as_slice() {
        ["keys.json"] => entry("keys.json", key_set()),
        ["token"] => entry("token", random_text()),
        // NATS reads it as a word of its configuration: it must not look like a number.
        _ => BTreeMap::from([
            ("user".to_owned(), "chat".to_owned()),
            ("password".to_owned(), format!("p{}", random_hex())),
        ]),
    };
    let mut metadata = metadata(cluster, wanted.name.clone(), Component::Chat);
    if cluster.spec.deletion_policy == DeletionPolicy::Retain {
        metadata.owner_references = None;
    }
    Intent::new(&Secret {
        metadata,
        string_data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

/// A JSON Web Key Set (RFC 7517) with one random key.
fn key_set() -> String {
    let name: [u8; 6] = rand::rng().random();
    let key: [u8; 32] = rand::rng().random();
    serde_json::json!({"keys": [{
        "kty": "oct",
        "kid": BASE64_URL_SAFE_NO_PAD.encode(name),
        "k": BASE64_URL_SAFE_NO_PAD.encode(key),
    }]})
    .to_string()
}

fn random_text() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn random_hex() -> String {
    let bytes: [u8; 20] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
