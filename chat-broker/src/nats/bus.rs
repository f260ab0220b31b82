//! The bus: subjects of core NATS.
//!
//! Publications have a connection of their own for each node, so that fan-out delays nobody who waits for an answer. The
//! server does not send back on it what came from it: a node hands its publications to its own receiver itself. Requests
//! and their answers share the connection of the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::AHashMap;
use async_nats::Message;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{Connection, Echo, RequestFailure, SUBSCRIPTION_MESSAGES_MAX};
use super::options::NatsOptions;
use super::publish::Publisher;
use super::serve::{self, ERROR_HEADER, Server};
use crate::Subject;
use crate::broker::{Bus, Error, Receiver, RequestError, Responder};

/// New subscriptions that wait for the task that receives. Further ones wait before they are made.
const NEW_SUBSCRIPTIONS_MAX: usize = 256;

/// After so many deliveries other tasks have their turn.
const DELIVERIES_MAX: usize = 128;

/// The subjects on the servers.
#[derive(Clone)]
pub(super) struct Addresses {
    prefix: Arc<str>,
}

impl Addresses {
    /// What is published to a subject.
    pub(super) fn publications(&self, subject: &Subject) -> String {
        format!("{}.bus.{subject}", self.prefix)
    }

    /// What is asked of whoever serves a subject.
    pub(super) fn requests(&self, subject: &Subject) -> String {
        format!("{}.ask.{subject}", self.prefix)
    }

    /// What the servers of a subject tell each other.
    pub(super) fn servers(&self, subject: &Subject) -> String {
        format!("{}.serve.{subject}", self.prefix)
    }
}

/// What was lost on this node's connections to the bus.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Publications to one subject each.
    pub(super) publications: AtomicU64,
    /// How often receivers were told that they were interrupted.
    pub(super) interruptions: AtomicU64,
}

/// What waits of one subscription.
type Received = (Subject, Vec<Message>);

pub(super) struct NatsBus {
    /// For publications.
    connection: Connection,
    /// For requests.
    requests: Connection,
    addresses: Addresses,
    publisher: Publisher,
    receiver: Arc<dyn Receiver>,
    /// Each ends a subscription. Changed under `subscribing`.
    subscriptions: RwLock<AHashMap<Subject, AbortHandle>>,
    /// Held while a subscription is made, so that two calls for one subject do not cross.
    subscribing: Mutex<()>,
    new_subscriptions: mpsc::Sender<BoxStream<'static, Received>>,
    /// Each behind a lock of its own: to take over from a node that hangs takes a second, and a node takes over many
    /// subjects at once.
    servers: StdMutex<HashMap<Subject, Arc<Mutex<Option<Server>>>>>,
    /// Shared by all servers of this bus.
    serving: serve::Shared,
    /// Ends all tasks of this bus.
    _tasks: DropGuard,
}

pub(super) async fn connect(
    options: &NatsOptions,
    requests: Connection,
    receiver: Arc<dyn Receiver>,
    losses: Arc<Losses>,
) -> Result<NatsBus, Error> {
    let connection = Connection::open(options, "bus", Echo::No).await;
    let connection = connection.map_err(|error| Error(error.to_string()))?;
    let addresses = Addresses { prefix: options.prefix.as_str().into() };
    let end = CancellationToken::new();
    let (new_subscriptions, added) = mpsc::channel(NEW_SUBSCRIPTIONS_MAX);
    // Without tokio's budget, which would cut what `drain` takes; it yields by itself.
    let task = tokio::task::unconstrained(receive(receiver.clone(), added));
    tokio::spawn(end.clone().run_until_cancelled_owned(task));
    let task = tell_interruptions(connection.clone(), receiver.clone(), losses.clone());
    tokio::spawn(end.clone().run_until_cancelled_owned(task));
    let publisher = Publisher::new(&connection, addresses.clone(), options, losses);
    let serving = serve::Shared::new(&requests, &addresses, options.requests_max, end.clone());
    Ok(NatsBus {
        connection,
        requests,
        addresses,
        publisher,
        receiver,
        subscriptions: RwLock::default(),
        subscribing: Mutex::default(),
        new_subscriptions,
        servers: StdMutex::default(),
        serving,
        _tasks: end.drop_guard(),
    })
}

/// Hands everything to the receiver, in the order of each subject. On a busy machine its turn comes rarely, so it takes
/// more than one subject when it does.
async fn receive(
    receiver: Arc<dyn Receiver>,
    mut added: mpsc::Receiver<BoxStream<'static, Received>>,
) {
    let mut all: SelectAll<BoxStream<'static, Received>> = SelectAll::new();
    let mut delivered = 0;
    loop {
        tokio::select! {
            biased;
            subscription = added.recv() => match subscription {
                Some(subscription) => all.push(subscription),
                None => return,
            },
            Some((subject, messages)) = all.next() => {
                delivered += messages.len();
                for message in messages {
                    receiver.deliver(&[subject], message.payload);
                }
                if delivered >= DELIVERIES_MAX {
                    delivered = 0;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// All that waits of a subscription at once: taken one by one, the messages of a busy subject would fall far behind those
/// that came after them to other subjects.
fn drain(
    subject: Subject,
    mut messages: impl Stream<Item = Message> + Send + Unpin + 'static,
) -> BoxStream<'static, Received> {
    let take = move |context: &mut Context<'_>| {
        let mut waiting = Vec::new();
        loop {
            match messages.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => waiting.push(message),
                Poll::Ready(None) if waiting.is_empty() => return Poll::Ready(None),
                Poll::Pending if waiting.is_empty() => return Poll::Pending,
                _ => return Poll::Ready(Some((subject, waiting))),
            }
            if waiting.len() >= SUBSCRIPTION_MESSAGES_MAX {
                return Poll::Ready(Some((subject, waiting)));
            }
        }
    };
    futures_util::stream::poll_fn(take).boxed()
}

/// Tells the receiver when publications may have been lost.
async fn tell_interruptions(
    connection: Connection,
    receiver: Arc<dyn Receiver>,
    losses: Arc<Losses>,
) {
    let mut state = connection.state();
    let mut before = *state.borrow_and_update();
    while state.changed().await.is_ok() {
        let now = *state.borrow_and_update();
        if (now.reconnects, now.overflows) == (before.reconnects, before.overflows) {
            continue;
        }
        // Once the subscriptions are made again: what is lost until then is told of by this, too.
        if now.reconnects != before.reconnects
            && let Err(error) = connection.settle().await
        {
            tracing::debug!(error, "a new connection of the bus does not answer");
        }
        before = now;
        losses.interruptions.fetch_add(1, Ordering::Relaxed);
        receiver.interrupted();
    }
}

impl NatsBus {
    fn deadline(&self) -> Instant {
        self.connection.deadline()
    }

    fn server_slot(&self, subject: Subject) -> Arc<Mutex<Option<Server>>> {
        // One call on a map, so a panic leaves it whole. A node serves a fixed set of subjects, so it does not grow.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry(subject).or_default().clone()
    }

    // Every change under the lock is one call on the map, so a panic leaves it whole.
    fn add(&self, subject: Subject, subscription: AbortHandle) {
        let subscriptions = self.subscriptions.write();
        subscriptions.unwrap_or_else(PoisonError::into_inner).insert(subject, subscription);
    }

    fn remove(&self, subject: &Subject) -> Option<AbortHandle> {
        self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).remove(subject)
    }

    /// Those of the subjects that this node has subscribed to.
    fn own(&self, subjects: &[Subject]) -> Vec<Subject> {
        let own = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        subjects.iter().copied().filter(|subject| own.contains_key(subject)).collect()
    }
}

fn late() -> Error {
    Error("the bus does not take it in time".to_owned())
}

#[async_trait]
impl Bus for NatsBus {
    async fn subscribe(&self, subject: Subject) -> Result<(), Error> {
        let subscribe = async {
            let _subscribing = self.subscribing.lock().await;
            if !self.own(&[subject]).is_empty() {
                return Ok(());
            }
            let address = self.addresses.publications(&subject);
            let messages = self.connection.client.subscribe(address).await;
            let messages = messages.map_err(|error| Error(error.to_string()))?;
            let (handle, registration) = AbortHandle::new_pair();
            let messages = drain(subject, Abortable::new(messages, registration));
            self.new_subscriptions.send(messages).await.map_err(|_| late())?;
            self.add(subject, handle);
            Ok(())
        };
        timeout_at(self.deadline(), subscribe).await.unwrap_or_else(|_| Err(late()))?;
        // If this fails the subscription stays, and is made with the next connection; subscribing again is right.
        self.connection.settle().await.map_err(Error)
    }

    async fn unsubscribe(&self, subject: Subject) -> Result<(), Error> {
        let _subscribing = self.subscribing.lock().await;
        // The stream ends, and with it the subscription at the server.
        if let Some(subscription) = self.remove(&subject) {
            subscription.abort();
        }
        Ok(())
    }

    fn publish(&self, subjects: &[Subject], payload: Bytes) {
        self.publisher.publish(subjects, payload.clone());
        let own = self.own(subjects);
        if !own.is_empty() {
            self.receiver.deliver(&own, payload);
        }
    }

    async fn serve(
        &self,
        subject: Subject,
        rank: u64,
        responder: Arc<dyn Responder>,
    ) -> Result<(), Error> {
        let slot = self.server_slot(subject);
        let mut server = slot.lock().await;
        if let Some(earlier) = server.take() {
            earlier.stop().await;
        }
        *server = Some(serve::start(&self.serving, subject, rank, responder).await?);
        Ok(())
    }

    async fn stop_serving(&self, subject: Subject, patience: Duration) -> Result<(), Error> {
        let slot = self.server_slot(subject);
        // Without the lock, so that this node can serve the subject again meanwhile: as another server, which takes the
        // place of this one like any.
        let server = slot.lock().await.take();
        if let Some(server) = server {
            server.stop_within(patience).await;
            self.requests.settle().await.map_err(Error)?;
        }
        Ok(())
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let unavailable = |reason: &str| RequestError::Unavailable(reason.to_owned());
        let deadline = Instant::now() + deadline;
        let address = self.addresses.requests(&subject);
        match self.requests.request(address, None, payload, deadline).await {
            Ok(answer) => match answer.headers.as_ref().and_then(|h| h.get(ERROR_HEADER)) {
                Some(error) => Err(unavailable(error.as_str())),
                None => Ok(answer.payload),
            },
            Err(RequestFailure::NoResponder) => Err(RequestError::NoResponder),
            Err(RequestFailure::Deadline) => Err(RequestError::Deadline),
            Err(failure) => Err(unavailable(&failure.to_string())),
        }
    }
}
