//! Faults of the bus.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::NodeId;
use tokio::time::Instant;

use super::{Faults, pause};
use crate::Subject;
use crate::broker::{Broker, Bus, Error, Receiver, RequestError, Responder};

struct FaultyReceiver {
    inner: Arc<dyn Receiver>,
    faults: Faults,
    node: NodeId,
    closed: Arc<AtomicBool>,
}

impl Receiver for FaultyReceiver {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        if !self.closed.load(Ordering::SeqCst) && !self.faults.is_cut_off(self.node) {
            self.inner.deliver(subjects, payload);
        }
    }

    fn interrupted(&self) {
        if !self.closed.load(Ordering::SeqCst) {
            self.inner.interrupted();
        }
    }
}

struct FaultyBus {
    inner: Arc<dyn Bus>,
    faults: Faults,
    node: NodeId,
    held: Arc<Held>,
    /// A request under way may keep the inner connection for a while.
    closed: Arc<AtomicBool>,
}

/// Publications that take a while, in the order in which they go out.
#[derive(Default)]
struct Held {
    state: Mutex<HeldState>,
}

#[derive(Default)]
struct HeldState {
    queue: BTreeMap<(Instant, u64), (Subject, Bytes)>,
    count: u64,
    /// When the last one held for a subject goes out.
    last_due: HashMap<Subject, Instant>,
    releasing: bool,
}

impl Held {
    fn state(&self) -> MutexGuard<'_, HeldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what is due. No lock is held meanwhile: a receiver may publish, too.
    fn release(&self, bus: &dyn Bus) {
        loop {
            let mut state = self.state();
            if state.releasing {
                return;
            }
            let due = state.queue.first_key_value().map(|((due, _), _)| *due);
            if due.is_none_or(|due| due > Instant::now()) {
                return;
            }
            let Some(((due, _), (subject, payload))) = state.queue.pop_first() else { return };
            state.releasing = true;
            drop(state);
            bus.publish(&[subject], payload);
            let mut state = self.state();
            state.releasing = false;
            // Not before it went out, so that none overtakes it.
            if state.last_due.get(&subject) == Some(&due)
                && !state.queue.iter().any(|((other, _), (of, _))| *other == due && *of == subject)
            {
                state.last_due.remove(&subject);
            }
        }
    }
}

pub(super) async fn connect(
    broker: &Arc<dyn Broker>,
    faults: &Faults,
    node: NodeId,
    receiver: Arc<dyn Receiver>,
) -> Result<Arc<dyn Bus>, Error> {
    let closed = Arc::new(AtomicBool::new(false));
    let receiver = Arc::new(FaultyReceiver {
        inner: receiver,
        faults: faults.clone(),
        node,
        closed: closed.clone(),
    });
    let weak: Weak<dyn Receiver> = Arc::downgrade(&(receiver.clone() as Arc<dyn Receiver>));
    faults.note_receiver(node, weak);
    let inner = broker.connect(receiver).await?;
    Ok(Arc::new(FaultyBus { inner, faults: faults.clone(), node, held: Arc::default(), closed }))
}

impl FaultyBus {
    fn check_connected(&self) -> Result<(), Error> {
        match self.faults.is_cut_off(self.node) {
            true => Err(Error("injected: cut off".to_owned())),
            false => Ok(()),
        }
    }

    /// Holds a publication until its delay has passed, and all earlier ones to the subject are out.
    fn hold(&self, subject: Subject, payload: Bytes, delay: Option<Duration>) {
        let mut state = self.held.state();
        let earliest = Instant::now() + delay.unwrap_or_default();
        let due = state.last_due.get(&subject).map_or(earliest, |last| earliest.max(*last));
        state.last_due.insert(subject, due);
        state.count += 1;
        let number = state.count;
        state.queue.insert((due, number), (subject, payload));
        drop(state);
        let (held, bus) = (self.held.clone(), Arc::downgrade(&self.inner));
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            // A connection that was dropped publishes no more.
            if let Some(bus) = bus.upgrade() {
                held.release(&*bus);
            }
        });
    }

    fn is_held(&self, subject: &Subject) -> bool {
        self.held.state().last_due.contains_key(subject)
    }

    fn request_again_later(
        &self,
        subject: Subject,
        payload: Bytes,
        wait: Duration,
        left: Duration,
    ) {
        let (bus, faults) = (Arc::downgrade(&self.inner), self.faults.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(bus) = bus.upgrade()
                && !faults.is_server_cut_off(&subject)
            {
                // Only the first answer counts.
                bus.request(subject, payload, left).await.ok();
            }
        });
    }
}

#[async_trait]
impl Bus for FaultyBus {
    async fn subscribe(&self, subject: Subject) -> Result<(), Error> {
        self.check_connected()?;
        self.inner.subscribe(subject).await
    }

    async fn unsubscribe(&self, subject: Subject) -> Result<(), Error> {
        self.check_connected()?;
        self.inner.unsubscribe(subject).await
    }

    fn publish(&self, subjects: &[Subject], payload: Bytes) {
        if self.faults.is_cut_off(self.node) {
            return;
        }
        let mut at_once = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let (lost, delay, copies) = self.faults.draw(|draw| {
                let lost = draw.happens(|rates| rates.publish_lost);
                let delay = draw.delay(|rates| rates.publish_delay);
                (lost, delay, 1 + usize::from(draw.happens(|rates| rates.publish_duplicate)))
            });
            if lost {
                continue;
            }
            for _ in 0..copies {
                if delay.is_some() || self.is_held(subject) {
                    self.hold(*subject, payload.clone(), delay);
                } else {
                    at_once.push(*subject);
                }
            }
        }
        if !at_once.is_empty() {
            self.inner.publish(&at_once, payload);
        }
    }

    async fn serve(
        &self,
        subject: Subject,
        rank: u64,
        responder: Arc<dyn Responder>,
    ) -> Result<(), Error> {
        self.check_connected()?;
        if self.faults.draw(|draw| draw.happens(|rates| rates.serve_error)) {
            return Err(Error("injected: not served".to_owned()));
        }
        self.inner.serve(subject, rank, responder).await?;
        self.faults.note_server(subject, self.node);
        Ok(())
    }

    async fn stop_serving(&self, subject: Subject, patience: Duration) -> Result<(), Error> {
        self.check_connected()?;
        self.inner.stop_serving(subject, patience).await?;
        self.faults.forget_server(&subject, self.node);
        Ok(())
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let (delay, lost, answer_lost, again) = self.faults.draw(|draw| {
            let delay = draw.delay(|rates| rates.request_delay);
            let lost = draw.happens(|rates| rates.request_lost);
            let answer_lost = draw.happens(|rates| rates.answer_lost);
            (delay, lost, answer_lost, draw.delay(|rates| rates.request_duplicate))
        });
        let ends = Instant::now() + deadline;
        let cut_off =
            || self.faults.is_cut_off(self.node) || self.faults.is_server_cut_off(&subject);
        let silence = async || {
            tokio::time::sleep_until(ends).await;
            Err(RequestError::Deadline)
        };
        if lost || cut_off() {
            return silence().await;
        }
        if delay.is_some_and(|delay| Instant::now() + delay >= ends) {
            // It arrives when nobody waits for it any more.
            self.request_again_later(subject, payload, delay.unwrap_or_default(), deadline);
            return silence().await;
        }
        pause(delay).await;
        if cut_off() {
            return silence().await;
        }
        if let Some(wait) = again {
            self.request_again_later(subject, payload.clone(), wait, deadline);
        }
        let left = ends.saturating_duration_since(Instant::now());
        let answer = self.inner.request(subject, payload, left).await;
        if answer_lost || cut_off() {
            return silence().await;
        }
        answer
    }
}

impl Drop for FaultyBus {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
