//! Answering requests, with one server for each subject.
//!
//! Core NATS would hand a request to every subscriber, so servers of a subject make room for each other: a new one begins
//! to answer, asks the one before to stop, and counts as begun when that has stopped, or does not answer. What is on its way
//! to a server that stops is lost with its subscription; the new one has it, because its own began before. Two that begin at
//! the same moment hear of each other; the one whose claim is lower stops. Servers of two sides of a split network find each
//! other in the same way when it is whole again. Until then, and for a moment in the other cases, a request may reach both;
//! what they promise each other is the log's business.

use std::cmp::Ordering;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::bus::Addresses;
use super::connection::{Connection, RequestFailure};
use super::outgoing::Item;
use crate::Subject;
use crate::broker::{Error, Responder};

/// On an answer that is none: why.
pub(super) const ERROR_HEADER: &str = "Chat-Error";
/// A server before this one that does not answer by then is taken for dead.
const HANDOVER_MAX: Duration = Duration::from_secs(1);
/// Requests that have arrived at a server that ends are taken by then.
const LAST_MAX: Duration = Duration::from_secs(1);

/// More servers of one subject than this are not asked to stop one by one.
const HANDOVERS_MAX: usize = 4;

/// Higher claims win: by rank, and between equal ranks by time. Clocks of nodes agree to within seconds; a random part decides
/// between equal times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    rank: u64,
    micros: u64,
    random: u64,
}

/// First byte of a claim. Servers of versions without ranks, whose claims begin with the time, take all of these for later.
const CLAIM: u8 = 0xff;

impl Claim {
    fn new(rank: u64) -> Claim {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        Claim { rank, micros, random: rand::random() }
    }

    fn to_payload(self) -> Bytes {
        let mut payload = BytesMut::with_capacity(25);
        payload.put_u8(CLAIM);
        [self.rank, self.micros, self.random].into_iter().for_each(|part| payload.put_u64(part));
        payload.freeze()
    }

    /// None: what a version without ranks says.
    fn from_payload(mut payload: &[u8]) -> Option<Claim> {
        // A newer version may say more behind it.
        if payload.len() < 25 || payload.get_u8() != CLAIM {
            return None;
        }
        Some(Claim {
            rank: payload.get_u64(),
            micros: payload.get_u64(),
            random: payload.get_u64(),
        })
    }
}

/// What a server does about another one of its subject that asks for its place, or tells its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    GivesWay,
    /// The other is to stay away.
    Refuses,
    /// The other may not have heard this one's claim.
    TellsAgain,
}

fn judge(own: Claim, payload: &[u8], asks: bool) -> Verdict {
    match (asks, Claim::from_payload(payload)) {
        (true, Some(other)) if other.rank < own.rank => Verdict::Refuses,
        (true, _) => Verdict::GivesWay,
        (false, Some(other)) => match other.cmp(&own) {
            Ordering::Greater => Verdict::GivesWay,
            Ordering::Less => Verdict::TellsAgain,
            // Its own word.
            Ordering::Equal => Verdict::Stays,
        },
        (false, None) => Verdict::Stays,
    }
}

/// What all servers of one bus share.
#[derive(Clone)]
pub(super) struct Shared {
    connection: Connection,
    addresses: Addresses,
    /// One permit for each request that is being answered.
    requests: Arc<Semaphore>,
    closed: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        connection: &Connection,
        addresses: &Addresses,
        requests_max: usize,
        closed: CancellationToken,
    ) -> Shared {
        Shared {
            connection: connection.clone(),
            addresses: addresses.clone(),
            requests: Arc::new(Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS))),
            closed,
        }
    }
}

/// Serves a subject until it is stopped, or another server takes its place.
pub(super) struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Returns when it takes no more requests. Those taken are still answered.
    pub(super) async fn stop(self) {
        self.stop_within(Duration::ZERO).await;
    }

    /// The same, but only when `patience` has passed and no other server has taken its place.
    pub(super) async fn stop_within(mut self, patience: Duration) {
        let ended = match timeout(patience, &mut self.task).await {
            Ok(ended) => ended,
            Err(_) => {
                self.stop.cancel();
                self.task.await
            }
        };
        if let Err(error) = ended {
            tracing::error!(%error, "a server of the bus failed");
        }
    }
}

pub(super) async fn start(
    shared: &Shared,
    subject: Subject,
    rank: u64,
    responder: Arc<dyn Responder>,
) -> Result<Server, Error> {
    let stop = shared.closed.child_token();
    let mut requests = subscribe(shared, shared.addresses.requests(&subject)).await?;
    let answers = Answers { shared: shared.clone(), subject, responder };
    let others = {
        let taking_over = take_over(shared, subject, Claim::new(rank));
        tokio::pin!(taking_over);
        loop {
            tokio::select! {
                biased;
                others = &mut taking_over => break others?,
                Some(message) = requests.next() => answers.begin(message, &stop).await,
            }
        }
    };
    // A new one, from after it was heard by others: of two that did not hear each other's word, the one that tells last wins.
    let claim = Claim::new(rank);
    let task = Task { answers, claim, requests, others, stop: stop.clone() };
    task.tell_claim().await;
    Ok(Server { stop, task: tokio::spawn(task.run()) })
}

async fn subscribe(shared: &Shared, address: String) -> Result<Subscriber, Error> {
    let connection = &shared.connection;
    let subscribing = connection.client.subscribe(address);
    let subscribed = timeout_at(connection.deadline(), subscribing).await;
    let subscribed = subscribed.map_err(|_| Error("not subscribed in time".to_owned()))?;
    subscribed.map_err(|error| Error(error.to_string()))
}

/// Ends the servers before, and returns what later ones will tell. The word to the servers before goes the same way as the
/// new one's subscription, behind it: whoever gets it has been joined already.
async fn take_over(shared: &Shared, subject: Subject, claim: Claim) -> Result<Subscriber, Error> {
    stop_others(shared, &subject, claim).await?;
    let others = subscribe(shared, shared.addresses.servers(&subject)).await?;
    shared.connection.settle().await.map_err(Error)?;
    Ok(others)
}

/// Asks whoever serves the subject to stop, until nobody is left.
async fn stop_others(shared: &Shared, subject: &Subject, claim: Claim) -> Result<(), Error> {
    for _ in 0..HANDOVERS_MAX {
        let address = shared.addresses.servers(subject);
        let deadline = Instant::now() + HANDOVER_MAX;
        match shared.connection.request(address, None, claim.to_payload(), deadline).await {
            Ok(answer) if answer.payload.is_empty() => {}
            Ok(_) => return Err(Error("a server of a higher rank serves this".to_owned())),
            Err(RequestFailure::NoResponder) => return Ok(()),
            Err(RequestFailure::Deadline) => {
                tracing::info!(%subject, "the server before does not answer; it is replaced");
                return Ok(());
            }
            Err(failure) => return Err(Error(failure.to_string())),
        }
    }
    Ok(())
}

struct Task {
    answers: Answers,
    claim: Claim,
    requests: Subscriber,
    others: Subscriber,
    stop: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut state = self.answers.shared.connection.state();
        let mut reconnects = state.borrow_and_update().reconnects;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.answer_last().await,
                message = self.others.next() => {
                    let Some(message) = message else { return };
                    match judge(self.claim, &message.payload, message.reply.is_some()) {
                        Verdict::Stays => {}
                        Verdict::GivesWay => return self.make_room(message).await,
                        Verdict::Refuses => self.refuse(message).await,
                        Verdict::TellsAgain => self.tell_claim().await,
                    }
                }
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // While it was away another server may have begun, on the other side.
                    let now = state.borrow_and_update().reconnects;
                    if now != reconnects {
                        reconnects = now;
                        self.tell_claim().await;
                    }
                }
                message = self.requests.next() => {
                    let Some(message) = message else { return };
                    self.answers.begin(message, &self.stop).await;
                }
            }
        }
    }

    async fn refuse(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let client = &self.answers.shared.connection.client;
        if let Err(error) = client.publish(reply, self.claim.to_payload()).await {
            tracing::debug!(%error, "no answer to a server that would take over");
        }
    }

    async fn make_room(mut self, message: Message) {
        tracing::debug!(subject = %self.answers.subject, "another server takes the place of this one");
        self.answer_last().await;
        let Task { answers: Answers { shared, .. }, requests, others, .. } = self;
        // The server must not hand on requests when the other is told.
        drop((requests, others));
        if let Err(error) = shared.connection.settle().await {
            tracing::debug!(error, "no answer to a server that takes over");
            return;
        }
        if let Some(reply) = message.reply
            && let Err(error) = shared.connection.client.publish(reply, Bytes::new()).await
        {
            tracing::debug!(%error, "no answer to a server that takes over");
        }
    }

    /// Begins to answer what has arrived, as far as that needs no waiting: the next server may not have it.
    async fn answer_last(&mut self) {
        if let Err(error) = self.requests.drain().await {
            tracing::debug!(%error, "a server of the bus that ends has no connection");
            return;
        }
        let deadline = Instant::now() + LAST_MAX;
        while let Ok(Some(message)) = timeout_at(deadline, self.requests.next()).await {
            if !self.answers.try_begin(message) {
                return;
            }
        }
    }

    async fn tell_claim(&self) {
        let Answers { shared, subject, .. } = &self.answers;
        let address = shared.addresses.servers(subject);
        let told = shared.connection.client.publish(address, self.claim.to_payload());
        match timeout_at(Instant::now() + HANDOVER_MAX, told).await {
            Ok(Ok(())) => {}
            // It is told again with the next connection.
            Ok(Err(_)) | Err(_) => tracing::debug!("a server's claim was not told"),
        }
    }
}

/// Answers requests to one subject.
struct Answers {
    shared: Shared,
    subject: Subject,
    responder: Arc<dyn Responder>,
}

impl Answers {
    /// Begins to answer a request, unless `stop` is called first.
    async fn begin(&self, message: Message, stop: &CancellationToken) {
        let permit = tokio::select! {
            biased;
            permit = self.shared.requests.clone().acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        if let Ok(permit) = permit {
            self.answer(message, permit);
        }
    }

    /// Begins to answer a request. `false`: too many are being answered.
    fn try_begin(&self, message: Message) -> bool {
        let permit = self.shared.requests.clone().try_acquire_owned();
        let Ok(permit) = permit else { return false };
        self.answer(message, permit);
        true
    }

    fn answer(&self, message: Message, permit: OwnedSemaphorePermit) {
        let Some(reply) = message.reply else { return };
        let (responder, subject) = (self.responder.clone(), self.subject);
        let connection = self.shared.connection.clone();
        let closed = self.shared.closed.clone();
        let work = async move { responder.respond(subject, message.payload).await };
        let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        // Requests are begun in the order of their arrival; tasks are not.
        let begun = work.as_mut().now_or_never();
        // Bounded by the permit that it holds. It ends with the connection only where the answer has no way back.
        tokio::spawn(async move {
            let answer = match begun {
                Some(answer) => answer,
                None => work.await,
            };
            drop(permit);
            if closed.is_cancelled() {
                return;
            }
            let mut headers = HeaderMap::new();
            let payload = match answer {
                Ok(bytes) if bytes.len() <= connection.client.max_payload() => bytes,
                other => {
                    let reason = match other {
                        Ok(_) => "the answer is larger than a message may be",
                        Err(_) => "the responder failed",
                    };
                    headers.insert(ERROR_HEADER, reason);
                    Bytes::new()
                }
            };
            let subjects = vec![reply.into_string()];
            let item = Item::Message { subjects, headers, payload, room: None };
            if let Err(error) = connection.outgoing.send(item).await {
                tracing::debug!(error, "an answer was not sent");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Claim = Claim { rank: 5, micros: 1_000, random: 3 };

    #[test]
    fn a_server_gives_way_to_later_ones_of_no_lower_rank() {
        let told = |rank, micros| {
            let claim = Claim { rank, micros, random: 4 };
            assert_eq!(Claim::from_payload(&claim.to_payload()), Some(claim));
            [true, false].map(|asks| judge(OWN, &claim.to_payload(), asks))
        };
        assert_eq!(told(6, 1), [Verdict::GivesWay; 2], "whatever the clocks say");
        assert_eq!(told(5, 1_000), [Verdict::GivesWay; 2]);
        assert_eq!(told(5, 999), [Verdict::GivesWay, Verdict::TellsAgain], "it has just begun");
        assert_eq!(told(4, 1 << 60), [Verdict::Refuses, Verdict::TellsAgain]);
        assert_eq!(judge(OWN, &OWN.to_payload(), false), Verdict::Stays, "its own word");
    }

    #[test]
    fn versions_without_ranks_ask_with_nothing_and_take_a_claim_for_a_later_one() {
        let earlier = [0, 6, 0x40, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9];
        assert_eq!(judge(OWN, &[], true), Verdict::GivesWay);
        assert_eq!(judge(OWN, &earlier, false), Verdict::Stays);
        assert!(OWN.to_payload()[..] > earlier[..]);
    }
}
