//! What takes minutes: `cargo xtask test --long` runs it.

use std::time::{Duration, Instant};

use chat_protocol::{MessageId, Partition};
use chat_store::conformance::sample::*;
use chat_store::cql::{CqlStore, Options};
use chat_store::{Error, Store, Write};
use servers::cassandra::{Cassandra, CassandraOptions};

use super::outage::{options, until_done};

/// For some seconds the others still wait for the one that died.
async fn until_answered<T>(ask: impl AsyncFn() -> Result<T, Error>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error @ (Error::Unavailable(_) | Error::Away(_))) => {
                assert!(Instant::now() < end, "{error}")
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One member after the other dies and comes back; then two at once.
#[tokio::test]
#[ignore = "long: starts a cluster of three; `cargo xtask test --long` runs it"]
async fn a_cluster_of_three_works_on_without_any_one_of_them() {
    let server = Cassandra::cluster(&CassandraOptions::default());
    let patient = Options { request_timeout_ms: 10_000, ..options(&server, 3) };
    let store = CqlStore::open(patient).await.unwrap();
    let id = group();
    let mut ids = Ids::of(id);
    let mut seq = 0;
    for down in [None, Some(1), Some(2)] {
        if let Some(down) = down {
            server.kill(down);
        }
        for _ in 0..20 {
            seq += 1;
            let row = message(id, ids.next_id(), seq, "m");
            until_done(&store, &Write::Message(row)).await;
        }
        let found =
            until_answered(async || store.history_after(id, MessageId::ZERO, 100).await).await;
        assert_eq!(found.len() as u64, seq, "without member {down:?}");
        // A lightweight transaction asks the quorum as well.
        let account = account("three");
        let device = device(account.profile.user_id, NOW);
        let made =
            until_answered(async || store.create_account(account.clone(), device.clone()).await);
        assert!(made.await, "without member {down:?}");
        if let Some(down) = down {
            server.restart(down);
            server.wait_until_up(down);
        }
    }
    // Two of three are not there: no quorum, and a sentence that says so.
    server.kill(1);
    server.kill(2);
    let row = Write::Message(message(id, ids.next_id(), seq + 1, "m"));
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match store.apply(Partition(0), vec![row.clone()], None).await {
            Err(Error::Away(_)) => break,
            Err(Error::Unavailable(text)) => assert!(Instant::now() < end, "{text}"),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
