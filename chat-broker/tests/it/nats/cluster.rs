//! Three servers that replicate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::conformance;
use chat_broker::nats::{NatsBroker, NatsOptions};
use chat_broker::{Broker, Change, Revision, Sequence, Subject};
use servers::nats::{Nats, NatsOptions as ServerOptions};

use super::{
    Answer, Ear, HERE, append_surely, assert_numbered, eventually, log_up_to, next, numbered, open,
    options, until,
};

fn cluster() -> Nats {
    Nats::cluster(&ServerOptions::default())
}

/// A node that knows only one of the servers; it hears of the others.
async fn open_at(nats: &Nats, index: usize, options: &NatsOptions) -> NatsBroker {
    open(&NatsOptions { servers: vec![nats.url_of(index)], ..options.clone() }).await
}

fn stream(options: &NatsOptions) -> String {
    format!("{}-log-{}", options.prefix, HERE.0 % options.streams)
}

/// What concurrency and replication make difficult.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_passes_the_cases_of_races() {
    let nats = cluster();
    let fresh = async || Arc::new(open(&options(&nats)).await) as Arc<dyn Broker>;
    use conformance::{keys, log, watch};
    log::of_concurrent_appends_with_the_same_expectation_one_wins(fresh().await).await;
    log::an_append_whose_caller_gave_up_lands_at_most_once(fresh().await).await;
    log::a_reader_never_sees_a_hole(fresh().await).await;
    log::a_purge_removes_the_oldest_and_keeps_the_last(fresh().await).await;
    keys::of_concurrent_writes_at_the_same_revision_one_wins(fresh().await).await;
    keys::no_increment_is_lost(fresh().await).await;
    keys::of_a_write_and_a_removal_at_the_same_revision_one_wins(fresh().await).await;
    keys::a_removed_key_does_not_exist(fresh().await).await;
    watch::a_watch_tells_of_changes_as_they_happen(fresh().await).await;
    watch::a_watch_may_be_asked_in_vain(fresh().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_there_once_when_leaders_die_during_appends() {
    let nats = cluster();
    let options = options(&nats);
    let broker = open(&options).await;
    let (mut last, mut count, mut doubts) = (Sequence(0), 0, 0);
    for round in 0..3 {
        let mut victim = None;
        let killed = Instant::now();
        // Some before the death, and until the answers are clear again after it.
        for step in 0..60 {
            if step == 20 {
                victim = nats.leader(&stream(&options));
                nats.kill(victim.expect("the stream has a leader"));
            }
            let (record, doubt) = append_surely(&broker, last, &numbered(count)).await;
            assert_eq!(record.payload, numbered(count), "round {round}");
            (last, count, doubts) = (record.sequence, count + 1, doubts + u32::from(doubt));
        }
        println!("round {round}: {:?}, {doubts} doubts so far", killed.elapsed());
        nats.restart(victim.expect("killed"));
        nats.wait_until_healthy();
    }
    assert_numbered(&log_up_to(&broker, last).await, count);
    assert!(doubts > 0, "no append met the death of a leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_there_after_all_servers_were_killed() {
    let nats = cluster();
    let broker = open(&options(&nats)).await;
    let mut last = Sequence(0);
    for number in 0..200 {
        last = append_surely(&broker, last, &numbered(number)).await.0.sequence;
    }
    let revision = broker.put("epoch", Revision(0), numbered(0)).await.expect("put");
    for index in 0..3 {
        nats.kill(index);
    }
    for index in 0..3 {
        nats.restart(index);
    }
    nats.wait_until_healthy();
    let (next, _) = append_surely(&broker, last, &numbered(200)).await;
    assert_eq!(next.payload, numbered(200));
    assert_numbered(&log_up_to(&broker, next.sequence).await, 201);
    eventually("the key can be read", async || {
        broker.get("epoch").await.is_ok_and(|entry| entry.map(|entry| entry.revision) == revision)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_while_any_one_server_hangs() {
    let nats = cluster();
    let broker = open(&options(&nats)).await;
    let (mut last, mut count) = (Sequence(0), 0);
    for hanging in 0..3 {
        nats.stop(hanging);
        for _ in 0..30 {
            let (record, _) = append_surely(&broker, last, &numbered(count)).await;
            (last, count) = (record.sequence, count + 1);
        }
        assert_numbered(&log_up_to(&broker, last).await, count);
        nats.resume(hanging);
        nats.wait_until_healthy();
    }
}

/// A replica that hung lags when it goes on; whoever reads from it sees a beginning of the log, page by page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_reader_never_sees_a_hole() {
    let nats = cluster();
    let options = options(&nats);
    let writer = open(&options).await;
    let (first, _) = append_surely(&writer, Sequence(0), &numbered(0)).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for index in 0..3 {
        let broker = open_at(&nats, index, &options).await;
        let done = done.clone();
        readers.push(tokio::spawn(async move {
            let (mut pages, mut after, mut seen) = (0, Sequence(0), 0);
            while !done.load(Ordering::SeqCst) {
                // Small pages, so that some are put together from several answers.
                let Ok(page) = broker.read_log(HERE, after, 700).await else { continue };
                for record in &page {
                    assert_eq!(record.payload, numbered(seen), "reader {index}");
                    seen += 1;
                }
                pages += usize::from(!page.is_empty());
                after = page.last().map_or(after, |record| record.sequence);
                if let Ok(Some(last)) = broker.last(HERE).await {
                    let text = std::str::from_utf8(&last.payload).expect("text");
                    assert!(text.starts_with("record "));
                }
                if seen > 500 {
                    (after, seen) = (Sequence(0), 0);
                }
            }
            pages
        }));
    }
    let (mut last, mut count) = (first.sequence, 1);
    for round in 0..4 {
        let lagging = nats.leader(&stream(&options)).map_or(round % 3, |leader| (leader + 1) % 3);
        nats.stop(lagging);
        for _ in 0..150 {
            let (record, _) = append_surely(&writer, last, &numbered(count)).await;
            (last, count) = (record.sequence, count + 1);
        }
        nats.resume(lagging);
        for _ in 0..50 {
            let (record, _) = append_surely(&writer, last, &numbered(count)).await;
            (last, count) = (record.sequence, count + 1);
        }
    }
    done.store(true, Ordering::SeqCst);
    let mut pages = 0;
    for reader in readers {
        pages += reader.await.expect("no hole");
    }
    assert!(pages > 100, "only {pages} pages were read");
    assert_numbered(&log_up_to(&writer, last).await, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_death_of_any_server() {
    let nats = cluster();
    let broker = open(&options(&nats)).await;
    let mut watch = broker.watch("lease.").await.expect("a watch");
    until(&mut *watch, &Change::Current).await;
    let mut revision = Revision(0);
    for index in 0..3 {
        nats.kill(index);
        let value = numbered(index);
        // The answer to a write may be lost with the server.
        eventually("the key is written", async || {
            match broker.put("lease.1", revision, value.clone()).await {
                Ok(Some(written)) => {
                    revision = written;
                    true
                }
                Ok(None) | Err(_) => {
                    let entry = broker.get("lease.1").await.ok().flatten();
                    let Some(entry) = entry else { return false };
                    revision = entry.revision;
                    entry.value == value
                }
            }
        })
        .await;
        loop {
            if let Change::Written { entry, .. } = next(&mut *watch).await
                && entry.value == value
            {
                break;
            }
        }
        nats.restart(index);
        nats.wait_until_healthy();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_bus_takes_over_from_another_node_at_another_server() {
    let nats = cluster();
    let options = options(&nats);
    let subject = Subject::Partition(HERE);
    let mut nodes = Vec::new();
    for index in 0..3 {
        let broker = open_at(&nats, index, &options).await;
        let ear = Arc::new(Ear::default());
        let bus = broker.connect(ear.clone()).await.expect("a connection");
        bus.subscribe(Subject::Nodes).await.expect("subscribed");
        nodes.push((broker, bus, ear));
    }
    let names = ["node 0", "node 1", "node 2"];
    for round in 0..6 {
        let server = round % 3;
        let serving = nodes[server].1.serve(subject, 1, Arc::new(Answer(names[server])));
        serving.await.expect("serve");
        for (_, bus, _) in &nodes {
            eventually("the new server answers", async || {
                let deadline = Duration::from_secs(1);
                bus.request(subject, Bytes::new(), deadline).await == Ok(names[server].into())
            })
            .await;
            for _ in 0..10 {
                let answer = bus.request(subject, Bytes::new(), Duration::from_secs(1)).await;
                assert_eq!(answer, Ok(names[server].into()), "round {round}: no other answers");
            }
        }
    }
    nodes[0].1.publish(&[Subject::Nodes], Bytes::from_static(b"to all"));
    for (_, _, ear) in &nodes {
        eventually("it arrives", async || ear.heard().len() == 1).await;
    }
}

/// Of nodes that begin at the same moment one is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_servers_that_begin_at_once_one_is_left() {
    let nats = cluster();
    let options = options(&nats);
    let subject = Subject::Partition(HERE);
    let mut buses = Vec::new();
    for index in 0..3 {
        let broker = open_at(&nats, index, &options).await;
        buses.push(broker.connect(Arc::new(Ear::default())).await.expect("a connection"));
    }
    for round in 0..10 {
        let (one, two, three) = tokio::join!(
            buses[0].serve(subject, 1, Arc::new(Answer("0"))),
            buses[1].serve(subject, 1, Arc::new(Answer("1"))),
            buses[2].serve(subject, 1, Arc::new(Answer("2"))),
        );
        one.and(two).and(three).expect("serve");
        eventually("all agree on one", async || {
            let mut answers = Vec::new();
            for bus in buses.iter().cycle().take(9) {
                answers.push(bus.request(subject, Bytes::new(), Duration::from_secs(1)).await);
            }
            answers[0].is_ok() && answers.iter().all(|answer| *answer == answers[0])
        })
        .await;
        println!("round {round} is settled");
    }
}
