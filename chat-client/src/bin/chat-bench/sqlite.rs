//! `sqlite`: the transactions of a durable message, bare: one log record, then one message row, one duplicate row and
//! two inbox rows, through the same library with the same settings. What the embedded node cannot be faster than.

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};

use crate::Options;
use crate::histogram::Histogram;
use crate::report::Report;

/// Messages committed by one transaction.
const BATCHES: [usize; 4] = [1, 16, 128, 1_024];

/// Runs it.
pub(crate) fn run(options: &Options, directory: &Path) -> anyhow::Result<Report> {
    std::fs::create_dir_all(directory)?;
    let mut report = Report::new("sqlite");
    for batch in BATCHES {
        let place = directory.join(format!("batch-{batch}"));
        std::fs::create_dir_all(&place)?;
        let (rate, p99_ms) = measure(&place, batch, options.seconds(5.0, 1.5))?;
        report.figure(&format!("messages/s, {batch} per transaction"), rate, "1/s");
        report.figure(&format!("log commit p99, {batch} per transaction"), p99_ms, "ms");
        std::fs::remove_dir_all(&place)?;
    }
    Ok(report)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn measure(place: &Path, batch: usize, seconds: f64) -> anyhow::Result<(f64, f64)> {
    let mut log = open(&place.join("log.db"))?;
    let mut store = open(&place.join("store.db"))?;
    log.execute_batch("CREATE TABLE record (subject INTEGER, seq INTEGER, bytes BLOB, PRIMARY KEY (subject, seq)) WITHOUT ROWID")?;
    store.execute_batch(
        "CREATE TABLE message (conversation BLOB, id INTEGER, seq INTEGER, sender BLOB, body TEXT, PRIMARY KEY (conversation, id)) WITHOUT ROWID;
         CREATE TABLE duplicate (conversation BLOB, sender BLOB, client_id BLOB, id INTEGER, PRIMARY KEY (conversation, sender, client_id)) WITHOUT ROWID;
         CREATE TABLE inbox (user BLOB, id INTEGER, conversation BLOB, PRIMARY KEY (user, id)) WITHOUT ROWID;",
    )?;
    let (mut commits, mut next, start) = (Histogram::default(), 0u64, Instant::now());
    while start.elapsed().as_secs_f64() < seconds {
        let numbers = next..next + batch as u64;
        next = numbers.end;
        let began = Instant::now();
        append(&mut log, numbers.clone())?;
        commits.record(began.elapsed().as_nanos() as u64);
        write(&mut store, numbers)?;
    }
    Ok((next as f64 / start.elapsed().as_secs_f64(), commits.milliseconds(0.99)))
}

fn append(log: &mut Connection, numbers: std::ops::Range<u64>) -> rusqlite::Result<()> {
    let transaction = log.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO record VALUES (1, ?1, ?2)")?;
        for number in numbers {
            insert.execute(params![number as i64, [7u8; 240]])?;
        }
    }
    transaction.commit()
}

fn write(store: &mut Connection, numbers: std::ops::Range<u64>) -> rusqlite::Result<()> {
    let transaction = store.transaction()?;
    {
        let mut message =
            transaction.prepare_cached("INSERT INTO message VALUES (?1, ?2, ?2, ?3, ?4)")?;
        let mut duplicate =
            transaction.prepare_cached("INSERT INTO duplicate VALUES (?1, ?2, ?3, ?4)")?;
        let mut inbox = transaction.prepare_cached("INSERT INTO inbox VALUES (?1, ?2, ?3)")?;
        let body = ".".repeat(140);
        for number in numbers {
            let pair = (number % 500) as u128;
            let (conversation, sender) = (pair.to_be_bytes(), (pair * 2).to_be_bytes());
            let (other, client_id) =
                ((pair * 2 + 1).to_be_bytes(), u128::from(number).to_be_bytes());
            let id = number as i64;
            message.execute(params![conversation, id, sender, body])?;
            duplicate.execute(params![conversation, sender, client_id, id])?;
            inbox.execute(params![sender, id, conversation])?;
            inbox.execute(params![other, id, conversation])?;
        }
    }
    transaction.commit()
}
