//! What SQLite's errors mean to a caller.

use std::path::PathBuf;

use chat_protocol::id::ParseError;
use rusqlite::ErrorCode;

use crate::store::Error;

/// Why a store could not be opened, copied or changed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made, read or written.
    #[error("cannot use the store at {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
    /// It was written by a newer program.
    #[error(
        "the store at {path} has schema {found}, and this program knows schemas up to {known}: start the version that \
         wrote it, or a newer one"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Schema version of the file.
        found: i64,
        /// Highest schema version known here.
        known: i64,
    },
    /// Some other program's file.
    #[error("{path} is not a chat store")]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// A copy is never written over something else.
    #[error("{path} exists already: move it away first")]
    Exists {
        /// Which file.
        path: PathBuf,
    },
}

/// Why one piece of work on a connection did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Refused(String),
    /// A row that this code could not have written.
    Damaged(String),
    /// SQLite ended the whole transaction when this happened.
    Aborted(Option<Error>),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sql(error)
    }
}

impl From<crate::packing::Damaged> for Failure {
    fn from(damaged: crate::packing::Damaged) -> Failure {
        Failure::Damaged(damaged.0)
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Failure {
        Failure::Damaged(error.to_string())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Refused(reason) => Error::Refused(reason),
            Failure::Damaged(what) => Error::Unavailable(format!(
                "a row of the store cannot be read ({what}): check the disk, or restore a backup"
            )),
            Failure::Aborted(Some(error @ Error::Unavailable(_))) => error,
            Failure::Aborted(_) => Error::Unavailable("the store gave a transaction up".into()),
            Failure::Sql(error) => sentence(&error),
        }
    }
}

fn sentence(error: &rusqlite::Error) -> Error {
    let unavailable = |text: &str| Error::Unavailable(format!("{text} ({error})"));
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            Error::Refused(error.to_string())
        }
        Some(ErrorCode::DiskFull) => {
            unavailable("the store has no room left: free disk space or raise its size limit")
        }
        Some(ErrorCode::SystemIoFailure) => unavailable("the disk of the store reports an error"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable("another process holds the store's lock")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            unavailable("the store's file is damaged: restore a backup")
        }
        _ => unavailable("the store failed"),
    }
}
