//! The embedded backend: SQLite in this process.
//!
//! [`EmbeddedStore::open`] keeps a file: one thread writes, and commits everything that waits in one transaction (group
//! commit); a few threads read. [`EmbeddedStore::memory`] keeps nothing and runs inside the caller, without threads, so
//! that a simulation with paused time stays deterministic. Both run the same SQL.
//!
//! Two processes must not serve from one file; [`backup()`] may run beside the node that does.

mod accounts;
mod backup;
mod column;
mod connection;
mod conversations;
mod devices;
mod error;
mod expiry;
mod friends;
mod inbox;
mod messages;
mod meta;
mod options;
mod presence;
mod readers;
mod schema;
mod service;
mod tables;
mod writer;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

pub use self::backup::{Inspection, backup, inspect, renew_epoch, reset_checkpoints, restore};
use self::error::Failure;
pub use self::error::OpenError;
pub use self::options::Options;
use self::readers::Readers;
use self::writer::Writer;
use crate::row::QuarantineRow;
use crate::store::Error;

/// The SQLite backend of [`crate::Store`].
///
/// Dropping it waits until everything accepted is written and the file is closed.
pub struct EmbeddedStore {
    engine: Engine,
}

enum Engine {
    /// In memory: the work runs in the caller. Never held across an await.
    Inline(Mutex<Connection>),
    /// A file. The readers go first on drop, so that the writer is the last to close the file and tidies it up.
    Threads { readers: Readers, writer: Writer },
}

impl EmbeddedStore {
    /// Opens the store in this file, which is made if it is not there.
    pub fn open(path: &Path, options: Options) -> Result<EmbeddedStore, OpenError> {
        let threads = |error: std::io::Error| OpenError::File {
            path: path.into(),
            reason: error.to_string(),
        };
        let first = connection::writing(path, &options)?;
        let connections = (0..options.reader_threads.max(1))
            .map(|_| connection::reading(path, &options))
            .collect::<Result<Vec<_>, _>>()?;
        let readers = Readers::start(connections, options.read_queue_length).map_err(threads)?;
        let length = options.write_queue_length;
        let again = path.to_owned();
        let reopen = move || connection::writing(&again, &options);
        let writer = Writer::start(first, reopen, length).map_err(threads)?;
        Ok(EmbeddedStore { engine: Engine::Threads { readers, writer } })
    }

    /// Opens the store in this file to read it: whatever would write fails. The work runs in the caller. What SQLite has
    /// beside the file, in its write-ahead log, may get into it when this is dropped.
    pub fn open_to_read(path: &Path) -> Result<EmbeddedStore, OpenError> {
        let connection = connection::reading(path, &Options::default())?;
        schema::check(&connection, path)?;
        Ok(EmbeddedStore { engine: Engine::Inline(Mutex::new(connection)) })
    }

    /// A new, empty store in memory, without threads.
    pub fn memory() -> EmbeddedStore {
        EmbeddedStore::memory_with(&Options::default())
            .expect("SQLite makes tables in memory unless memory itself is out")
    }

    /// As [`EmbeddedStore::memory`], with a limit of size or an epoch of the caller's.
    pub fn memory_with(options: &Options) -> Result<EmbeddedStore, OpenError> {
        let connection = connection::memory(options)?;
        Ok(EmbeddedStore { engine: Engine::Inline(Mutex::new(connection)) })
    }

    /// Entries that were set aside, by partition and id: for the operator who looks into them.
    pub async fn quarantined(&self, limit: usize) -> Result<Vec<QuarantineRow>, Error> {
        self.read(move |connection| meta::quarantined(connection, limit)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        match &self.engine {
            Engine::Inline(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(connection::read(&connection, work)?)
            }
            Engine::Threads { readers, .. } => readers.read(work).await,
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        match &self.engine {
            Engine::Inline(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(writer::write_alone(&connection, work)?)
            }
            Engine::Threads { writer, .. } => writer.write(work).await,
        }
    }
}
