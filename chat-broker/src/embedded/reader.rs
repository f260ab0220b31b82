//! Reads, on connections of their own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chat_protocol::{Millis, Partition};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::{PAGE_RECORDS_MAX, schema};
use crate::broker::{Entry, Error, Revision, Sequence, StoredRecord};

#[derive(Clone)]
pub(super) struct Readers {
    connections: Arc<Mutex<Vec<Connection>>>,
    /// One permit for each connection.
    free: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path, count: usize) -> rusqlite::Result<Readers> {
        let connections: rusqlite::Result<Vec<_>> =
            (0..count.max(1)).map(|_| schema::open_reader(path)).collect();
        let connections = connections?;
        Ok(Readers {
            free: Arc::new(Semaphore::new(connections.len())),
            connections: Arc::new(Mutex::new(connections)),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let closed = || Error("the log is closed".to_owned());
        let permit = self.free.clone().acquire_owned().await.map_err(|_| closed())?;
        let connections = self.connections.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Moved in, so that a caller that gives up does not free a connection in use.
            let _permit = permit;
            let lock = || connections.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = lock().pop().ok_or_else(closed)?;
            let result = query(&connection);
            lock().push(connection);
            result.map_err(|error| Error(error.to_string()))
        });
        read.await.unwrap_or_else(|error| Err(Error(error.to_string())))
    }

    pub(super) async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, payload FROM record WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
            )?;
            statement.query_row(range(partition, Sequence(0)), record).optional()
        })
        .await
    }

    pub(super) async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, payload FROM record WHERE id > ?1 AND id <= ?2 ORDER BY id",
            )?;
            let mut rows = statement.query(range(partition, after))?;
            let mut page = Vec::new();
            let mut bytes = 0;
            while let Some(row) = rows.next()? {
                bytes += row.get_ref(1)?.as_blob()?.len();
                if !page.is_empty() && (bytes > bytes_max || page.len() == PAGE_RECORDS_MAX) {
                    break;
                }
                page.push(record(row)?);
            }
            Ok(page)
        })
        .await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT revision, value, written_at_ms FROM key WHERE name = ?1")?;
            statement.query_row(params![key], |row| entry(row, 0)).optional()
        })
        .await
    }

    /// The keys that begin with `prefix`.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<(String, Entry)>, Error> {
        let prefix = prefix.to_owned();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name, revision, value, written_at_ms FROM key
                 WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name",
            )?;
            let key = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, entry(row, 1)?));
            statement.query_map(params![prefix], key)?.collect()
        })
        .await
    }
}

fn entry(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Entry> {
    Ok(Entry {
        revision: Revision(schema::unsigned(row, column)?),
        value: Bytes::copy_from_slice(row.get_ref(column + 1)?.as_blob()?),
        written_at: Millis(schema::unsigned(row, column + 2)?),
    })
}

fn range(partition: Partition, after: Sequence) -> [i64; 2] {
    [schema::row_id(partition, after), schema::partition_end(partition)]
}

fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredRecord> {
    Ok(StoredRecord {
        sequence: schema::row_sequence(row.get(0)?),
        payload: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
    })
}
