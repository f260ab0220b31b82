//! What a file promises beyond the contract: it outlives the process, refuses what it cannot hold, and can be copied.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::embedded::{BackupError, EmbeddedBroker, OpenError, Options, backup};
use chat_broker::{AppendError, Broker, Revision, Sequence, StoredRecord};
use chat_protocol::{Millis, Partition};

const HERE: Partition = Partition(3);
const ELSEWHERE: Partition = Partition(319);

fn open(path: &Path) -> EmbeddedBroker {
    EmbeddedBroker::open(path, Options::default()).expect("the log opens")
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log.db");
    (directory, path)
}

async fn log(broker: &dyn Broker, partition: Partition) -> Vec<StoredRecord> {
    let mut records: Vec<StoredRecord> = Vec::new();
    loop {
        let after = records.last().map_or(Sequence(0), |record| record.sequence);
        let page = broker.read_log(partition, after, 1 << 20).await.expect("a page");
        if page.is_empty() {
            return records;
        }
        records.extend(page);
    }
}

async fn append_some(broker: &dyn Broker, partition: Partition, count: u32) -> Vec<StoredRecord> {
    let last = broker.last(partition).await.expect("last");
    let mut last = last.map_or(Sequence(0), |record| record.sequence);
    let mut appended = Vec::new();
    for number in 0..count {
        let payload = Bytes::from(format!("{partition}/{number}"));
        last = broker.append(partition, last, payload.clone()).await.expect("accepted");
        appended.push(StoredRecord { sequence: last, payload });
    }
    appended
}

#[tokio::test]
async fn records_and_keys_survive_a_restart() {
    let (_directory, path) = directory();
    let broker = open(&path);
    let here = append_some(&broker, HERE, 20).await;
    let elsewhere = append_some(&broker, ELSEWHERE, 5).await;
    let revision = broker.put("epoch", Revision(0), Bytes::from_static(b"value")).await;
    let revision = revision.expect("put").expect("written");
    broker.purge(HERE, here[9].sequence, Duration::ZERO).await.expect("purged");
    drop(broker);

    let broker = open(&path);
    assert_eq!(log(&broker, HERE).await, here[10..]);
    assert_eq!(log(&broker, ELSEWHERE).await, elsewhere);
    assert_eq!(broker.last(HERE).await, Ok(here.last().cloned()));
    let entry = broker.get("epoch").await.expect("get").expect("the key");
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"value"[..]));
    assert_eq!(broker.put("epoch", Revision(0), Bytes::new()).await, Ok(None));
    // The fence, too.
    for stale in [Sequence(0), here[18].sequence] {
        let refused = broker.append(HERE, stale, Bytes::new()).await;
        assert_eq!(refused, Err(AppendError::Refused));
    }
    let next = broker.append(HERE, here[19].sequence, Bytes::new()).await.expect("accepted");
    assert!(next > elsewhere[4].sequence, "numbers are not used again");
}

const CHILD_PATH: &str = "CHAT_BROKER_TEST_LOG";

/// Run by the test below, in a process of its own: appends to several partitions and prints each acknowledgement.
#[test]
#[ignore = "the child process of `what_was_acknowledged_survives_a_kill`"]
fn child_that_appends_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_PATH) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let broker = Arc::new(open(Path::new(&path)));
        let writers: Vec<_> = (0..8)
            .map(|partition| {
                let broker = broker.clone();
                tokio::spawn(async move {
                    let partition = Partition(partition);
                    let last = broker.last(partition).await.expect("last");
                    let mut last = last.map_or(Sequence(0), |record| record.sequence);
                    for number in 0.. {
                        let payload = Bytes::from(vec![number as u8; 1 + number % 3000]);
                        last = broker.append(partition, last, payload).await.expect("accepted");
                        let line = format!("ack {} {} {number}\n", partition.0, last.0);
                        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("killed before it ends");
        }
    });
}

/// The acknowledgements that a child printed before it was killed: partition, sequence, number.
fn acknowledged_until_killed(path: &Path, count: usize) -> Vec<(u16, u64, usize)> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "durability::child_that_appends_until_it_is_killed"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child process");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut acknowledged = Vec::new();
    let mut killed = false;
    let mut line = String::new();
    while output.read_line(&mut line).expect("text") > 0 {
        // A line that was cut off by the kill was not fully printed and says nothing.
        if line.ends_with('\n')
            && let Some(start) = line.find("ack ")
        {
            let numbers: Vec<u64> = line[start + 4..]
                .split_whitespace()
                .map(|n| n.parse().expect("a number"))
                .collect();
            acknowledged.push((numbers[0] as u16, numbers[1], numbers[2] as usize));
        }
        line.clear();
        if !killed && acknowledged.len() >= count {
            child.kill().expect("SIGKILL");
            killed = true;
        }
    }
    child.wait().expect("it ends");
    assert!(killed, "the child ended by itself after {} appends", acknowledged.len());
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (_directory, path) = directory();
    let mut acknowledged = BTreeMap::new();
    for round in 0..4 {
        for (partition, sequence, number) in acknowledged_until_killed(&path, 150) {
            acknowledged.insert((partition, sequence), number);
        }
        let broker = open(&path);
        let mut found = BTreeMap::new();
        for partition in (0..8).map(Partition) {
            for record in log(&broker, partition).await {
                found.insert((partition.0, record.sequence.0), record.payload);
            }
        }
        for (at, number) in &acknowledged {
            let payload = found.get(at).unwrap_or_else(|| panic!("round {round}: {at:?} is lost"));
            assert_eq!(payload[..], vec![*number as u8; 1 + number % 3000], "{at:?}");
        }
    }
}

#[tokio::test]
async fn a_log_is_open_once_at_a_time() {
    let (_directory, path) = directory();
    let broker = open(&path);
    let second = EmbeddedBroker::open(&path, Options::default());
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop(broker);
    open(&path);
}

#[test]
fn a_log_of_a_newer_version_is_left_alone() {
    let (_directory, path) = directory();
    drop(open(&path));
    let connection = rusqlite::Connection::open(&path).expect("SQLite");
    connection.pragma_update(None, "user_version", 3).expect("written");
    drop(connection);
    let error = EmbeddedBroker::open(&path, Options::default()).err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("was written by a newer version (format 3; this version reads up to 2)"));
}

#[tokio::test]
async fn a_log_of_the_format_before_is_migrated() {
    let (_directory, path) = directory();
    let broker = open(&path);
    let records = append_some(&broker, HERE, 3).await;
    let value = Bytes::from_static(b"value");
    let first = broker.put("epoch", Revision(0), value.clone()).await.expect("put").expect("new");
    drop(broker);
    // As format 1 was.
    let connection = rusqlite::Connection::open(&path).expect("SQLite");
    let back = "DROP TABLE last_revision; ALTER TABLE key DROP COLUMN written_at_ms;";
    connection.execute_batch(back).expect("made older");
    connection.pragma_update(None, "user_version", 1).expect("written");
    drop(connection);

    for _ in 0..2 {
        let broker = open(&path);
        assert_eq!(log(&broker, HERE).await, records);
        let entry = broker.get("epoch").await.expect("get").expect("the key");
        assert_eq!((entry.revision, entry.value), (first, value.clone()));
    }
    let broker = open(&path);
    assert_eq!(broker.remove("epoch", first).await, Ok(true));
    let again = broker.put("epoch", Revision(0), value).await.expect("put").expect("written");
    assert!(again > first, "no revision is given twice");
}

#[test]
fn what_is_not_a_log_is_left_alone() {
    let (_directory, path) = directory();
    std::fs::write(&path, vec![b'x'; 10_000]).expect("written");
    let opened = EmbeddedBroker::open(&path, Options::default());
    assert!(matches!(opened, Err(OpenError::NotALog(_))));
    assert_eq!(std::fs::read(&path).expect("read"), vec![b'x'; 10_000]);

    std::fs::remove_file(&path).expect("removed");
    let connection = rusqlite::Connection::open(&path).expect("SQLite");
    connection.execute_batch("CREATE TABLE other (id INTEGER)").expect("written");
    drop(connection);
    let opened = EmbeddedBroker::open(&path, Options::default());
    assert!(matches!(opened, Err(OpenError::NotALog(_))));

    let missing = path.join("directory").join("log.db");
    let opened = EmbeddedBroker::open(&missing, Options::default());
    assert!(matches!(opened, Err(OpenError::Unavailable { .. })));
}

fn limited(size_bytes_max: u64) -> Options {
    Options { size_bytes_max: Some(size_bytes_max), ..Options::default() }
}

/// Fills one partition; the last record accepted.
async fn fill(broker: &dyn Broker, payload: &Bytes) -> (Sequence, u32) {
    let mut last = Sequence(0);
    for count in 0..100_000 {
        match broker.append(HERE, last, payload.clone()).await {
            Ok(sequence) => last = sequence,
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                return (last, count);
            }
        }
    }
    panic!("there is a limit");
}

async fn check_full(broker: Arc<dyn Broker>) {
    let payload = Bytes::from(vec![7; 10_000]);
    let (last, count) = fill(&*broker, &payload).await;
    assert!((50..105).contains(&count), "{count} records of 10 KB in 1 MB");
    // What does not fit fails alone, also in the middle of others.
    let small: Vec<_> = (100..140)
        .map(|partition| {
            let broker = broker.clone();
            tokio::spawn(async move {
                broker.append(Partition(partition), Sequence(0), Bytes::from_static(b"x")).await
            })
        })
        .collect();
    let large = broker.append(HERE, last, Bytes::from(vec![7; 500_000])).await;
    assert_eq!(large, Err(AppendError::Full));
    for small in small {
        let outcome = small.await.expect("no panic");
        assert!(matches!(outcome, Ok(_) | Err(AppendError::Full)), "{outcome:?}");
    }
    assert_eq!(log(&*broker, HERE).await.len() as u32, count, "nothing landed after the last");
    // With room again it goes on, where it stopped.
    let removed = broker.purge(HERE, last, Duration::ZERO).await.expect("purged");
    assert_eq!(removed as u32, count - 1);
    let next = broker.append(HERE, last, payload).await.expect("there is room again");
    assert!(next > last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_refuses_until_there_is_room() {
    let (_directory, path) = directory();
    let broker = EmbeddedBroker::open(&path, limited(1 << 20)).expect("a new log");
    check_full(Arc::new(broker)).await;
    let size = std::fs::metadata(&path).expect("the file").len();
    assert!(size <= 1 << 20, "{size} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_refuses_until_there_is_room() {
    check_full(Arc::new(EmbeddedBroker::memory_with(limited(1 << 20)))).await;
}

async fn check_ages(open: impl Fn(Options) -> EmbeddedBroker) {
    let now = Arc::new(AtomicU64::new(1_000_000));
    let clock = now.clone();
    let clock = Arc::new(move || Millis(clock.load(Ordering::SeqCst)));
    let broker = open(Options { clock, ..Options::default() });
    let mut sequences = vec![Sequence(0)];
    for at in [1_000_000, 1_001_000, 1_005_000, 1_002_000, 1_009_000] {
        now.store(at, Ordering::SeqCst);
        let last = sequences[sequences.len() - 1];
        sequences.push(broker.append(HERE, last, Bytes::new()).await.expect("accepted"));
    }
    let purge = async |at, min_age_ms| {
        now.store(at, Ordering::SeqCst);
        let min_age = Duration::from_millis(min_age_ms);
        broker.purge(HERE, Sequence(u64::MAX), min_age).await.expect("purged")
    };
    assert_eq!(purge(1_009_000, 9_001).await, 0);
    assert_eq!(purge(1_009_000, 9_000).await, 1, "as old as that");
    // The fourth is old enough, the third is not: the log would get a hole.
    assert_eq!(purge(1_009_000, 7_000).await, 1);
    // A clock that was set back makes nothing old.
    assert_eq!(purge(500_000, 1).await, 0);
    assert_eq!(purge(1_009_000, 4_000).await, 2);
    assert_eq!(purge(9_000_000, 0).await, 0, "the last stays");
    assert_eq!(log(&broker, HERE).await.len(), 1);
}

#[tokio::test]
async fn a_purge_goes_by_the_age_of_records_in_a_file() {
    let (_directory, path) = directory();
    check_ages(|options| EmbeddedBroker::open(&path, options).expect("a new log")).await;
}

#[tokio::test]
async fn a_purge_goes_by_the_age_of_records_in_memory() {
    check_ages(EmbeddedBroker::memory_with).await;
}

#[tokio::test]
async fn a_long_purge_removes_everything_it_should() {
    let (_directory, path) = directory();
    let broker = open(&path);
    let records = append_some(&broker, HERE, 1203).await;
    let removed = broker.purge(HERE, records[1200].sequence, Duration::ZERO).await;
    assert_eq!(removed, Ok(1201));
    assert_eq!(log(&broker, HERE).await, records[1201..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_ends_under_constant_writes_and_holds_what_was_acknowledged() {
    let (directory, path) = directory();
    let broker = Arc::new(open(&path));
    let before = append_some(&*broker, HERE, 300).await;
    let large = Bytes::from(vec![1; 100_000]);
    let mut last = Sequence(0);
    for _ in 0..100 {
        last = broker.append(Partition(5), last, large.clone()).await.expect("accepted");
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (broker, done) = (broker.clone(), done.clone());
        async move {
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                append_some(&*broker, ELSEWHERE, 1).await;
                count += 1;
            }
            count
        }
    });
    let target = directory.path().join("copy.db");
    let (from, to) = (path.clone(), target.clone());
    let copied = tokio::task::spawn_blocking(move || backup(&from, &to)).await;
    done.store(true, Ordering::SeqCst);
    assert!(writer.await.expect("no panic") > 0);
    copied.expect("no panic").expect("copied");

    let copy = open(&target);
    assert_eq!(log(&copy, HERE).await, before);
    assert_eq!(log(&copy, Partition(5)).await.len(), 100);
    let (copied, all) = (log(&copy, ELSEWHERE).await, log(&*broker, ELSEWHERE).await);
    assert_eq!(copied, all[..copied.len()], "a moment of the original");
    assert_eq!(std::fs::exists(directory.path().join("copy.db.partial")).ok(), Some(false));
    drop(copy);

    let again = backup(&path, &target);
    assert!(matches!(again, Err(BackupError::TargetExists(_))));
    let missing = directory.path().join("missing.db");
    let nothing = backup(&missing, &directory.path().join("other.db"));
    assert!(matches!(nothing, Err(BackupError::Source(OpenError::Unavailable { .. }))));
    assert_eq!(std::fs::exists(missing).ok(), Some(false), "nothing is created");
}
