//! The tables, and how an older file becomes the present one.
//!
//! Tables are clustered by the key of their one query (`WITHOUT ROWID`), and have as few indexes as that allows. Rows
//! made from the log carry `version`, the write time of their log entry ([`MessageId::row_version`]).
//!
//! [`MessageId::row_version`]: chat_protocol::MessageId::row_version

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::column;
use super::error::OpenError;

/// Marks the file as ours (`PRAGMA application_id`): "chat" in ASCII.
const APPLICATION_ID: i32 = 0x6368_6174;

/// In order; the schema version is how many of them a file has seen. Never changed, only added to.
const MIGRATIONS: &[&str] = &[FIRST, CONFIRMED];

const FIRST: &str = "
-- One row: who this store is.
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);

CREATE TABLE checkpoint (
    partition INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL, reserved_until INTEGER NOT NULL, epoch INTEGER NOT NULL);

CREATE TABLE quarantine (
    partition INTEGER NOT NULL, id INTEGER NOT NULL, entry BLOB NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (partition, id)) WITHOUT ROWID;

-- As sent, and never changed except that a deletion empties it. Edits and deletions are in `revision`.
CREATE TABLE message (
    conversation BLOB NOT NULL, message_id INTEGER NOT NULL, seq INTEGER NOT NULL, sender BLOB NOT NULL,
    client_message_id BLOB NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, reply_to INTEGER, mentions BLOB,
    PRIMARY KEY (conversation, message_id)) WITHOUT ROWID;

CREATE TABLE revision (
    conversation BLOB NOT NULL, message_id INTEGER NOT NULL, version INTEGER NOT NULL, version_id INTEGER NOT NULL,
    deleted INTEGER NOT NULL, body TEXT, mentions BLOB,
    PRIMARY KEY (conversation, message_id)) WITHOUT ROWID;

CREATE TABLE reaction (
    conversation BLOB NOT NULL, message_id INTEGER NOT NULL, user BLOB NOT NULL, emoji TEXT NOT NULL,
    version INTEGER NOT NULL, version_id INTEGER NOT NULL, removed INTEGER NOT NULL,
    -- The lowest version seen: emoji are shown in the order in which they first appeared.
    first_version INTEGER NOT NULL,
    PRIMARY KEY (conversation, message_id, user, emoji)) WITHOUT ROWID;

-- The day leads the key, so that expiry is a delete of a range and needs no index.
CREATE TABLE duplicate (
    day INTEGER NOT NULL, conversation BLOB NOT NULL, sender BLOB NOT NULL, client_message_id BLOB NOT NULL,
    message_id INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (day, conversation, sender, client_message_id)) WITHOUT ROWID;

-- The week leads for the same reason. The pointers themselves are part of the key: a replay with other batch
-- boundaries makes other rows beside the old ones, and no pointer is ever lost; the reader drops what it sees twice.
CREATE TABLE inbox (
    week INTEGER NOT NULL, user BLOB NOT NULL, first_id INTEGER NOT NULL, conversation BLOB NOT NULL,
    pointers BLOB NOT NULL,
    PRIMARY KEY (week, user, first_id, conversation, pointers)) WITHOUT ROWID;

CREATE TABLE conversation (
    conversation BLOB PRIMARY KEY, created_id INTEGER NOT NULL, version INTEGER NOT NULL,
    version_id INTEGER NOT NULL, creator BLOB NOT NULL, name TEXT, picture TEXT) WITHOUT ROWID;
-- Ids of rooms begin with the letter r.
CREATE INDEX conversation_room ON conversation (created_id)
    WHERE conversation >= x'72' AND conversation < x'73';

CREATE TABLE member (
    conversation BLOB NOT NULL, user BLOB NOT NULL, joined_id INTEGER NOT NULL, left_id INTEGER,
    role INTEGER NOT NULL, version INTEGER NOT NULL, version_id INTEGER NOT NULL,
    PRIMARY KEY (conversation, user, joined_id)) WITHOUT ROWID;
-- The conversations of a user: those with an interval that has not ended.
CREATE INDEX member_open ON member (user, conversation) WHERE left_id IS NULL;

CREATE TABLE mark (
    conversation BLOB NOT NULL, user BLOB NOT NULL,
    read_seq INTEGER NOT NULL DEFAULT 0, delivered_seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (conversation, user)) WITHOUT ROWID;

CREATE TABLE account (
    user BLOB PRIMARY KEY, handle TEXT NOT NULL, name TEXT NOT NULL, picture TEXT, status TEXT,
    password_hash TEXT NOT NULL, created_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX account_handle ON account (handle);

CREATE TABLE settings (user BLOB PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE device (
    user BLOB NOT NULL, device BLOB NOT NULL, name TEXT NOT NULL, created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL, refresh_digest BLOB NOT NULL, refresh_expires_at INTEGER NOT NULL,
    PRIMARY KEY (user, device)) WITHOUT ROWID;

CREATE TABLE friend (
    user BLOB NOT NULL, other BLOB NOT NULL, friendship INTEGER NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (user, other)) WITHOUT ROWID;

CREATE TABLE block (user BLOB NOT NULL, other BLOB NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;

CREATE TABLE presence (
    user BLOB PRIMARY KEY, partition INTEGER NOT NULL, sessions BLOB, last_active_at INTEGER) WITHOUT ROWID;
CREATE INDEX presence_online ON presence (partition) WHERE sessions IS NOT NULL;
";

const CONFIRMED: &str = "
-- The safe id of the last cursor that a device showed. Ids are compared as they are: they reach 2^63 in the year 2094.
CREATE TABLE confirmed (
    user BLOB NOT NULL, device BLOB NOT NULL, safe INTEGER NOT NULL, PRIMARY KEY (user, device)) WITHOUT ROWID;
";

/// Brings the file to the present schema, and gives a new one its epoch.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    epoch: Option<u64>,
) -> Result<(), OpenError> {
    let failed =
        |error: rusqlite::Error| OpenError::File { path: path.into(), reason: error.to_string() };
    // Immediate: of two processes that open a new file at once, one makes the tables and the other finds them.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found = check(&transaction, path)?;
    for migration in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    if found == 0 {
        let epoch = epoch.unwrap_or_else(rand::random);
        transaction
            .execute("INSERT INTO meta (one, epoch) VALUES (1, ?1)", [column::bits(epoch)])
            .map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    }
    if found < MIGRATIONS.len() {
        transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// The schema version of this program.
pub(super) fn known() -> usize {
    MIGRATIONS.len()
}

/// The schema version of a file: 0 if it is empty.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let read = |pragma: &str| -> Result<i64, OpenError> {
        connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(|error| {
            match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign { path: path.into() },
                _ => OpenError::File { path: path.into(), reason: error.to_string() },
            }
        })
    };
    let (found, application, pages) =
        (read("user_version")?, read("application_id")?, read("page_count")?);
    if application != i64::from(APPLICATION_ID) && (found != 0 || pages > 1) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    let known = MIGRATIONS.len() as i64;
    match usize::try_from(found) {
        Ok(version) if found <= known => Ok(version),
        _ => Err(OpenError::Newer { path: path.into(), found, known }),
    }
}
