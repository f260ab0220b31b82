//! Looks at everything and changes nothing, but for a file made and removed in the data directory.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::nats::{NatsBroker, NatsOptions, StreamState, SyncPolicy};
use chat_broker::{Broker as _, Change};
use chat_protocol::Millis;
use chat_store::cql::CqlStore;

use super::evidence::{
    Address, Broker, Directory, DirectoryState, Evidence, KeyFile, Keys, Nats, Store,
};
use crate::auth::KeyRing;
use crate::backup::STORE_EPOCH_KEY;
use crate::clock::Clock;
use crate::config::{BrokerAddress, Config, StoreAddress};
use crate::data_directory::{LOCK_FILE, log_path, store_path, token_key_path};
use crate::node::ports;

/// How long one other program may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most of an HTTP answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// In front of the keys of registered nodes.
const NODE_PREFIX: &str = "node/";

/// Looks at everything that the configuration names. `monitors` are `host:port` of NATS monitoring ports.
pub(super) async fn probe(config: &Config, monitors: &[String]) -> Evidence {
    let directory = match config.broker {
        BrokerAddress::Embedded => Some(directory(&config.data_dir)),
        BrokerAddress::Nats(_) => None,
    };
    let keys = config.token.key_file.clone();
    Evidence {
        broker: broker(config, monitors).await,
        store: store(config).await,
        directory,
        keys: key_file(keys.unwrap_or_else(|| token_key_path(&config.data_dir))),
        addresses: vec![
            ("listen", config.listen, address(config.listen, "/v1/discovery")),
            ("admin_listen", config.admin_listen, address(config.admin_listen, "/live")),
        ],
        files_max: files_max(),
    }
}

async fn broker(config: &Config, monitors: &[String]) -> Broker {
    let BrokerAddress::Nats(servers) = &config.broker else {
        let log = log_path(&config.data_dir);
        if !log.exists() {
            return Broker::Embedded(Ok(None));
        }
        let value = chat_broker::embedded::read_key(&log, STORE_EPOCH_KEY);
        return Broker::Embedded(value.map(|value| value.as_ref().and_then(epoch)).map_err(text));
    };
    let options = NatsOptions {
        open_deadline: PATIENCE,
        deadline: PATIENCE,
        ..ports::nats_options(config, servers)
    };
    let now = || Clock::system().now();
    let servers = NatsBroker::inspect_servers(&options, now).await;
    let monitored_sync =
        monitors.iter().map(|address| (address.clone(), monitored_sync(address))).collect();
    let (streams, keys) = match NatsBroker::attach(options).await {
        Ok(broker) => {
            let streams = broker.inspect_streams().await.map_err(text);
            let keys = match has_keys(&streams) {
                true => Some(keys(&broker, ahead_ms(&servers)).await),
                false => None,
            };
            (streams, keys)
        }
        Err(error) => (Err(text(error)), None),
    };
    let servers =
        servers.into_iter().map(|(address, answer)| (address, answer.map_err(text))).collect();
    Broker::Nats(Nats { servers, monitored_sync, streams, keys })
}

fn has_keys(streams: &Result<Vec<StreamState>, String>) -> bool {
    let last = streams.as_ref().ok().and_then(|streams| streams.last());
    last.is_some_and(|stream| stream.found.as_ref().is_some_and(|found| found.has_leader))
}

type Answers = [(String, Result<chat_broker::nats::Server, chat_broker::nats::OpenError>)];

/// How far this machine's clock is ahead of the first server that told its own.
fn ahead_ms(servers: &Answers) -> i64 {
    let mut told = servers.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.time);
    told.next().map_or(0, |time| time.ahead_ms)
}

/// The registered nodes and the store's epoch. Ages are by the broker's clock, which wrote the times down.
async fn keys(broker: &NatsBroker, ahead_ms: i64) -> Result<Keys, String> {
    let all = async {
        let value = broker.get(STORE_EPOCH_KEY).await.map_err(text)?;
        let mut nodes = BTreeMap::new();
        let mut watch = broker.watch(NODE_PREFIX).await.map_err(text)?;
        loop {
            match watch.next().await {
                Change::Written { key, entry } => {
                    let now = Millis(Clock::system().now().0.saturating_add_signed(-ahead_ms));
                    let age = Duration::from_millis(now.since(entry.written_at));
                    nodes.insert(key.trim_start_matches(NODE_PREFIX).to_owned(), age);
                }
                Change::Removed { key } => {
                    nodes.remove(key.trim_start_matches(NODE_PREFIX));
                }
                Change::Current => break,
                Change::Interrupted => return Err("the connection broke".to_owned()),
            }
        }
        Ok(Keys { store_epoch: value.and_then(|entry| epoch(&entry.value)), nodes })
    };
    match tokio::time::timeout(PATIENCE, all).await {
        Ok(keys) => keys,
        Err(_) => Err("the broker does not answer".to_owned()),
    }
}

fn epoch(value: &Bytes) -> Option<u64> {
    Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))
}

async fn store(config: &Config) -> Store {
    let StoreAddress::Scylla { hosts, keyspace } = &config.store else {
        let path = store_path(&config.data_dir);
        return Store::Embedded(match path.exists() {
            true => chat_store::embedded::inspect(&path).map(Some).map_err(text),
            false => Ok(None),
        });
    };
    let options = ports::cql_options(config, hosts, keyspace);
    Store::Cql(Box::pin(CqlStore::inspect(&options)).await.map_err(text))
}

/// What a server's monitoring port says of its syncing.
fn monitored_sync(address: &str) -> Result<SyncPolicy, String> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let mut found = address.to_socket_addrs().map_err(text)?;
    let found = found.next().ok_or_else(|| format!("{address} has no address"))?;
    let body = get(found, "/jsz?config=true").map_err(text)?;
    let answer: serde_json::Value = serde_json::from_str(&body).map_err(text)?;
    SyncPolicy::from_jsz(&answer).ok_or_else(|| "the answer does not tell the sync policy".into())
}

/// The body of an HTTP answer.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, "that is no HTTP answer"))
}

fn directory(path: &Path) -> Directory {
    let state = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(DirectoryState {
            mode: metadata.permissions().mode() & 0o7777,
            is_writable: is_writable(path),
            is_in_use: is_in_use(path),
            used_bytes: [store_path(path), log_path(path)].iter().map(|file| size(file)).sum(),
        })),
        Ok(_) => Err("it is a file, not a directory".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(text(error)),
    };
    Directory { path: path.to_owned(), state, free_bytes: free_bytes(path) }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

fn is_writable(path: &Path) -> bool {
    let draft = path.join(format!(".doctor-{:016x}", rand::random::<u64>()));
    let made = std::fs::File::create_new(&draft).is_ok();
    made && std::fs::remove_file(&draft).is_ok()
}

/// A node holds a lock while it runs. Taken here for a moment only, and never made.
fn is_in_use(path: &Path) -> bool {
    let lock = std::fs::File::open(path.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

fn free_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    let told = rustix::fs::statvfs(existing).ok()?;
    told.f_frsize.checked_mul(told.f_bavail)
}

fn key_file(path: PathBuf) -> KeyFile {
    let state = match std::fs::metadata(&path) {
        Ok(metadata) => std::fs::read_to_string(&path)
            .map_err(text)
            .and_then(|content| KeyRing::from_json(&content).map_err(text))
            .map(|_| Some(metadata.permissions().mode() & 0o7777)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(text(error)),
    };
    KeyFile { path, state }
}

fn address(address: SocketAddr, path: &str) -> Address {
    match TcpListener::bind(address) {
        Ok(_) => Address::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let mut near = address;
            if address.ip().is_unspecified() {
                near.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            let ours = get(near, path).is_ok_and(|body| match path {
                "/live" => body == crate::admin::LIVE,
                _ => body.contains("\"websocket_url\""),
            });
            if ours { Address::ChatNode } else { Address::Taken }
        }
        Err(error) => Address::Unusable(text(error)),
    }
}

/// The soft limit of open files, as Linux tells it.
fn files_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
