use std::sync::Arc;
use std::time::Duration;

use chat_protocol::Partition;
use chat_store::conformance::sample::{Ids, group, message};
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::{FaultRates, Faults, FaultyStore};
use chat_store::{Error, Store, Write};

fn faulty(seed: u64) -> (Arc<EmbeddedStore>, FaultyStore, Faults) {
    let (inner, faults) = (Arc::new(EmbeddedStore::memory()), Faults::new(seed));
    let store = FaultyStore::new(inner.clone(), faults.clone());
    (inner, store, faults)
}

/// What became of 200 writes: whether each was reported and whether each was done.
async fn outcomes(seed: u64, rates: FaultRates) -> (Vec<(bool, bool)>, Duration) {
    let (inner, store, faults) = faulty(seed);
    faults.set_rates(rates);
    let id = group();
    let mut ids = Ids::of(id);
    let start = tokio::time::Instant::now();
    let mut outcomes = Vec::new();
    for _ in 0..200 {
        let row = message(id, ids.next_id(), 1, "m");
        let reported = store.apply(Partition(0), vec![Write::Message(row.clone())], None).await;
        let done = inner.message(id, row.message_id).await.unwrap().is_some();
        assert!(!matches!(reported, Err(Error::Refused(_))));
        outcomes.push((reported.is_ok(), done));
    }
    let failed = outcomes.iter().filter(|(reported, _)| !reported).count();
    assert_eq!((faults.calls(), faults.faults()), (200, failed as u64));
    (outcomes, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let rates = FaultRates { error_before: 0.2, error_after: 0.2, delay: 0.5, delay_ms_max: 100 };
    let first = outcomes(7, rates).await;
    assert_eq!(outcomes(7, rates).await, first);
    assert_ne!(outcomes(8, rates).await, first);
    let count = |wanted| first.0.iter().filter(|outcome| **outcome == wanted).count();
    // Neither reported nor done; done and not reported; both. Never reported and not done.
    assert!(count((false, false)) > 10 && count((false, true)) > 10 && count((true, true)) > 50);
    assert_eq!(count((true, false)), 0);
    assert!(first.1 > Duration::from_secs(1), "{:?}", first.1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_while_the_store_is_away() {
    let (inner, store, faults) = faulty(1);
    let id = group();
    let row = message(id, Ids::of(id).next_id(), 1, "m");
    faults.set_away(true);
    let outcome = store.apply(Partition(0), vec![Write::Message(row.clone())], None).await;
    assert!(matches!(outcome, Err(Error::Away(_))));
    assert!(matches!(store.epoch().await, Err(Error::Away(_))));
    assert!(inner.message(id, row.message_id).await.unwrap().is_none());
    faults.set_away(false);
    store.apply(Partition(0), vec![Write::Message(row.clone())], None).await.unwrap();
    assert!(store.message(id, row.message_id).await.unwrap().is_some());
}

#[tokio::test]
async fn refused_writes_are_refused_every_time() {
    let (inner, store, faults) = faulty(1);
    let id = group();
    let mut ids = Ids::of(id);
    let (good, bad) = (message(id, ids.next_id(), 1, "m"), message(id, ids.next_id(), 2, "m"));
    let poison = bad.message_id;
    faults.set_refusal(Some(Arc::new(
        move |write| matches!(write, Write::Message(row) if row.message_id == poison),
    )));
    let both = vec![Write::Message(good.clone()), Write::Message(bad)];
    for _ in 0..5 {
        let outcome = store.apply(Partition(0), both.clone(), None).await;
        assert!(matches!(outcome, Err(Error::Refused(_))));
    }
    assert!(inner.message(id, good.message_id).await.unwrap().is_none());
    store.apply(Partition(0), vec![Write::Message(good)], None).await.unwrap();
    faults.heal();
    store.apply(Partition(0), both, None).await.unwrap();
}
