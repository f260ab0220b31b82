//! The backend of many nodes: logs and keys in JetStream streams, the bus on core NATS. Needs nats-server 2.12 or newer.
//!
//! # What an acknowledged append survives
//!
//! An append is acknowledged when most replicas of its stream have it (with 3 replicas, 2 of them). It survives the death
//! of processes. Whether it survives the death of machines depends on the servers' `sync_interval`: with `always` each
//! replica has it on its disk before that; with the default, two minutes, what was acknowledged in the last two minutes is
//! lost if most replicas lose power together, and after the crash of even one machine, amid pauses and splits of the
//! network, acknowledged records were seen to be lost and replicas to stay different. Set `sync_interval: always`. A
//! replica whose files are damaged is outside the promise.
//!
//! # Unknown outcomes
//!
//! An append whose answer is late may land later: once the client has handed it to the connection it cannot be called back.
//! While the connection is down nothing is handed to it. One that was handed over is written at once, or, in a server that
//! hangs, when it goes on. It carries the sequence it expects, so it is refused if anything was written since.
//! Nothing is repeated inside a call.
//!
//! # Reads
//!
//! `last`, `read_log` and `get` are answered by any replica, which may lag; each answer is a beginning of the log.

mod bus;
mod connection;
mod inspect;
mod keys;
mod log;
mod message;
mod options;
mod outgoing;
mod pace;
mod publish;
mod serve;
mod streams;
mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::{Millis, Partition};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::inspect::{FoundStream, Server, ServerTime, StreamState, Sync as SyncPolicy};
pub use self::options::{Authentication, NatsOptions, OpenError, Tls};

use self::bus::Losses;
use self::connection::{Connection, Echo};
use self::keys::Keys;
use self::log::Log;
use self::streams::Names;
use crate::broker::{
    AppendError, Broker, Bus, Entry, Error, Receiver, Revision, Sequence, StoredRecord, Watch,
};

/// The oldest version of the server that fences appends reliably.
const VERSION_MIN: (u64, u64) = (2, 12);
/// Room for subject and headers of the largest message.
const MESSAGE_OVERHEAD_BYTES: usize = 1024;

/// What happened to a broker's connections since it was opened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// How often the connection of logs and keys was made again.
    pub reconnects: u64,
    /// Publications, one for each subject, that were dropped before they were sent.
    pub publications_dropped: u64,
    /// How often receivers were told that publications may have been lost.
    pub interruptions: u64,
}

/// Logs, keys and the bus on NATS servers.
///
/// Dropping it ends its watches; connections to the bus live on until they are dropped.
pub struct NatsBroker {
    options: NatsOptions,
    connection: Connection,
    log: Log,
    keys: Keys,
    losses: Arc<Losses>,
    /// Ends the tasks of watches.
    closed: CancellationToken,
    _tasks: DropGuard,
}

impl NatsBroker {
    /// Connects, and makes or checks the streams. Any number of nodes may do so at once. From then on it connects again
    /// for ever.
    pub async fn open(options: NatsOptions) -> Result<NatsBroker, OpenError> {
        options.check()?;
        // Programs that know two providers must name one; the first to name it decides.
        rustls::crypto::ring::default_provider().install_default().ok();
        let connection = Connection::open(&options, "log", Echo::Yes).await?;
        check_server(&connection, &options)?;
        let names = Names::new(&options);
        streams::prepare(&connection, &options, &names).await?;
        Ok(NatsBroker::over(connection, options))
    }

    /// Connects, and neither checks nor makes anything: for a program that looks at what is there. What is missing is an
    /// error of each call.
    pub async fn attach(options: NatsOptions) -> Result<NatsBroker, OpenError> {
        options.check()?;
        rustls::crypto::ring::default_provider().install_default().ok();
        let connection = Connection::open(&options, "doctor", Echo::Yes).await?;
        Ok(NatsBroker::over(connection, options))
    }

    fn over(connection: Connection, options: NatsOptions) -> NatsBroker {
        let names = Names::new(&options);
        let closed = CancellationToken::new();
        NatsBroker {
            log: Log::new(connection.clone(), names.clone(), &options),
            keys: Keys { connection: connection.clone(), names },
            connection,
            options,
            losses: Arc::default(),
            _tasks: closed.clone().drop_guard(),
            closed,
        }
    }

    /// Asks each configured server by itself what it is. `now` is this machine's clock. With the address, without
    /// passwords, that each has in the options.
    pub async fn inspect_servers(
        options: &NatsOptions,
        now: fn() -> Millis,
    ) -> Vec<(String, Result<Server, OpenError>)> {
        rustls::crypto::ring::default_provider().install_default().ok();
        inspect::servers(options, now).await
    }

    /// The streams, as they are and as the options want them; the last one holds the keys.
    pub async fn inspect_streams(&self) -> Result<Vec<StreamState>, Error> {
        inspect::streams(&self.connection, &self.options, &self.keys.names).await
    }

    /// For metrics.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            reconnects: self.connection.state().borrow().reconnects,
            publications_dropped: self.losses.publications.load(Ordering::Relaxed),
            interruptions: self.losses.interruptions.load(Ordering::Relaxed),
        }
    }
}

fn check_server(connection: &Connection, options: &NatsOptions) -> Result<(), OpenError> {
    let info = connection.client.server_info();
    if version(&info.version).is_none_or(|version| version < VERSION_MIN) {
        return Err(OpenError::TooOld { name: info.server_name, version: info.version });
    }
    if !info.jetstream {
        return Err(OpenError::NoJetStream(options.shown_servers()));
    }
    // A server alone takes a change of a stream's replicas without a word.
    if options.replicas > 1 && info.cluster.is_none() {
        return Err(OpenError::NoCluster(options.replicas));
    }
    let needed = options.payload_bytes_max + MESSAGE_OVERHEAD_BYTES;
    if info.max_payload < needed {
        return Err(OpenError::SmallMessages { found: info.max_payload, needed });
    }
    Ok(())
}

/// Major and minor.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[async_trait]
impl Broker for NatsBroker {
    async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        self.log.append(partition, expected, payload).await
    }

    async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        self.log.last(partition).await
    }

    async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.log.read_log(partition, after, bytes_max).await
    }

    async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        self.log.purge(partition, up_to, min_age).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.keys.get(key).await
    }

    async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        self.keys.put(key, expected, value).await
    }

    async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        self.keys.remove(key, expected).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, Error> {
        Ok(Box::new(watch::watch(self.keys.clone(), prefix, &self.closed)))
    }

    async fn connect(&self, receiver: Arc<dyn Receiver>) -> Result<Arc<dyn Bus>, Error> {
        let losses = self.losses.clone();
        Ok(Arc::new(bus::connect(&self.options, self.connection.clone(), receiver, losses).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("2.12.3"), Some((2, 12)));
        assert!(version("2.9.10").is_some_and(|version| version < VERSION_MIN));
        assert!(version("2.100.0-beta.1").is_some_and(|version| version > VERSION_MIN));
        assert_eq!(version("next"), None);
    }
}
