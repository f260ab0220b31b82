//! The bus between the nodes of one process.
//!
//! A publication is delivered by its publisher, in the call: that keeps the order, and nothing waits in a queue. No lock is
//! held while a receiver or a responder runs, so that they may use the bus themselves.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Poll;
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::Subject;
use crate::broker::{Bus, Error, Receiver, RequestError, Responder};

/// Where the connections of all nodes meet.
pub(super) struct Hub {
    /// Replaced as a whole when a node comes or goes, so that a publisher copies one pointer.
    connections: RwLock<Arc<[Arc<Connection>]>>,
    servers: RwLock<AHashMap<Subject, Server>>,
    requests_max: usize,
}

struct Connection {
    receiver: Arc<dyn Receiver>,
    interest: RwLock<AHashSet<Subject>>,
    /// One permit for each request that is being answered.
    requests: Arc<Semaphore>,
    closed: CancellationToken,
}

#[derive(Clone)]
struct Server {
    connection: Arc<Connection>,
    rank: u64,
    responder: Arc<dyn Responder>,
    /// Another server has taken its place.
    replaced: CancellationToken,
}

struct EmbeddedBus {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
}

// Every change under these locks is one call on a collection, so a panic leaves them whole.
fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn new(requests_max: usize) -> Arc<Hub> {
        Arc::new(Hub {
            connections: RwLock::new(Arc::new([])),
            servers: RwLock::default(),
            requests_max: requests_max.clamp(1, Semaphore::MAX_PERMITS),
        })
    }

    fn server(&self, subject: &Subject) -> Option<Server> {
        read(&self.servers).get(subject).cloned()
    }
}

pub(super) fn connect(hub: &Arc<Hub>, receiver: Arc<dyn Receiver>) -> Arc<dyn Bus> {
    let connection = Arc::new(Connection {
        receiver,
        interest: RwLock::default(),
        requests: Arc::new(Semaphore::new(hub.requests_max)),
        closed: CancellationToken::new(),
    });
    let mut connections = write(&hub.connections);
    *connections = connections.iter().cloned().chain([connection.clone()]).collect();
    drop(connections);
    Arc::new(EmbeddedBus { hub: hub.clone(), connection })
}

impl Connection {
    fn deliver(&self, subjects: &[Subject], payload: &Bytes) {
        let interest = read(&self.interest);
        let Some(first_other) = subjects.iter().position(|subject| !interest.contains(subject))
        else {
            drop(interest);
            // The usual case with one node: nothing is copied.
            if !subjects.is_empty() {
                self.receiver.deliver(subjects, payload.clone());
            }
            return;
        };
        let mut wanted = subjects[..first_other].to_vec();
        let rest = &subjects[first_other + 1..];
        wanted.extend(rest.iter().filter(|subject| interest.contains(subject)));
        drop(interest);
        if !wanted.is_empty() {
            self.receiver.deliver(&wanted, payload.clone());
        }
    }
}

impl Server {
    fn is_of(&self, connection: &Arc<Connection>) -> bool {
        Arc::ptr_eq(&self.connection, connection)
    }

    /// The answer. The responder goes on if the requester gives up.
    async fn ask(self, subject: Subject, payload: Bytes) -> Result<Bytes, RequestError> {
        let Server { connection, responder, .. } = self;
        let closed = &connection.closed;
        let permit = tokio::select! {
            biased;
            () = closed.cancelled() => return Err(RequestError::NoResponder),
            permit = connection.requests.clone().acquire_owned() => permit,
        };
        let permit = permit.map_err(|_| RequestError::NoResponder)?;
        let mut work: Pin<Box<dyn Future<Output = Bytes> + Send>> =
            Box::pin(async move { responder.respond(subject, payload).await });
        // The first poll is here, so that requests reach the responder in the order in which they are made, and an answer
        // that is ready takes no task.
        let started = poll_fn(|context| {
            Poll::Ready(catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))))
        })
        .await;
        match started {
            Ok(Poll::Ready(answer)) if !closed.is_cancelled() => return Ok(answer),
            Ok(Poll::Ready(_)) => return Err(RequestError::Deadline),
            Ok(Poll::Pending) => {}
            Err(_) => return Err(responder_failed()),
        }
        let (answer, answered) = oneshot::channel();
        // Bounded by the permit that it holds.
        tokio::spawn(async move {
            let bytes = work.await;
            drop(permit);
            // The requester may have given up.
            answer.send(bytes).ok();
        });
        tokio::select! {
            biased;
            // What was asked may be carried out; the answer has no way back.
            () = closed.cancelled() => Err(RequestError::Deadline),
            answer = answered => answer.map_err(|_| responder_failed()),
        }
    }
}

fn responder_failed() -> RequestError {
    RequestError::Unavailable("the responder failed".to_owned())
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn subscribe(&self, subject: Subject) -> Result<(), Error> {
        write(&self.connection.interest).insert(subject);
        Ok(())
    }

    async fn unsubscribe(&self, subject: Subject) -> Result<(), Error> {
        write(&self.connection.interest).remove(&subject);
        Ok(())
    }

    fn publish(&self, subjects: &[Subject], payload: Bytes) {
        let connections = read(&self.hub.connections).clone();
        for connection in connections.iter() {
            connection.deliver(subjects, &payload);
        }
    }

    async fn serve(
        &self,
        subject: Subject,
        rank: u64,
        responder: Arc<dyn Responder>,
    ) -> Result<(), Error> {
        let replaced = CancellationToken::new();
        let server = Server { connection: self.connection.clone(), rank, responder, replaced };
        let mut servers = write(&self.hub.servers);
        if servers.get(&subject).is_some_and(|other| other.rank > rank) {
            return Err(Error("a server of a higher rank serves this".to_owned()));
        }
        let earlier = servers.insert(subject, server);
        // Under the lock: whoever holds it and finds its server not replaced knows that it is the one in the map.
        if let Some(earlier) = &earlier {
            earlier.replaced.cancel();
        }
        drop(servers);
        drop(earlier);
        Ok(())
    }

    async fn stop_serving(&self, subject: Subject, patience: Duration) -> Result<(), Error> {
        // A later server of the same subject stays.
        let own = self.hub.server(&subject).filter(|server| server.is_of(&self.connection));
        let Some(own) = own else { return Ok(()) };
        if tokio::time::timeout(patience, own.replaced.cancelled()).await.is_ok() {
            return Ok(());
        }
        let mut servers = write(&self.hub.servers);
        let removed = if own.replaced.is_cancelled() { None } else { servers.remove(&subject) };
        drop(servers);
        // Whatever the responder holds is dropped outside the lock.
        drop(removed);
        Ok(())
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let server = self.hub.server(&subject).ok_or(RequestError::NoResponder)?;
        tokio::time::timeout(deadline, server.ask(subject, payload))
            .await
            .unwrap_or(Err(RequestError::Deadline))
    }
}

impl Drop for EmbeddedBus {
    fn drop(&mut self) {
        let mut connections = write(&self.hub.connections);
        *connections = connections
            .iter()
            .filter(|connection| !Arc::ptr_eq(connection, &self.connection))
            .cloned()
            .collect();
        drop(connections);
        write(&self.connection.interest).clear();
        let removed: Vec<Server> = write(&self.hub.servers)
            .extract_if(|_, server| server.is_of(&self.connection))
            .map(|(_, server)| server)
            .collect();
        self.connection.closed.cancel();
        drop(removed);
    }
}
