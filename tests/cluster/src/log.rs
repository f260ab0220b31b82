//! What happened in a run, as lines of JSON.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chat_protocol::{ClientMessageId, ConversationId, MessageId};
use serde::{Deserialize, Serialize};

/// The number of a device in a run.
pub type DeviceNumber = usize;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// The run began.
    Started {
        /// Its name.
        scenario: String,
        /// The seed of its choices.
        seed: u64,
    },
    /// A conversation was made, and these devices are of its members.
    Conversation {
        /// Which.
        conversation: ConversationId,
        /// Devices of members.
        devices: Vec<DeviceNumber>,
    },
    /// A device handed a message to its client.
    Sent {
        /// Which device.
        device: DeviceNumber,
        /// Where to.
        conversation: ConversationId,
        /// The message.
        message: ClientMessageId,
    },
    /// The platform acknowledged it.
    Acknowledged {
        /// The message.
        message: ClientMessageId,
        /// Its id and seq; `None` if its own appearance told.
        place: Option<(MessageId, u64)>,
    },
    /// The platform refused it for good.
    Refused {
        /// The message.
        message: ClientMessageId,
        /// Why.
        reason: String,
    },
    /// A device got a message.
    Received {
        /// Which device.
        device: DeviceNumber,
        /// The message.
        message: Seen,
    },
    /// A device connected.
    Connected {
        /// Which device.
        device: DeviceNumber,
    },
    /// A device has lost its connection, or its poll failed.
    Disconnected {
        /// Which device.
        device: DeviceNumber,
        /// Why.
        reason: String,
    },
    /// A device was told to forget everything and load anew.
    Reset {
        /// Which device.
        device: DeviceNumber,
    },
    /// A device's session ended for good.
    Ended {
        /// Which device.
        device: DeviceNumber,
        /// Why.
        reason: String,
    },
    /// Something was done to the platform.
    Fault {
        /// What.
        fault: String,
    },
    /// The memory of a chat node.
    Memory {
        /// Which node.
        node: usize,
        /// Most resident bytes since its start.
        bytes: u64,
    },
    /// The whole history of a conversation at the end, oldest first.
    History {
        /// Which.
        conversation: ConversationId,
        /// Texts in it.
        messages: Vec<Seen>,
    },
}

/// A message as a device, or the history, has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub conversation: ConversationId,
    /// Its id.
    pub id: MessageId,
    /// Its place among the messages.
    pub seq: u64,
    /// The sender's name for it.
    pub message: ClientMessageId,
}

#[derive(Serialize, Deserialize)]
struct Line {
    at_ms: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// Takes down what happens, in memory and in a file.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
}

struct Inner {
    began: Instant,
    entries: Vec<Entry>,
    times_ms: Vec<u64>,
    file: BufWriter<File>,
}

impl Log {
    /// A new file for a run, under the directory of the running test program.
    pub fn create(scenario: &str, seed: u64) -> Log {
        let program = std::env::current_exe().expect("a running program has a path");
        let directory = program.parent().expect("a file is in a directory").join("cluster-runs");
        std::fs::create_dir_all(&directory).expect("a directory for the logs of runs");
        let path = directory.join(format!("{scenario}-{seed}.jsonl"));
        let file = BufWriter::new(File::create(&path).expect("a file for the log of a run"));
        let inner =
            Inner { began: Instant::now(), entries: Vec::new(), times_ms: Vec::new(), file };
        let log = Log { inner: Arc::new(Mutex::new(inner)), path };
        log.add(Entry::Started { scenario: scenario.to_owned(), seed });
        log
    }

    /// Takes something down.
    pub fn add(&self, entry: Entry) {
        let mut inner = self.lock();
        let at_ms = u64::try_from(inner.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let line =
            serde_json::to_string(&Line { at_ms, entry: entry.clone() }).expect("plain data");
        writeln!(inner.file, "{line}").expect("the log can be written");
        inner.entries.push(entry);
        inner.times_ms.push(at_ms);
    }

    /// A look at everything so far.
    pub fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.lock().entries)
    }

    /// The same, with the time of each entry in milliseconds since the beginning.
    pub fn read_timed<T>(&self, look: impl FnOnce(&[Entry], &[u64]) -> T) -> T {
        let inner = self.lock();
        look(&inner.entries, &inner.times_ms)
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.lock().began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes the file to its end, and tells where it is.
    pub fn finish(&self) -> &Path {
        self.lock().file.flush().expect("the log can be written");
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a file.
pub fn load(path: &Path) -> Vec<Entry> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::new(file).lines().map(|line| line.expect("the log can be read"));
    lines
        .map(|line| serde_json::from_str::<Line>(&line).expect("a line of a run's log").entry)
        .collect()
}
