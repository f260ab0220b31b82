//! The broker on real NATS servers.

mod cluster;
mod faults;
mod inspect;
mod open;
mod single;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::nats::{NatsBroker, NatsOptions};
use chat_broker::{
    AppendError, Broker, Change, Receiver, Responder, Sequence, StoredRecord, Subject, Watch,
};
use chat_protocol::Partition;
use servers::nats::Nats;

const HERE: Partition = Partition(7);
const PATIENCE: Duration = Duration::from_secs(60);

/// A prefix that no other test uses.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn options(nats: &Nats) -> NatsOptions {
    NatsOptions {
        servers: nats.url().split(',').map(str::to_owned).collect(),
        prefix: prefix(),
        replicas: nats.count(),
        stream_bytes_max: 64 << 20,
        keys_bytes_max: 8 << 20,
        append_deadline: Duration::from_secs(1),
        deadline: Duration::from_secs(3),
        ..NatsOptions::default()
    }
}

async fn open(options: &NatsOptions) -> NatsBroker {
    NatsBroker::open(options.clone()).await.expect("the servers can be used")
}

/// Waits until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn numbered(number: usize) -> Bytes {
    Bytes::from(format!("record {number}"))
}

/// Appends as an owner does: the same bytes until the answer is clear, and then whatever is behind the expected sequence.
/// Returns it, and whether an outcome was unknown meanwhile.
async fn append_surely(
    broker: &dyn Broker,
    expected: Sequence,
    payload: &Bytes,
) -> (StoredRecord, bool) {
    let started = Instant::now();
    let mut doubt = false;
    loop {
        assert!(started.elapsed() < PATIENCE, "no clear answer");
        match broker.append(HERE, expected, payload.clone()).await {
            Ok(sequence) => return (StoredRecord { sequence, payload: payload.clone() }, doubt),
            Err(AppendError::Refused) => break,
            Err(AppendError::Unknown(_)) => doubt = true,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    loop {
        assert!(started.elapsed() < PATIENCE, "the record behind the expected one is not seen");
        if let Ok(page) = broker.read_log(HERE, expected, 1).await
            && let Some(record) = page.into_iter().next()
        {
            return (record, doubt);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The whole log, once it reaches `last`.
async fn log_up_to(broker: &dyn Broker, last: Sequence) -> Vec<StoredRecord> {
    let mut records: Vec<StoredRecord> = Vec::new();
    eventually("the log can be read", async || {
        let after = records.last().map_or(Sequence(0), |record| record.sequence);
        records.extend(broker.read_log(HERE, after, 1 << 20).await.unwrap_or_default());
        records.last().map_or(Sequence(0), |record| record.sequence) >= last
    })
    .await;
    records
}

/// Checks that the log holds the records `0..count`, each once.
fn assert_numbered(records: &[StoredRecord], count: usize) {
    let payloads: Vec<&Bytes> = records.iter().map(|record| &record.payload).collect();
    let wanted: Vec<Bytes> = (0..count).map(numbered).collect();
    assert_eq!(payloads, wanted.iter().collect::<Vec<_>>());
}

async fn next(watch: &mut dyn Watch) -> Change {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a change in time")
}

/// Takes changes until one is as wanted; returns those before it.
async fn until(watch: &mut dyn Watch, wanted: &Change) -> Vec<Change> {
    let mut before = Vec::new();
    loop {
        let change = next(watch).await;
        if change == *wanted {
            return before;
        }
        before.push(change);
    }
}

/// What a node hears on the bus.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<Bytes>>,
    interruptions: AtomicU32,
}

impl Ear {
    fn heard(&self) -> Vec<Bytes> {
        self.heard.lock().expect("no panic").clone()
    }
}

impl Receiver for Ear {
    fn deliver(&self, _: &[Subject], payload: Bytes) {
        self.heard.lock().expect("no panic").push(payload);
    }

    fn interrupted(&self) {
        self.interruptions.fetch_add(1, Ordering::SeqCst);
    }
}

struct Answer(&'static str);

#[async_trait]
impl Responder for Answer {
    async fn respond(&self, _: Subject, _: Bytes) -> Bytes {
        Bytes::from_static(self.0.as_bytes())
    }
}
