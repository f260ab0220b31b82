//! What the probes saw: plain values, so that judging them needs no server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chat_broker::nats::{Server, StreamState, SyncPolicy};
use chat_store::cql;

/// Everything that was seen. An error is the sentence that the port says it in.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The log, the bus and the keys.
    pub broker: Broker,
    /// The store.
    pub store: Store,
    /// The data directory, if data is kept there.
    pub directory: Option<Directory>,
    /// The file with the signing keys.
    pub keys: KeyFile,
    /// Addresses to listen on, with the setting that names each.
    pub addresses: Vec<(&'static str, SocketAddr, Address)>,
    /// Files and connections that a process may have open, if the system says.
    pub files_max: Option<u64>,
}

/// The broker.
#[derive(Clone, Debug)]
pub enum Broker {
    /// A file in the data directory: the store's epoch in it, if any was written.
    Embedded(Result<Option<u64>, String>),
    /// NATS servers.
    Nats(Nats),
}

/// NATS servers.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Each configured address, and what answered.
    pub servers: Vec<(String, Result<Server, String>)>,
    /// How the servers sync, as their monitoring port says; by its address.
    pub monitored_sync: Vec<(String, Result<SyncPolicy, String>)>,
    /// The streams; the keys' is the last one.
    pub streams: Result<Vec<StreamState>, String>,
    /// What the keys hold; `None`: there is no bucket yet.
    pub keys: Option<Result<Keys, String>>,
}

/// What the keys hold.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// The epoch of the store that the log belongs to.
    pub store_epoch: Option<u64>,
    /// Nodes that are registered, by the part of the key that names them, and the age of the last sign of life.
    pub nodes: BTreeMap<String, Duration>,
}

/// The store.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file in the data directory; `None`: there is none yet.
    Embedded(Result<Option<chat_store::embedded::Inspection>, String>),
    /// A CQL database.
    Cql(Result<cql::Inspection, String>),
}

/// The data directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// What it is; `None`: it does not exist.
    pub state: Result<Option<DirectoryState>, String>,
    /// Bytes free in its file system, or in that of the nearest directory above it that exists.
    pub free_bytes: Option<u64>,
}

/// A data directory that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryState {
    /// Permission bits.
    pub mode: u32,
    /// This user can make files in it.
    pub is_writable: bool,
    /// A node holds it.
    pub is_in_use: bool,
    /// Bytes of store and log.
    pub used_bytes: u64,
}

/// A file with signing keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its permission bits; `None`: it does not exist.
    pub state: Result<Option<u32>, String>,
}

/// Whether an address can be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Nobody listens there.
    Free,
    /// A chat node answers there.
    ChatNode,
    /// Somebody else does.
    Taken,
    /// It cannot be used.
    Unusable(String),
}
