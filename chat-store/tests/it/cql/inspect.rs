//! What an inspection finds, and that it leaves no trace.

use std::collections::BTreeMap;

use chat_store::Store;
use chat_store::cql::{CqlStore, OpenError, Options};
use scylla::client::session_builder::SessionBuilder;

use super::{Database, own_keyspace};

#[tokio::test]
async fn an_inspection_makes_nothing_and_then_finds_what_a_node_has_made() {
    let database = Database::shared();
    let options = database.options(&own_keyspace());
    for _ in 0..2 {
        let found = CqlStore::inspect(&options).await.unwrap();
        assert_eq!(found.keyspace, None);
        assert_eq!(found.datacenters.get(&database.datacenter), Some(&1), "{found:?}");
        assert!(found.release.contains(' '), "{found:?}");
    }
    let store = CqlStore::open(options.clone()).await.unwrap();
    let epoch = store.epoch().await.unwrap();
    let found = CqlStore::inspect(&options).await.unwrap().keyspace.unwrap();
    assert_eq!(found.replication, BTreeMap::from([(database.datacenter.clone(), 1)]));
    assert!(found.is_network_topology);
    assert_eq!((found.schema, found.epoch), (found.schema_known, Some(epoch)));
}

#[tokio::test]
async fn an_inspection_finds_an_empty_keyspace_and_an_older_schema() {
    let database = Database::shared();
    let keyspace = own_keyspace();
    let options = database.options(&keyspace);
    let session = SessionBuilder::new().known_nodes(&database.addresses).build().await.unwrap();
    let make = format!(
        "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    );
    session.query_unpaged(make, ()).await.unwrap();
    let found = CqlStore::inspect(&options).await.unwrap().keyspace.unwrap();
    assert_eq!((found.schema, found.epoch, found.is_network_topology), (0, None, false));
    CqlStore::open(options.clone()).await.unwrap();
    let older = format!("DELETE FROM {keyspace}.schema_version WHERE one = 1 AND version = ");
    let known = CqlStore::inspect(&options).await.unwrap().keyspace.unwrap().schema_known;
    session.query_unpaged(format!("{older}{known}"), ()).await.unwrap();
    let found = CqlStore::inspect(&options).await.unwrap().keyspace.unwrap();
    assert_eq!(found.schema, known - 1);
}

#[tokio::test]
async fn an_inspection_finds_the_data_centres_there_are_when_the_configured_one_is_not() {
    let database = Database::shared();
    let options = database.options(&own_keyspace());
    let elsewhere = Options { local_datacenter: "elsewhere".to_owned(), ..options };
    let found = CqlStore::inspect(&elsewhere).await.unwrap();
    assert!(found.datacenters.contains_key(&database.datacenter), "{found:?}");
}

#[tokio::test]
async fn an_inspection_says_when_nobody_answers() {
    let options = Options {
        connect_timeout_ms: 500,
        ..Options::new(
            vec!["127.0.0.1:1".to_owned()],
            "chat",
            "dc1",
            chat_store::conformance::sample::NOW,
        )
    };
    let error = CqlStore::inspect(&options).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
}
