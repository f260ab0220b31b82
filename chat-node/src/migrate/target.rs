//! The platform that is to hold the installation.

use anyhow::{Context, bail, ensure};
use chat_broker::nats::NatsBroker;
use chat_broker::{Broker, Revision};
use chat_protocol::Partition;
use chat_store::cql::CqlStore;
use chat_store::{Checkpoint, Table, Tables};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::backup::{STORE_EPOCH_KEY, epoch_value};
use crate::config::{BrokerAddress, Config, StoreAddress};
use crate::node::ports;
use crate::partition::floor::{self, Floor};

/// Partitions that are looked at at once.
const CONCURRENCY: usize = 16;

/// Broker and store of a platform on which no node runs.
pub(super) struct Target {
    pub(super) store: Box<dyn Tables>,
    pub(super) log: Box<dyn Broker>,
}

impl Target {
    /// Connects, and makes streams and tables if they are not there.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Target> {
        let (BrokerAddress::Nats(servers), StoreAddress::Scylla { hosts, keyspace }) =
            (&config.broker, &config.store)
        else {
            bail!("Name the platform with --broker nats://… and --store scylla://….")
        };
        let options = ports::cql_options(config, hosts, keyspace);
        let store = Box::pin(CqlStore::open(options)).await.map_err(ports::sentence)?;
        let log = NatsBroker::open(ports::nats_options(config, servers));
        let log = log.await.map_err(ports::sentence)?;
        Ok(Target { store: Box::new(store), log: Box::new(log) })
    }

    /// Whatever is there belongs to somebody.
    pub(super) async fn require_empty(&self) -> anyhow::Result<()> {
        const ADVICE: &str = "Choose an empty keyspace and another nats.prefix, or empty both";
        ensure!(
            self.log.get(STORE_EPOCH_KEY).await?.is_none(),
            "The target is a platform that nodes have run on already. {ADVICE}."
        );
        let used = stream::iter(Partition::all()).map(|partition| async move {
            let is_written = self.log.last(partition).await?.is_some();
            anyhow::Ok(is_written || self.store.checkpoint(partition).await? != Default::default())
        });
        let used: Vec<bool> = used.buffer_unordered(CONCURRENCY).try_collect().await?;
        ensure!(!used.contains(&true), "The target holds the log of another platform. {ADVICE}.");
        for table in Table::ALL {
            let page = self.store.scan(table, vec![], 1).await?;
            let name = table.name();
            ensure!(
                page.rows.is_empty() && page.next.is_none(),
                "The target's store holds {name} of another installation. {ADVICE}."
            );
        }
        Ok(())
    }

    /// New ids and epochs of each partition start above these. From here on nodes refuse to start, until the epoch is put.
    pub(super) async fn reserve(&self, floors: Vec<(Partition, Floor)>) -> anyhow::Result<()> {
        let checkpoint = |(partition, floor): &(Partition, Floor)| {
            let Floor { epoch, reserved_until } = *floor;
            // The new log begins anew: nothing of it is in the store.
            (*partition, Checkpoint { sequence: 0, reserved_until, epoch })
        };
        self.store.put_checkpoints(floors.iter().map(checkpoint).collect()).await?;
        floor::raise_all(&*self.log, floors).await.map(drop)
    }

    /// Store and log belong together: nodes may start.
    pub(super) async fn put_epoch(&self) -> anyhow::Result<()> {
        let value = epoch_value(self.store.epoch().await?);
        let put = self.log.put(STORE_EPOCH_KEY, Revision(0), value.clone()).await;
        if matches!(put, Ok(Some(_))) {
            return Ok(());
        }
        let present = self.log.get(STORE_EPOCH_KEY).await?;
        match present {
            Some(entry) if entry.value == value => Ok(()),
            Some(_) => bail!("The target's log was given to another store meanwhile."),
            None => {
                put.map(drop).context("The broker does not keep the store's epoch. Run this again")
            }
        }
    }
}
