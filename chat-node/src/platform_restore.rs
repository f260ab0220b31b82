//! After the store of a platform was restored from a snapshot: store and broker get a new epoch, so that every cursor made
//! before is reset, and the whole retained log is replayed when nodes start, so that nothing is missing that either holds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chat_broker::nats::NatsBroker;
use chat_broker::{Broker, Change, Entry, Revision, Sequence, Watch};
use chat_protocol::Partition;
use chat_store::Store;
use chat_store::cql::CqlStore;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use crate::backup::{STORE_EPOCH_KEY, epoch_value};
use crate::config::{BrokerAddress, Config, StoreAddress};
use crate::membership::{NODE_KEY_PREFIX, NodeEntry};
use crate::migrate;
use crate::node::ports;
use crate::partition::floor::{self, Floor};

/// A node that lives renews its key several times in this; the key of a dead one may stay.
const LIFE_SIGN_WITHIN: Duration = Duration::from_secs(6);

/// A node that was about to start when this began has its key after this.
const START_WITHIN: Duration = Duration::from_secs(1);

const AWAY: &str = "The broker does not tell which nodes run. Run this again.";

/// Partitions that are looked at or written at once.
const CONCURRENCY: usize = 16;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's new epoch.
    pub epoch: u64,
    /// Partitions with a log that is replayed.
    pub replayed: usize,
    /// Partitions whose log was behind the store, and so was told which ids were given out.
    pub raised: usize,
    /// Partitions whose log may begin after the snapshot.
    pub cut: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { epoch, replayed, raised, cut } = self;
        writeln!(
            f,
            "The store has the new epoch {epoch:016x}. Start the nodes: they replay the log of {replayed} partitions, and \
             clients load everything anew."
        )?;
        if *raised > 0 {
            writeln!(
                f,
                "The log of {raised} partitions was behind the store; new ids of these start above those in the store."
            )?;
        }
        if *cut > 0 {
            writeln!(
                f,
                "The log of {cut} partitions may begin after the snapshot, which then is older than what logs keep (72 \
                 hours). What was sent in between is missing."
            )?;
        }
        Ok(())
    }
}

/// Does it for the platform that the configuration names.
pub async fn restore(config: &Config, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Outcome> {
    let (BrokerAddress::Nats(servers), StoreAddress::Scylla { hosts, keyspace }) =
        (&config.broker, &config.store)
    else {
        bail!("Name the platform with --broker nats://… and --store scylla://….")
    };
    let log = NatsBroker::open(ports::nats_options(config, servers));
    let log = log.await.map_err(ports::sentence)?;
    let dead = require_stopped(&log, say).await?;
    let options = ports::cql_options(config, hosts, keyspace);
    let store = Box::pin(CqlStore::open(options)).await.map_err(ports::sentence)?;
    ensure!(
        !ports::is_unused(&store).await?,
        "The keyspace {keyspace} holds nothing that nodes have written. Check its name, and restore the snapshot first."
    );
    if let Some(reason) = migrate::unfinished(&log).await? {
        bail!("{reason}");
    }
    let partitions = look(&log, &store).await?;
    // A log that was restored too, or is new, must not give out ids that the store knows already.
    let floors = partitions.iter().map(|found| (found.partition, found.floor));
    let raised = floor::raise_all(&log, floors).await?;
    let epoch = rand::random();
    // If this run ends in between, the two differ and no node starts: another run brings them together again.
    store.renew_epoch(epoch).await?;
    put_epoch(&log, epoch).await?;
    require_still_stopped(&log, &dead).await?;
    Ok(Outcome {
        epoch,
        replayed: partitions.iter().filter(|found| found.first.is_some()).count(),
        raised,
        cut: partitions.iter().filter(|found| found.may_be_cut()).count(),
    })
}

/// What store and log hold of a partition.
struct Found {
    partition: Partition,
    /// Of the restored checkpoint.
    floor: Floor,
    sequence: Sequence,
    /// The oldest record of the log.
    first: Option<Sequence>,
}

impl Found {
    /// The record that the checkpoint names is gone: those after it may be, too.
    fn may_be_cut(&self) -> bool {
        self.sequence > Sequence(0) && self.first.is_some_and(|first| first > self.sequence)
    }
}

async fn look(log: &dyn Broker, store: &dyn Store) -> anyhow::Result<Vec<Found>> {
    let found = stream::iter(Partition::all()).map(|partition| async move {
        let checkpoint = store.checkpoint(partition).await?;
        let floor = Floor { epoch: checkpoint.epoch, reserved_until: checkpoint.reserved_until };
        let first = log.read_log(partition, Sequence(0), 1).await?;
        let first = first.first().map(|stored| stored.sequence);
        anyhow::Ok(Found { partition, floor, sequence: Sequence(checkpoint.sequence), first })
    });
    found.buffered(CONCURRENCY).try_collect().await
}

async fn put_epoch(log: &dyn Broker, epoch: u64) -> anyhow::Result<()> {
    let present = log.get(STORE_EPOCH_KEY).await?;
    let revision = present.map_or(Revision(0), |entry| entry.revision);
    let put = log.put(STORE_EPOCH_KEY, revision, epoch_value(epoch)).await;
    let put = put.context("The broker does not keep the new epoch. Run this again")?;
    ensure!(
        put.is_some(),
        "Another restore of the same platform is running. Let it end, and run this again."
    );
    Ok(())
}

/// Refuses while nodes renew their keys. Keys that nobody renews are those of dead nodes.
async fn require_stopped(
    log: &dyn Broker,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<BTreeMap<String, Entry>> {
    let mut watch = log.watch(NODE_KEY_PREFIX).await?;
    let found = keys(&mut *watch).await?;
    if found.is_empty() {
        return Ok(found);
    }
    say(&format!("Waiting {} s for signs of life of nodes.", LIFE_SIGN_WITHIN.as_secs()));
    let until = Instant::now() + LIFE_SIGN_WITHIN;
    while let Ok(change) = tokio::time::timeout_at(until, watch.next()).await {
        match change {
            Change::Written { entry, .. } => return Err(running(&entry)),
            Change::Interrupted => bail!(AWAY),
            Change::Removed { .. } | Change::Current => {}
        }
    }
    Ok(found)
}

/// Refuses if a node has started since.
async fn require_still_stopped(
    log: &dyn Broker,
    dead: &BTreeMap<String, Entry>,
) -> anyhow::Result<()> {
    tokio::time::sleep(START_WITHIN).await;
    let mut watch = log.watch(NODE_KEY_PREFIX).await?;
    let found = keys(&mut *watch).await?;
    let started = found.iter().find(|(key, entry)| dead.get(*key) != Some(entry));
    match started {
        Some((_, entry)) => {
            Err(running(entry)
                .context("A node started meanwhile. Run this again once all are stopped"))
        }
        None => Ok(()),
    }
}

/// The keys that a watch begins with.
async fn keys(watch: &mut dyn Watch) -> anyhow::Result<BTreeMap<String, Entry>> {
    let mut found = BTreeMap::new();
    let until = Instant::now() + LIFE_SIGN_WITHIN;
    loop {
        match tokio::time::timeout_at(until, watch.next()).await.context(AWAY)? {
            Change::Written { key, entry } => drop(found.insert(key, entry)),
            Change::Removed { key } => drop(found.remove(&key)),
            Change::Current => return Ok(found),
            Change::Interrupted => bail!(AWAY),
        }
    }
}

fn running(entry: &Entry) -> anyhow::Error {
    let name = NodeEntry::from_value(&entry.value).map(|entry| entry.name);
    let name = name.unwrap_or_else(|| "of another version".to_owned());
    anyhow::anyhow!("The node {name} is running. Stop all nodes first.")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_broker::embedded::EmbeddedBroker;
    use chat_protocol::NodeId;

    use super::*;

    #[test]
    fn a_log_that_begins_after_the_checkpoint_may_lack_something() {
        let found = |sequence, first: Option<u64>| Found {
            partition: Partition(7),
            floor: Floor::default(),
            sequence: Sequence(sequence),
            first: first.map(Sequence),
        };
        assert!(found(5, Some(9)).may_be_cut());
        assert!(!found(5, Some(5)).may_be_cut(), "all that follows is there");
        assert!(!found(0, Some(9)).may_be_cut(), "nothing was written before");
        assert!(!found(5, None).may_be_cut(), "there is no log");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_nobody_renews_is_no_node_and_one_that_is_renewed_is() {
        let broker = EmbeddedBroker::memory();
        let quiet = |_: &str| {};
        require_stopped(&broker, &quiet).await.unwrap();
        let key = NodeEntry::key(NodeId::random());
        let dead = broker.put(&key, Revision(0), Bytes::from_static(b"{}")).await.unwrap().unwrap();
        let found = require_stopped(&broker, &quiet).await.unwrap();
        require_still_stopped(&broker, &found).await.unwrap();
        let renew = async {
            tokio::time::sleep(Duration::from_millis(750)).await;
            broker.put(&key, dead, Bytes::from_static(b"{}")).await.unwrap().unwrap();
        };
        let (refused, ()) = tokio::join!(require_stopped(&broker, &quiet), renew);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("is running. Stop all nodes first"), "{refused}");
        let late = require_still_stopped(&broker, &found).await.unwrap_err().to_string();
        assert!(late.contains("started meanwhile"), "{late}");
    }
}
