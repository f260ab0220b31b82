//! What an inspection finds, and that it leaves no trace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_broker::nats::{NatsBroker, NatsOptions};
use chat_broker::{Broker, Revision, Sequence};
use chat_protocol::Millis;
use servers::nats::{Nats, NatsOptions as ServerOptions};

use super::{HERE, numbered, open, options};

fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Millis(since.as_millis() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inspection_makes_nothing_and_then_finds_what_a_node_has_made() {
    let nats = Nats::shared();
    let options = options(&nats);
    let watcher = NatsBroker::attach(options.clone()).await.expect("connected");
    for _ in 0..2 {
        let found = watcher.inspect_streams().await.expect("an answer");
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|stream| stream.found.is_none()), "{found:?}");
    }
    let prefix = format!("{}-log", options.prefix);
    let is_ours =
        |stream: &serde_json::Value| stream["name"].as_str().unwrap().starts_with(&prefix);
    assert!(!nats.streams().iter().any(is_ours), "nothing was made");
    let broker = open(&options).await;
    broker.append(HERE, Sequence(0), numbered(0)).await.expect("accepted");
    broker.put("a", Revision(0), numbered(1)).await.expect("an answer").expect("written");
    let found = watcher.inspect_streams().await.expect("an answer");
    for stream in &found {
        let what = stream.found.as_ref().expect("it was made");
        assert!(what.has_leader && what.difference.is_none(), "{stream:?}");
        assert_eq!(what.bytes_max, Some(stream.bytes_max_wanted));
        assert_eq!((what.replicas, stream.replicas_wanted), (1, 1));
    }
    assert!(found.iter().any(|stream| stream.found.as_ref().is_some_and(|f| f.bytes > 0)));
    assert_eq!(watcher.get("a").await.expect("an answer").expect("there").value, numbered(1));
    let other = NatsOptions { streams: 3, ..options };
    let other = NatsBroker::attach(other).await.expect("connected");
    let found = other.inspect_streams().await.expect("an answer");
    let difference = found[0].found.as_ref().and_then(|found| found.difference.clone());
    assert!(difference.is_some_and(|text| text.contains("created with 4 streams")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_is_asked_by_itself_what_it_is_and_what_time_it_has() {
    let nats = Nats::cluster(&ServerOptions::default());
    nats.kill(1);
    let asked = NatsBroker::inspect_servers(&options(&nats), now).await;
    assert_eq!(asked.len(), 3);
    for (index, (address, answer)) in asked.iter().enumerate() {
        assert_eq!(*address, nats.url_of(index));
        let Ok(server) = answer else {
            assert_eq!(index, 1, "{answer:?}");
            continue;
        };
        assert_eq!(server.name, format!("member-{index}"));
        assert!(server.is_new_enough && server.has_jetstream, "{server:?}");
        assert_eq!(server.cluster.as_deref(), Some("test"));
        let time = server.time.expect("it tells the time");
        let slack_ms = time.round_trip.as_millis() as u64 + 5;
        assert!(time.ahead_ms.unsigned_abs() <= slack_ms, "{time:?}");
        assert!(time.round_trip < Duration::from_secs(5));
    }
    assert!(asked[1].1.is_err());
    let late = NatsBroker::inspect_servers(&options(&nats), || now().plus(3_600_000)).await;
    let time = late[0].1.as_ref().expect("it answers").time.expect("it tells the time");
    assert!((3_500_000..3_700_000).contains(&time.ahead_ms), "{time:?}");
}
