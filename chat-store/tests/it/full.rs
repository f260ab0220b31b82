use std::sync::Arc;

use chat_protocol::{Body, ConversationId, MessageId, Partition};
use chat_store::conformance::sample::{Ids, group, message};
use chat_store::embedded::{EmbeddedStore, Options};
use chat_store::{Error, MessageRow, Store, Write};

fn large(id: ConversationId, ids: &mut Ids) -> MessageRow {
    MessageRow { body: Body::text(&"x".repeat(50_000)), ..message(id, ids.next_id(), 1, "") }
}

async fn put(store: &dyn Store, row: &MessageRow) -> Result<(), Error> {
    store.apply(Partition(0), vec![Write::Message(row.clone())], None).await
}

async fn fill(store: &dyn Store, id: ConversationId, ids: &mut Ids) -> Vec<MessageId> {
    let mut written = Vec::new();
    for _ in 0..1_000 {
        let row = large(id, ids);
        match put(store, &row).await {
            Ok(()) => written.push(row.message_id),
            Err(error) => {
                assert!(
                    matches!(&error, Error::Unavailable(text) if text.contains("no room")),
                    "{error}"
                );
                return written;
            }
        }
    }
    panic!("the limit does not hold");
}

#[tokio::test]
async fn a_full_store_says_so_and_recovers_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let size_bytes_max = Some(1 << 20);
    let store =
        EmbeddedStore::open(&path, Options { size_bytes_max, ..Options::default() }).unwrap();
    let id = group();
    let mut ids = Ids::of(id);
    let written = fill(&store, id, &mut ids).await;
    assert!(written.len() > 10, "{}", written.len());
    // It still reads, and everything acknowledged is there.
    assert_eq!(store.messages(id, written.clone()).await.unwrap().len(), written.len());
    assert!(put(&store, &large(id, &mut ids)).await.is_err());

    // Room is made from outside; the same store goes on by itself.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("DELETE FROM message WHERE message_id <= ?1", [written[9].0 as i64])
        .unwrap();
    drop(connection);
    let row = large(id, &mut ids);
    put(&store, &row).await.unwrap();
    assert!(store.message(id, row.message_id).await.unwrap().is_some());
}

#[tokio::test]
async fn what_has_no_room_leaves_nothing_behind_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let size_bytes_max = Some(1 << 20);
    let store = Arc::new(
        EmbeddedStore::open(&path, Options { size_bytes_max, ..Options::default() }).unwrap(),
    );
    let id = group();
    let mut ids = Ids::of(id);
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let row = match number % 2 {
                0 => MessageRow {
                    body: Body::text(&"x".repeat(2_000_000)),
                    ..message(id, ids.next_id(), 1, "")
                },
                _ => message(id, ids.next_id(), 1, "small"),
            };
            let store = Arc::clone(&store);
            tokio::spawn(async move { (number, put(&*store, &row).await, row.message_id) })
        })
        .collect();
    for task in tasks {
        let (number, outcome, message_id) = task.await.unwrap();
        // A full disk may end the whole transaction, and with it small requests beside the large one.
        assert!(outcome.is_err() || number % 2 == 1, "request {number} has no room");
        let found = store.message(id, message_id).await.unwrap();
        assert_eq!(found.is_some(), outcome.is_ok(), "request {number}: {outcome:?}");
    }
    put(&*store, &message(id, ids.next_id(), 1, "small")).await.unwrap();
}

#[tokio::test]
async fn refused_content_does_not_fail_those_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = super::open(&folder.path().join("store.db"));
    let id = group();
    let mut ids = Ids::of(id);
    let tasks: Vec<_> = (0..60)
        .map(|number| {
            let good = message(id, ids.next_id(), 1, "good");
            let bad = message(id, MessageId(u64::MAX - number), 1, "bad");
            // The good row of a refused request is not written either.
            let writes = match number % 3 {
                0 => vec![Write::Message(good.clone()), Write::Message(bad)],
                _ => vec![Write::Message(good.clone())],
            };
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                (number, store.apply(Partition(0), writes, None).await, good.message_id)
            })
        })
        .collect();
    for task in tasks {
        let (number, outcome, good) = task.await.unwrap();
        match number % 3 {
            0 => assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}"),
            _ => outcome.unwrap(),
        }
        let found = store.message(id, good).await.unwrap();
        assert_eq!(found.is_some(), number % 3 != 0, "request {number}");
    }
}

#[tokio::test]
async fn a_store_in_memory_has_the_same_limit() {
    let options = Options { size_bytes_max: Some(1 << 20), ..Options::default() };
    let store = EmbeddedStore::memory_with(&options).unwrap();
    let id = group();
    let mut ids = Ids::of(id);
    let written = fill(&store, id, &mut ids).await;
    assert_eq!(store.messages(id, written.clone()).await.unwrap().len(), written.len());
}

/// Needs `CHAT_TEST_SMALL_FOLDER`: a folder on a file system of a few megabytes that is otherwise empty.
#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged_and_is_recovered_from() {
    let Ok(folder) = std::env::var("CHAT_TEST_SMALL_FOLDER") else {
        eprintln!("skipped: CHAT_TEST_SMALL_FOLDER is not set");
        return;
    };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 500_000]).unwrap();
    let store = super::open(&folder.path().join("store.db"));
    let id = group();
    let mut ids = Ids::of(id);
    let mut written = Vec::new();
    let error = loop {
        let row = large(id, &mut ids);
        match put(&*store, &row).await {
            Ok(()) => written.push(row.message_id),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(store.messages(id, written.clone()).await.unwrap().len(), written.len());
    std::fs::remove_file(ballast).unwrap();
    let row = large(id, &mut ids);
    put(&*store, &row).await.unwrap();
    written.push(row.message_id);
    drop(store);
    let store = super::open(&folder.path().join("store.db"));
    assert_eq!(store.messages(id, written.clone()).await.unwrap().len(), written.len());
}
