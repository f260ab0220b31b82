//! The file: its format, how it is opened, and how rows are numbered.

use std::path::Path;
use std::time::Duration;

use chat_protocol::Partition;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use super::options::OpenError;
use crate::broker::Sequence;

/// The newest format this version reads and writes, in `PRAGMA user_version`.
pub(super) const FORMAT: i64 = 2;

/// In `PRAGMA application_id`: "ClLg". Tells the log from any other SQLite file.
const APPLICATION_ID: i64 = 0x436c_4c67;

// A row id is the partition in front of the sequence, so that a partition is one range of one B-tree.
const SEQUENCE_BITS: u32 = 47;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

const SCHEMA: &str = "
    CREATE TABLE record (
        id INTEGER PRIMARY KEY, -- partition << 47 | sequence
        appended_at_ms INTEGER NOT NULL,
        payload BLOB NOT NULL
    ) STRICT;
    CREATE TABLE key (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        value BLOB NOT NULL,
        written_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- One row: the last revision given to any key, so that none is given twice when keys are removed.
    CREATE TABLE last_revision (revision INTEGER NOT NULL) STRICT;
    INSERT INTO last_revision VALUES (0);
";

/// From format 1, whose keys had no time and were never removed.
const FROM_1: &str = "
    ALTER TABLE key ADD COLUMN written_at_ms INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE last_revision (revision INTEGER NOT NULL) STRICT;
    INSERT INTO last_revision SELECT coalesce(max(revision), 0) FROM key;
";

// Another process may hold the write lock for a moment, such as an operator's shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn row_id(partition: Partition, sequence: Sequence) -> i64 {
    // 16 bits of partition and 47 of sequence always fit.
    i64::from(partition.0) << SEQUENCE_BITS | sequence.0.min(SEQUENCE_MAX) as i64
}

pub(super) fn row_partition(id: i64) -> Partition {
    Partition((id >> SEQUENCE_BITS) as u16)
}

pub(super) fn row_sequence(id: i64) -> Sequence {
    Sequence(id as u64 & SEQUENCE_MAX)
}

/// SQLite's integers have a sign; none of ours is negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

/// The largest row id of a partition.
pub(super) fn partition_end(partition: Partition) -> i64 {
    row_id(partition, Sequence(SEQUENCE_MAX))
}

/// Opens the file for its writer. The format must have been prepared.
pub(super) fn open_writer(
    path: &Path,
    size_bytes_max: Option<u64>,
) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 2000, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    if let Some(bytes) = size_bytes_max {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(bytes.max(64 * 1024)).unwrap_or(i64::MAX) / page.max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(connection)
}

/// Opens the file for reading beside its writer.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Makes sure that the file has the format of this version. An empty file gets it; an older one is migrated.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    let create = || -> rusqlite::Result<Option<OpenError>> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let transaction = connection.transaction()?;
        match inspect(&transaction, path)? {
            Found::Log => return Ok(None),
            Found::Other(error) => return Ok(Some(error)),
            Found::Older => transaction.execute_batch(FROM_1)?,
            Found::Nothing => transaction.execute_batch(SCHEMA)?,
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
        Ok(None)
    };
    create().map_err(|error| open_error(path, &error))?.map_or(Ok(()), Err)
}

/// Whether the file is a log that this version reads. Changes nothing.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    let found = open_reader(path).and_then(|connection| inspect(&connection, path));
    match found.map_err(|error| open_error(path, &error))? {
        // An older one is migrated when it is opened, also from a copy.
        Found::Log | Found::Older => Ok(()),
        Found::Nothing => Err(OpenError::NotALog(path.to_owned())),
        Found::Other(error) => Err(error),
    }
}

/// A key's value in a file, also while a node writes it. Changes nothing.
pub(super) fn read_key(path: &Path, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
    check(path)?;
    let read = || -> rusqlite::Result<Option<Vec<u8>>> {
        let connection = open_reader(path)?;
        let mut statement = connection.prepare("SELECT value FROM key WHERE name = ?1")?;
        let mut rows = statement.query([name])?;
        rows.next()?.map(|row| row.get(0)).transpose()
    };
    read().map_err(|error| open_error(path, &error))
}

enum Found {
    Nothing,
    Log,
    /// A log of the format before this one.
    Older,
    Other(OpenError),
}

fn inspect(connection: &Connection, path: &Path) -> rusqlite::Result<Found> {
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, pragma, |row| row.get(0))
    };
    let application = number("application_id")?;
    let found = number("user_version")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, found, tables) {
        (APPLICATION_ID, FORMAT, _) => Found::Log,
        (APPLICATION_ID, 1, _) => Found::Older,
        (APPLICATION_ID, _, _) if found > FORMAT => {
            Found::Other(OpenError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        (0, 0, 0) => Found::Nothing,
        _ => Found::Other(OpenError::NotALog(path.to_owned())),
    })
}

fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotALog(path.to_owned()),
        _ => OpenError::Unavailable { path: path.to_owned(), reason: error.to_string() },
    }
}

/// The last sequence of every partition that has one.
pub(super) fn load_lasts(connection: &Connection) -> rusqlite::Result<Vec<(Partition, Sequence)>> {
    let mut lasts = Vec::new();
    // One step down the B-tree for each partition, from the highest.
    let mut statement = connection.prepare_cached("SELECT max(id) FROM record WHERE id < ?1")?;
    let mut before = i64::MAX;
    while let Some(id) = statement.query_row([before], |row| row.get::<_, Option<i64>>(0))? {
        lasts.push((row_partition(id), row_sequence(id)));
        before = row_id(row_partition(id), Sequence(0));
    }
    Ok(lasts)
}
