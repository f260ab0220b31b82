//! Cases of watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{PATIENCE, eventually};
use crate::broker::{Broker, Change, Revision, Watch};

/// Longer than a change takes to be told.
const A_WHILE: Duration = Duration::from_millis(100);

/// What a watcher knows.
struct Watcher {
    watch: Box<dyn Watch>,
    keys: BTreeMap<String, (Revision, Bytes)>,
    current: bool,
    told: usize,
}

impl Watcher {
    async fn new(broker: &dyn Broker, prefix: &str) -> Watcher {
        let watch = broker.watch(prefix).await.expect("a watch");
        Watcher { watch, keys: BTreeMap::new(), current: false, told: 0 }
    }

    async fn next(&mut self) -> Change {
        let next = tokio::time::timeout(PATIENCE, self.watch.next());
        let change = next.await.expect("a change");
        self.apply(change.clone());
        change
    }

    fn apply(&mut self, change: Change) {
        self.told += 1;
        match change {
            Change::Written { key, entry } => {
                let known = self.keys.insert(key, (entry.revision, entry.value));
                assert!(known.is_none_or(|known| known.0 <= entry.revision), "newest last");
            }
            Change::Removed { key } => {
                assert!(self.keys.remove(&key).is_some(), "{key} was not told of");
            }
            Change::Current => self.current = true,
            // Within the contract: everything comes again.
            Change::Interrupted => self.current = false,
        }
    }

    async fn until_current(&mut self) {
        while !self.current {
            self.next().await;
        }
    }

    fn values(&self) -> Vec<(String, String)> {
        let text = |value: &'_ Bytes| std::str::from_utf8(value).expect("text").to_owned();
        self.keys.iter().map(|(key, (_, value))| (key.clone(), text(value))).collect()
    }

    fn knows(&self, wanted: &[(&str, &str)]) -> bool {
        let values = self.values();
        self.current
            && values.len() == wanted.len()
            && values
                .iter()
                .zip(wanted)
                .all(|(known, wanted)| known.0 == wanted.0 && known.1 == wanted.1)
    }

    /// Until it knows exactly these keys and values.
    async fn until(&mut self, wanted: &[(&str, &str)]) {
        while !self.knows(wanted) {
            self.next().await;
        }
    }

    /// Nothing is told for a while.
    async fn silent(&mut self) {
        let told = tokio::time::timeout(A_WHILE, self.watch.next()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

async fn put(broker: &dyn Broker, key: &str, expected: Revision, value: &str) -> Revision {
    let value = Bytes::copy_from_slice(value.as_bytes());
    broker.put(key, expected, value).await.expect("put").expect("written")
}

/// The keys with the prefix, each once, with what `get` tells; then that it is current, then silence.
pub async fn a_watch_begins_with_what_there_is(broker: Arc<dyn Broker>) {
    let mut revisions = Vec::new();
    for key in ["lease.1", "lease.2", "leaser", "epoch", "lease.3"] {
        revisions.push(put(&*broker, key, Revision(0), "old").await);
    }
    let new = put(&*broker, "lease.2", revisions[1], "new").await;
    assert_eq!(broker.remove("lease.3", revisions[4]).await, Ok(true));
    let mut watcher = Watcher::new(&*broker, "lease.").await;
    watcher.until(&[("lease.1", "old"), ("lease.2", "new")]).await;
    watcher.silent().await;
    assert_eq!(watcher.keys["lease.2"].0, new);
    let entry = broker.get("lease.1").await.expect("get").expect("there");
    let mut again = broker.watch("lease.1").await.expect("a watch");
    let key = "lease.1".to_owned();
    assert_eq!(again.next().await, Change::Written { key, entry }, "its time, too");
    assert_eq!(again.next().await, Change::Current);
    let mut everything = Watcher::new(&*broker, "").await;
    everything.until_current().await;
    assert_eq!(everything.keys.len(), 4);
    let mut nothing = broker.watch("other").await.expect("a watch");
    assert_eq!(nothing.next().await, Change::Current);
}

/// To each watcher, and only of the keys they watch.
pub async fn a_watch_tells_of_changes_as_they_happen(broker: Arc<dyn Broker>) {
    let mut leases = Watcher::new(&*broker, "lease.").await;
    let mut first = Watcher::new(&*broker, "lease.1").await;
    leases.until_current().await;
    first.until_current().await;
    let one = put(&*broker, "lease.1", Revision(0), "a").await;
    first.until(&[("lease.1", "a")]).await;
    leases.until(&[("lease.1", "a")]).await;
    put(&*broker, "lease.2", Revision(0), "b").await;
    put(&*broker, "other", Revision(0), "c").await;
    leases.until(&[("lease.1", "a"), ("lease.2", "b")]).await;
    let one = put(&*broker, "lease.1", one, "d").await;
    first.until(&[("lease.1", "d")]).await;
    assert_eq!(broker.put("lease.1", Revision(0), Bytes::new()).await, Ok(None));
    assert_eq!(broker.remove("lease.1", Revision(0)).await, Ok(false));
    first.silent().await;
    assert_eq!(broker.remove("lease.1", one).await, Ok(true));
    first.until(&[]).await;
    leases.until(&[("lease.2", "b")]).await;
    put(&*broker, "lease.1", Revision(0), "e").await;
    first.until(&[("lease.1", "e")]).await;
    leases.until(&[("lease.1", "e"), ("lease.2", "b")]).await;
    assert_eq!(first.told, 5, "nothing twice");
    assert!(leases.told <= 6, "nothing twice, and perhaps not what was removed at once");
}

/// The latest value is told in the end, and whoever was slow is not told of thousands.
pub async fn a_watch_that_is_not_asked_keeps_the_latest(broker: Arc<dyn Broker>) {
    let mut watcher = Watcher::new(&*broker, "").await;
    let gone = put(&*broker, "gone", Revision(0), "once").await;
    watcher.until(&[("gone", "once")]).await;
    let mut revision = Revision(0);
    for number in 0..500 {
        revision = put(&*broker, "count", revision, &number.to_string()).await;
    }
    assert_eq!(broker.remove("gone", gone).await, Ok(true));
    tokio::time::sleep(A_WHILE).await;
    let before = watcher.told;
    watcher.until(&[("count", "499")]).await;
    let told = watcher.told - before;
    assert!(told < 100, "{told} changes were kept");
}

/// A caller that gives up and asks again misses nothing.
pub async fn a_watch_may_be_asked_in_vain(broker: Arc<dyn Broker>) {
    let mut watcher = Watcher::new(&*broker, "").await;
    let writer = tokio::spawn({
        let broker = broker.clone();
        async move {
            let mut revision = Revision(0);
            for number in 0..200 {
                revision = put(&*broker, "count", revision, &number.to_string()).await;
                put(&*broker, &format!("key.{number:03}"), Revision(0), "there").await;
            }
        }
    });
    let mut round = 0;
    eventually("everything is told", async || {
        round += 1;
        let patience = Duration::from_micros(round % 50 * 20);
        if let Ok(change) = tokio::time::timeout(patience, watcher.watch.next()).await {
            watcher.apply(change);
        }
        watcher.current && watcher.keys.len() == 201 && &watcher.keys["count"].1[..] == b"199"
    })
    .await;
    writer.await.expect("no panic");
}
