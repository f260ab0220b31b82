use std::time::Instant;

use chat_store::Store;
use chat_store::cql::{CqlStore, OpenError};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::{Database, own_keyspace};

async fn session(database: &Database) -> Session {
    SessionBuilder::new().known_nodes(&database.addresses).build().await.unwrap()
}

#[tokio::test]
async fn several_nodes_that_open_an_empty_store_at_once_all_come_up() {
    let database = Database::shared();
    let keyspace = own_keyspace();
    let opening: Vec<_> =
        (0..4).map(|_| tokio::spawn(CqlStore::open(database.options(&keyspace)))).collect();
    let mut epochs = Vec::new();
    for open in opening {
        let store = open.await.unwrap().unwrap();
        epochs.push(store.epoch().await.unwrap());
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "they opened one store");
}

#[tokio::test]
async fn a_node_that_died_while_it_made_the_tables_blocks_nobody_for_long() {
    let database = Database::shared();
    let keyspace = own_keyspace();
    let session = session(&database).await;
    let datacenter = &database.datacenter;
    // What it left: the lock, which it does not renew any more, and the first of the tables.
    for statement in [
        format!(
            "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', '{datacenter}': 1}}"
        ),
        format!("CREATE TABLE {keyspace}.schema_lock (one smallint PRIMARY KEY, owner uuid)"),
        format!("CREATE TABLE {keyspace}.meta (one smallint PRIMARY KEY, epoch bigint)"),
        format!(
            "INSERT INTO {keyspace}.schema_lock (one, owner) VALUES (1, uuid()) IF NOT EXISTS USING TTL 4"
        ),
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    let began = Instant::now();
    let options = database.options(&keyspace);
    let options = chat_store::cql::Options { migration_lock_ms: 4_000, ..options };
    let store = CqlStore::open(options).await.unwrap();
    assert!(began.elapsed().as_secs() >= 2, "it waited for the lock of the other");
    store.epoch().await.unwrap();
    let left = format!("SELECT owner FROM {keyspace}.schema_lock");
    let left = session.query_unpaged(left, ()).await.unwrap().into_rows_result().unwrap();
    assert_eq!(left.rows_num(), 0, "it gave the lock back");
}

#[tokio::test]
async fn a_schema_that_is_newer_than_the_program_is_refused() {
    let database = Database::shared();
    let keyspace = own_keyspace();
    let first = CqlStore::open(database.options(&keyspace)).await.unwrap();
    let epoch = first.epoch().await.unwrap();
    let again = CqlStore::open(database.options(&keyspace)).await.unwrap();
    assert_eq!(again.epoch().await.unwrap(), epoch, "opening again changes nothing");
    let newer =
        format!("INSERT INTO {keyspace}.schema_version (one, version, title) VALUES (1, 900, 'x')");
    session(&database).await.query_unpaged(newer, ()).await.unwrap();
    let error = CqlStore::open(database.options(&keyspace)).await.err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 900, .. }), "{error}");
    assert!(error.to_string().contains("start the newer program"), "{error}");
}

#[tokio::test]
async fn options_that_cannot_be_right_are_refused_before_anything_is_asked() {
    let database = Database::shared();
    let good = || database.options("chat_test");
    let bad = [
        chat_store::cql::Options { contact_points: Vec::new(), ..good() },
        chat_store::cql::Options { keyspace: "Chat".into(), ..good() },
        chat_store::cql::Options { keyspace: "chat; DROP KEYSPACE chat".into(), ..good() },
        chat_store::cql::Options { local_datacenter: "dc'1".into(), ..good() },
        chat_store::cql::Options { replication: Default::default(), ..good() },
        chat_store::cql::Options { concurrency_max: 0, ..good() },
    ];
    for options in bad {
        let error = CqlStore::open(options.clone()).await.err();
        assert!(matches!(error, Some(OpenError::Options(_))), "{options:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_restore_begins_every_log_again_but_never_below_what_was_given_out() {
    use chat_protocol::{MessageId, Partition};
    use chat_store::Checkpoint;
    let database = Database::shared();
    let keyspace = own_keyspace();
    let store = CqlStore::open(database.options(&keyspace)).await.unwrap();
    let before = Checkpoint { sequence: 40, reserved_until: MessageId(900 << 22), epoch: 7 };
    store.put_checkpoints(vec![(Partition(3), before)]).await.unwrap();
    let epoch = store.epoch().await.unwrap() ^ 1;
    store.renew_epoch(epoch).await.unwrap();
    drop(store);
    let store = CqlStore::open(database.options(&keyspace)).await.unwrap();
    assert_eq!(store.epoch().await.unwrap(), epoch);
    let reset = Checkpoint { sequence: 0, ..before };
    assert_eq!(store.checkpoint(Partition(3)).await.unwrap(), reset);
    let replayed = Checkpoint { sequence: 5, ..before };
    store.put_checkpoints(vec![(Partition(3), replayed)]).await.unwrap();
    assert_eq!(store.checkpoint(Partition(3)).await.unwrap(), replayed);
}
