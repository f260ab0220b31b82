//! Faults of watches.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Faults, pause};
use crate::broker::{Broker, Change, Watch};

const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct FaultyWatch {
    broker: Arc<dyn Broker>,
    faults: Faults,
    node: NodeId,
    prefix: String,
    /// `None` while it is interrupted.
    inner: Option<Box<dyn Watch>>,
    /// A new inner watch begins then.
    resume_at: Instant,
    /// Keys that exist, as far as was told.
    told: BTreeSet<String>,
    /// Keys that the new inner watch told of, until it is current.
    told_again: Option<BTreeSet<String>>,
    /// Taken from the inner watch, and told then.
    held: Option<(Instant, Change)>,
    /// Told at once.
    waiting: VecDeque<Change>,
    cut_off_changed: watch::Receiver<()>,
}

impl FaultyWatch {
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        faults: &Faults,
        node: NodeId,
        prefix: &str,
        inner: Box<dyn Watch>,
    ) -> FaultyWatch {
        FaultyWatch {
            broker,
            faults: faults.clone(),
            node,
            prefix: prefix.to_owned(),
            inner: Some(inner),
            resume_at: Instant::now(),
            told: BTreeSet::new(),
            told_again: None,
            held: None,
            waiting: VecDeque::new(),
            cut_off_changed: faults.watch_cut_off(),
        }
    }

    fn interrupt(&mut self, pause: Option<Duration>) -> Change {
        self.inner = None;
        self.held = None;
        // What is gone is not told by the next inner watch.
        self.waiting.retain(|change| matches!(change, Change::Removed { .. }));
        self.resume_at = Instant::now() + pause.unwrap_or_default();
        Change::Interrupted
    }

    /// Holds a change of the inner watch, or draws an interruption instead.
    fn hold(&mut self, change: Change) -> Option<Change> {
        let (delay, interrupted) = self.faults.draw(|draw| {
            let delay = draw.delay(|rates| rates.watch_delay);
            (delay, draw.delay(|rates| rates.watch_interrupted))
        });
        if interrupted.is_some() && change != Change::Interrupted {
            return Some(self.interrupt(interrupted));
        }
        self.held = Some((Instant::now() + delay.unwrap_or_default(), change));
        None
    }

    /// Notes what a change tells, and queues it.
    fn queue(&mut self, change: Change) {
        match &change {
            Change::Written { key, .. } => {
                self.told.insert(key.clone());
                if let Some(again) = &mut self.told_again {
                    again.insert(key.clone());
                }
            }
            Change::Removed { key } => {
                self.told.remove(key);
                if let Some(again) = &mut self.told_again {
                    again.remove(key);
                }
            }
            Change::Current => {
                if let Some(again) = self.told_again.take() {
                    let before = std::mem::replace(&mut self.told, again);
                    let gone = before.into_iter().filter(|key| !self.told.contains(key));
                    self.waiting.extend(gone.map(|key| Change::Removed { key }));
                }
            }
            Change::Interrupted => {}
        }
        self.waiting.push_back(change);
    }

    async fn resume(&mut self) {
        tokio::time::sleep_until(self.resume_at).await;
        match self.broker.watch(&self.prefix).await {
            Ok(inner) => {
                self.inner = Some(inner);
                self.told_again = Some(BTreeSet::new());
            }
            Err(_) => pause(Some(RETRY_PAUSE)).await,
        }
    }
}

#[async_trait]
impl Watch for FaultyWatch {
    async fn next(&mut self) -> Change {
        loop {
            self.cut_off_changed.mark_unchanged();
            if self.faults.is_cut_off(self.node) {
                if self.inner.is_some() {
                    return self.interrupt(None);
                }
                // The sender lives in `faults`.
                self.cut_off_changed.changed().await.ok();
                continue;
            }
            if let Some(change) = self.waiting.pop_front() {
                return change;
            }
            if let Some((due, _)) = &self.held {
                tokio::select! {
                    biased;
                    _ = self.cut_off_changed.changed() => continue,
                    () = tokio::time::sleep_until(*due) => {}
                }
                if let Some((_, change)) = self.held.take() {
                    self.queue(change);
                }
                continue;
            }
            let Some(inner) = &mut self.inner else {
                self.resume().await;
                continue;
            };
            let change = tokio::select! {
                biased;
                _ = self.cut_off_changed.changed() => continue,
                change = inner.next() => change,
            };
            if let Some(interrupted) = self.hold(change) {
                return interrupted;
            }
        }
    }
}
