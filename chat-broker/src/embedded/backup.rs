//! A copy of the file while it is in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::options::OpenError;
use super::schema;

const PAGES_PER_STEP: i32 = 1024;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSES_MAX: u32 = 600;

/// Why a backup was not made. No usable file is at the target then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source is not a log of this version.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// There is a file at the target already.
    #[error("The file {} exists already. Choose another name, or remove it.", .0.display())]
    TargetExists(PathBuf),
    /// Reading or writing failed.
    #[error("The backup of {} failed: {reason}. Check the disk and the permissions.", path.display())]
    Failed {
        /// The source.
        path: PathBuf,
        /// What the system or SQLite says.
        reason: String,
    },
}

/// Copies the log at `source` to a new file at `target`, also while a node is writing it, from this process or another.
///
/// The copy is the state at one moment: everything acknowledged before the call is in it. Ends however much is being
/// written meanwhile. Blocks the calling thread.
pub fn backup(source: &Path, target: &Path) -> Result<(), BackupError> {
    let failed = |reason: String| BackupError::Failed { path: source.to_owned(), reason };
    if target.exists() {
        return Err(BackupError::TargetExists(target.to_owned()));
    }
    schema::check(source)?;
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // What an earlier attempt left behind.
    remove_database(&partial).map_err(|error| failed(error.to_string()))?;
    copy(source, &partial)
        .map_err(|error| error.to_string())
        .and_then(|()| publish(&partial, target).map_err(|error| error.to_string()))
        .map_err(|reason| {
            // The reason for the failure matters more than what is left behind.
            remove_database(&partial).ok();
            failed(reason)
        })
}

fn copy(source: &Path, target: &Path) -> rusqlite::Result<()> {
    let source = schema::open_reader(source)?;
    let mut target = Connection::open(target)?;
    // An open read transaction keeps the source at one moment, so that a commit does not start the copy anew.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let backup = Backup::new(&source, &mut target)?;
    let mut pauses = 0;
    loop {
        match backup.step(PAGES_PER_STEP)? {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked if pauses < BUSY_PAUSES_MAX => {
                pauses += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            StepResult::Busy | StepResult::Locked => {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    Some("the log stayed locked".to_owned()),
                ));
            }
            _ => {}
        }
    }
}

/// Gives the finished copy its name, after its bytes are on the disk.
fn publish(partial: &Path, target: &Path) -> std::io::Result<()> {
    std::fs::File::open(partial)?.sync_all()?;
    std::fs::rename(partial, target)?;
    let directory = target.parent().filter(|path| !path.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn remove_database(path: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
