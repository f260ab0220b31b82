//! One server.

use std::sync::Arc;

use chat_broker::conformance::Fixture;
use servers::nats::Nats;

use super::{open, options};

async fn fixture() -> Fixture {
    let nats = Nats::shared();
    let broker = open(&options(&nats)).await;
    Fixture { broker: Arc::new(broker), kept: Box::new(nats) }
}

mod conformance {
    chat_broker::broker_conformance!(super::fixture);
}
