//! Whole tables, from one embedded store into another.

use chat_store::conformance::tables;
use chat_store::embedded::EmbeddedStore;

#[tokio::test]
async fn everything_gets_from_memory_into_a_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = crate::open(&folder.path().join("store.db"));
    tables::everything_gets_into_another_store(&EmbeddedStore::memory(), &*file).await;
    let other = crate::open(&folder.path().join("other.db"));
    tables::everything_gets_into_another_store(&*other, &EmbeddedStore::memory()).await;
}

#[tokio::test]
async fn what_contradicts_is_refused_and_what_differs_is_noticed() {
    let store = EmbeddedStore::memory();
    tables::what_contradicts_is_refused_and_what_differs_is_noticed(&store).await;
}
