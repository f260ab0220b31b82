//! The contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::{Millis, Partition};

use crate::Subject;

/// Position of a record in the log. Grows along a partition, with gaps: other partitions may share the numbers. 0 is
/// "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Revision of a key: grows with every write to it, also past a removal. 0 is "the key does not exist".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A record in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its position.
    pub sequence: Sequence,
    /// The bytes appended.
    pub payload: Bytes,
}

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// For the next compare-and-set.
    pub revision: Revision,
    /// The value.
    pub value: Bytes,
    /// When it was written, by the broker's own clock: a node can compare its clock with it.
    pub written_at: Millis,
}

/// What a [`Watch`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key exists, with this entry.
    Written {
        /// Its name.
        key: String,
        /// Its latest entry; earlier ones may have been left out.
        entry: Entry,
    },
    /// A key that was told of does not exist any more.
    Removed {
        /// Its name.
        key: String,
    },
    /// Every key there is was told of. From here on changes follow as they happen, until the next `Interrupted`.
    Current,
    /// Changes may be missed from now on, and may have been for up to [`WATCH_SILENCE_MAX`]: the silence proves nothing.
    /// Once the broker is back every key there is comes again, the removed ones as `Removed`, and then `Current`.
    Interrupted,
}

/// A watch tells of its own interruption at the latest this long after the last moment at which it was not interrupted.
/// Whoever draws conclusions from silence adds it to the silence they wait for.
pub const WATCH_SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// What came of an append that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The partition's last sequence is not the expected one. Nothing was appended by *this* attempt; an earlier attempt
    /// with the same bytes may be the reason.
    #[error("the partition's last sequence is not the expected one")]
    Refused,
    /// There is no room. Nothing was appended by this attempt.
    #[error("the log has no room")]
    Full,
    /// The payload is over the broker's limit. Nothing was appended.
    #[error("the record is too large for the log")]
    TooLarge,
    /// It may have been appended, may be so later, or never: repeat the same bytes with the same expected sequence.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The broker did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broker unavailable: {0}")]
pub struct Error(pub String);

/// What came of a request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens at the subject; nothing was delivered.
    #[error("nobody listens")]
    NoResponder,
    /// No answer in time; the request may have been carried out.
    #[error("no answer in time")]
    Deadline,
    /// The broker did not answer; the request may have been carried out.
    #[error("broker unavailable: {0}")]
    Unavailable(String),
}

/// Gets what is published. Called from the broker's own tasks, or from the publisher's: it must not block.
pub trait Receiver: Send + Sync {
    /// One publication, for those of its subjects that this receiver subscribed to. Never empty.
    fn deliver(&self, subjects: &[Subject], payload: Bytes);

    /// Publications may have been lost since the last delivery: the connection broke and is back, or they came faster than
    /// they were taken. Called from the same places as `deliver`, and like it must not block. A loss that the backend
    /// cannot notice is not told.
    fn interrupted(&self) {}
}

/// Tells of keys. See [`Broker::watch`].
#[async_trait]
pub trait Watch: Send {
    /// The next change; waits for it. May be dropped and called again: nothing is lost by that. When the broker is closed
    /// there is one `Interrupted`, and then silence.
    async fn next(&mut self) -> Change;
}

/// Answers requests.
#[async_trait]
pub trait Responder: Send + Sync {
    /// The answer. An empty answer is an answer.
    async fn respond(&self, subject: Subject, payload: Bytes) -> Bytes;
}

/// Logs, keys and the bus.
///
/// # The log
///
/// - One append-only log per [`Partition`]. An acknowledged append is durable: it survives the death of any process, and
///   of the machine as far as the backend's documentation says.
/// - **Fenced**: an append names the sequence of the last record its writer knows, and is refused if that is not the
///   partition's last. Of two appends with the same expectation at most one is accepted, ever.
/// - Accepted records are never reordered or changed. `read_log` and `last` may be stale: they may miss the newest
///   records, but what they return was accepted, is in order, and has no hole before its last record, other than what was
///   purged.
/// - A purge removes the oldest records up to a sequence, and never the last record of a partition.
///
/// # Keys
///
/// A small number of small values (leases, the store epoch, the platform's feature level), each with a revision;
/// writes are compare-and-set. What a key may be called and hold is in [`key`](crate::key). `get` may be stale; an accepted write proves that the revision it expected was the last
/// one. A write or removal that ends with an error, or whose caller gave up, may have been made, or may be so later.
///
/// A watch tells the latest entry of each key, in the order of revisions for each key, and never an older one after a
/// newer one. What it has to tell is bounded by the number of keys, however slowly it is asked.
///
/// # The bus
///
/// At most once, no memory. Publications by one publisher to one subject arrive in order. A publisher is never held up by
/// a receiver.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Appends a record, if the partition's last record still is at `expected` (0: the partition is empty).
    async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError>;

    /// The partition's last record.
    async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error>;

    /// Records after `after`, oldest first, at least one if there is any, and then only as many as fit `bytes_max`.
    async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error>;

    /// Removes records up to and including `up_to` that were appended longer than `min_age` ago. Keeps the last record.
    /// Returns how many went.
    async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error>;

    /// A key's value.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Writes a key if its revision is `expected` (0: it must not exist). `None`: it was not, nothing is written.
    async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error>;

    /// Removes a key if its revision is `expected`. `false`: it was not, or there is no such key; nothing is removed. A key
    /// that was removed does not exist: it can be written at revision 0.
    async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error>;

    /// Watches the keys that begin with `prefix` (all, if it is empty): first every key there is, then `Current`, then
    /// changes as they happen.
    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, Error>;

    /// A connection to the bus for one node. What it subscribes goes to `receiver` until it is dropped.
    async fn connect(&self, receiver: Arc<dyn Receiver>) -> Result<Arc<dyn Bus>, Error>;
}

/// One node's connection to the bus. Dropping it ends all its subscriptions.
#[async_trait]
pub trait Bus: Send + Sync {
    /// From the return on, publications to `subject` reach the receiver. A second subscription to the same subject changes
    /// nothing: counting is the caller's.
    async fn subscribe(&self, subject: Subject) -> Result<(), Error>;

    /// Ends a subscription. What was under way may still arrive.
    async fn unsubscribe(&self, subject: Subject) -> Result<(), Error>;

    /// Publishes the same payload to each subject. Does not wait for anyone.
    fn publish(&self, subjects: &[Subject], payload: Bytes);

    /// Answers requests to `subject` until the connection is dropped or `stop_serving` is called. A later server of the
    /// same subject and the same or a higher `rank`, on any connection, takes its place; of requests that come meanwhile
    /// each is answered by one of them, and may reach both. While there is a server of a higher rank, it is refused: so one
    /// that begins late, and is known to be the earlier one, ends nobody.
    async fn serve(
        &self,
        subject: Subject,
        rank: u64,
        responder: Arc<dyn Responder>,
    ) -> Result<(), Error>;

    /// Stops answering requests to `subject`: as soon as another server has taken its place, or `patience` has passed.
    /// Until then requests are answered as before, so that none is lost between two servers.
    async fn stop_serving(&self, subject: Subject, patience: Duration) -> Result<(), Error>;

    /// Asks whoever serves `subject`.
    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError>;
}
