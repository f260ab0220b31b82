//! Looks at the servers and at what is on them, and changes nothing: for a program that tells people what is wrong.

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use chat_protocol::Millis;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connection::{ApiError, Connection, Echo};
use super::message::millis;
use super::options::{NatsOptions, OpenError};
use super::streams::{self, Names};
use super::{MESSAGE_OVERHEAD_BYTES, VERSION_MIN, version};
use crate::broker::Error;

/// Without the rights of the system account nobody answers, and nothing comes of waiting.
const SYSTEM_DEADLINE: Duration = Duration::from_secs(1);

/// One server, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether the version is one that fences appends reliably.
    pub is_new_enough: bool,
    /// Whether JetStream is on.
    pub has_jetstream: bool,
    /// The cluster that it belongs to.
    pub cluster: Option<String>,
    /// Largest message that it takes.
    pub payload_bytes_max: usize,
    /// Largest message that a node sends.
    pub payload_bytes_needed: usize,
    /// Its clock, if it told.
    pub time: Option<ServerTime>,
    /// How it syncs to disk, if these credentials may know.
    pub sync: Option<Sync>,
}

/// A server's clock against this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTime {
    /// This machine's clock minus the server's, at the middle of the request.
    pub ahead_ms: i64,
    /// The offset is known up to half of this.
    pub round_trip: Duration,
}

/// JetStream's `sync_interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Every write, before it is acknowledged.
    Always,
    /// As often as this.
    Every(Duration),
}

/// One stream, as it is and as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// What is there; `None`: the stream does not exist.
    pub found: Option<FoundStream>,
    /// Copies that the options ask for.
    pub replicas_wanted: usize,
    /// Bytes that the options allow.
    pub bytes_max_wanted: u64,
}

/// What a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStream {
    /// Copies.
    pub replicas: usize,
    /// Copies besides the leader's that are up to date.
    pub replicas_current: usize,
    /// Whether there is a leader: without one nothing is appended.
    pub has_leader: bool,
    /// Bytes that it may have; `None`: without limit.
    pub bytes_max: Option<u64>,
    /// Bytes that it has.
    pub bytes: u64,
    /// What makes it unusable, in a sentence.
    pub difference: Option<String>,
}

#[derive(Deserialize)]
struct UserInfo {
    server: UserServer,
}

#[derive(Deserialize)]
struct UserServer {
    time: String,
}

pub(super) async fn server(
    connection: &Connection,
    options: &NatsOptions,
    now: fn() -> Millis,
) -> Server {
    let info = connection.client.server_info();
    Server {
        name: info.server_name,
        is_new_enough: version(&info.version).is_some_and(|version| version >= VERSION_MIN),
        version: info.version,
        has_jetstream: info.jetstream,
        cluster: info.cluster,
        payload_bytes_max: info.max_payload,
        payload_bytes_needed: options.payload_bytes_max + MESSAGE_OVERHEAD_BYTES,
        time: server_time(connection, now).await,
        sync: sync(connection).await,
    }
}

/// Every user may ask what the server knows of them; the answer says what time it is there.
async fn server_time(connection: &Connection, now: fn() -> Millis) -> Option<ServerTime> {
    let (asked, began) = (now(), Instant::now());
    let subject = "$SYS.REQ.USER.INFO".to_owned();
    let deadline = connection.deadline();
    let answer = connection.request(subject, None, Bytes::new(), deadline).await.ok()?;
    let round_trip = began.elapsed();
    let told: UserInfo = serde_json::from_slice(&answer.payload).ok()?;
    let there = i64::try_from(millis(&told.server.time)?.0).ok()?;
    let middle = asked.plus(u64::try_from(round_trip.as_millis() / 2).ok()?);
    Some(ServerTime { ahead_ms: i64::try_from(middle.0).ok()? - there, round_trip })
}

/// Known to the system account alone.
async fn sync(connection: &Connection) -> Option<Sync> {
    let deadline = Instant::now() + SYSTEM_DEADLINE;
    let subject = "$SYS.REQ.SERVER.PING.JSZ".to_owned();
    let answer = connection.request(subject, None, Bytes::new(), deadline).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    Sync::from_jsz(&answer["data"])
}

impl Sync {
    /// From what a server answers at `/jsz`.
    pub fn from_jsz(answer: &Value) -> Option<Sync> {
        let config = &answer["config"];
        if config["sync_always"].as_bool() == Some(true) {
            return Some(Sync::Always);
        }
        config["sync_interval"].as_u64().map(|nanos| Sync::Every(Duration::from_nanos(nanos)))
    }
}

/// The logs' streams, and then the keys'.
pub(super) async fn streams(
    connection: &Connection,
    options: &NatsOptions,
    names: &Names,
) -> Result<Vec<StreamState>, Error> {
    let mut states = Vec::new();
    for wanted in streams::wanted(options, names) {
        let subject = format!("STREAM.INFO.{}", wanted.name);
        let asked = connection.api::<Info>(subject, &json!({}), connection.deadline()).await;
        let found = match asked {
            Ok(info) => Some(found(&info, streams::difference(&info.config, &wanted))),
            Err(ApiError::Code { code: streams::NOT_FOUND, .. }) => None,
            Err(error) => return Err(Error(error.to_string())),
        };
        states.push(StreamState {
            name: wanted.name,
            found,
            replicas_wanted: wanted.num_replicas,
            bytes_max_wanted: u64::try_from(wanted.max_bytes).unwrap_or(u64::MAX),
        });
    }
    Ok(states)
}

fn found(info: &Info, difference: Option<String>) -> FoundStream {
    let cluster = info.cluster.as_ref();
    FoundStream {
        replicas: info.config.num_replicas,
        replicas_current: cluster.map_or(0, |cluster| {
            cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
        }),
        // A server alone names no leader, or itself.
        has_leader: cluster
            .is_none_or(|cluster| cluster.name.is_none() || cluster.leader.is_some()),
        bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|bytes| *bytes > 0),
        bytes: info.state.bytes,
        difference,
    }
}

/// Asks each server of the options by itself.
pub(super) async fn servers(
    options: &NatsOptions,
    now: fn() -> Millis,
) -> Vec<(String, Result<Server, OpenError>)> {
    let mut answers = Vec::new();
    for address in &options.servers {
        let alone = NatsOptions { servers: vec![address.clone()], ..options.clone() };
        let answer = match Connection::open(&alone, "doctor", Echo::Yes).await {
            Ok(connection) => Ok(server(&connection, &alone, now).await),
            Err(error) => Err(error),
        };
        answers.push((alone.shown_servers(), answer));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sync_policy_is_read_from_what_a_server_tells() {
        let told = |text: &str| Sync::from_jsz(&serde_json::from_str(text).unwrap());
        let always = r#"{"config":{"sync_interval":120000000000,"sync_always":true}}"#;
        assert_eq!(told(always), Some(Sync::Always));
        let periodic = r#"{"config":{"sync_interval":120000000000}}"#;
        assert_eq!(told(periodic), Some(Sync::Every(Duration::from_secs(120))));
        assert_eq!(told("{}"), None);
    }
}
