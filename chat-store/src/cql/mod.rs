//! The CQL backend: ScyllaDB, or Apache Cassandra, in place of the embedded file.
//!
//! Rows made from the log are written with the time stamp of their log entry and never deleted from, so that replays in
//! any order end in the same tables; see `docs/decisions`. Requests are prepared, go to a replica, and are bounded in
//! number: a call waits for its place. Lightweight transactions guard what must be unique or compared (handles, devices,
//! pairs of friends, the epoch, the schema's lock); none is made for a row of the log.

mod accounts;
mod apply;
mod bucket;
mod coalesce;
mod column;
mod connection;
mod conversations;
mod devices;
mod error;
mod execute;
mod friends;
mod history;
mod inbox;
mod inspect;
mod messages;
mod meta;
mod migration;
mod options;
mod presence;
mod service;
mod stamps;
mod statements;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_protocol::message::Message;
use chat_protocol::{ConversationId, MessageId, Millis, UserId};

use self::bucket::Known;
use self::coalesce::Coalesce;
pub use self::error::OpenError;
use self::execute::Executor;
use self::history::Page;
pub use self::inspect::{Inspection, KeyspaceState};
pub use self::options::{Consistency, Credentials, Options, Time, Tls};
use self::statements::Statements;
use self::tables::Scans;
use crate::row::{Account, ConversationRow, InboxPage, MemberRow, QuarantineRow};
use crate::store::Error;

/// The CQL backend of [`crate::Store`].
pub struct CqlStore {
    inner: Arc<Inner>,
    shared: Reads,
}

/// What queries need; shared with those on their way.
struct Inner {
    executor: Executor,
    statements: Statements,
    scans: Scans,
    known: Known,
    /// Of the opening. A restore changes it, with no node running.
    epoch: u64,
    now_ms: AtomicU64,
}

impl Inner {
    /// The time as far as this store was told.
    fn now(&self) -> Millis {
        Millis(self.now_ms.load(Ordering::Relaxed))
    }
}

/// Reads that many make at once.
#[derive(Default)]
struct Reads {
    history: Coalesce<(ConversationId, Page, usize), Answer<Vec<Message>>>,
    messages: Coalesce<(ConversationId, Vec<MessageId>), Answer<Vec<Message>>>,
    conversation: Coalesce<ConversationId, Answer<Option<ConversationRow>>>,
    members: Coalesce<ConversationId, Answer<Vec<MemberRow>>>,
    marks: Coalesce<ConversationId, Answer<Marks>>,
    inbox: Coalesce<(UserId, MessageId, MessageId, usize), Answer<InboxPage>>,
    account: Coalesce<UserId, Answer<Option<Account>>>,
}

/// By user: read seq, delivered seq.
type Marks = HashMap<UserId, (u64, u64)>;

/// Shared by all who asked.
type Answer<T> = Result<Arc<T>, Error>;

impl CqlStore {
    /// Connects, brings the schema up to date, and prepares every statement.
    pub async fn open(options: Options) -> Result<CqlStore, OpenError> {
        options.check()?;
        let session = connection::connect(&options).await?;
        Box::pin(migration::migrate(&session, &options)).await?;
        let schema =
            |reason: String| OpenError::Schema { keyspace: options.keyspace.clone(), reason };
        let statements = Box::pin(Statements::prepare(&session))
            .await
            .map_err(|error| schema(error.to_string()))?;
        let patience = Duration::from_millis(options.request_timeout_ms);
        let executor = Executor::new(session, options.concurrency_max, patience);
        let epoch = options.epoch.unwrap_or_else(rand::random);
        let epoch = meta::make_epoch(&executor, &statements, epoch)
            .await
            .map_err(|failure| schema(Error::from(failure).to_string()))?;
        let now_ms = AtomicU64::new(options.now.0);
        let inner = Inner {
            executor,
            statements,
            scans: Scans::default(),
            known: Known::default(),
            epoch,
            now_ms,
        };
        Ok(CqlStore { inner: Arc::new(inner), shared: Reads::default() })
    }

    /// Looks at the database and the keyspace, and changes nothing: neither is made, and a schema stays as it is.
    pub async fn inspect(options: &Options) -> Result<Inspection, OpenError> {
        inspect::inspect(options).await
    }

    /// Entries that were set aside, by partition and id: for the operator who looks into them.
    pub async fn quarantined(&self, limit: usize) -> Result<Vec<QuarantineRow>, Error> {
        Ok(self.inner.quarantined(limit).await?)
    }

    /// After a restore: gives the store a new epoch, and lets every partition begin again at the start of its log, but
    /// never below the ids and epochs that were given out. Only while no node runs: open the store anew afterwards.
    pub async fn renew_epoch(&self, epoch: u64) -> Result<(), Error> {
        Ok(self.inner.renew_epoch(epoch).await?)
    }
}
