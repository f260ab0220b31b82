//! The log in a file: a queue to the thread that writes, connections for those who read.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use chat_protocol::Partition;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::options::{OpenError, Options};
use super::reader::Readers;
use super::schema;
use super::watch::{KeyWatch, Source};
use super::writer::{Request, Writer};
use crate::broker::{AppendError, Entry, Error, Revision, Sequence, StoredRecord};

const WRITER_GONE: &str = "the thread that writes the log has ended";

pub(super) struct FileLog {
    /// Taken when dropped.
    queue: Option<mpsc::Sender<Request>>,
    /// Bytes of appends that may be in the queue.
    room: Arc<Semaphore>,
    room_bytes: usize,
    readers: Readers,
    /// Told by the writer of every change of a key.
    keys_changed: watch::Receiver<()>,
    writer: Option<JoinHandle<()>>,
}

impl FileLog {
    pub(super) fn open(path: &Path, options: &Options) -> Result<FileLog, OpenError> {
        let unavailable = |reason: String| OpenError::Unavailable { path: path.to_owned(), reason };
        let lock = lock(path)?;
        schema::prepare(path)?;
        let (queue, requests) = mpsc::channel(options.queue_requests_max.max(1));
        let writer = Writer::open(path, options).map_err(|error| unavailable(error.to_string()))?;
        let keys_changed = writer.keys_changed();
        let readers =
            Readers::open(path, options.readers).map_err(|error| unavailable(error.to_string()))?;
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                writer.run(requests);
                // Held as long as anything may still be written.
                drop(lock);
            })
            .map_err(|error| unavailable(error.to_string()))?;
        let room_bytes =
            options.queue_bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Ok(FileLog {
            queue: Some(queue),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            readers,
            keys_changed,
            writer: Some(writer),
        })
    }

    async fn send(&self, request: Request) -> Result<(), Error> {
        let gone = || Error(WRITER_GONE.to_owned());
        self.queue.as_ref().ok_or_else(gone)?.send(request).await.map_err(|_| gone())
    }

    pub(super) async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let unknown = |error: Error| AppendError::Unknown(error.0);
        // A payload over the whole room takes all of it.
        let bytes = payload.len().min(self.room_bytes) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        let room = room.map_err(|_| AppendError::Unknown(WRITER_GONE.to_owned()))?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Append { partition, expected, payload, room, answer };
        self.send(request).await.map_err(unknown)?;
        answered.await.unwrap_or_else(|_| Err(AppendError::Unknown(WRITER_GONE.to_owned())))
    }

    pub(super) async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Put { key: key.to_owned(), expected, value, answer }).await?;
        answered.await.unwrap_or_else(|_| Err(Error(WRITER_GONE.to_owned())))
    }

    pub(super) async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Remove { key: key.to_owned(), expected, answer }).await?;
        answered.await.unwrap_or_else(|_| Err(Error(WRITER_GONE.to_owned())))
    }

    pub(super) fn watch(&self, prefix: &str) -> KeyWatch {
        KeyWatch::new(Source::File(self.readers.clone()), prefix, self.keys_changed.clone())
    }

    pub(super) async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            let (answer, answered) = oneshot::channel();
            self.send(Request::Purge { partition, up_to, min_age, answer }).await?;
            // A few at a time, so that appends get their turn.
            let (removed, more) =
                answered.await.unwrap_or_else(|_| Err(Error(WRITER_GONE.to_owned())))?;
            count += removed;
            if !more {
                return Ok(count);
            }
        }
    }

    pub(super) async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        self.readers.last(partition).await
    }

    pub(super) async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.readers.read_log(partition, after, bytes_max).await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.readers.get(key).await
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        // The writer ends when the queue is closed and empty. Waiting for it frees the file for whoever opens it next.
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("{WRITER_GONE} with a panic");
        }
    }
}

/// Keeps other processes from opening the same log: the fence is checked against memory, so there may be one writer only.
/// The lock ends with the process, however it ends.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let unavailable = |reason: String| OpenError::Unavailable { path: path.to_owned(), reason };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|error| unavailable(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(unavailable(error.to_string())),
    }
}
