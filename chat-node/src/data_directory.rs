//! The data directory of an embedded node: what lies where, and that one process at a time uses it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node, or a restore, uses it.
    #[error(
        "{0} is in use by a running node or restore; stop it first, or choose another directory"
    )]
    InUse(PathBuf),
    /// The file system refused.
    #[error("cannot use {0} as data directory: {1}")]
    Io(PathBuf, io::Error),
}

/// The file whose lock says that a process uses the directory.
pub(crate) const LOCK_FILE: &str = "node.lock";

/// A data directory that this process holds. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Creates the directory if needed, readable by its owner only, and locks it.
    pub fn open(path: &Path) -> Result<DataDirectory, Error> {
        let failed = |error| Error::Io(path.to_owned(), error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDirectory { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The store's database.
    pub fn store(&self) -> PathBuf {
        store_path(&self.path)
    }

    /// The log's database.
    pub fn log(&self) -> PathBuf {
        log_path(&self.path)
    }

    /// The signing key that the node makes for itself.
    pub fn token_key(&self) -> PathBuf {
        token_key_path(&self.path)
    }
}

/// The store's database in a data directory or a backup.
pub fn store_path(directory: &Path) -> PathBuf {
    directory.join("store.db")
}

/// The log's database in a data directory or a backup.
pub fn log_path(directory: &Path) -> PathBuf {
    directory.join("log.db")
}

/// The node's own signing key in a data directory or a backup.
pub fn token_key_path(directory: &Path) -> PathBuf {
    directory.join("token.key")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_created_for_its_owner_only_and_held_by_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataDirectory::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataDirectory::open(&path), Err(Error::InUse(_))));
        drop(held);
        assert!(DataDirectory::open(&path).is_ok());
    }
}
