//! The driver's session: addresses, credentials, TLS, consistency, time-outs.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::NewSessionError;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::policies::timestamp_generator::{MonotonicTimestampGenerator, TimestampGenerator};
use scylla::statement::{Consistency as Level, SerialConsistency};

use super::error::OpenError;
use super::options::{Consistency, Options, Tls};
use super::stamps::Stamps;

pub(super) async fn connect(options: &Options) -> Result<Session, OpenError> {
    let level = match options.consistency {
        Consistency::LocalQuorum => Level::LocalQuorum,
        Consistency::Quorum => Level::Quorum,
    };
    let nearest = DefaultPolicy::builder()
        .prefer_datacenter(options.local_datacenter.clone())
        .token_aware(true)
        .permit_dc_failover(options.consistency == Consistency::Quorum)
        .build();
    // A node that hangs keeps its connections for a while: what may be repeated asks another one before time is out.
    let another = SimpleSpeculativeExecutionPolicy {
        max_retry_count: 1,
        retry_interval: Duration::from_millis(options.request_timeout_ms / 4),
    };
    let profile = ExecutionProfile::builder()
        .consistency(level)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(Duration::from_millis(options.request_timeout_ms)))
        .load_balancing_policy(nearest)
        .speculative_execution_policy(Some(Arc::new(another)))
        .build();
    let stamps: Arc<dyn TimestampGenerator> = match &options.time {
        Some(time) => Arc::new(Stamps::new(time.clone())),
        None => Arc::new(MonotonicTimestampGenerator::new()),
    };
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(Duration::from_millis(options.connect_timeout_ms))
        // For tables that carry no time stamp of the log: writes of one node keep their order whichever of the
        // database's nodes takes them.
        .timestamp_generator(stamps)
        // A broken path is noticed soon, and its requests fail instead of waiting for their time-out.
        .keepalive_interval(Duration::from_secs(10))
        .keepalive_timeout(Duration::from_secs(10));
    if let Some(credentials) = &options.credentials {
        builder = builder.user(&credentials.user, &credentials.password);
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(tls_context(tls)?));
    }
    // The driver goes on trying for a while where no node answers; a start should say soon what is wrong.
    builder.build().await.map_err(|error| refused(&error))
}

/// The driver does not say in its types which of many nested errors it was: a refusal is known by its code's words.
fn refused(error: &NewSessionError) -> OpenError {
    let reason = error.to_string();
    let words = ["Authentication", "authentication", "credentials", "Bad username"];
    match words.iter().any(|word| reason.contains(word)) {
        true => OpenError::Credentials { reason },
        false => OpenError::Unreachable { reason },
    }
}

fn tls_context(tls: &Tls) -> Result<Arc<ClientConfig>, OpenError> {
    let unusable = |what: &str, path: &std::path::Path, reason: String| {
        OpenError::Tls(format!("the {what} in {} cannot be used: {reason}", path.display()))
    };
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable("certificate", path, error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca_file)? {
        roots
            .add(certificate)
            .map_err(|error| unusable("certificate", &tls.ca_file, error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("certificate", &tls.ca_file, "there is none".into()));
    }
    // Named, so that it does not matter which other provider some dependency brings along.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.client {
        None => config.with_no_client_auth(),
        Some((certificate, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| unusable("key", key_file, error.to_string()))?;
            config
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|error| unusable("certificate", certificate, error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}
