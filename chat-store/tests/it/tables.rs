//! Whole tables, from one embedded store into another.

use chat_store::conformance::{sample, tables};
use chat_store::embedded::EmbeddedStore;

/// Printed, so that a failure can be repeated.
#[allow(clippy::print_stdout, reason = "the runner shows it where a test fails")]
pub(crate) fn seed() -> u64 {
    let seed = sample::seed();
    println!("CHAT_TEST_SEED={seed}");
    seed
}

#[tokio::test]
async fn everything_gets_from_memory_into_a_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = crate::open(&folder.path().join("store.db"));
    tables::everything_gets_into_another_store(&EmbeddedStore::memory(), &*file, seed()).await;
    let other = crate::open(&folder.path().join("other.db"));
    tables::everything_gets_into_another_store(&*other, &EmbeddedStore::memory(), seed()).await;
}

#[tokio::test]
async fn what_contradicts_is_refused_and_what_differs_is_noticed() {
    let store = EmbeddedStore::memory();
    tables::what_contradicts_is_refused_and_what_differs_is_noticed(&store).await;
}
