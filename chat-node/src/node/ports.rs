//! The backends: which ones the configuration asks for, and whether they belong together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::nats::{self, NatsBroker, NatsOptions};
use chat_broker::{Broker, Revision};
use chat_protocol::Partition;
use chat_store::embedded::EmbeddedStore;
use chat_store::{Store, cql};
use tokio::time::Instant;

use crate::auth::KeyRing;
use crate::backup::{STORE_EPOCH_KEY, epoch_value};
use crate::clock::Clock;
use crate::config::{BrokerAddress, Config, StoreAddress};
use crate::data_directory::DataDirectory;
use crate::limits;
use crate::migrate;

/// How often a node that starts asks for the epoch that another one is writing, and how long it waits in between.
const EPOCH_ATTEMPTS: usize = 20;
const EPOCH_PAUSE: Duration = Duration::from_millis(100);

/// How long a node waits before it looks for servers again.
const SERVERS_PAUSE: Duration = Duration::from_secs(1);

/// The backends of a node, and what it keeps of its data directory while it runs.
pub(super) struct Ports {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) store: Arc<dyn Store>,
    /// Where the data is, for people.
    pub(super) place: String,
    _directory: Option<DataDirectory>,
}

impl Ports {
    /// Backends that forget everything.
    pub(super) fn memory() -> Ports {
        Ports {
            broker: Arc::new(EmbeddedBroker::memory()),
            store: Arc::new(EmbeddedStore::memory()),
            place: "memory".to_owned(),
            _directory: None,
        }
    }
}

/// The data directory, if the node keeps data: many nodes keep it in their broker and store.
pub(super) fn directory(config: &Config) -> anyhow::Result<Option<DataDirectory>> {
    match config.broker {
        BrokerAddress::Embedded => Ok(Some(DataDirectory::open(&config.data_dir)?)),
        BrokerAddress::Nats(_) => Ok(None),
    }
}

/// The keys that sign access tokens.
pub(super) fn keys(config: &Config, directory: Option<&DataDirectory>) -> anyhow::Result<KeyRing> {
    let own = directory.map(DataDirectory::token_key);
    // The rules between settings ask for one of them.
    let path = config.token.key_file.clone().or(own).context("token.key_file is not set")?;
    KeyRing::open_or_create(&path)
        .with_context(|| format!("read the signing keys in {}", path.display()))
}

/// Opens the backends that the configuration names.
pub(super) async fn open(
    config: &Config,
    directory: Option<DataDirectory>,
    clock: &Clock,
) -> anyhow::Result<Ports> {
    match (&config.broker, &config.store, directory) {
        (BrokerAddress::Embedded, StoreAddress::Embedded, Some(directory)) => {
            embedded(config, directory)
        }
        (BrokerAddress::Nats(servers), StoreAddress::Scylla { hosts, keyspace }, _) => {
            // The schema is known once the store is open, and its log only then makes sense.
            let clock = clock.clone();
            let options = cql::Options {
                time: Some(Arc::new(move || clock.now())),
                ..cql_options(config, hosts, keyspace)
            };
            let store = once_there(
                || Box::pin(cql::CqlStore::open(options.clone())),
                |error| matches!(error, cql::OpenError::Unreachable { .. }),
            );
            let store = store.await?;
            let broker = once_there(
                || NatsBroker::open(nats_options(config, servers)),
                |error| {
                    matches!(
                        error,
                        nats::OpenError::Unreachable { .. } | nats::OpenError::Unavailable(_)
                    )
                },
            );
            let broker = broker.await?;
            Ok(Ports {
                broker: Arc::new(broker),
                store: Arc::new(store),
                place: format!("{} and {}", config.broker, config.store),
                _directory: None,
            })
        }
        // The rules between settings refuse it before.
        _ => bail!("broker and store must be both embedded or both not"),
    }
}

/// Opens what other servers hold, and tries again for a while where none of them is there: they may have been started
/// together with the node, or be about to come back, and whoever starts a node again waits longer each time.
async fn once_there<T, E, F>(
    open: impl Fn() -> F,
    is_absence: impl Fn(&E) -> bool,
) -> anyhow::Result<T>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let until = Instant::now() + Duration::from_millis(limits::SERVERS_AWAITED_MS);
    let mut is_told = false;
    loop {
        match open().await {
            Ok(opened) => return Ok(opened),
            Err(error) if is_absence(&error) && Instant::now() < until => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("{} Trying on for a minute.", sentence(error));
                }
                tokio::time::sleep(SERVERS_PAUSE).await;
            }
            Err(error) => return Err(sentence(error)),
        }
    }
}

fn embedded(config: &Config, directory: DataDirectory) -> anyhow::Result<Ports> {
    let limit = |bytes: u64| (bytes > 0).then_some(bytes);
    let store_options = chat_store::embedded::Options {
        size_bytes_max: limit(config.storage.store_bytes_max),
        ..Default::default()
    };
    let log_options = chat_broker::embedded::Options {
        size_bytes_max: limit(config.storage.log_bytes_max),
        ..Default::default()
    };
    Ok(Ports {
        broker: Arc::new(EmbeddedBroker::open(&directory.log(), log_options)?),
        store: Arc::new(EmbeddedStore::open(&directory.store(), store_options)?),
        place: config.data_dir.display().to_string(),
        _directory: Some(directory),
    })
}

pub(crate) fn nats_options(config: &Config, servers: &[String]) -> NatsOptions {
    let settings = &config.nats;
    let authentication = match (&settings.credentials_file, &settings.token, &settings.user) {
        (Some(path), ..) => nats::Authentication::CredentialsFile(path.clone()),
        (_, Some(token), _) => nats::Authentication::Token(token.reveal().to_owned()),
        (_, _, Some(user)) => {
            let password = settings.password.as_ref();
            let password = password.map_or_else(String::new, |p| p.reveal().to_owned());
            nats::Authentication::Password { user: user.clone(), password }
        }
        _ => nats::Authentication::None,
    };
    NatsOptions {
        servers: servers.to_vec(),
        authentication,
        tls: nats::Tls {
            required: settings.tls,
            root_certificates: settings.ca_file.clone(),
            client_certificate: settings.certificate_file.clone().zip(settings.key_file.clone()),
        },
        prefix: settings.prefix.clone(),
        streams: settings.streams as u16,
        replicas: settings.replicas as usize,
        stream_bytes_max: settings.stream_bytes_max,
        ..NatsOptions::default()
    }
}

pub(crate) fn cql_options(config: &Config, hosts: &[String], keyspace: &str) -> cql::Options {
    let settings = &config.scylla;
    let datacenter = &settings.datacenter;
    let tls = settings.ca_file.as_ref().map(|ca_file| cql::Tls {
        ca_file: ca_file.clone(),
        client: settings.certificate_file.clone().zip(settings.key_file.clone()),
    });
    let credentials = settings.user.as_ref().zip(settings.password.as_ref());
    cql::Options {
        replication: BTreeMap::from([(datacenter.clone(), settings.replication_factor)]),
        credentials: credentials.map(|(user, password)| cql::Credentials {
            user: user.clone(),
            password: password.reveal().to_owned(),
        }),
        tls,
        ..cql::Options::new(hosts.to_vec(), keyspace, datacenter, Clock::system().now())
    }
}

/// A sentence for people begins with a capital letter and ends with a full stop.
pub(crate) fn sentence(error: impl std::fmt::Display) -> anyhow::Error {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    anyhow::anyhow!("{first}{}{end}", letters.as_str())
}

/// Store and log must belong together: checkpoints of another log would hide what this one holds. The first node that
/// starts writes down that they do; any number of nodes may start at once.
pub(super) async fn agree_on_epoch(broker: &dyn Broker, store: &dyn Store) -> anyhow::Result<u64> {
    let epoch = store.epoch().await?;
    let value = epoch_value(epoch);
    for attempt in 1..=EPOCH_ATTEMPTS {
        if let Some(entry) = broker.get(STORE_EPOCH_KEY).await? {
            ensure!(
                entry.value == value,
                "Store and log do not belong together: they hold different epochs. Check that both addresses are of one \
                 platform, or restore both from one backup."
            );
            return Ok(epoch);
        }
        if let Some(reason) = migrate::unfinished(broker).await? {
            bail!("{reason}");
        }
        if is_unused(store).await? {
            let written = broker.put(STORE_EPOCH_KEY, Revision(0), value.clone()).await?;
            if written.is_some() {
                return Ok(epoch);
            }
        } else {
            // Another node may have begun meanwhile, and the read above may have been stale.
            ensure!(
                attempt < EPOCH_ATTEMPTS,
                "The log is missing: the store was written from a log that is not here. Check the address of the broker, \
                 or restore both from one backup."
            );
        }
        tokio::time::sleep(EPOCH_PAUSE).await;
    }
    bail!(
        "The store's epoch cannot be agreed on: another node is starting on the same log. Start this one again."
    )
}

/// Whether nothing was ever written from a log.
pub(crate) async fn is_unused(store: &dyn Store) -> anyhow::Result<bool> {
    for partition in Partition::all() {
        if store.checkpoint(partition).await? != Default::default() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_store::row::Checkpoint;

    use super::*;

    #[tokio::test]
    async fn the_first_start_writes_the_epoch_and_later_ones_compare_it() {
        let ports = Ports::memory();
        let (first, second) = tokio::join!(
            agree_on_epoch(&*ports.broker, &*ports.store),
            agree_on_epoch(&*ports.broker, &*ports.store)
        );
        let epoch = ports.store.epoch().await.unwrap();
        assert_eq!((first.unwrap(), second.unwrap()), (epoch, epoch), "both may start at once");
        let other = EmbeddedStore::memory();
        let refused = agree_on_epoch(&*ports.broker, &other).await.unwrap_err().to_string();
        assert!(refused.contains("do not belong together"), "{refused}");
        let entry = ports.broker.get(STORE_EPOCH_KEY).await.unwrap().unwrap();
        assert_ne!(entry.value, Bytes::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_written_from_another_log_is_refused() {
        let ports = Ports::memory();
        let checkpoint = Checkpoint { sequence: 1, ..Checkpoint::default() };
        ports.store.put_checkpoints(vec![(Partition(7), checkpoint)]).await.unwrap();
        let refused = agree_on_epoch(&*ports.broker, &*ports.store).await.unwrap_err().to_string();
        assert!(refused.contains("log is missing"), "{refused}");
    }
}
