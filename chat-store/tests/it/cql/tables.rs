//! Whole tables, between this backend and the embedded one.

use chat_store::conformance::tables;
use chat_store::cql::CqlStore;
use chat_store::embedded::EmbeddedStore;

use crate::tables::seed;

use super::{Database, own_keyspace};

async fn empty(database: &Database) -> CqlStore {
    CqlStore::open(database.options(&own_keyspace())).await.unwrap()
}

#[tokio::test]
async fn everything_gets_from_an_embedded_store_into_this_one() {
    let database = Database::shared();
    let store = empty(&database).await;
    tables::everything_gets_into_another_store(&EmbeddedStore::memory(), &store, seed()).await;
}

#[tokio::test]
async fn everything_gets_from_this_one_into_an_embedded_store() {
    let database = Database::shared();
    let store = empty(&database).await;
    tables::everything_gets_into_another_store(&store, &EmbeddedStore::memory(), seed()).await;
}

#[tokio::test]
async fn what_contradicts_is_refused_and_what_differs_is_noticed() {
    let database = Database::shared();
    let store = empty(&database).await;
    tables::what_contradicts_is_refused_and_what_differs_is_noticed(&store).await;
}
