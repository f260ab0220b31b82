//! Cases of the keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::eventually;
use crate::broker::{Broker, Revision};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn becomes(broker: &dyn Broker, key: &str, wanted: Option<(Revision, Bytes)>) {
    eventually("the key can be read", async || {
        let entry = broker.get(key).await.expect("get");
        entry.map(|entry| (entry.revision, entry.value)) == wanted
    })
    .await;
}

/// No entry, and no write at a revision.
pub async fn a_key_that_was_not_written_does_not_exist(broker: Arc<dyn Broker>) {
    assert_eq!(broker.get("lease.1").await, Ok(None));
    assert_eq!(broker.put("lease.1", Revision(1), bytes("one")).await, Ok(None));
    assert_eq!(broker.get("lease.1").await, Ok(None));
}

/// Compare and set.
pub async fn a_key_is_written_only_at_the_expected_revision(broker: Arc<dyn Broker>) {
    let first = broker.put("epoch", Revision(0), bytes("one")).await.expect("put");
    let first = first.expect("the key did not exist");
    assert!(first > Revision(0), "0 means that there is none");
    assert_eq!(broker.put("epoch", Revision(0), bytes("again")).await, Ok(None));
    becomes(&*broker, "epoch", Some((first, bytes("one")))).await;
    let second = broker.put("epoch", first, bytes("two")).await.expect("put").expect("written");
    assert!(second > first, "revisions grow");
    for stale in [Revision(0), first, Revision(second.0 + 1)] {
        assert_eq!(broker.put("epoch", stale, bytes("stale")).await, Ok(None), "{stale:?}");
    }
    becomes(&*broker, "epoch", Some((second, bytes("two")))).await;
}

/// Not the same as no key.
pub async fn an_empty_value_is_a_value(broker: Arc<dyn Broker>) {
    let revision = broker.put("released", Revision(0), Bytes::new()).await.expect("put");
    let revision = revision.expect("written");
    becomes(&*broker, "released", Some((revision, Bytes::new()))).await;
    assert_eq!(broker.put("released", Revision(0), bytes("one")).await, Ok(None));
}

/// Of many takers of a lease one gets it.
pub async fn of_concurrent_writes_at_the_same_revision_one_wins(broker: Arc<dyn Broker>) {
    let mut revision = Revision(0);
    for round in 0..20 {
        let takers: Vec<_> = (0..16)
            .map(|taker| {
                let (broker, expected) = (broker.clone(), revision);
                let value = bytes(&format!("{round}/{taker}"));
                tokio::spawn(async move {
                    (value.clone(), broker.put("lease", expected, value).await.expect("put"))
                })
            })
            .collect();
        let mut won = Vec::new();
        for taker in takers {
            if let (value, Some(revision)) = taker.await.expect("no panic") {
                won.push((revision, value));
            }
        }
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        revision = won[0].0;
        becomes(&*broker, "lease", won.pop()).await;
    }
}

/// Read, add one, write, again if refused.
pub async fn no_increment_is_lost(broker: Arc<dyn Broker>) {
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    loop {
                        let entry = broker.get("count").await.expect("get");
                        let (revision, count) = entry.map_or((Revision(0), 0), |entry| {
                            (entry.revision, number(&entry.value))
                        });
                        let next = bytes(&(count + 1).to_string());
                        if broker.put("count", revision, next).await.expect("put").is_some() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    eventually("all increments", async || {
        let entry = broker.get("count").await.expect("get");
        entry.is_some_and(|entry| number(&entry.value) == 100)
    })
    .await;
}

fn number(value: &Bytes) -> u32 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

/// Names are exact.
pub async fn keys_do_not_disturb_each_other(broker: Arc<dyn Broker>) {
    let mut written = Vec::new();
    for key in ["lease.1", "lease.10", "LEASE.1", "lease"] {
        let revision = broker.put(key, Revision(0), bytes(key)).await.expect("put");
        written.push((key, (revision.expect("written"), bytes(key))));
    }
    for (key, entry) in written {
        becomes(&*broker, key, Some(entry)).await;
    }
}

/// At the expected revision only, and it can be written anew.
pub async fn a_removed_key_does_not_exist(broker: Arc<dyn Broker>) {
    assert_eq!(broker.remove("lease", Revision(0)).await, Ok(false), "there is none");
    let first =
        broker.put("lease", Revision(0), bytes("one")).await.expect("put").expect("written");
    for other in [Revision(0), Revision(first.0 + 1)] {
        assert_eq!(broker.remove("lease", other).await, Ok(false), "{other:?}");
    }
    becomes(&*broker, "lease", Some((first, bytes("one")))).await;
    assert_eq!(broker.remove("lease", first).await, Ok(true));
    becomes(&*broker, "lease", None).await;
    assert_eq!(broker.remove("lease", first).await, Ok(false), "it is gone");
    assert_eq!(broker.remove("lease", Revision(0)).await, Ok(false), "it is gone");
    assert_eq!(broker.put("lease", first, bytes("stale")).await, Ok(None));
    let again =
        broker.put("lease", Revision(0), bytes("two")).await.expect("put").expect("written");
    assert!(again > first, "no revision is given twice");
    assert_eq!(broker.remove("lease", first).await, Ok(false), "of an earlier life");
    becomes(&*broker, "lease", Some((again, bytes("two")))).await;
}

/// A write and a removal are fenced against each other.
pub async fn of_a_write_and_a_removal_at_the_same_revision_one_wins(broker: Arc<dyn Broker>) {
    let mut revision = broker.put("lease", Revision(0), bytes("0")).await.expect("put");
    for round in 0..30 {
        let expected = revision.expect("written");
        let (write, removal) = tokio::join!(
            broker.put("lease", expected, bytes("written")),
            broker.remove("lease", expected)
        );
        let (write, removed) = (write.expect("put"), removal.expect("remove"));
        assert_ne!(write.is_some(), removed, "round {round}");
        revision = match write {
            Some(revision) => Some(revision),
            None => broker.put("lease", Revision(0), bytes("anew")).await.expect("put"),
        };
    }
}

/// By the broker's clock, and the same however often it is read.
pub async fn an_entry_tells_when_it_was_written(broker: Arc<dyn Broker>) {
    let between = Duration::from_millis(300);
    for key in ["earlier", "later"] {
        broker.put(key, Revision(0), bytes("now")).await.expect("put").expect("written");
        tokio::time::sleep(between).await;
    }
    let mut times = Vec::new();
    for key in ["earlier", "later", "earlier", "later"] {
        let mut entry = None;
        eventually("the key can be read", async || {
            entry = broker.get(key).await.expect("get");
            entry.is_some()
        })
        .await;
        times.push(entry.expect("read").written_at);
    }
    assert_eq!(times[..2], times[2..], "reading does not change it");
    let apart = times[1].since(times[0]);
    // Clocks of real brokers are adjusted while they run.
    assert!((250..60_000).contains(&apart), "written {between:?} apart, told as {apart} ms");
    assert!(times[0].0 > 1_700_000_000_000, "milliseconds since 1970");
}
