//! The broker on real NATS servers.

mod cluster;
mod single;

use std::sync::atomic::{AtomicU32, Ordering};

use chat_broker::nats::{NatsBroker, NatsOptions};
use servers::nats::Nats;

/// A prefix that no other test uses.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn options(nats: &Nats) -> NatsOptions {
    NatsOptions {
        servers: nats.url().split(',').map(str::to_owned).collect(),
        prefix: prefix(),
        replicas: nats.count(),
        stream_bytes_max: 64 << 20,
        keys_bytes_max: 8 << 20,
        ..NatsOptions::default()
    }
}

async fn open(options: &NatsOptions) -> NatsBroker {
    NatsBroker::open(options.clone()).await.expect("the servers can be used")
}
