//! One server that dies, hangs and comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::{
    AppendError, Broker, Change, RequestError, Revision, Sequence, Subject, WATCH_SILENCE_MAX,
};
use servers::nats::{Nats, NatsOptions as ServerOptions};

use super::{Answer, Ear, HERE, eventually, next, numbered, open, options, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_interrupted_by_the_death_of_the_server_and_catches_up() {
    let nats = Nats::single(&ServerOptions::default());
    let options = options(&nats);
    let broker = open(&options).await;
    let other = open(&options).await;
    let put = async |key: &str, expected| {
        other.put(key, expected, numbered(0)).await.expect("put").expect("written")
    };
    let stays = put("stays", Revision(0)).await;
    let goes = put("goes", Revision(0)).await;
    let mut watch = broker.watch("").await.expect("a watch");
    assert_eq!(until(&mut *watch, &Change::Current).await.len(), 2);
    nats.kill(0);
    assert_eq!(next(&mut *watch).await, Change::Interrupted);
    nats.restart(0);
    eventually("the server is back", async || other.remove("goes", goes).await == Ok(true)).await;
    let comes = put("comes", Revision(0)).await;
    let mut written = Vec::new();
    let mut removed = Vec::new();
    let mut current = false;
    // It may meet the server before or after these changes.
    while !(current && written.contains(&("comes".to_owned(), comes)) && removed == ["goes"]) {
        match next(&mut *watch).await {
            Change::Written { key, entry } => written.push((key, entry.revision)),
            Change::Removed { key } => removed.push(key),
            Change::Current => current = true,
            Change::Interrupted => current = false,
        }
    }
    assert!(written.contains(&("stays".to_owned(), stays)), "again everything: {written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_in_time_that_the_server_hangs() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let mut watch = broker.watch("").await.expect("a watch");
    assert_eq!(next(&mut *watch).await, Change::Current);
    let silence = tokio::time::timeout(WATCH_SILENCE_MAX * 2, watch.next()).await;
    assert!(silence.is_err(), "heartbeats keep it quiet: {silence:?}");
    nats.stop(0);
    let stopped = Instant::now();
    assert_eq!(next(&mut *watch).await, Change::Interrupted);
    assert!(stopped.elapsed() < WATCH_SILENCE_MAX, "{:?}", stopped.elapsed());
    nats.resume(0);
    assert_eq!(next(&mut *watch).await, Change::Current);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_a_server_that_hangs_is_unknown_and_lands_at_most_once() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let first = broker.append(HERE, Sequence(0), numbered(0)).await.expect("accepted");
    nats.stop(0);
    for _ in 0..2 {
        let outcome = broker.append(HERE, first, numbered(1)).await;
        assert!(matches!(outcome, Err(AppendError::Unknown(_))), "{outcome:?}");
    }
    assert!(broker.last(HERE).await.is_err() && broker.get("key").await.is_err());
    nats.resume(0);
    let (second, _) = super::append_surely(&broker, first, &numbered(1)).await;
    assert_eq!(second.payload, numbered(1));
    let third = broker.append(HERE, second.sequence, numbered(2)).await.expect("accepted");
    super::assert_numbered(&super::log_up_to(&broker, third).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_comes_back_with_all_subscriptions_and_says_that_it_was_away() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let ear = Arc::new(Ear::default());
    let bus = broker.connect(ear.clone()).await.expect("a connection");
    let other = broker.connect(Arc::new(Ear::default())).await.expect("a connection");
    bus.subscribe(Subject::Nodes).await.expect("subscribed");
    bus.serve(Subject::Partition(HERE), 1, Arc::new(Answer("here"))).await.expect("serve");
    other.publish(&[Subject::Nodes], Bytes::from_static(b"before"));
    eventually("it arrives", async || ear.heard().len() == 1).await;
    assert_eq!(ear.interruptions.load(Ordering::SeqCst), 0);
    nats.kill(0);
    let started = Instant::now();
    let asked = other.request(Subject::Partition(HERE), Bytes::new(), Duration::from_secs(1)).await;
    assert!(
        matches!(asked, Err(RequestError::Deadline | RequestError::Unavailable(_))),
        "{asked:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    other.publish(&[Subject::Nodes], Bytes::from_static(b"away"));
    nats.restart(0);
    eventually("it is told", async || ear.interruptions.load(Ordering::SeqCst) == 1).await;
    eventually("publications arrive again", async || {
        other.publish(&[Subject::Nodes], Bytes::from_static(b"after"));
        ear.heard().last().is_some_and(|last| &last[..] == b"after")
    })
    .await;
    eventually("requests are answered again", async || {
        let deadline = Duration::from_secs(1);
        let answer = other.request(Subject::Partition(HERE), Bytes::new(), deadline).await;
        answer == Ok(Bytes::from_static(b"here"))
    })
    .await;
    assert_eq!(broker.statistics().interruptions, 2, "one for each connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_to_servers_that_are_away_never_waits() {
    let nats = Nats::single(&ServerOptions::default());
    let broker = open(&options(&nats)).await;
    let bus = broker.connect(Arc::new(Ear::default())).await.expect("a connection");
    nats.stop(0);
    let payload = Bytes::from(vec![0; 64 * 1024]);
    let started = Instant::now();
    for _ in 0..30_000 {
        bus.publish(&[Subject::Nodes, Subject::Watermarks], payload.clone());
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(broker.statistics().publications_dropped > 10_000, "{:?}", broker.statistics());
    nats.resume(0);
}
