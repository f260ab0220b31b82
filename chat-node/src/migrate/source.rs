//! The embedded installation, which is only read.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::{Broker, Sequence};
use chat_protocol::Partition;
use chat_protocol::limits::RECORD_BYTES_MAX;
use chat_protocol::record::{Record, RecordKind};
use chat_store::embedded::EmbeddedStore;
use chat_store::{QuarantineRow, Store, Tables};
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::Say;
use crate::backup::{STORE_EPOCH_KEY, epoch_value};
use crate::conversation::owner::Replay;
use crate::conversation::rows::{EntryRows, pack};
use crate::data_directory::{DataDirectory, log_path, store_path, token_key_path};
use crate::partition::floor::Floor;

/// Bytes of the log read at a time.
const PAGE_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// A stopped installation. The lock on its directory keeps nodes from starting on it meanwhile.
pub(super) struct Source {
    /// The installation's store, or a copy of it that also holds what only the log held.
    pub(super) store: Box<dyn Tables>,
    pub(super) log: Box<dyn Broker>,
    pub(super) epoch: u64,
    /// Where the log ends: another one after each start of a node.
    pub(super) log_end: String,
    token_key: PathBuf,
    _scratch: Option<Scratch>,
    _directory: Option<DataDirectory>,
}

/// A directory that goes when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is overwritten by the next run.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Source {
    /// Locks the installation, and opens it.
    pub(super) async fn open(
        data: &Path,
        scratch: Option<&Path>,
        say: Say<'_>,
    ) -> anyhow::Result<Source> {
        for file in [store_path(data), log_path(data)] {
            ensure!(
                file.is_file(),
                "{} holds no installation with embedded store and log: {} is missing. Name it with --data-dir.",
                data.display(),
                file.display()
            );
        }
        let directory = DataDirectory::open(data)?;
        let inspection = chat_store::embedded::inspect(&directory.store())?;
        let Some(epoch) = inspection.epoch else {
            bail!("No node has ever run on {}: there is nothing to migrate.", data.display())
        };
        let log = EmbeddedBroker::open(&directory.log(), Default::default())?;
        let key = log.get(STORE_EPOCH_KEY).await?;
        ensure!(
            key.is_some_and(|entry| entry.value == epoch_value(epoch)),
            "Store and log in {} do not belong together. Restore both from one backup.",
            data.display()
        );
        let is_old = inspection.schema < inspection.schema_known;
        let mut opened = None;
        if !is_old {
            let store = EmbeddedStore::open_to_read(&directory.store())?;
            if !has_tail(&log, &store).await? {
                opened = Some((store, None));
            }
        }
        let (store, scratch) = match opened {
            Some(opened) => opened,
            None => {
                let place = scratch_place(scratch, epoch);
                say(&format!(
                    "The node has not written all of its log into its store: both are brought together in a copy at {}.",
                    place.display()
                ));
                let (store, scratch) = copy(&directory.store(), place)?;
                materialise(&log, &store).await?;
                (store, Some(scratch))
            }
        };
        Ok(Source {
            log_end: log_end(&log).await?,
            store: Box::new(store),
            log: Box::new(log),
            epoch,
            token_key: token_key_path(data),
            _scratch: scratch,
            _directory: Some(directory),
        })
    }

    /// An installation that is given as it is, for tests.
    #[cfg(test)]
    pub(super) async fn of(store: EmbeddedStore, log: EmbeddedBroker) -> Source {
        let log_end = log_end(&log).await.unwrap();
        let epoch = store.epoch().await.unwrap();
        Source {
            store: Box::new(store),
            log: Box::new(log),
            epoch,
            log_end,
            token_key: PathBuf::new(),
            _scratch: None,
            _directory: None,
        }
    }

    /// What new ids of each partition must be above.
    pub(super) async fn floors(&self) -> anyhow::Result<Vec<(Partition, Floor)>> {
        let mut floors = Vec::new();
        for partition in Partition::all() {
            let checkpoint = self.store.checkpoint(partition).await?;
            let stored =
                Floor { epoch: checkpoint.epoch, reserved_until: checkpoint.reserved_until };
            let floor = match self.log.last(partition).await? {
                Some(last) => stored.max(Floor::of(&Record::from_bytes(&last.payload)?)),
                None => stored,
            };
            if floor != Floor::default() {
                floors.push((partition, floor));
            }
        }
        Ok(floors)
    }

    /// Brings the signing key to where nodes look for it, or says what to do. Sessions live on with the same key; with
    /// another, clients must refresh their tokens, which they do by themselves.
    pub(super) fn keys(&self, target: Option<&Path>, copies: bool) -> anyhow::Result<String> {
        let own = match std::fs::read(&self.token_key) {
            Ok(own) => own,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok("The old node kept no signing key in its data directory: give all nodes the file that it was \
                           given as token.key_file."
                    .to_owned());
            }
            Err(error) => return Err(error).context(self.token_key.display().to_string()),
        };
        let Some(target) = target else { bail!("token.key_file is not set") };
        let shown = target.display();
        match std::fs::read(target) {
            Ok(present) if present == own => {
                return Ok(format!(
                    "The signing keys in {shown} are the old node's: sessions stay valid."
                ));
            }
            Ok(_) if copies => {
                bail!(
                    "{shown} holds other signing keys than the old node's: move it away, or leave --copy-keys out."
                )
            }
            Ok(_) => {
                return Ok(format!(
                    "{shown} holds other signing keys than the old node's: clients have to refresh their access tokens, \
                     which they do by themselves. To spare them that, put the key of {} into it.",
                    self.token_key.display()
                ));
            }
            Err(_) => {}
        }
        if !copies {
            return Ok(format!(
                "Copy {} to {shown} on every node, so that sessions stay valid.",
                self.token_key.display()
            ));
        }
        crate::backup::write_key(target, &own)?;
        Ok(format!("The signing keys were copied to {shown}: give it to every node."))
    }
}

fn scratch_place(given: Option<&Path>, epoch: u64) -> PathBuf {
    let parent = given.map_or_else(std::env::temp_dir, Path::to_owned);
    parent.join(format!("chat-node-migrate-{epoch:016x}"))
}

fn copy(store: &Path, place: PathBuf) -> anyhow::Result<(EmbeddedStore, Scratch)> {
    use std::os::unix::fs::DirBuilderExt;
    if place.exists() {
        // A run that was killed left it.
        std::fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place);
    made.with_context(|| {
        format!("cannot make {}; choose another place with --scratch-dir", place.display())
    })?;
    let scratch = Scratch(place);
    let target = store_path(&scratch.0);
    chat_store::embedded::backup(store, &target).context(
        "The copy of the store could not be made. It needs as much room as the store: choose a place with --scratch-dir",
    )?;
    Ok((EmbeddedStore::open(&target, Default::default())?, scratch))
}

/// The records with entries of the next page behind `after`, which moves on. `None`: there is no more.
async fn next_batches(
    log: &dyn Broker,
    partition: Partition,
    after: &mut Sequence,
) -> anyhow::Result<Option<Vec<Record>>> {
    let page = log.read_log(partition, *after, PAGE_BYTES).await?;
    let Some(last) = page.last() else { return Ok(None) };
    *after = last.sequence;
    let mut batches = Vec::new();
    for stored in page {
        let record = Record::from_bytes(&stored.payload)?;
        if record.kind == RecordKind::Batch as i32 {
            batches.push(record);
        }
    }
    Ok(Some(batches))
}

/// Whether the log holds entries that the store may not.
async fn has_tail(log: &dyn Broker, store: &dyn Store) -> anyhow::Result<bool> {
    for partition in Partition::all() {
        let mut after = Sequence(store.checkpoint(partition).await?.sequence);
        while let Some(batches) = next_batches(log, partition, &mut after).await? {
            if !batches.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Writes everything after the checkpoints into the store, as an owner does that opens its partition.
async fn materialise(log: &dyn Broker, store: &EmbeddedStore) -> anyhow::Result<()> {
    for partition in Partition::all() {
        let mut replay = Replay::default();
        let mut after = Sequence(store.checkpoint(partition).await?.sequence);
        while let Some(batches) = next_batches(log, partition, &mut after).await? {
            for record in batches {
                let rows = replay.rows(store, &record).await?;
                write(store, partition, &record, rows).await?;
            }
        }
    }
    Ok(())
}

/// What the store refuses is set aside, as the node itself would.
async fn write(
    store: &EmbeddedStore,
    partition: Partition,
    record: &Record,
    rows: Vec<EntryRows>,
) -> anyhow::Result<()> {
    match store.apply(partition, pack(rows.clone()), None).await {
        Err(chat_store::Error::Refused(_)) => {}
        outcome => return Ok(outcome?),
    }
    for (entry, rows) in record.entries.iter().zip(rows) {
        let id = rows.id;
        match store.apply(partition, pack(vec![rows]), None).await {
            Err(chat_store::Error::Refused(reason)) => {
                let entry = entry.encode_to_vec();
                store.quarantine(QuarantineRow { partition, id, entry, reason }).await?;
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Another one whenever anything was appended.
async fn log_end(log: &dyn Broker) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for partition in Partition::all() {
        if let Some(last) = log.last(partition).await? {
            hash.update(partition.0.to_le_bytes());
            hash.update(last.sequence.0.to_le_bytes());
            hash.update(Sha256::digest(&last.payload));
        }
    }
    let hash: [u8; 32] = hash.finalize().into();
    Ok(hash[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}
