//! The one thread that writes the file. It takes everything that waits and commits it in one transaction.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use chat_protocol::{Millis, Partition};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::options::{Clock, Options};
use super::schema::{self, unsigned};
use crate::broker::{AppendError, Error, Revision, Sequence};

/// A transaction is cut here, so that the first of a long queue does not wait for the last.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
const GROUP_REQUESTS_MAX: usize = 4096;
/// Records that one purge removes in one transaction.
const PURGE_RECORDS_MAX: usize = 500;
/// Failed writes are told of this often.
const TELL_EVERY_MS: u64 = 60_000;

pub(super) enum Request {
    Append {
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
        /// Given back with the answer.
        room: OwnedSemaphorePermit,
        answer: oneshot::Sender<Result<Sequence, AppendError>>,
    },
    Put {
        key: String,
        expected: Revision,
        value: Bytes,
        answer: oneshot::Sender<Result<Option<Revision>, Error>>,
    },
    Remove {
        key: String,
        expected: Revision,
        answer: oneshot::Sender<Result<bool, Error>>,
    },
    Purge {
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
        /// How many went, and whether there may be more.
        answer: oneshot::Sender<Result<(u64, bool), Error>>,
    },
}

/// What came of a request whose transaction was committed.
enum Outcome {
    Append(Result<Sequence, AppendError>),
    Put(Option<Revision>),
    Remove(bool),
    Purge(u64, bool),
}

impl Outcome {
    fn changed_a_key(&self) -> bool {
        matches!(self, Outcome::Put(Some(_)) | Outcome::Remove(true))
    }
}

/// Why a transaction was not acknowledged.
#[derive(Clone, Debug)]
enum Failure {
    /// There is no room; nothing of it was written.
    Full,
    /// It may have been written.
    Unknown(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        match error.sqlite_error_code() {
            // Also when the disk is full at the commit: the frame that would commit was then not written whole, and the
            // next transaction overwrites it.
            Some(ErrorCode::DiskFull) => Failure::Full,
            _ => Failure::Unknown(error.to_string()),
        }
    }
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Request::Append { payload, .. } => payload.len(),
            Request::Put { value, .. } => value.len(),
            Request::Remove { .. } | Request::Purge { .. } => 0,
        }
    }

    // Whoever asked may be gone: then nobody needs the answer.
    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Request::Append { answer, room, .. }, Outcome::Append(result)) => {
                drop(room);
                answer.send(result).ok();
            }
            (Request::Put { answer, .. }, Outcome::Put(revision)) => {
                answer.send(Ok(revision)).ok();
            }
            (Request::Remove { answer, .. }, Outcome::Remove(removed)) => {
                answer.send(Ok(removed)).ok();
            }
            (Request::Purge { answer, .. }, Outcome::Purge(count, more)) => {
                answer.send(Ok((count, more))).ok();
            }
            // A dropped sender reads as "unknown" at the other end.
            _ => tracing::error!("the log's writer mixed up two answers"),
        }
    }

    fn fail(self, failure: &Failure) {
        let error = || match failure {
            Failure::Full => Error("the log has no room".to_owned()),
            Failure::Unknown(reason) => Error(reason.clone()),
        };
        match self {
            Request::Append { answer, .. } => {
                let error = match failure {
                    Failure::Full => AppendError::Full,
                    Failure::Unknown(reason) => AppendError::Unknown(reason.clone()),
                };
                answer.send(Err(error)).ok();
            }
            Request::Put { answer, .. } => {
                answer.send(Err(error())).ok();
            }
            Request::Remove { answer, .. } => {
                answer.send(Err(error())).ok();
            }
            Request::Purge { answer, .. } => {
                answer.send(Err(error())).ok();
            }
        }
    }
}

/// What is known of the file's end. Right as long as every commit since was acknowledged.
#[derive(Clone, Default)]
struct Ends {
    lasts: AHashMap<u16, Sequence>,
    /// Over all partitions.
    highest: u64,
}

impl Ends {
    fn load(connection: &Connection) -> rusqlite::Result<Ends> {
        let mut ends = Ends::default();
        for (partition, sequence) in schema::load_lasts(connection)? {
            ends.highest = ends.highest.max(sequence.0);
            ends.lasts.insert(partition.0, sequence);
        }
        Ok(ends)
    }
}

/// An open file and its ends.
struct Opened {
    connection: Connection,
    ends: Ends,
}

pub(super) struct Writer {
    path: PathBuf,
    size_bytes_max: Option<u64>,
    clock: Clock,
    /// `None` after a failure whose outcome is not known, until the file was opened and read again.
    opened: Option<Opened>,
    /// When a failed write was last told of: writes may fail thousands of times a second.
    told_at: Option<Millis>,
    /// For those who watch keys. They see the end of the writer when it is dropped.
    keys_changed: watch::Sender<()>,
    #[cfg(test)]
    faults: tests::CommitFaults,
}

impl Writer {
    pub(super) fn open(path: &Path, options: &Options) -> rusqlite::Result<Writer> {
        let mut writer = Writer {
            path: path.to_owned(),
            size_bytes_max: options.size_bytes_max,
            clock: options.clock.clone(),
            opened: None,
            told_at: None,
            keys_changed: watch::Sender::new(()),
            #[cfg(test)]
            faults: tests::CommitFaults::default(),
        };
        writer.reopen()?;
        Ok(writer)
    }

    /// Changes whenever a key does.
    pub(super) fn keys_changed(&self) -> watch::Receiver<()> {
        self.keys_changed.subscribe()
    }

    fn reopen(&mut self) -> rusqlite::Result<&mut Opened> {
        let connection = schema::open_writer(&self.path, self.size_bytes_max)?;
        let ends = Ends::load(&connection)?;
        Ok(self.opened.insert(Opened { connection, ends }))
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut bytes = first.size();
            let mut group = vec![first];
            while bytes < GROUP_BYTES_MAX
                && group.len() < GROUP_REQUESTS_MAX
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.size();
                group.push(next);
            }
            self.handle(group);
        }
    }

    /// Answers every request of the group.
    fn handle(&mut self, mut group: Vec<Request>) {
        match self.commit(&group) {
            Ok(outcomes) => {
                for (request, outcome) in group.into_iter().zip(outcomes) {
                    request.answer(outcome);
                }
            }
            // What does not fit must not fail what would.
            Err(Failure::Full) if group.len() > 1 => {
                let second_half = group.split_off(group.len() / 2);
                self.handle(group);
                self.handle(second_half);
            }
            Err(failure) => {
                self.tell(&failure);
                for request in group {
                    request.fail(&failure);
                }
            }
        }
    }

    fn tell(&mut self, failure: &Failure) {
        let now = (self.clock)();
        if self.told_at.is_none_or(|told_at| now.since(told_at) >= TELL_EVERY_MS) {
            self.told_at = Some(now);
            tracing::warn!(
                ?failure,
                "the log was not written; what fails from now on is told of once a minute"
            );
        }
    }

    fn commit(&mut self, group: &[Request]) -> Result<Vec<Outcome>, Failure> {
        let result = self.try_commit(group);
        if let Err(failure) = &result {
            // Nothing in memory may claim what the file does not hold, nor the other way round. A connection that is
            // closed has rolled back.
            let keep = matches!(failure, Failure::Full) && self.roll_back();
            if !keep {
                self.opened = None;
            }
            self.make_room(failure);
        }
        result
    }

    /// On a full disk even a purge needs room in the write-ahead log. What is copied to the file can be overwritten there.
    fn make_room(&self, failure: &Failure) {
        if let (Failure::Full, Some(opened)) = (failure, &self.opened) {
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            if let Err(error) = opened.connection.query_row(checkpoint, [], |_| Ok(())) {
                tracing::debug!(%error, "no checkpoint on a full disk");
            }
        }
    }

    /// Whether the connection is known to be without a transaction.
    fn roll_back(&mut self) -> bool {
        let Some(opened) = &self.opened else { return false };
        // SQLite may have rolled back by itself.
        opened.connection.is_autocommit()
            || opened.connection.execute_batch("ROLLBACK").is_ok()
                && opened.connection.is_autocommit()
    }

    fn try_commit(&mut self, group: &[Request]) -> Result<Vec<Outcome>, Failure> {
        let now = (self.clock)();
        if self.opened.is_none() {
            self.reopen()?;
        }
        #[cfg(test)]
        let faults = self.faults.clone();
        let Some(opened) = &mut self.opened else {
            return Err(Failure::Unknown("the log is not open".to_owned()));
        };
        opened.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut changes = Transaction {
            connection: &opened.connection,
            ends: &opened.ends,
            changed: AHashMap::new(),
            highest: opened.ends.highest,
            now,
        };
        let mut outcomes = Vec::with_capacity(group.len());
        for request in group {
            outcomes.push(changes.apply(request)?);
        }
        let Transaction { changed, highest, .. } = changes;
        #[cfg(test)]
        faults.before_commit()?;
        opened.connection.execute_batch("COMMIT")?;
        #[cfg(test)]
        faults.after_commit()?;
        opened.ends.lasts.extend(changed);
        opened.ends.highest = highest;
        if outcomes.iter().any(Outcome::changed_a_key) {
            self.keys_changed.send_replace(());
        }
        Ok(outcomes)
    }
}

/// A transaction under way: what the file held before, and what changed since.
struct Transaction<'a> {
    connection: &'a Connection,
    ends: &'a Ends,
    changed: AHashMap<u16, Sequence>,
    highest: u64,
    now: Millis,
}

impl Transaction<'_> {
    fn apply(&mut self, request: &Request) -> rusqlite::Result<Outcome> {
        match request {
            Request::Append { partition, expected, payload, .. } => {
                self.append(*partition, *expected, payload).map(Outcome::Append)
            }
            Request::Put { key, expected, value, .. } => {
                self.put(key, *expected, value).map(Outcome::Put)
            }
            Request::Remove { key, expected, .. } => {
                self.remove(key, *expected).map(Outcome::Remove)
            }
            Request::Purge { partition, up_to, min_age, .. } => self
                .purge(*partition, *up_to, *min_age)
                .map(|(count, more)| Outcome::Purge(count, more)),
        }
    }

    fn last(&self, partition: Partition) -> Sequence {
        let last = self.changed.get(&partition.0).or_else(|| self.ends.lasts.get(&partition.0));
        last.copied().unwrap_or_default()
    }

    fn append(
        &mut self,
        partition: Partition,
        expected: Sequence,
        payload: &Bytes,
    ) -> rusqlite::Result<Result<Sequence, AppendError>> {
        if self.last(partition) != expected {
            return Ok(Err(AppendError::Refused));
        }
        let sequence = Sequence(self.highest + 1);
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO record (id, appended_at_ms, payload) VALUES (?1, ?2, ?3)",
        )?;
        insert.execute(params![
            schema::row_id(partition, sequence),
            signed(self.now.0),
            payload.as_ref()
        ])?;
        self.highest = sequence.0;
        self.changed.insert(partition.0, sequence);
        Ok(Ok(sequence))
    }

    fn put(
        &self,
        key: &str,
        expected: Revision,
        value: &Bytes,
    ) -> rusqlite::Result<Option<Revision>> {
        if self.revision(key)? != expected.0 {
            return Ok(None);
        }
        let revision = self
            .connection
            .prepare_cached("UPDATE last_revision SET revision = revision + 1 RETURNING revision")?
            .query_row([], |row| unsigned(row, 0))?;
        let mut write = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO key (name, revision, value, written_at_ms) VALUES (?1, ?2, ?3, ?4)",
        )?;
        write.execute(params![key, signed(revision), value.as_ref(), signed(self.now.0)])?;
        Ok(Some(Revision(revision)))
    }

    fn remove(&self, key: &str, expected: Revision) -> rusqlite::Result<bool> {
        if expected == Revision(0) || self.revision(key)? != expected.0 {
            return Ok(false);
        }
        self.connection.prepare_cached("DELETE FROM key WHERE name = ?1")?.execute([key])?;
        Ok(true)
    }

    fn revision(&self, key: &str) -> rusqlite::Result<u64> {
        let mut read =
            self.connection.prepare_cached("SELECT revision FROM key WHERE name = ?1")?;
        Ok(read.query_row([key], |row| unsigned(row, 0)).optional()?.unwrap_or(0))
    }

    fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> rusqlite::Result<(u64, bool)> {
        let last = self.last(partition);
        let Some(before_last) = last.0.checked_sub(1) else { return Ok((0, false)) };
        let end = schema::row_id(partition, up_to.min(Sequence(before_last)));
        // The oldest come first and the first that is too young ends it, so that no hole appears even if the clock was
        // set back.
        let mut oldest = self.connection.prepare_cached(
            "SELECT id, appended_at_ms FROM record WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
        )?;
        let start = schema::row_id(partition, Sequence(0));
        let mut rows = oldest.query(params![start, end, PURGE_RECORDS_MAX as i64])?;
        let mut removed_end = None;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let appended_at = Millis(unsigned(row, 1)?);
            if u128::from(self.now.since(appended_at)) < min_age.as_millis() {
                break;
            }
            removed_end = Some(row.get::<_, i64>(0)?);
            count += 1;
        }
        drop(rows);
        if let Some(removed_end) = removed_end {
            self.connection
                .prepare_cached("DELETE FROM record WHERE id BETWEEN ?1 AND ?2")?
                .execute([start, removed_end])?;
        }
        Ok((count as u64, count == PURGE_RECORDS_MAX))
    }
}

/// SQLite's integers have a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
