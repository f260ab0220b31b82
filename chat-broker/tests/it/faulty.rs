//! The fault-injecting wrapper keeps the contract, and injects what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::conformance::Fixture;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::faulty::{Faults, FaultyBroker, Rates};
use chat_broker::{
    AppendError, Broker, Bus, Change, Receiver, RequestError, Responder, Revision, Sequence,
    StoredRecord, Subject,
};
use chat_protocol::{NodeId, Partition};

const HERE: Partition = Partition(3);
const SUBJECT: Subject = Subject::Watermarks;
const SECOND: Duration = Duration::from_secs(1);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes(&[number; 16]).expect("16 bytes")
}

struct Cluster {
    real: Arc<dyn Broker>,
    faults: Faults,
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        Cluster { real: Arc::new(EmbeddedBroker::memory()), faults: Faults::new(seed) }
    }

    fn node(&self, number: u8) -> FaultyBroker {
        FaultyBroker::new(self.real.clone(), self.faults.clone(), node(number))
    }

    async fn log(&self) -> Vec<StoredRecord> {
        self.real.read_log(HERE, Sequence(0), usize::MAX).await.expect("the log")
    }
}

async fn without_faults() -> Fixture {
    Fixture { broker: Arc::new(Cluster::new(1).node(1)), kept: Box::new(()) }
}

mod without_faults {
    chat_broker::broker_conformance!(super::without_faults);
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Bytes>>);

impl Receiver for Recorder {
    fn deliver(&self, _: &[Subject], payload: Bytes) {
        self.0.lock().expect("no panic").push(payload);
    }
}

impl Recorder {
    fn numbers(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").iter().map(|payload| payload[0]).collect()
    }
}

async fn subscriber(broker: &dyn Broker) -> (Arc<dyn Bus>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let bus = broker.connect(recorder.clone()).await.expect("a connection");
    bus.subscribe(SUBJECT).await.expect("a subscription");
    (bus, recorder)
}

#[derive(Default)]
struct Count(Mutex<u32>);

#[async_trait]
impl Responder for Count {
    async fn respond(&self, _: Subject, _: Bytes) -> Bytes {
        let mut count = self.0.lock().expect("no panic");
        *count += 1;
        Bytes::from(count.to_string())
    }
}

fn byte(number: u8) -> Bytes {
    Bytes::from(vec![number])
}

#[tokio::test(start_paused = true)]
async fn a_lost_append_is_unknown_and_not_in_the_log() {
    let cluster = Cluster::new(1);
    cluster.faults.set_rates(Rates { append_lost: 1.0, ..Rates::default() });
    let outcome = cluster.node(1).append(HERE, Sequence(0), byte(1)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown(_))));
    tokio::time::sleep(SECOND).await;
    assert_eq!(cluster.log().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_is_lost_is_in_the_log() {
    let cluster = Cluster::new(1);
    cluster.faults.set_rates(Rates { append_answer_lost: 1.0, ..Rates::default() });
    let outcome = cluster.node(1).append(HERE, Sequence(0), byte(1)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown(_))));
    assert_eq!(cluster.log().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_append_lands_after_its_answer() {
    let cluster = Cluster::new(1);
    cluster.faults.set_rates(Rates { append_late: 1.0, ..Rates::default() });
    let outcome = cluster.node(1).append(HERE, Sequence(0), byte(1)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown(_))));
    assert_eq!(cluster.log().await, []);
    tokio::time::sleep(SECOND).await;
    assert_eq!(cluster.log().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_log_takes_nothing_until_the_fault_is_over() {
    let cluster = Cluster::new(1);
    cluster.faults.set_rates(Rates { append_full: 1.0, ..Rates::default() });
    let outcome = cluster.node(1).append(HERE, Sequence(0), byte(1)).await;
    assert_eq!(outcome, Err(AppendError::Full));
    cluster.faults.clear();
    assert!(cluster.node(1).append(HERE, Sequence(0), byte(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stale_read_sees_a_beginning_of_the_log() {
    let cluster = Cluster::new(5);
    let broker = cluster.node(1);
    let mut sequences = vec![Sequence(0)];
    for number in 0..20 {
        let last = sequences[sequences.len() - 1];
        sequences.push(broker.append(HERE, last, byte(number)).await.expect("accepted"));
    }
    let log = cluster.log().await;
    cluster.faults.set_rates(Rates { read_stale: 1.0, ..Rates::default() });
    for _ in 0..20 {
        let page = broker.read_log(HERE, sequences[5], usize::MAX).await.expect("a page");
        assert_eq!(page, log[5..5 + page.len()], "no hole");
        assert!((11..15).contains(&page.len()), "1 to 4 records are missing");
        let last = broker.last(HERE).await.expect("last").expect("a record");
        assert!(log[15..19].contains(&last), "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_reaches_nobody_until_it_is_back() {
    let cluster = Cluster::new(1);
    let (cut, other) = (cluster.node(1), cluster.node(2));
    let (cut_bus, cut_heard) = subscriber(&cut).await;
    let (other_bus, other_heard) = subscriber(&other).await;
    let count = Arc::new(Count::default());
    cut_bus.serve(Subject::Partition(HERE), 1, count.clone()).await.expect("serve");
    other_bus.serve(Subject::Node(node(2)), 1, count.clone()).await.expect("serve");
    cluster.faults.cut_off(node(1), true);

    cut_bus.publish(&[SUBJECT], byte(1));
    other_bus.publish(&[SUBJECT], byte(2));
    assert_eq!((cut_heard.numbers(), other_heard.numbers()), (vec![], vec![2]));
    let started = tokio::time::Instant::now();
    let asked = other_bus.request(Subject::Partition(HERE), byte(3), SECOND).await;
    assert_eq!((asked, started.elapsed()), (Err(RequestError::Deadline), SECOND));
    let asked = cut_bus.request(Subject::Node(node(2)), byte(3), SECOND).await;
    assert_eq!(asked, Err(RequestError::Deadline));
    assert_eq!(*count.0.lock().expect("no panic"), 0);
    let outcome = cut.append(HERE, Sequence(0), byte(4)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown(_))));
    assert!(cut.last(HERE).await.is_err() && cut.get("key").await.is_err());
    assert!(cut.put("key", Revision(0), byte(5)).await.is_err());
    assert!(other.append(HERE, Sequence(0), byte(6)).await.is_ok());

    cluster.faults.cut_off(node(1), false);
    cut_bus.publish(&[SUBJECT], byte(7));
    assert_eq!((cut_heard.numbers(), other_heard.numbers()), (vec![7], vec![2, 7]));
    let asked = other_bus.request(Subject::Partition(HERE), byte(8), SECOND).await;
    assert_eq!(asked, Ok(Bytes::from_static(b"1")));
}

#[tokio::test(start_paused = true)]
async fn delayed_publications_to_one_subject_stay_in_order() {
    for seed in 0..20 {
        let cluster = Cluster::new(seed);
        let (bus, heard) = subscriber(&cluster.node(1)).await;
        cluster.faults.set_rates(Rates { publish_delay: 0.3, ..Rates::default() });
        for number in 0..100 {
            bus.publish(&[SUBJECT], byte(number));
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        cluster.faults.clear();
        tokio::time::sleep(SECOND * 60).await;
        bus.publish(&[SUBJECT], byte(100));
        assert_eq!(heard.numbers(), (0..=100).collect::<Vec<_>>(), "seed {seed}");
        assert!(cluster.faults.injected() > 0, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn publications_are_lost_and_doubled_as_told() {
    let cluster = Cluster::new(1);
    let (bus, heard) = subscriber(&cluster.node(1)).await;
    cluster.faults.set_rates(Rates { publish_lost: 1.0, ..Rates::default() });
    bus.publish(&[SUBJECT], byte(1));
    cluster.faults.set_rates(Rates { publish_duplicate: 1.0, ..Rates::default() });
    bus.publish(&[SUBJECT], byte(2));
    cluster.faults.set_rates(Rates { publish_delay: 1.0, ..Rates::default() });
    bus.publish(&[SUBJECT], byte(3));
    drop(bus);
    tokio::time::sleep(SECOND).await;
    assert_eq!(heard.numbers()[0], 2);
    assert!(!heard.numbers().contains(&3), "a dropped connection publishes no more");
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_not_carried_out_and_one_with_a_lost_answer_is() {
    let cluster = Cluster::new(1);
    let (bus, _heard) = subscriber(&cluster.node(1)).await;
    let count = Arc::new(Count::default());
    bus.serve(SUBJECT, 1, count.clone()).await.expect("serve");
    let carried_out = || *count.0.lock().expect("no panic");
    cluster.faults.set_rates(Rates { request_lost: 1.0, ..Rates::default() });
    assert_eq!(bus.request(SUBJECT, byte(1), SECOND).await, Err(RequestError::Deadline));
    assert_eq!(carried_out(), 0);
    cluster.faults.set_rates(Rates { answer_lost: 1.0, ..Rates::default() });
    assert_eq!(bus.request(SUBJECT, byte(1), SECOND).await, Err(RequestError::Deadline));
    assert_eq!(carried_out(), 1);
    cluster.faults.set_rates(Rates { request_duplicate: 1.0, ..Rates::default() });
    assert_eq!(bus.request(SUBJECT, byte(1), SECOND).await, Ok(Bytes::from_static(b"2")));
    tokio::time::sleep(SECOND).await;
    assert_eq!(carried_out(), 3);
    cluster.faults.set_rates(Rates { request_delay: 1.0, ..Rates::default() });
    let soon = Duration::from_millis(1);
    assert_eq!(bus.request(SUBJECT, byte(1), soon / 2).await, Err(RequestError::Deadline));
    tokio::time::sleep(SECOND).await;
    assert_eq!(carried_out(), 4, "it arrives after its requester gave up");
}

/// Appends as an owner does: the same bytes until the answer is clear, then whatever is behind the expected sequence.
async fn append_surely(broker: &dyn Broker, expected: Sequence, payload: &Bytes) -> StoredRecord {
    loop {
        match broker.append(HERE, expected, payload.clone()).await {
            Ok(sequence) => return StoredRecord { sequence, payload: payload.clone() },
            Err(AppendError::Refused) => break,
            Err(AppendError::TooLarge) => panic!("one byte is not too large"),
            Err(AppendError::Full | AppendError::Unknown(_)) => {}
        }
    }
    loop {
        if let Ok(page) = broker.read_log(HERE, expected, 1).await
            && let Some(record) = page.into_iter().next()
        {
            return record;
        }
    }
}

async fn run_of_an_owner(seed: u64) -> (Vec<StoredRecord>, u64, Duration) {
    let started = tokio::time::Instant::now();
    let cluster = Cluster::new(seed);
    let broker = cluster.node(1);
    cluster.faults.set_rates(Rates {
        append_lost: 0.1,
        append_answer_lost: 0.1,
        append_late: 0.1,
        append_delay_before: 0.1,
        append_delay_after: 0.1,
        append_full: 0.1,
        read_stale: 0.3,
        read_error: 0.1,
        read_delay: 0.1,
        ..Rates::default()
    });
    let mut last = Sequence(0);
    for number in 0..100 {
        let record = append_surely(&broker, last, &byte(number)).await;
        assert_eq!(record.payload, byte(number), "seed {seed}: nobody else writes");
        last = record.sequence;
    }
    tokio::time::sleep(SECOND * 60).await;
    (cluster.log().await, cluster.faults.injected(), started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_repeats_until_it_knows_writes_each_record_once() {
    for seed in 0..30 {
        let (log, injected, _) = run_of_an_owner(seed).await;
        let numbers: Vec<u8> = log.iter().map(|record| record.payload[0]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "seed {seed}");
        assert!(injected > 0, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    assert_eq!(run_of_an_owner(7).await, run_of_an_owner(7).await);
    assert_ne!(run_of_an_owner(7).await, run_of_an_owner(8).await);
}

#[derive(Default)]
struct Interruptions(Mutex<u32>);

impl Receiver for Interruptions {
    fn deliver(&self, _: &[Subject], _: Bytes) {}

    fn interrupted(&self) {
        *self.0.lock().expect("no panic") += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_back_is_told_that_publications_were_lost() {
    let cluster = Cluster::new(1);
    let (one, two) = (Arc::new(Interruptions::default()), Arc::new(Interruptions::default()));
    let _one = cluster.node(1).connect(one.clone()).await.expect("connected");
    let _two = cluster.node(2).connect(two.clone()).await.expect("connected");
    let told = || (*one.0.lock().expect("no panic"), *two.0.lock().expect("no panic"));
    cluster.faults.cut_off(node(1), true);
    assert_eq!(told(), (0, 0));
    for _ in 0..2 {
        cluster.faults.cut_off(node(1), false);
        assert_eq!(told(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_node_that_is_cut_off_is_interrupted_and_catches_up() {
    let cluster = Cluster::new(1);
    let (cut, other) = (cluster.node(1), cluster.node(2));
    let key = |name: &str| name.to_owned();
    let write = async |name: &str, expected| {
        other.put(name, expected, byte(1)).await.expect("put").expect("written")
    };
    let one = write("one", Revision(0)).await;
    let mut watch = cut.watch("").await.expect("a watch");
    let first = watch.next().await;
    assert!(matches!(&first, Change::Written { key, .. } if key == "one"), "{first:?}");
    assert_eq!(watch.next().await, Change::Current);
    cluster.faults.cut_off(node(1), true);
    assert_eq!(watch.next().await, Change::Interrupted);
    write("two", Revision(0)).await;
    assert_eq!(other.remove("one", one).await, Ok(true));
    let silence = tokio::time::timeout(SECOND * 100, watch.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    cluster.faults.cut_off(node(1), false);
    let second = watch.next().await;
    assert!(matches!(&second, Change::Written { key, .. } if key == "two"), "{second:?}");
    assert_eq!(watch.next().await, Change::Removed { key: key("one") });
    assert_eq!(watch.next().await, Change::Current);
}

#[tokio::test(start_paused = true)]
async fn a_watch_with_faults_converges() {
    for seed in 0..20 {
        let cluster = Cluster::new(seed);
        let broker = cluster.node(1);
        let mut watch = broker.watch("").await.expect("a watch");
        let (mut known, mut current) = (BTreeMap::new(), false);
        cluster.faults.set_rates(Rates {
            watch_delay: 0.3,
            watch_interrupted: 0.2,
            ..Rates::default()
        });
        let mut apply = |change: Change| match change {
            Change::Written { key, entry } => drop(known.insert(key, entry)),
            Change::Removed { key } => assert!(known.remove(&key).is_some(), "seed {seed}: {key}"),
            Change::Current => current = true,
            Change::Interrupted => current = false,
        };
        for number in 0..200_u64 {
            let name = format!("key.{}", number * 7919 % 13);
            let revision = cluster.real.get(&name).await.expect("get").map(|entry| entry.revision);
            match revision {
                Some(revision) if number % 3 == 0 => {
                    assert_eq!(cluster.real.remove(&name, revision).await, Ok(true));
                }
                revision => {
                    let expected = revision.unwrap_or_default();
                    cluster.real.put(&name, expected, byte(1)).await.expect("put").expect("new");
                }
            }
            if let Ok(change) = tokio::time::timeout(SECOND / 10, watch.next()).await {
                apply(change);
            }
        }
        cluster.faults.clear();
        while let Ok(change) = tokio::time::timeout(SECOND * 10, watch.next()).await {
            apply(change);
        }
        assert!(current, "seed {seed}");
        for number in 0..13 {
            let name = format!("key.{number}");
            let entry = cluster.real.get(&name).await.expect("get");
            assert_eq!(known.get(&name), entry.as_ref(), "seed {seed}: {name}");
        }
        assert!(cluster.faults.injected() > 0, "seed {seed}");
    }
}
