//! The lease: one holder, an epoch that grows with each hand-over, time measured here and not by others' clocks.

use std::time::{Duration, Instant};

use crate::support::ApiServer;
use operator::lease::{Held, LeaderLease};

fn lease(server: &ApiServer, holder: &str) -> LeaderLease {
    LeaderLease::new(server.client(), "demo", "chat-operator", holder)
}

#[tokio::test]
async fn a_lease_has_one_holder_and_a_new_epoch_with_each() {
    let server = ApiServer::default();
    let (mut one, mut other) = (lease(&server, "one"), lease(&server, "other"));
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(one.try_once(at(0)).await.unwrap(), Held::Ours(1));
    assert_eq!(other.try_once(at(0)).await.unwrap(), Held::Others);
    assert_eq!(one.try_once(at(10)).await.unwrap(), Held::Ours(1), "a renewal keeps the epoch");
    assert_eq!(other.try_once(at(16)).await.unwrap(), Held::Others, "it was renewed");
    assert_eq!(other.try_once(at(30)).await.unwrap(), Held::Others, "14 s since it was seen");
    assert_eq!(other.try_once(at(31)).await.unwrap(), Held::Ours(2), "nobody renewed it");
    assert_eq!(one.try_once(at(31)).await.unwrap(), Held::Others, "the old holder learns it");
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let server = ApiServer::default();
    let (mut one, mut other) = (lease(&server, "one"), lease(&server, "other"));
    assert_eq!(one.try_once(Instant::now()).await.unwrap(), Held::Ours(1));
    one.release().await;
    assert_eq!(other.try_once(Instant::now()).await.unwrap(), Held::Ours(2));
    one.release().await;
    assert_eq!(other.try_once(Instant::now()).await.unwrap(), Held::Ours(2), "only the holder can");
}
