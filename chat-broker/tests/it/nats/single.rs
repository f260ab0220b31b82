//! One server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::conformance::Fixture;
use chat_broker::nats::NatsOptions;
use chat_broker::{AppendError, Broker, Revision, Sequence, Subject};
use chat_protocol::Partition;
use servers::nats::{Nats, NatsOptions as ServerOptions};

use super::{Ear, HERE, assert_numbered, eventually, log_up_to, numbered, open, options};

async fn fixture() -> Fixture {
    let nats = Nats::shared();
    let broker = open(&options(&nats)).await;
    Fixture { broker: Arc::new(broker), kept: Box::new(nats) }
}

mod conformance {
    chat_broker::broker_conformance!(super::fixture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_takes_few_round_trips() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let started = Instant::now();
    let mut last = Sequence(0);
    for number in 0..10_000 {
        last = broker.append(HERE, last, numbered(number)).await.expect("accepted");
    }
    let appended = started.elapsed();
    let before = nats.messages_received(0);
    let started = Instant::now();
    let records = log_up_to(&broker, last).await;
    let took = started.elapsed();
    let asked = nats.messages_received(0) - before;
    println!(
        "10,000 records: appended one by one in {appended:?}, read in {took:?} with {asked} requests"
    );
    assert_numbered(&records, 10_000);
    assert!(asked < 100, "{asked} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_refuses_appends_and_takes_them_again_after_a_purge() {
    let nats = Nats::shared();
    let broker = open(&NatsOptions { stream_bytes_max: 4 << 20, ..options(&nats) }).await;
    let record = Bytes::from(vec![1; 256 * 1024]);
    let mut sequences = vec![Sequence(0)];
    let error = loop {
        let last = sequences[sequences.len() - 1];
        match broker.append(HERE, last, record.clone()).await {
            Ok(sequence) => sequences.push(sequence),
            Err(error) => break error,
        }
        assert!(sequences.len() < 100, "it never gets full");
    };
    assert_eq!(error, AppendError::Full);
    let last = sequences[sequences.len() - 1];
    assert_eq!(broker.append(HERE, last, record.clone()).await, Err(AppendError::Full));
    // Streams have room of their own.
    let elsewhere = Partition(HERE.0 + 1);
    assert!(broker.append(elsewhere, Sequence(0), record.clone()).await.is_ok());
    let removed = broker.purge(HERE, last, Duration::ZERO).await.expect("purged");
    assert_eq!(removed as usize, sequences.len() - 2, "all but the last");
    let next = broker.append(HERE, last, record.clone()).await.expect("there is room");
    eventually("the new record is the last", async || {
        broker.last(HERE).await.expect("last").is_some_and(|last| last.sequence == next)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_publishes_is_not_sent_back_to_it() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let (own, others) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
    let bus = broker.connect(own.clone()).await.expect("a connection");
    let other = broker.connect(others.clone()).await.expect("a connection");
    for bus in [&bus, &other] {
        bus.subscribe(Subject::Nodes).await.expect("subscribed");
    }
    let before = nats.messages_sent(0);
    for number in 0..1_000 {
        bus.publish(&[Subject::Nodes, Subject::Watermarks], numbered(number));
    }
    assert_eq!(own.heard().len(), 1_000, "each in the call that published it");
    eventually("the other node hears all", async || others.heard().len() == 1_000).await;
    let sent = nats.messages_sent(0) - before;
    assert!(sent < 1_500, "{sent} messages");
    assert_eq!(own.heard(), others.heard());
}

/// Whatever is done, there is one stream for each share of the partitions and one for the keys, and no consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_consumers_do_not_grow_with_use() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let counts = || {
        let streams = nats.streams();
        let consumers = |stream: &serde_json::Value| {
            stream["consumer_detail"].as_array().map_or(0, |consumers| consumers.len())
        };
        (streams.len(), streams.iter().map(consumers).sum::<usize>())
    };
    assert_eq!(counts(), (5, 0));
    let mut watch = broker.watch("").await.expect("a watch");
    watch.next().await;
    assert_eq!(counts(), (5, 1), "a watch has a consumer");
    for partition in (0..200).map(Partition) {
        let first = broker.append(partition, Sequence(0), numbered(0)).await.expect("accepted");
        broker.append(partition, first, numbered(1)).await.expect("accepted");
        broker.read_log(partition, Sequence(0), 1000).await.expect("a page");
        broker.last(partition).await.expect("last");
        broker.purge(partition, first, Duration::from_millis(1)).await.expect("purged");
        let key = format!("lease.{partition}");
        let revision = broker.put(&key, Revision(0), numbered(0)).await.expect("put");
        broker.remove(&key, revision.expect("written")).await.expect("removed");
    }
    assert_eq!(counts(), (5, 1));
    drop(watch);
    eventually("the consumer goes with its watch", async || counts() == (5, 0)).await;
}
