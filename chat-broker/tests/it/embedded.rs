//! The embedded broker passes the suite, in memory and in a file.

use std::sync::Arc;

use chat_broker::conformance::Fixture;
use chat_broker::embedded::{EmbeddedBroker, Options};

async fn memory_fixture() -> Fixture {
    Fixture { broker: Arc::new(EmbeddedBroker::memory()), kept: Box::new(()) }
}

async fn file_fixture() -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = EmbeddedBroker::open(&directory.path().join("log.db"), Options::default())
        .expect("a new log");
    Fixture { broker: Arc::new(broker), kept: Box::new(directory) }
}

mod memory {
    chat_broker::broker_conformance!(super::memory_fixture);
}

mod file {
    chat_broker::broker_conformance!(super::file_fixture);
}
