//! Concurrent identical reads share one query. Nothing is kept once it has been answered.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

type Query<V> = Shared<BoxFuture<'static, V>>;

/// Queries on their way, by what they ask.
///
/// A read must see every write that was acknowledged before it began. So it joins only a query that has not begun yet;
/// if one runs, the next begins when that has ended, and all who came meanwhile share it. However many read one page,
/// there is one query at a time.
pub(super) struct Coalesce<K: Eq + Hash, V> {
    latest: Arc<Mutex<HashMap<K, Latest<V>>>>,
}

/// The query of a key that began last, or will.
struct Latest<V> {
    query: WeakShared<BoxFuture<'static, V>>,
    begun: Arc<AtomicBool>,
}

impl<K: Eq + Hash, V> Default for Coalesce<K, V> {
    fn default() -> Coalesce<K, V> {
        Coalesce { latest: Arc::default() }
    }
}

impl<K, V> Coalesce<K, V>
where
    K: Clone + Eq + Hash + Send,
    V: Clone + Send + Sync + 'static,
{
    /// The answer to `key`, from a query that begins after this call: one that waits already, or `ask`.
    pub(super) async fn get<F>(&self, key: K, ask: impl FnOnce() -> F + Send + 'static) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        let query = self.join(key.clone(), ask);
        let mut waiter =
            Waiter { query: Some(query.clone()), key, latest: Arc::clone(&self.latest) };
        let answer = query.await;
        waiter.leave();
        answer
    }

    fn join<F>(&self, key: K, ask: impl FnOnce() -> F + Send + 'static) -> Query<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let present = latest.get(&key).and_then(|it| Some((it.query.upgrade()?, &it.begun)));
        let before = match present {
            Some((query, begun)) if !begun.load(Ordering::SeqCst) => return query,
            Some((query, _)) => Some(query),
            None => None,
        };
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let query = async move {
            if let Some(before) = before {
                before.await;
            }
            begins.store(true, Ordering::SeqCst);
            ask().await
        };
        let query = query.boxed().shared();
        // One that nobody waits for any more is dropped, and gives its place among the requests back.
        if let Some(weak) = query.downgrade() {
            latest.insert(key, Latest { query: weak, begun });
        }
        query
    }

    /// Queries that are known.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Someone who waits, also if they stop waiting before the answer.
struct Waiter<K: Eq + Hash, V> {
    query: Option<Query<V>>,
    key: K,
    latest: Arc<Mutex<HashMap<K, Latest<V>>>>,
}

impl<K: Eq + Hash, V> Waiter<K, V> {
    /// The last one out closes the door.
    fn leave(&mut self) {
        drop(self.query.take());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.get(&self.key).is_some_and(|it| it.query.upgrade().is_none()) {
            latest.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::sync::Semaphore;

    use super::*;

    struct Counted {
        coalesce: Arc<Coalesce<u8, u32>>,
        queries: Arc<AtomicU32>,
        gate: Arc<Semaphore>,
    }

    impl Counted {
        fn new() -> Counted {
            Counted {
                coalesce: Arc::default(),
                queries: Arc::default(),
                gate: Arc::new(Semaphore::new(0)),
            }
        }

        /// A read whose query waits at the gate; answers with the query's number.
        fn read(&self, key: u8) -> tokio::task::JoinHandle<u32> {
            let (coalesce, queries) = (Arc::clone(&self.coalesce), Arc::clone(&self.queries));
            let gate = Arc::clone(&self.gate);
            tokio::spawn(async move {
                let ask = move || async move {
                    let number = queries.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.acquire().await.unwrap().forget();
                    number
                };
                coalesce.get(key, ask).await
            })
        }
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn reads_share_one_query_and_never_one_that_began_before_them() {
        let counted = Counted::new();
        let first = counted.read(1);
        settle().await;
        let later: Vec<_> = (0..50).map(|_| counted.read(1)).collect();
        let other = counted.read(2);
        settle().await;
        assert_eq!(counted.queries.load(Ordering::SeqCst), 2, "one of each key runs");
        counted.gate.add_permits(3);
        assert_eq!(first.await.unwrap(), 1);
        assert_eq!(other.await.unwrap(), 2);
        for read in later {
            assert_eq!(read.await.unwrap(), 3, "it began after the reads");
        }
        assert_eq!(counted.coalesce.len(), 0, "nothing is kept");
    }

    #[tokio::test]
    async fn a_query_goes_on_while_anyone_waits_and_ends_with_the_last() {
        let counted = Counted::new();
        let running = counted.read(1);
        settle().await;
        let (first, second) = (counted.read(1), counted.read(1));
        settle().await;
        first.abort();
        running.abort();
        settle().await;
        counted.gate.add_permits(2);
        assert_eq!(second.await.unwrap(), 2, "the one it shared with the first");
        let alone = counted.read(1);
        settle().await;
        alone.abort();
        settle().await;
        assert_eq!(counted.coalesce.len(), 0, "nobody waits, nothing is kept");
    }
}
