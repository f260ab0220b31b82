//! The streams and the bucket: made if they are missing, checked if they are there.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use chat_protocol::Partition;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connection::{ApiError, Connection};
use super::options::{NatsOptions, OpenError};

pub(super) const NOT_FOUND: u64 = 10059;
const NAME_IN_USE: u64 = 10058;
const NO_REPLICAS: u64 = 10074;
const NOT_ENABLED: [u64; 2] = [10039, 10076];
/// Of the account or the servers.
const NO_ROOM: [u64; 4] = [10002, 10023, 10047, 10122];
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How many streams there are is part of where a partition is found, so it is written on each of them.
const STREAMS_KEY: &str = "chat.streams";
/// No message names an id, so that nothing is kept for it. It cannot be 0.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// The names of everything on the servers.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    streams: u16,
}

impl Names {
    pub(super) fn new(options: &NatsOptions) -> Names {
        Names { prefix: options.prefix.clone(), streams: options.streams }
    }

    fn index(&self, partition: Partition) -> u16 {
        partition.0 % self.streams
    }

    /// The stream that holds a partition.
    pub(super) fn stream(&self, partition: Partition) -> String {
        self.stream_at(self.index(partition))
    }

    fn stream_at(&self, index: u16) -> String {
        format!("{}-log-{index}", self.prefix)
    }

    /// The subject of a partition's records.
    pub(super) fn record(&self, partition: Partition) -> String {
        format!("{}.log.{}.{partition}", self.prefix, self.index(partition))
    }

    /// The stream that holds the keys.
    pub(super) fn keys(&self) -> String {
        format!("KV_{}", self.prefix)
    }

    /// The subject of a key.
    pub(super) fn key(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.prefix)
    }
}

fn log_stream(options: &NatsOptions, names: &Names, index: u16) -> Config {
    Config {
        name: names.stream_at(index),
        description: Some("Partition logs of a chat platform".to_owned()),
        subjects: vec![format!("{}.log.{index}.*", options.prefix)],
        max_bytes: signed(options.stream_bytes_max),
        metadata: HashMap::from([(STREAMS_KEY.to_owned(), options.streams.to_string())]),
        ..stream(options)
    }
}

/// As the NATS tools know a bucket, so that they show it.
fn key_stream(options: &NatsOptions, names: &Names) -> Config {
    Config {
        name: names.keys(),
        description: Some("Keys of a chat platform".to_owned()),
        subjects: vec![names.key(">")],
        max_bytes: signed(options.keys_bytes_max),
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_message_ttl: true,
        ..stream(options)
    }
}

fn stream(options: &NatsOptions) -> Config {
    Config {
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        // Nothing acknowledged ages out or is pushed out.
        max_age: Duration::ZERO,
        discard: DiscardPolicy::New,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: options.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        deny_delete: true,
        ..Config::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Every stream as it should be: those of the logs, then the keys'.
pub(super) fn wanted(options: &NatsOptions, names: &Names) -> Vec<Config> {
    let logs = (0..options.streams).map(|index| log_stream(options, names, index));
    logs.chain([key_stream(options, names)]).collect()
}

/// Makes what is missing, changes limits and replicas that differ, and refuses everything else. Any number of nodes may do
/// so at once.
pub(super) async fn prepare(
    connection: &Connection,
    options: &NatsOptions,
    names: &Names,
) -> Result<(), OpenError> {
    let deadline = Instant::now() + options.open_deadline;
    for wanted in wanted(options, names) {
        loop {
            let error = match prepare_one(connection, &wanted, options).await {
                Ok(()) => break,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            if Instant::now() + RETRY_PAUSE > deadline {
                return Err(OpenError::Unavailable(error.to_string()));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    Ok(())
}

enum Failure {
    Final(OpenError),
    /// Leaders are being elected, or another node was faster.
    Passing(ApiError),
}

async fn prepare_one(
    connection: &Connection,
    wanted: &Config,
    options: &NatsOptions,
) -> Result<(), Failure> {
    let judge = |error: ApiError| judge(error, &wanted.name, options);
    let ask = async |verb: &str, body: Value| {
        let subject = format!("STREAM.{verb}.{}", wanted.name);
        connection.api::<Info>(subject, &body, connection.deadline()).await
    };
    let found = match ask("INFO", json!({})).await {
        Err(ApiError::Code { code: NOT_FOUND, .. }) => {
            let made = ask("CREATE", json!(wanted)).await.map_err(judge)?;
            tracing::info!(stream = wanted.name, "stream made");
            made
        }
        found => found.map_err(judge)?,
    };
    if let Some(reason) = difference(&found.config, wanted) {
        return Err(Failure::Final(OpenError::Stream { stream: wanted.name.clone(), reason }));
    }
    if found.config.num_replicas != wanted.num_replicas
        || found.config.max_bytes != wanted.max_bytes
    {
        let changed = Config {
            num_replicas: wanted.num_replicas,
            max_bytes: wanted.max_bytes,
            ..found.config
        };
        ask("UPDATE", json!(changed)).await.map_err(judge)?;
        tracing::info!(stream = wanted.name, "stream changed: replicas or bytes");
    }
    Ok(())
}

fn judge(error: ApiError, stream: &str, options: &NatsOptions) -> Failure {
    let refused =
        |reason: String| Failure::Final(OpenError::Stream { stream: stream.to_owned(), reason });
    match &error {
        ApiError::Code { code, .. } if NOT_ENABLED.contains(code) => {
            Failure::Final(OpenError::NoJetStream(options.shown_servers()))
        }
        ApiError::Code { code: NO_REPLICAS, .. } => refused(format!(
            "{} replicas need as many servers in a cluster. Add servers, or set 1 replica.",
            options.replicas
        )),
        ApiError::Code { code, .. } if NO_ROOM.contains(code) => refused(format!(
            "the servers have no room for {} bytes ({error}). Raise max_file_store or the limits of the account, or \
             lower the bytes of the streams.",
            options.stream_bytes_max
        )),
        // Another node made it, or a leader is not there yet.
        ApiError::Code { code: NAME_IN_USE | 10008, .. } | ApiError::Unavailable(_) => {
            // Without JetStream nobody listens at its subjects.
            Failure::Passing(error)
        }
        // "No suitable peers": servers of a young cluster have not met yet.
        ApiError::Code { code: 10005, .. } => Failure::Passing(error),
        ApiError::Code { .. } => refused(format!("{error}. Check the servers' configuration.")),
    }
}

/// What cannot be changed, if it is not as wanted.
pub(super) fn difference(found: &Config, wanted: &Config) -> Option<String> {
    let number = |config: &Config| config.metadata.get(STREAMS_KEY).cloned();
    if number(found) != number(wanted) {
        let shown =
            |number: Option<String>| number.unwrap_or_else(|| "an unknown number of".to_owned());
        return Some(format!(
            "the platform was created with {} streams, and this node is set to {}; records would not be found. Set the \
             number it was created with.",
            shown(number(found)),
            shown(number(wanted))
        ));
    }
    let differs = [
        ("subjects", found.subjects != wanted.subjects),
        ("storage", found.storage != wanted.storage),
        ("retention", found.retention != wanted.retention),
        ("discard policy", found.discard != wanted.discard),
        ("age limit", !found.max_age.is_zero()),
        ("direct reads", !found.allow_direct),
        ("message limit", found.max_messages > 0),
        ("messages per subject", found.max_messages_per_subject != wanted.max_messages_per_subject),
    ];
    let names: Vec<&str> =
        differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "it was not made by this program, or was changed: {} must be as this program makes it. Use another prefix, \
             or put the stream right.",
            names.join(", ")
        )
    })
}
