//! Copies of an embedded node's data, made while it runs, and their way back.
//!
//! A backup holds the store, the log and the node's signing key. The store is copied first: the log, copied after it,
//! then holds everything that the store's copy may lack. A restore gives the store a new epoch, so that every cursor
//! made before is reset, and no checkpoints, so that the whole retained log is replayed into it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chat_broker::Broker;
use chat_broker::embedded::EmbeddedBroker;

use crate::data_directory::{self, DataDirectory, log_path, store_path, token_key_path};

/// Key of the broker that holds the store's epoch. Store and broker must agree on it, or the node does not start.
pub const STORE_EPOCH_KEY: &str = "store_epoch";

/// The value of [`STORE_EPOCH_KEY`] for an epoch.
pub fn epoch_value(epoch: u64) -> Bytes {
    Bytes::copy_from_slice(&epoch.to_be_bytes())
}

/// Why a backup or restore did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no node's data at the source.
    #[error(
        "{0} holds no data of a node with embedded store and log: {1} is missing. What is in NATS and ScyllaDB is backed up \
         with their own tools"
    )]
    NoData(PathBuf, &'static str),
    /// Something is at the target.
    #[error("{0} is not empty; choose a new directory{1}")]
    NotEmpty(PathBuf, &'static str),
    /// The target cannot be used.
    #[error(transparent)]
    Directory(#[from] data_directory::Error),
    /// The file system refused.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The store could not be copied.
    #[error("the store could not be copied: {0}")]
    Store(#[from] chat_store::embedded::OpenError),
    /// The log could not be copied.
    #[error("the log could not be copied: {0}")]
    Log(#[from] chat_broker::embedded::BackupError),
    /// The copied log could not be opened.
    #[error("the copied log could not be opened: {0}")]
    OpenLog(#[from] chat_broker::embedded::OpenError),
    /// The copied log did not take the new epoch.
    #[error("the copied log did not take the new store epoch: {0}")]
    Epoch(String),
}

/// What was copied.
#[derive(Debug)]
pub struct Copied {
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
}

/// Copies a data directory, in use or not, into a new directory.
pub fn backup(data: &Path, target: &Path) -> Result<Copied, Error> {
    require_data(data)?;
    make_empty(target)?;
    chat_store::embedded::backup(&store_path(data), &store_path(target))?;
    chat_broker::embedded::backup(&log_path(data), &log_path(target))?;
    copy_key(data, target)?;
    copied(target)
}

/// Makes a data directory from a backup, which stays as it is. With `force`, what the directory holds is replaced.
pub async fn restore(from: &Path, data: &Path, force: bool) -> Result<Copied, Error> {
    require_data(from)?;
    let directory = DataDirectory::open(data)?;
    let present: Vec<PathBuf> = files_in(data)?;
    if !present.is_empty() && !force {
        return Err(Error::NotEmpty(data.to_owned(), ", or replace what it holds with --force"));
    }
    for file in present {
        std::fs::remove_file(&file).map_err(|error| Error::Io(file, error))?;
    }
    // The log goes first and the store last: a node finds either both or, after a restore that was broken off, a log
    // without the store it names, and does not start.
    chat_broker::embedded::backup(&log_path(from), &directory.log())?;
    copy_key(from, data)?;
    let epoch = chat_store::embedded::restore(&store_path(from), &directory.store())?;
    set_epoch(&directory.log(), epoch).await?;
    copied(data)
}

async fn set_epoch(log: &Path, epoch: u64) -> Result<(), Error> {
    let broker = EmbeddedBroker::open(log, Default::default())?;
    let failed = |error: chat_broker::Error| Error::Epoch(error.to_string());
    let present = broker.get(STORE_EPOCH_KEY).await.map_err(failed)?;
    let revision = present.map(|entry| entry.revision).unwrap_or_default();
    match broker.put(STORE_EPOCH_KEY, revision, epoch_value(epoch)).await.map_err(failed)? {
        Some(_) => Ok(()),
        None => Err(Error::Epoch("another process changed it at the same time".to_owned())),
    }
}

fn require_data(path: &Path) -> Result<(), Error> {
    for (file, name) in [(store_path(path), "store.db"), (log_path(path), "log.db")] {
        if !file.is_file() {
            return Err(Error::NoData(path.to_owned(), name));
        }
    }
    Ok(())
}

fn make_empty(target: &Path) -> Result<(), Error> {
    let failed = |error| Error::Io(target.to_owned(), error);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(failed)?;
    match std::fs::read_dir(target).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty(target.to_owned(), "")),
    }
}

/// The files of a node in a data directory, except its lock.
fn files_in(data: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| Error::Io(data.to_owned(), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != data_directory::LOCK_FILE {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// A node that uses configured keys has none of its own.
fn copy_key(from: &Path, to: &Path) -> Result<(), Error> {
    let (source, target) = (token_key_path(from), token_key_path(to));
    let key = match std::fs::read(&source) {
        Ok(key) => key,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Io(source, error)),
    };
    write_key(&target, &key)
}

/// Writes signing keys to a new file, for its owner alone.
pub(crate) fn write_key(target: &Path, key: &[u8]) -> Result<(), Error> {
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .and_then(|mut file| file.write_all(key).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::Io(target.to_owned(), error))
}

fn copied(directory: &Path) -> Result<Copied, Error> {
    let bytes = |path: PathBuf| match std::fs::metadata(&path) {
        Ok(data) => Ok(data.len()),
        Err(error) => Err(Error::Io(path, error)),
    };
    Ok(Copied {
        store_bytes: bytes(store_path(directory))?,
        log_bytes: bytes(log_path(directory))?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_broker::Sequence;
    use chat_protocol::Partition;
    use chat_store::Store;
    use chat_store::embedded::EmbeddedStore;
    use chat_store::row::Checkpoint;

    use super::*;

    const PARTITION: Partition = Partition(7);

    struct Data {
        parent: tempfile::TempDir,
        epoch: u64,
    }

    impl Data {
        fn path(&self, name: &str) -> PathBuf {
            self.parent.path().join(name)
        }
    }

    /// A data directory whose store and log hold something; both are closed again.
    async fn data() -> Data {
        let parent = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(&parent.path().join("data")).unwrap();
        let store = EmbeddedStore::open(&directory.store(), Default::default()).unwrap();
        let checkpoint = Checkpoint { sequence: 1, epoch: 3, ..Checkpoint::default() };
        store.put_checkpoints(vec![(PARTITION, checkpoint)]).await.unwrap();
        let epoch = store.epoch().await.unwrap();
        let log = EmbeddedBroker::open(&directory.log(), Default::default()).unwrap();
        log.append(PARTITION, Sequence(0), Bytes::from_static(b"record")).await.unwrap();
        log.put(STORE_EPOCH_KEY, Default::default(), epoch_value(epoch)).await.unwrap();
        std::fs::write(directory.token_key(), "key").unwrap();
        Data { parent, epoch }
    }

    async fn epochs(data: &Path) -> (u64, Bytes) {
        let store = EmbeddedStore::open(&store_path(data), Default::default()).unwrap();
        let log = EmbeddedBroker::open(&log_path(data), Default::default()).unwrap();
        let key = log.get(STORE_EPOCH_KEY).await.unwrap().unwrap();
        (store.epoch().await.unwrap(), key.value)
    }

    #[tokio::test]
    async fn a_restored_node_has_the_log_a_new_epoch_and_no_checkpoints() {
        let data = data().await;
        let held = DataDirectory::open(&data.path("data")).unwrap();
        backup(&data.path("data"), &data.path("copy")).unwrap();
        drop(held);
        restore(&data.path("copy"), &data.path("new"), false).await.unwrap();
        let (epoch, key) = epochs(&data.path("new")).await;
        assert_ne!(epoch, data.epoch);
        assert_eq!(key, epoch_value(epoch), "store and log must agree");
        let store =
            EmbeddedStore::open(&store_path(&data.path("new")), Default::default()).unwrap();
        let checkpoint = store.checkpoint(PARTITION).await.unwrap();
        assert_eq!((checkpoint.sequence, checkpoint.epoch), (0, 3));
        let log = EmbeddedBroker::open(&log_path(&data.path("new")), Default::default()).unwrap();
        let records = log.read_log(PARTITION, Sequence(0), 1_000).await.unwrap();
        assert_eq!(records[0].payload, Bytes::from_static(b"record"));
        assert_eq!(std::fs::read(token_key_path(&data.path("new"))).unwrap(), b"key");
        assert_eq!(epochs(&data.path("copy")).await.0, data.epoch, "the backup stays as it is");
    }

    #[tokio::test]
    async fn nothing_is_overwritten_unasked_and_nothing_in_use_at_all() {
        let data = data().await;
        backup(&data.path("data"), &data.path("copy")).unwrap();
        let again = backup(&data.path("data"), &data.path("copy")).unwrap_err();
        assert!(matches!(again, Error::NotEmpty(..)), "{again}");
        let refused = restore(&data.path("copy"), &data.path("data"), false).await.unwrap_err();
        assert!(matches!(refused, Error::NotEmpty(..)), "{refused}");
        let held = DataDirectory::open(&data.path("data")).unwrap();
        let refused = restore(&data.path("copy"), &data.path("data"), true).await.unwrap_err();
        assert!(matches!(refused, Error::Directory(data_directory::Error::InUse(_))), "{refused}");
        drop(held);
        restore(&data.path("copy"), &data.path("data"), true).await.unwrap();
        assert_ne!(epochs(&data.path("data")).await.0, data.epoch);
        let missing = backup(&data.path("nothing"), &data.path("other")).unwrap_err();
        assert!(matches!(missing, Error::NoData(..)), "{missing}");
    }
}
