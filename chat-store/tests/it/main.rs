//! Tests of the store's backends from outside.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod backup;
mod conformance;
mod cql;
mod expiry;
mod faulty;
mod full;
mod reopen;
mod speed;
mod tables;

use std::path::Path;
use std::sync::Arc;

use chat_store::embedded::{EmbeddedStore, Options};

/// A store with small queues, as a test wants it.
fn open(path: &Path) -> Arc<EmbeddedStore> {
    let options = Options { reader_threads: 2, ..Options::default() };
    Arc::new(EmbeddedStore::open(path, options).unwrap())
}
