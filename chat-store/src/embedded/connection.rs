//! Opening a connection, and running one piece of work on it.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::{Failure, OpenError};
use super::options::Options;
use super::schema;

/// More than there are different statements, so that each is prepared once per connection.
const STATEMENTS_MAX: usize = 128;

/// No value comes near this: a record of the log is at most 512 KB.
const VALUE_BYTES_MAX: i32 = 16 << 20;

/// Pages after which a commit moves the write-ahead log into the database: 64 MB. Under load the same pages are written
/// again and again, and each move writes every one of them once.
const LOG_PAGES: i64 = 16_384;

/// The write-ahead log is cut to this after it grew, for example during a backup.
const LOG_BYTES_MAX: i64 = 128 << 20;

/// The connection that writes; makes the file and its tables if they are not there.
pub(super) fn writing(path: &Path, options: &Options) -> Result<Connection, OpenError> {
    let failed = |reason: String| OpenError::File { path: path.into(), reason };
    create_private(path).map_err(|error| failed(error.to_string()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error: rusqlite::Error| failed(error.to_string());
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(Duration::from_millis(options.busy_timeout_ms)).map_err(sql)?;
    // Before the first change, so that another program's file is left as it is.
    schema::check(&connection, path)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(sql)?;
    if mode != "wal" {
        return Err(failed(
            "its file system does not support SQLite's write-ahead log: use a local disk".into(),
        ));
    }
    configure(&connection, options.writer_cache_bytes).map_err(sql)?;
    limit_size(&connection, options.size_bytes_max).map_err(sql)?;
    schema::migrate(&mut connection, path, options.epoch)?;
    Ok(connection)
}

/// A connection that reads. The file and its tables must be there.
pub(super) fn reading(path: &Path, options: &Options) -> Result<Connection, OpenError> {
    let sql =
        |error: rusqlite::Error| OpenError::File { path: path.into(), reason: error.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(Duration::from_millis(options.busy_timeout_ms)).map_err(sql)?;
    configure(&connection, options.reader_cache_bytes).map_err(sql)?;
    connection.pragma_update(None, "query_only", true).map_err(sql)?;
    Ok(connection)
}

/// The only connection of a store in memory.
pub(super) fn memory(options: &Options) -> Result<Connection, OpenError> {
    let path = Path::new(":memory:");
    let sql =
        |error: rusqlite::Error| OpenError::File { path: path.into(), reason: error.to_string() };
    let mut connection = Connection::open_in_memory().map_err(sql)?;
    configure(&connection, options.writer_cache_bytes).map_err(sql)?;
    limit_size(&connection, options.size_bytes_max).map_err(sql)?;
    schema::migrate(&mut connection, path, options.epoch)?;
    Ok(connection)
}

fn configure(connection: &Connection, cache_bytes: u64) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    // Without this, every new value of a range makes SQLite plan the statement again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // FULL: a commit is on the disk when it returns, also after a loss of power.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", false)?;
    // Negative: in units of 1024 bytes.
    connection.pragma_update(None, "cache_size", -((cache_bytes / 1024).max(1_024) as i64))?;
    // No memory map: an I/O error on mapped pages ends the process instead of failing one call.
    connection.pragma_update(None, "mmap_size", 0)?;
    // Deleted content does not linger in pages that are written anyway.
    connection.pragma_update_and_check(None, "secure_delete", "FAST", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_MAX, |_| Ok(()))
}

fn limit_size(connection: &Connection, size_bytes_max: Option<u64>) -> rusqlite::Result<()> {
    let Some(bytes) = size_bytes_max else { return Ok(()) };
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
    // SQLite ignores a limit of 0 and never goes below the size the file has.
    connection
        .pragma_update_and_check(None, "max_page_count", pages.clamp(1, 0xffff_fffe), |_| Ok(()))
}

/// Makes the file if it is not there, for its owner alone: it holds password hashes. SQLite gives the files beside it
/// the same permissions.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Runs work that reads: everything it sees is of one moment.
pub(super) fn read<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    connection.prepare_cached("BEGIN DEFERRED")?.execute([])?;
    let result = work(connection);
    // Nothing was written, so that there is nothing whose end could fail.
    if let Err(error) = end(connection, "COMMIT") {
        return result.and(Err(error.into()));
    }
    result
}

/// Runs one statement that ends or begins something.
pub(super) fn end(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}
