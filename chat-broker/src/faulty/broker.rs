//! Faults of the log and the keys.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::{NodeId, Partition};

use super::watch::FaultyWatch;
use super::{Faults, bus, pause};
use crate::broker::{
    AppendError, Broker, Bus, Entry, Error, Receiver, Revision, Sequence, StoredRecord, Watch,
};

/// One node's way to the broker, with faults.
#[derive(Clone)]
pub struct FaultyBroker {
    inner: Arc<dyn Broker>,
    faults: Faults,
    node: NodeId,
}

enum AppendFault {
    None,
    Lost,
    AnswerLost,
    Late(Duration),
    Full,
}

impl FaultyBroker {
    /// The way of `node` to `inner`.
    pub fn new(inner: Arc<dyn Broker>, faults: Faults, node: NodeId) -> FaultyBroker {
        FaultyBroker { inner, faults, node }
    }

    fn check_connected(&self) -> Result<(), Error> {
        match self.faults.is_cut_off(self.node) {
            true => Err(Error("injected: cut off".to_owned())),
            false => Ok(()),
        }
    }

    /// Waits and fails as drawn. Returns how many of the newest records a read misses.
    async fn before_read(&self) -> Result<usize, Error> {
        let (delay, fails, missed) = self.faults.draw(|draw| {
            let delay = draw.delay(|rates| rates.read_delay);
            (delay, draw.happens(|rates| rates.read_error), draw.missed_records())
        });
        self.check_connected()?;
        pause(delay).await;
        self.check_connected()?;
        match fails {
            true => Err(Error("injected: read failed".to_owned())),
            false => Ok(missed),
        }
    }

    /// Makes a write or removal of a key, with the faults drawn.
    async fn write_key<T>(
        &self,
        write: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let (delay, lost, answer_lost) = self.faults.draw(|draw| {
            let delay = draw.delay(|rates| rates.put_delay);
            let lost = draw.happens(|rates| rates.put_lost);
            (delay, lost, draw.happens(|rates| rates.put_answer_lost))
        });
        self.check_connected()?;
        pause(delay).await;
        if lost {
            return Err(Error("injected: write lost on its way".to_owned()));
        }
        let result = write.await;
        self.check_connected()?;
        match answer_lost {
            true => Err(Error("injected: answer of a write lost".to_owned())),
            false => result,
        }
    }

    /// The newest record that a read sees if it misses the `missed` newest ones. Reads the whole partition: fine for the
    /// logs of tests.
    async fn newest_seen(
        &self,
        partition: Partition,
        missed: usize,
    ) -> Result<Option<StoredRecord>, Error> {
        let mut newest = VecDeque::new();
        let mut after = Sequence(0);
        loop {
            let page = self.inner.read_log(partition, after, 1 << 20).await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for record in page {
                newest.push_back(record);
                if newest.len() > missed + 1 {
                    newest.pop_front();
                }
            }
        }
        // With fewer records than it misses, it sees none.
        Ok(if newest.len() > missed { newest.pop_front() } else { None })
    }
}

fn unknown(what: &str) -> AppendError {
    AppendError::Unknown(format!("injected: {what}"))
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let (before, after, fault) = self.faults.draw(|draw| {
            let before = draw.delay(|rates| rates.append_delay_before);
            let after = draw.delay(|rates| rates.append_delay_after);
            let fault = if draw.happens(|rates| rates.append_lost) {
                AppendFault::Lost
            } else if draw.happens(|rates| rates.append_answer_lost) {
                AppendFault::AnswerLost
            } else if draw.happens(|rates| rates.append_late) {
                AppendFault::Late(draw.some_delay())
            } else if draw.happens(|rates| rates.append_full) {
                AppendFault::Full
            } else {
                AppendFault::None
            };
            (before, after, fault)
        });
        if self.faults.is_cut_off(self.node) {
            return Err(unknown("cut off"));
        }
        pause(before).await;
        let result = match fault {
            AppendFault::Lost => Err(unknown("lost on its way")),
            AppendFault::Full => Err(AppendError::Full),
            AppendFault::Late(delay) => {
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    // Nobody waits for the answer any more.
                    inner.append(partition, expected, payload).await.ok();
                });
                Err(unknown("may land later"))
            }
            AppendFault::AnswerLost => {
                self.inner.append(partition, expected, payload).await.ok();
                Err(unknown("answer lost"))
            }
            AppendFault::None => self.inner.append(partition, expected, payload).await,
        };
        pause(after).await;
        if self.faults.is_cut_off(self.node) {
            return Err(unknown("cut off before the answer"));
        }
        result
    }

    async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        let missed = self.before_read().await?;
        match missed {
            0 => self.inner.last(partition).await,
            missed => self.newest_seen(partition, missed).await,
        }
    }

    async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let missed = self.before_read().await?;
        if missed == 0 {
            return self.inner.read_log(partition, after, bytes_max).await;
        }
        let newest_seen = self.newest_seen(partition, missed).await?;
        let seen = newest_seen.map_or(Sequence(0), |record| record.sequence);
        let mut page = self.inner.read_log(partition, after, bytes_max).await?;
        page.retain(|record| record.sequence <= seen);
        Ok(page)
    }

    async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        let fails = self.faults.draw(|draw| draw.happens(|rates| rates.purge_error));
        self.check_connected()?;
        if fails {
            return Err(Error("injected: purge failed".to_owned()));
        }
        self.inner.purge(partition, up_to, min_age).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.before_read().await?;
        self.inner.get(key).await
    }

    async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        self.write_key(self.inner.put(key, expected, value)).await
    }

    async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        self.write_key(self.inner.remove(key, expected)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, Error> {
        self.check_connected()?;
        let inner = self.inner.watch(prefix).await?;
        let broker = self.inner.clone();
        Ok(Box::new(FaultyWatch::new(broker, &self.faults, self.node, prefix, inner)))
    }

    async fn connect(&self, receiver: Arc<dyn Receiver>) -> Result<Arc<dyn Bus>, Error> {
        self.check_connected()?;
        bus::connect(&self.inner, &self.faults, self.node, receiver).await
    }
}
