//! Copies of a store's file, made beside a node that serves from it, and what a restore must change.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use super::column::{bits, from_bits};
use super::error::OpenError;
use super::options::Options;
use super::{connection, schema};

/// Pages copied at a time: 4 MB.
const STEP_PAGES: i32 = 1_000;

/// Between steps, so that the disk also serves the node.
const STEP_PAUSE: Duration = Duration::from_millis(5);

/// Copies the store at `source` to `target`, which must not exist, while a node may be serving from it.
///
/// The copy is of one moment. It always ends, however much is written meanwhile; the write-ahead log of the source is
/// kept until then. `target` appears whole or not at all.
pub fn backup(source: &Path, target: &Path) -> Result<(), OpenError> {
    copy(source, target, |_| Ok(()))
}

/// Makes the store at `target`, which must not exist, from a copy: with a new epoch, so that every cursor is reset, and
/// without checkpoints, so that the retained log is replayed. Returns the epoch.
pub fn restore(copy_of: &Path, target: &Path) -> Result<u64, OpenError> {
    let mut epoch = 0;
    copy(copy_of, target, |partial| {
        reset_checkpoints(partial)?;
        epoch = renew_epoch(partial)?;
        Ok(())
    })?;
    Ok(epoch)
}

/// What a store's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The store's epoch; `None`: the file is empty, no node has served from it.
    pub epoch: Option<u64>,
    /// Version of the schema.
    pub schema: usize,
    /// The version that this program has.
    pub schema_known: usize,
}

/// Looks at a store's file, also while a node serves from it, and changes nothing.
pub fn inspect(store: &Path) -> Result<Inspection, OpenError> {
    require(store)?;
    let connection = connection::reading(store, &Options::default())?;
    let schema = schema::check(&connection, store)?;
    let epoch = || connection.query_row("SELECT epoch FROM meta", [], |row| row.get(0));
    let epoch = match schema {
        0 => None,
        _ => Some(from_bits(epoch().map_err(|error| failure(store, &error))?)),
    };
    Ok(Inspection { epoch, schema, schema_known: schema::known() })
}

/// Gives a store that no node serves from a new random epoch, and returns it. Every cursor is reset.
pub fn renew_epoch(store: &Path) -> Result<u64, OpenError> {
    let epoch = rand::random();
    change(store, |connection| {
        connection.execute("UPDATE meta SET epoch = ?1", [bits(epoch)]).map(drop)
    })?;
    Ok(epoch)
}

/// Makes the next node replay every partition from the start of its retained log. What was reserved, and by which
/// epoch, is kept: new ids stay above it.
pub fn reset_checkpoints(store: &Path) -> Result<(), OpenError> {
    change(store, |connection| {
        connection.execute("UPDATE checkpoint SET sequence = 0", []).map(drop)
    })
}

fn change(
    store: &Path,
    work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| failure(store, &error);
    require(store)?;
    let connection = connection::writing(store, &Options::default())?;
    work(&connection).map_err(failed)?;
    // Into the file itself, so that it may be moved without the one beside it.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)
}

fn copy(
    source: &Path,
    target: &Path,
    complete: impl FnOnce(&Path) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    require(source)?;
    if target.exists() {
        return Err(OpenError::Exists { path: target.into() });
    }
    let partial = beside(target, ".partial");
    let result = copy_pages(source, &partial).and_then(|()| complete(&partial)).and_then(|()| {
        let moved = sync(&partial).and_then(|()| std::fs::rename(&partial, target));
        moved.and_then(|()| sync_folder(target)).map_err(|error| file_failure(target, &error))
    });
    if result.is_err() {
        for ending in ["", "-journal", "-wal", "-shm"] {
            // What is left of a copy that failed is of no use, and may not be there.
            drop(std::fs::remove_file(beside(&partial, ending)));
        }
    }
    result
}

fn copy_pages(source: &Path, partial: &Path) -> Result<(), OpenError> {
    let from = connection::reading(source, &Options::default())?;
    schema::check(&from, source)?;
    let failed = |error: rusqlite::Error| failure(source, &error);
    // One read transaction for the whole copy: without it every write of another process would begin the copy anew.
    from.execute_batch("BEGIN; SELECT 1 FROM meta").map_err(failed)?;
    create_new(partial).map_err(|error| file_failure(partial, &error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let mut to = Connection::open_with_flags(partial, flags).map_err(|e| failure(partial, &e))?;
    Backup::new(&from, &mut to)
        .and_then(|backup| backup.run_to_completion(STEP_PAGES, STEP_PAUSE, None))
        .map_err(|error| failure(partial, &error))?;
    to.close().map_err(|(_, error)| failure(partial, &error))
}

fn create_new(path: &Path) -> std::io::Result<()> {
    let mut options = File::options();
    // A copy that was broken off is overwritten.
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn require(store: &Path) -> Result<(), OpenError> {
    match std::fs::metadata(store) {
        Ok(_) => Ok(()),
        Err(error) => Err(file_failure(store, &error)),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A new name is on the disk only when its folder is.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync(folder),
        _ => sync(Path::new(".")),
    }
}

fn failure(path: &Path, error: &rusqlite::Error) -> OpenError {
    OpenError::File { path: path.into(), reason: error.to_string() }
}

fn file_failure(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::File { path: path.into(), reason: error.to_string() }
}
