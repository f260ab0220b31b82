use std::sync::Arc;

use chat_protocol::Millis;
use chat_store::conformance::Subject;
use chat_store::conformance::sample::NOW;
use chat_store::cql::CqlStore;

use super::{Database, own_keyspace};

async fn make() -> Subject {
    let database = Database::shared();
    let case = std::thread::current().name().unwrap_or_default().to_owned();
    if case.contains("checkpoint") {
        // There are few partitions: a store that other cases write to is not empty.
        let store = CqlStore::open(database.options(&own_keyspace())).await.unwrap();
        return Subject { store: Arc::new(store), keep: Box::new(database) };
    }
    // Rows are kept for some days from now on: the case of expiry has a "now" of its own, in 2025.
    let now = if case.contains("expire") { Millis::from_2025(0) } else { NOW };
    let store = database.store_at(now).await;
    Subject { store, keep: Box::new(database) }
}

chat_store::conformance_tests!(make);
