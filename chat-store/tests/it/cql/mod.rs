//! The CQL backend over a real database: Apache Cassandra, or the ScyllaDB that `CHAT_TEST_SCYLLA=host:port` names.

mod conformance;
mod equal;
mod expiry;
mod friends;
mod history;
mod inspect;
mod long;
mod migration;
mod outage;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use chat_protocol::Millis;
use chat_store::conformance::sample::NOW;
use chat_store::cql::{CqlStore, Options};
use servers::cassandra::{Cassandra, DATACENTER};

/// The database that tests share; Cassandra ends with the last of them.
struct Database {
    addresses: Vec<String>,
    datacenter: String,
    _server: Option<Arc<Cassandra>>,
}

impl Database {
    /// Starts one if there is none.
    fn shared() -> Database {
        let Ok(address) = std::env::var("CHAT_TEST_SCYLLA") else {
            let server = Cassandra::shared();
            let addresses = server.addresses();
            return Database { addresses, datacenter: DATACENTER.into(), _server: Some(server) };
        };
        let datacenter = std::env::var("CHAT_TEST_SCYLLA_DATACENTER");
        let datacenter = datacenter.unwrap_or_else(|_| "datacenter1".into());
        Database { addresses: vec![address], datacenter, _server: None }
    }

    fn options(&self, keyspace: &str) -> Options {
        Options {
            replication: BTreeMap::from([(self.datacenter.clone(), 1)]),
            ..Options::new(self.addresses.clone(), keyspace, &self.datacenter, NOW)
        }
    }

    /// The keyspace that all tests share which do not need one of their own.
    async fn store(&self) -> Arc<CqlStore> {
        self.store_at(NOW).await
    }

    async fn store_at(&self, now: Millis) -> Arc<CqlStore> {
        let options = Options { now, ..self.options("chat_test") };
        Arc::new(CqlStore::open(options).await.unwrap())
    }
}

/// A keyspace of a test's own.
fn own_keyspace() -> String {
    format!("test_{:016x}", rand::random::<u64>())
}
