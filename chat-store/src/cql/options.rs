use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use chat_protocol::Millis;

use super::error::OpenError;

/// Longest name of a keyspace, in both databases.
const KEYSPACE_CHARS_MAX: usize = 48;

/// Tells the time.
pub type Time = Arc<dyn Fn() -> Millis + Send + Sync>;

/// How a CQL store is opened.
#[derive(Clone)]
pub struct Options {
    /// Where to find the first nodes, as `host:port`; the driver learns of the others from them.
    pub contact_points: Vec<String>,
    /// The keyspace; made if it is not there.
    pub keyspace: String,
    /// Copies per data centre (`NetworkTopologyStrategy`), for a keyspace that is made. An existing one stays as it is.
    pub replication: BTreeMap<String, u32>,
    /// The data centre of this node: its replicas are asked, and its quorum counts.
    pub local_datacenter: String,
    /// Name and password, if the database asks for them.
    pub credentials: Option<Credentials>,
    /// TLS, if the database offers it. Certificates must name the nodes' IP addresses.
    pub tls: Option<Tls>,
    /// How many replicas must answer.
    pub consistency: Consistency,
    /// Requests on their way to the database at once; more make their callers wait.
    pub concurrency_max: usize,
    /// A request that takes longer is answered with `Unavailable`; so is one that found no place for that long.
    pub request_timeout_ms: u64,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
    /// A lock of a node that died while it changed the schema is broken after this.
    pub migration_lock_ms: u64,
    /// The time when the store is opened; later it learns the time from [`Store::expire`](crate::Store::expire).
    pub now: Millis,
    /// Tells the time of writes that the log does not order. `None`: the machine's clock does, also when it is wrong.
    pub time: Option<Time>,
    /// The epoch of a store that does not exist yet. `None`: drawn at random.
    pub epoch: Option<u64>,
}

impl Options {
    /// Options with defaults for everything but these.
    pub fn new(
        contact_points: Vec<String>,
        keyspace: &str,
        local_datacenter: &str,
        now: Millis,
    ) -> Options {
        Options {
            contact_points,
            keyspace: keyspace.to_owned(),
            replication: BTreeMap::from([(local_datacenter.to_owned(), 3)]),
            local_datacenter: local_datacenter.to_owned(),
            credentials: None,
            tls: None,
            consistency: Consistency::LocalQuorum,
            concurrency_max: 256,
            request_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            migration_lock_ms: 30_000,
            now,
            time: None,
            epoch: None,
        }
    }

    /// What would go wrong later, said now. Names end up in CQL text, where they cannot be bound as values.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let bad = |sentence: String| Err(OpenError::Options(sentence));
        if self.contact_points.is_empty() {
            return bad("name at least one contact point of the store".into());
        }
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let keyspace = &self.keyspace;
        if !keyspace.starts_with(|c: char| c.is_ascii_lowercase())
            || !keyspace.chars().all(lower)
            || keyspace.len() > KEYSPACE_CHARS_MAX
        {
            return bad(format!(
                "the keyspace `{keyspace}` must be a letter and then letters, digits or `_`, all in lower case, at most \
                 {KEYSPACE_CHARS_MAX}"
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let name = |name: &String| !name.is_empty() && name.chars().all(plain);
        if let Some(wrong) =
            self.replication.keys().chain([&self.local_datacenter]).find(|given| !name(given))
        {
            return bad(format!("`{wrong}` cannot be the name of a data centre"));
        }
        if self.replication.values().all(|copies| *copies == 0) {
            return bad("give a data centre at least one copy of the store's data".into());
        }
        if self.concurrency_max == 0 || self.request_timeout_ms == 0 {
            return bad("the store needs a concurrency and a time-out above 0".into());
        }
        Ok(())
    }
}

/// Never shows the password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("local_datacenter", &self.local_datacenter)
            .finish_non_exhaustive()
    }
}

/// Name and password.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Files for TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file of the authority that signed the nodes' certificates.
    pub ca_file: PathBuf,
    /// PEM files of a certificate and its key, if the database asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How many replicas must answer. Lightweight transactions always ask the local data centre's quorum (`LOCAL_SERIAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Most replicas of the local data centre.
    LocalQuorum,
    /// Most of all replicas: survives the loss of a data centre, and waits for the others.
    Quorum,
}
