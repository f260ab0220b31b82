//! What can be set, and why a file may not open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_protocol::{Millis, limits};

/// Tells the broker's wall-clock time: for the age of records, and when a key was written.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What can be set of an embedded broker.
#[derive(Clone)]
pub struct Options {
    /// Writes that may wait for the writer. Further ones wait before they enter the queue.
    pub queue_requests_max: usize,
    /// Bytes of appends that may wait for the writer. At least one append always may.
    pub queue_bytes_max: usize,
    /// Size the file may grow to; at least 64 KB. In memory: bytes of payloads and 64 for each record. Without it the
    /// disk is the limit. The write-ahead log beside the file takes further space, usually less than 16 MB.
    pub size_bytes_max: Option<u64>,
    /// A commit begins at the earliest this long after the one before it began, four times as long under load, and takes
    /// what has come meanwhile: a synced commit costs about the same for one record as for a hundred. What comes after a
    /// longer pause is committed at once.
    pub commit_interval: Duration,
    /// Larger records are refused. By default what a record is cut at, and room for its envelope.
    pub payload_bytes_max: usize,
    /// Connections that read the file, and so reads at the same time. Reads never hold up appends.
    pub readers: usize,
    /// Requests that one connection answers at a time. Further ones wait, as long as their deadline allows.
    pub requests_max: usize,
    /// For the age of records, and when a key was written.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            queue_requests_max: 4096,
            queue_bytes_max: 64 * 1024 * 1024,
            size_bytes_max: None,
            commit_interval: Duration::from_millis(4),
            payload_bytes_max: limits::RECORD_BYTES_MAX + 64 * 1024,
            readers: 2,
            requests_max: 8192,
            clock: Arc::new(system_clock),
        }
    }
}

fn system_clock() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

/// Why the log did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "The log {} is in use by another process. Stop that process, or use another data directory.",
        .0.display()
    )]
    InUse(PathBuf),
    /// A newer version of this program wrote it.
    #[error(
        "The log {} was written by a newer version (format {found}; this version reads up to {known}). \
         Start the newer version.",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format this version reads.
        known: i64,
    },
    /// The file is something else.
    #[error("The file {} is not a log of a chat node. Use another data directory.", .0.display())]
    NotALog(PathBuf),
    /// The file cannot be read or written.
    #[error("The log {} cannot be opened: {reason}. Check the disk and the permissions.", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite says.
        reason: String,
    },
}
