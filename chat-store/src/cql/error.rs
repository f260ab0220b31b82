//! What the driver says, as one of the contract's two errors.

use scylla::deserialize::{DeserializationError, TypeCheckError};
use scylla::errors::{
    DbError, ExecutionError, IntoRowsResultError, NextPageError, NextRowError, PagerExecutionError,
    PrepareError, RequestAttemptError, RequestError, RowsError,
};

use crate::packing::Damaged;
use crate::store::Error;

/// Why a CQL store cannot be opened. A sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The options do not fit.
    #[error("{0}")]
    Options(String),
    /// A file for TLS cannot be used.
    #[error("{0}")]
    Tls(String),
    /// No contact point answers as a CQL database.
    #[error(
        "no contact point of the store answers ({reason}): check the addresses, and that the database runs"
    )]
    Unreachable {
        /// What the driver says.
        reason: String,
    },
    /// Name or password are wrong, or missing.
    #[error("the store refuses the name or the password ({reason}): check both")]
    Credentials {
        /// What the database says.
        reason: String,
    },
    /// A newer program has changed the tables.
    #[error(
        "the keyspace `{keyspace}` has schema version {found}, and this program knows only {known}: start the newer program"
    )]
    Newer {
        /// Which.
        keyspace: String,
        /// Its version.
        found: i32,
        /// The newest that this program knows.
        known: i32,
    },
    /// The database would not make or change the tables.
    #[error("the schema of the keyspace `{keyspace}` cannot be set up: {reason}")]
    Schema {
        /// Which.
        keyspace: String,
        /// What it says.
        reason: String,
    },
}

/// What went wrong inside; becomes one of the contract's two errors.
#[derive(Debug)]
pub(super) enum Failure {
    /// The driver's word.
    Request(Box<RequestFailure>),
    /// A value of a row that this code could not have written.
    Damaged(String),
    /// Content that this store never takes.
    Refused(String),
    /// No place among the requests on their way came free in time.
    Busy,
}

#[derive(Debug)]
pub(super) enum RequestFailure {
    Execution(ExecutionError),
    Prepare(PrepareError),
    Pager(PagerExecutionError),
    NextRow(NextRowError),
}

impl Failure {
    /// The database's own error, if it answered with one.
    fn database(&self) -> Option<&DbError> {
        let Failure::Request(failure) = self else { return None };
        let attempt = match &**failure {
            RequestFailure::Execution(ExecutionError::LastAttemptError(attempt)) => attempt,
            RequestFailure::Pager(PagerExecutionError::NextPageError(
                NextPageError::RequestFailure(RequestError::LastAttemptError(attempt)),
            ))
            | RequestFailure::NextRow(NextRowError::NextPageError(
                NextPageError::RequestFailure(RequestError::LastAttemptError(attempt)),
            )) => attempt,
            _ => return None,
        };
        match attempt {
            RequestAttemptError::DbError(error, _) => Some(error),
            _ => None,
        }
    }

    /// Whether a lightweight transaction may or may not have been done: somebody else's came between, or a time-out.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(
            self.database(),
            // 0x1700: Cassandra's CAS_WRITE_UNKNOWN.
            Some(
                DbError::WriteTimeout { .. } | DbError::ReadTimeout { .. } | DbError::Other(0x1700)
            )
        )
    }

    /// Whether the last node that was asked could not be connected to: those before it had refused.
    fn is_unreached(&self) -> bool {
        let Failure::Request(failure) = self else { return false };
        let unreached = |error: &RequestError| {
            matches!(error, RequestError::EmptyPlan | RequestError::ConnectionPoolError(_))
        };
        match &**failure {
            RequestFailure::Execution(error) => {
                matches!(error, ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_))
            }
            RequestFailure::Pager(PagerExecutionError::NextPageError(
                NextPageError::RequestFailure(error),
            ))
            | RequestFailure::NextRow(NextRowError::NextPageError(
                NextPageError::RequestFailure(error),
            )) => unreached(error),
            _ => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Failure::Request(failure) => match &**failure {
                RequestFailure::Execution(error) => error.to_string(),
                RequestFailure::Prepare(error) => error.to_string(),
                RequestFailure::Pager(error) => error.to_string(),
                RequestFailure::NextRow(error) => error.to_string(),
            },
            Failure::Damaged(text) | Failure::Refused(text) => text.clone(),
            Failure::Busy => "too many requests are on their way".into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let text = failure.text();
        match &failure {
            Failure::Refused(_) => Error::Refused(text),
            Failure::Damaged(_) => Error::Unavailable(format!(
                "a row of the store cannot be read ({text}): repair the tables, or restore a backup"
            )),
            Failure::Busy => Error::Unavailable(format!("the store does not keep up: {text}")),
            Failure::Request(_) => match failure.database() {
                Some(DbError::Invalid) => Error::Refused(text),
                Some(DbError::Unauthorized) => Error::Unavailable(format!(
                    "the store's user may not do this ({text}): grant it SELECT and MODIFY on the keyspace"
                )),
                Some(DbError::Unavailable { .. }) => Error::Away(text),
                None if failure.is_unreached() => Error::Away(text),
                _ => Error::Unavailable(text),
            },
        }
    }
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Failure {
        match error {
            // The statement's values cannot be written as CQL at all.
            ExecutionError::BadQuery(error) => Failure::Refused(error.to_string()),
            error => Failure::Request(Box::new(RequestFailure::Execution(error))),
        }
    }
}

impl From<PagerExecutionError> for Failure {
    fn from(error: PagerExecutionError) -> Failure {
        Failure::Request(Box::new(RequestFailure::Pager(error)))
    }
}

impl From<NextRowError> for Failure {
    fn from(error: NextRowError) -> Failure {
        match error {
            NextRowError::RowDeserializationError(error) => Failure::Damaged(error.to_string()),
            error => Failure::Request(Box::new(RequestFailure::NextRow(error))),
        }
    }
}

impl From<Damaged> for Failure {
    fn from(damaged: Damaged) -> Failure {
        Failure::Damaged(damaged.0)
    }
}

macro_rules! damaged {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::Damaged(error.to_string())
            }
        }
    )*};
}

damaged!(
    IntoRowsResultError,
    RowsError,
    TypeCheckError,
    DeserializationError,
    chat_protocol::id::ParseError
);
