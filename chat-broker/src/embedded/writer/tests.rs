use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

/// What the next commits do instead of succeeding.
#[derive(Clone, Default)]
pub(super) struct CommitFaults(Arc<AtomicU8>);

const NONE: u8 = 0;
const FAIL_BEFORE: u8 = 1;
const FAIL_AFTER: u8 = 2;

impl CommitFaults {
    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::SeqCst);
    }

    fn fail_if(&self, fault: u8) -> rusqlite::Result<()> {
        if self.0.compare_exchange(fault, NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            return Err(rusqlite::Error::SqliteFailure(code, None));
        }
        Ok(())
    }

    pub(super) fn before_commit(&self) -> rusqlite::Result<()> {
        self.fail_if(FAIL_BEFORE)
    }

    pub(super) fn after_commit(&self) -> rusqlite::Result<()> {
        self.fail_if(FAIL_AFTER)
    }
}

struct Log {
    _directory: tempfile::TempDir,
    queue: mpsc::Sender<Request>,
    faults: CommitFaults,
    writer: Option<(Writer, mpsc::Receiver<Request>)>,
}

impl Log {
    /// The writer does nothing until `start`.
    fn new(options: &Options) -> Log {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log.db");
        schema::prepare(&path).expect("a new log");
        let writer = Writer::open(&path, options).expect("it opens");
        let faults = writer.faults.clone();
        let (queue, requests) = mpsc::channel(1000);
        Log { _directory: directory, queue, faults, writer: Some((writer, requests)) }
    }

    fn started() -> Log {
        let mut log = Log::new(&Options::default());
        log.start();
        log
    }

    fn start(&mut self) {
        let (writer, requests) = self.writer.take().expect("not started yet");
        std::thread::spawn(move || writer.run(requests));
    }

    /// Puts an append into the queue.
    fn send(
        &self,
        partition: u16,
        expected: Sequence,
        payload: Vec<u8>,
    ) -> oneshot::Receiver<Result<Sequence, AppendError>> {
        let room = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().expect("one");
        let (answer, answered) = oneshot::channel();
        let partition = Partition(partition);
        let payload = Bytes::from(payload);
        let request = Request::Append { partition, expected, payload, room, answer };
        assert!(self.queue.try_send(request).is_ok(), "there is room in the queue");
        answered
    }

    fn append(&self, expected: Sequence) -> Result<Sequence, AppendError> {
        self.send(1, expected, vec![1]).blocking_recv().expect("an answer")
    }
}

#[test]
fn a_commit_that_failed_is_unknown_and_the_same_append_is_accepted_later() {
    let log = Log::started();
    let first = log.append(Sequence(0)).expect("accepted");
    log.faults.set(FAIL_BEFORE);
    assert!(matches!(log.append(first), Err(AppendError::Unknown(_))));
    let second = log.append(first).expect("it did not land, so it is accepted");
    assert_eq!(log.append(first), Err(AppendError::Refused));
    assert!(log.append(second).is_ok());
}

#[test]
fn a_commit_that_failed_after_it_landed_is_unknown_and_the_same_append_is_refused_later() {
    let log = Log::started();
    let first = log.append(Sequence(0)).expect("accepted");
    log.faults.set(FAIL_AFTER);
    assert!(matches!(log.append(first), Err(AppendError::Unknown(_))));
    assert_eq!(log.append(first), Err(AppendError::Refused), "memory knows that it landed");
    let next = Sequence(first.0 + 1);
    assert!(log.append(next).is_ok_and(|sequence| sequence > next));
}

#[test]
fn what_does_not_fit_does_not_fail_its_group() {
    let mut log = Log::new(&Options { size_bytes_max: Some(1 << 20), ..Options::default() });
    let group: Vec<_> = (0..60)
        .map(|partition| {
            let size = if partition % 20 == 7 { 2 << 20 } else { 100 };
            log.send(partition, Sequence(0), vec![1; size])
        })
        .collect();
    // All wait before the first is taken, so they are one group up to its size.
    log.start();
    for (partition, answer) in group.into_iter().enumerate() {
        let answer = answer.blocking_recv().expect("an answer");
        match partition % 20 {
            7 => assert_eq!(answer, Err(AppendError::Full)),
            _ => assert!(answer.is_ok(), "{partition}: {answer:?}"),
        }
    }
}

#[test]
fn appends_of_one_group_are_fenced_against_each_other() {
    let mut log = Log::new(&Options::default());
    let group: Vec<_> = (0..10).map(|byte| log.send(1, Sequence(0), vec![byte])).collect();
    log.start();
    let answers: Vec<_> =
        group.into_iter().map(|answer| answer.blocking_recv().expect("an answer")).collect();
    assert!(answers[0].is_ok());
    assert!(answers[1..].iter().all(|answer| *answer == Err(AppendError::Refused)), "{answers:?}");
}

#[test]
fn a_file_locked_by_somebody_else_is_written_again_when_it_is_free() {
    let log = Log::started();
    let first = log.append(Sequence(0)).expect("accepted");
    let other = Connection::open(log._directory.path().join("log.db")).expect("SQLite");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    // The writer waits five seconds for the lock.
    assert!(matches!(log.append(first), Err(AppendError::Unknown(_))));
    other.execute_batch("ROLLBACK").expect("free");
    assert!(log.append(first).is_ok());
}
