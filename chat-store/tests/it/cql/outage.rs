//! A database that is away, hangs, or refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_protocol::{Body, MessageId, Partition};
use chat_store::conformance::sample::*;
use chat_store::cql::{Consistency, CqlStore, Credentials, OpenError, Options, Tls};
use chat_store::{Checkpoint, Error, Store, Write};
use servers::cassandra::{Cassandra, CassandraOptions, DATACENTER};

use super::Database;

pub(super) fn options(server: &Cassandra, copies: u32) -> Options {
    Options {
        replication: BTreeMap::from([(DATACENTER.to_owned(), copies)]),
        request_timeout_ms: 2_000,
        connect_timeout_ms: 2_000,
        ..Options::new(server.addresses(), "chat", DATACENTER, NOW)
    }
}

/// Tries until it succeeds; every failure before must be `Unavailable`.
pub(super) async fn until_done(store: &dyn Store, write: &Write) -> u32 {
    let end = Instant::now() + Duration::from_secs(120);
    let mut failures = 0;
    loop {
        match store.apply(Partition(0), vec![write.clone()], None).await {
            Ok(()) => return failures,
            Err(error) => {
                assert!(matches!(error, Error::Unavailable(_) | Error::Away(_)), "{error}")
            }
        }
        failures += 1;
        assert!(Instant::now() < end, "the store does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_store_that_was_away_or_hung_is_found_again_without_help() {
    let server = Cassandra::single(&CassandraOptions::default());
    let few = Options { concurrency_max: 8, ..options(&server, 1) };
    let store = Arc::new(CqlStore::open(few).await.unwrap());
    let id = group();
    let mut ids = Ids::of(id);
    let mut rows = Vec::new();
    let mut next = |seq| {
        let row = message(id, ids.next_id(), seq, &"x".repeat(100_000));
        rows.push(row.clone());
        Write::Message(row)
    };
    assert_eq!(until_done(&*store, &next(1)).await, 0);

    // It hangs: every call waits, but not for ever; none of many more than fit is lost in a queue.
    server.stop(0);
    let began = Instant::now();
    let calls: Vec<_> = (2..42)
        .map(|seq| {
            let (store, write) = (Arc::clone(&store), next(seq));
            tokio::spawn(async move {
                (store.apply(Partition(0), vec![write.clone()], None).await, write)
            })
        })
        .collect();
    let mut again = Vec::new();
    for call in calls {
        let (outcome, write) = call.await.unwrap();
        assert!(matches!(outcome, Err(Error::Unavailable(_) | Error::Away(_))), "{outcome:?}");
        again.push(write);
    }
    assert!(began.elapsed() < Duration::from_secs(15), "they waited {:?}", began.elapsed());
    let read = store.history_before(id, MessageId(u64::MAX), 10).await;
    assert!(matches!(read, Err(Error::Unavailable(_) | Error::Away(_))), "{read:?}");
    server.resume(0);
    for write in &again {
        until_done(&*store, write).await;
    }

    // It is away.
    server.kill(0);
    let write = next(42);
    let checkpoint = Some(Checkpoint { sequence: 9, epoch: 1, ..Checkpoint::default() });
    let outcome = store.apply(Partition(0), vec![write.clone()], checkpoint).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_) | Error::Away(_))), "{outcome:?}");
    let read = store.conversation(id).await;
    assert!(matches!(read, Err(Error::Unavailable(_) | Error::Away(_))), "{read:?}");
    server.restart(0);
    let checkpoint = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            until_done(&*store, &write).await;
            store.checkpoint(Partition(0)).await
        }
    });
    assert_eq!(checkpoint.await.unwrap(), Ok(Checkpoint::default()), "no row, no checkpoint");
    // A database that is killed may lose the last seconds of what it acknowledged: that is what `durability_lag` says,
    // and why whoever keeps the log writes it again.
    assert!(store.durability_lag() >= Duration::from_secs(10));
    let again = rows.iter().cloned().map(Write::Message).collect();
    store.apply(Partition(0), again, None).await.unwrap();
    let found = store.history_after(id, MessageId::ZERO, 100).await.unwrap();
    let found: Vec<MessageId> = found.iter().map(|message| message.message_id).collect();
    assert_eq!(found, rows.iter().map(|row| row.message_id).collect::<Vec<_>>());
}

#[tokio::test]
async fn content_that_no_database_takes_is_refused_and_not_tried_for_ever() {
    let database = Database::shared();
    let store = database.store().await;
    let id = group();
    let mut ids = Ids::of(id);
    let small = message(id, ids.next_id(), 1, "small");
    let mut large = message(id, ids.next_id(), 2, "");
    large.body = Body::text(&"x".repeat(7 << 20));
    let refused = store.apply(Partition(0), vec![Write::Message(large)], None).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    // Refused by the database itself: keys have 64 KB at most.
    let mut long = account("long");
    long.profile.handle = "x".repeat(70_000);
    let device = device(long.profile.user_id, NOW);
    let refused = store.create_account(long, device).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let mut late = message(id, ids.next_id(), 3, "an id after the year 2094");
    late.message_id = MessageId(u64::MAX);
    let refused = store.apply(Partition(0), vec![Write::Message(late)], None).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    store.apply(Partition(0), vec![Write::Message(small)], None).await.unwrap();
    assert_eq!(store.history_after(id, MessageId::ZERO, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_wrong_password_or_certificate_is_named_when_the_store_is_opened() {
    let server = Cassandra::single(&CassandraOptions { password: true, tls: true });
    let credentials =
        |password: &str| Some(Credentials { user: "cassandra".into(), password: password.into() });
    let tls = Some(Tls { ca_file: server.certificate_authority(), client: None });
    let right = Options {
        credentials: credentials("cassandra"),
        tls: tls.clone(),
        // The rows of users have one copy, and Cassandra asks for them at QUORUM.
        consistency: Consistency::Quorum,
        ..options(&server, 1)
    };
    CqlStore::open(right.clone()).await.unwrap().epoch().await.unwrap();
    for wrong in [credentials("guessed"), None] {
        let error = CqlStore::open(Options { credentials: wrong, ..right.clone() }).await.err();
        let error = error.unwrap();
        assert!(matches!(error, OpenError::Credentials { .. }), "{error}");
        assert!(error.to_string().contains("refuses the name or the password"), "{error}");
    }
    let plain = CqlStore::open(Options { tls: None, ..right.clone() }).await.err().unwrap();
    assert!(matches!(plain, OpenError::Unreachable { .. }), "{plain}");
    let missing = Some(Tls { ca_file: "/nowhere/ca.pem".into(), client: None });
    let error = CqlStore::open(Options { tls: missing, ..right.clone() }).await.err().unwrap();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    // Another authority vouches for nobody here.
    let stranger = tempfile::tempdir().unwrap();
    let ca_file = stranger.path().join("ca.pem");
    let key = rcgen::generate_simple_self_signed(vec!["stranger.test".into()]).unwrap();
    std::fs::write(&ca_file, key.cert.pem()).unwrap();
    let other = Some(Tls { ca_file, client: None });
    let error = CqlStore::open(Options { tls: other, ..right }).await.err().unwrap();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_when_the_store_is_opened() {
    let nobody = servers::port::Port::reserve();
    let options = Options {
        connect_timeout_ms: 500,
        ..Options::new(vec![nobody.address()], "chat", DATACENTER, NOW)
    };
    let error = CqlStore::open(options).await.err().unwrap();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("check the addresses"), "{error}");
}
