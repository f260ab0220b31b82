//! The backend inside one process: logs and keys in one SQLite file, or in memory; the bus in memory.
//!
//! An acknowledged append in a file survives the death of the process and of the machine, as far as its disk keeps what
//! it said it wrote: SQLite in WAL mode with `synchronous=FULL`. Only one process at a time has the file open.

mod backup;
mod bus;
mod file;
mod memory;
mod options;
mod reader;
mod schema;
mod watch;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::Partition;

pub use self::backup::{BackupError, backup};
pub use self::options::{Clock, OpenError, Options};

use self::bus::Hub;
use self::file::FileLog;
use self::memory::MemoryLog;
use crate::broker::{
    AppendError, Broker, Bus, Entry, Error, Receiver, Revision, Sequence, StoredRecord, Watch,
};
use crate::key;

/// Most records that one `read_log` returns, however small they are.
pub const PAGE_RECORDS_MAX: usize = 10_000;

/// The value of a key in the log's file at `path`, also while a node writes it. Changes nothing.
pub fn read_key(path: &Path, key: &str) -> Result<Option<Bytes>, OpenError> {
    Ok(schema::read_key(path, key)?.map(Bytes::from))
}

enum Log {
    File(FileLog),
    Memory(MemoryLog),
}

/// Logs, keys and the bus of nodes in one process.
///
/// Dropping a broker with a file waits for the transaction under way.
pub struct EmbeddedBroker {
    log: Log,
    hub: Arc<Hub>,
    payload_bytes_max: usize,
}

impl EmbeddedBroker {
    /// Opens the file at `path`, creating it if it is missing. Starts the thread that writes it.
    pub fn open(path: &Path, options: Options) -> Result<EmbeddedBroker, OpenError> {
        Ok(EmbeddedBroker {
            log: Log::File(FileLog::open(path, &options)?),
            hub: Hub::new(options.requests_max),
            payload_bytes_max: options.payload_bytes_max,
        })
    }

    /// Everything in memory. Calls finish without waiting and without threads, so that a simulation on a
    /// `current_thread` runtime with paused time runs the same way every time.
    pub fn memory() -> EmbeddedBroker {
        EmbeddedBroker::memory_with(Options::default())
    }

    /// Like [`memory`](EmbeddedBroker::memory), with limits and a clock. The queue's and the readers' options do not apply.
    pub fn memory_with(options: Options) -> EmbeddedBroker {
        EmbeddedBroker {
            hub: Hub::new(options.requests_max),
            payload_bytes_max: options.payload_bytes_max,
            log: Log::Memory(MemoryLog::new(&options)),
        }
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        if payload.len() > self.payload_bytes_max {
            return Err(AppendError::TooLarge);
        }
        match &self.log {
            Log::File(file) => file.append(partition, expected, payload).await,
            Log::Memory(memory) => memory.append(partition, expected, payload),
        }
    }

    async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        match &self.log {
            Log::File(file) => file.last(partition).await,
            Log::Memory(memory) => Ok(memory.last(partition)),
        }
    }

    async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        match &self.log {
            Log::File(file) => file.read_log(partition, after, bytes_max).await,
            Log::Memory(memory) => Ok(memory.read_log(partition, after, bytes_max)),
        }
    }

    async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        match &self.log {
            Log::File(file) => file.purge(partition, up_to, min_age).await,
            Log::Memory(memory) => Ok(memory.purge(partition, up_to, min_age)),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        key::check(key)?;
        match &self.log {
            Log::File(file) => file.get(key).await,
            Log::Memory(memory) => Ok(memory.get(key)),
        }
    }

    async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        key::check_value(key, &value)?;
        match &self.log {
            Log::File(file) => file.put(key, expected, value).await,
            Log::Memory(memory) => Ok(memory.put(key, expected, value)),
        }
    }

    async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        key::check(key)?;
        match &self.log {
            Log::File(file) => file.remove(key, expected).await,
            Log::Memory(memory) => Ok(memory.remove(key, expected)),
        }
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, Error> {
        Ok(Box::new(match &self.log {
            Log::File(file) => file.watch(prefix),
            Log::Memory(memory) => memory.watch(prefix),
        }))
    }

    async fn connect(&self, receiver: Arc<dyn Receiver>) -> Result<Arc<dyn Bus>, Error> {
        Ok(bus::connect(&self.hub, receiver))
    }
}
