//! What can be set, and why the servers cannot be used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chat_protocol::limits;

/// How a node proves who it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all.
    #[default]
    None,
    /// By name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// By a shared token.
    Token(String),
    /// By a file with a JWT and the key that signs for it, as `nsc` writes it.
    CredentialsFile(PathBuf),
}

// Secrets stay out of logs.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authentication::None => f.write_str("None"),
            Authentication::Password { user, .. } => write!(f, "Password({user})"),
            Authentication::Token(_) => f.write_str("Token"),
            Authentication::CredentialsFile(path) => write!(f, "CredentialsFile({path:?})"),
        }
    }
}

/// Encryption of the connections. A server may also ask for it by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Without it nothing is sent.
    pub required: bool,
    /// PEM file of the authorities that vouch for the servers; without it the system's.
    pub root_certificates: Option<PathBuf>,
    /// PEM files of the client's certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// What can be set of a broker on NATS.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Addresses, such as `nats://nats-0:4222` or `tls://nats.example.org`. One that answers is enough; it names the
    /// others.
    pub servers: Vec<String>,
    /// How the node proves who it is.
    pub authentication: Authentication,
    /// Encryption.
    pub tls: Tls,
    /// In front of all subjects, streams and the bucket, so that platforms can share servers: letters, digits, `-`, `_`.
    pub prefix: String,
    /// Streams that the partitions are spread over. Fixed when the platform is created.
    pub streams: u16,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// What each stream may take of the disk; the servers reserve it. A full one refuses appends.
    pub stream_bytes_max: u64,
    /// What the keys may take of the disk.
    pub keys_bytes_max: u64,
    /// Larger records are refused. By default what a record is cut at, and room for its envelope.
    pub payload_bytes_max: usize,
    /// Bytes of appends that may be under way. Further ones wait.
    pub appends_bytes_max: usize,
    /// The outcome of an append that is not answered by then is unknown. Shorter than other deadlines: one that was sent to
    /// a leader that died is never answered, and repeating it finds the next one.
    pub append_deadline: Duration,
    /// A read, or a write of a key, that is not answered by then has failed.
    pub deadline: Duration,
    /// How long opening tries while the servers elect their leaders.
    pub open_deadline: Duration,
    /// What may wait to be sent on each connection. Further publications are dropped and counted, anything else waits.
    pub outgoing_max: usize,
    /// Bytes of publications that may wait to be sent.
    pub publications_bytes_max: usize,
    /// Requests that one connection answers at a time. Further ones wait, as long as their deadline allows.
    pub requests_max: usize,
}

impl Default for NatsOptions {
    fn default() -> NatsOptions {
        NatsOptions {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            authentication: Authentication::None,
            tls: Tls::default(),
            prefix: "chat".to_owned(),
            streams: 4,
            replicas: 1,
            stream_bytes_max: 4 << 30,
            keys_bytes_max: 64 << 20,
            payload_bytes_max: limits::RECORD_BYTES_MAX + 64 * 1024,
            appends_bytes_max: 64 << 20,
            append_deadline: Duration::from_secs(2),
            deadline: Duration::from_secs(5),
            open_deadline: Duration::from_secs(30),
            outgoing_max: 16 * 1024,
            publications_bytes_max: 64 << 20,
            requests_max: 8192,
        }
    }
}

impl NatsOptions {
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let invalid = |text: &str| Err(OpenError::Invalid(text.to_owned()));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.servers.is_empty() {
            return invalid(
                "There is no NATS server to connect to. Give the address of at least one.",
            );
        }
        if self.prefix.is_empty() || self.prefix.len() > 32 || !self.prefix.chars().all(is_plain) {
            return invalid(
                "The prefix must have 1 to 32 letters, digits, - or _, because it is part of the names of streams.",
            );
        }
        if self.streams == 0 || self.streams > 64 {
            return invalid("The number of streams must be from 1 to 64.");
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return invalid("A stream can have 1, 3 or 5 replicas.");
        }
        Ok(())
    }

    /// The servers, without passwords that addresses may hold.
    pub(super) fn shown_servers(&self) -> String {
        let shown = self.servers.iter().map(|server| match server.rsplit_once('@') {
            Some((_, host)) => host.to_owned(),
            None => server.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// Why the servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No server answers.
    #[error(
        "No NATS server answers at {servers}: {reason}. Check the addresses, the network, and that a server runs."
    )]
    Unreachable {
        /// Where it was tried.
        servers: String,
        /// What the system says.
        reason: String,
    },
    /// The servers do not let the node in.
    #[error(
        "The NATS servers at {0} refuse these credentials. Check the name and password, the token or the file."
    )]
    Credentials(String),
    /// The credentials cannot be read.
    #[error("The credentials file {} cannot be read: {reason}. Check the path and the permissions.", path.display())]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// TLS fails.
    #[error(
        "TLS with the NATS servers at {servers} fails: {reason}. Check the certificate authority, the host names and \
         the client certificate."
    )]
    Tls {
        /// Where it was tried.
        servers: String,
        /// What is wrong.
        reason: String,
    },
    /// A server is too old.
    #[error(
        "The NATS server {name} has version {version}; 2.12 or newer is needed, because older ones do not fence appends \
         reliably. Upgrade it."
    )]
    TooOld {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A server takes too small messages.
    #[error(
        "The NATS servers take messages of {found} bytes; {needed} are needed. Raise max_payload in their configuration."
    )]
    SmallMessages {
        /// The servers' limit.
        found: usize,
        /// The largest message.
        needed: usize,
    },
    /// JetStream is off.
    #[error(
        "JetStream is not enabled on the NATS servers at {0}. Enable it in their configuration."
    )]
    NoJetStream(String),
    /// One server cannot keep several replicas.
    #[error(
        "The NATS server is not part of a cluster; {0} replicas need as many servers. Add servers, or set 1 replica."
    )]
    NoCluster(usize),
    /// A stream is there, but not as it should be.
    #[error("The stream {stream} cannot be used: {reason}")]
    Stream {
        /// Its name.
        stream: String,
        /// What differs, and what to do.
        reason: String,
    },
    /// JetStream does not answer in time, or not as it should.
    #[error("JetStream is not available: {0}. Check the servers' logs, and that most of them run.")]
    Unavailable(String),
}
