mod memory {
    use std::sync::Arc;

    use chat_store::conformance::Subject;
    use chat_store::embedded::EmbeddedStore;

    async fn make() -> Subject {
        Subject { store: Arc::new(EmbeddedStore::memory()), keep: Box::new(()) }
    }

    chat_store::conformance_tests!(make);
}

mod file {
    use chat_store::conformance::Subject;

    async fn make() -> Subject {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::open(&folder.path().join("store.db"));
        Subject { store, keep: Box::new(folder) }
    }

    chat_store::conformance_tests!(make);
}

mod faulty_without_faults {
    use std::sync::Arc;

    use chat_store::conformance::{Subject, run};
    use chat_store::embedded::EmbeddedStore;
    use chat_store::faulty::{Faults, FaultyStore};

    #[tokio::test]
    async fn a_faulty_store_without_faults_keeps_every_promise() {
        run(async || {
            let inner = Arc::new(EmbeddedStore::memory());
            let store = Arc::new(FaultyStore::new(inner, Faults::new(1)));
            Subject { store, keep: Box::new(()) }
        })
        .await;
    }
}
