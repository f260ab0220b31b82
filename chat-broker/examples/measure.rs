//! Measures the embedded broker: deliveries over the bus, appends to a file.
//!
//!     cargo run --release -p chat-broker --example measure

// Printing is what this program is for.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::embedded::{EmbeddedBroker, Options};
use chat_broker::{Broker, Bus, Receiver, Sequence, Subject};
use chat_protocol::{Partition, UserId};

const USERS: u32 = 20_000;
const SUBJECTS_PER_PUBLICATION: usize = 100;
const MEASURED: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Counter(AtomicU64);

impl Receiver for Counter {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        black_box(payload);
        self.0.fetch_add(subjects.len() as u64, Ordering::Relaxed);
    }
}

fn user(number: u32) -> Subject {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Subject::User(UserId::from_bytes(&bytes).expect("16 bytes"))
}

/// `nodes` connections, each with an equal share of the users; of the subjects of a publication, `known` have a user.
async fn bus(nodes: u32, known: usize) {
    let broker = EmbeddedBroker::memory();
    let counter = Arc::new(Counter::default());
    let mut buses: Vec<Arc<dyn Bus>> = Vec::new();
    for node in 0..nodes {
        let bus = broker.connect(counter.clone()).await.expect("a connection");
        for number in (0..USERS).filter(|number| number % nodes == node) {
            bus.subscribe(user(number)).await.expect("a subscription");
        }
        buses.push(bus);
    }
    let publications: Vec<Vec<Subject>> = (0..1000_u32)
        .map(|publication| {
            let member = |member: usize| {
                let number = publication.wrapping_mul(7919).wrapping_add(member as u32 * 193);
                user(if member < known { number % USERS } else { number % USERS + USERS })
            };
            (0..SUBJECTS_PER_PUBLICATION).map(member).collect()
        })
        .collect();
    let payload = Bytes::from(vec![1; 300]);
    let started = Instant::now();
    while started.elapsed() < MEASURED {
        for subjects in &publications {
            buses[0].publish(subjects, payload.clone());
        }
    }
    let deliveries = counter.0.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    println!(
        "bus, {nodes} node(s), {known} of {SUBJECTS_PER_PUBLICATION} subjects known: \
         {:.2} million deliveries/s",
        deliveries / 1e6
    );
}

/// One append in flight per partition, as owners do.
async fn appends(partitions: u16, payload_bytes: usize) {
    let path = PathBuf::from(format!("measure-{}.db", std::process::id()));
    let broker = Arc::new(EmbeddedBroker::open(&path, Options::default()).expect("a new log"));
    let started = Instant::now();
    let writers: Vec<_> = (0..partitions)
        .map(|partition| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let payload = Bytes::from(vec![1; payload_bytes]);
                let (mut last, mut count) = (Sequence(0), 0_u64);
                let mut slowest = Duration::ZERO;
                while started.elapsed() < MEASURED {
                    let asked = Instant::now();
                    let appended = broker.append(Partition(partition), last, payload.clone()).await;
                    last = appended.expect("accepted");
                    slowest = slowest.max(asked.elapsed());
                    count += 1;
                }
                (count, slowest)
            })
        })
        .collect();
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for writer in writers {
        let (of_one, slowest_of_one) = writer.await.expect("no panic");
        count += of_one;
        slowest = slowest.max(slowest_of_one);
    }
    println!(
        "log, {partitions} partitions, {payload_bytes} bytes: {:.0} appends/s, slowest {:.1} ms",
        count as f64 / started.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    drop(broker);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        // Some of them are gone already.
        std::fs::remove_file(format!("{}{suffix}", path.display())).ok();
    }
}

#[tokio::main]
async fn main() {
    bus(1, 100).await;
    bus(1, 50).await;
    bus(4, 100).await;
    appends(1, 300).await;
    appends(64, 300).await;
    appends(256, 300).await;
    appends(256, 3000).await;
}
