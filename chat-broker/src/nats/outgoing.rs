//! What goes out of a connection: a bounded queue, and the task that empties it at the connection's [`Pace`].

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::{Client, RequestError};
use async_nats::{HeaderMap, Message, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pace::Pace;

/// A connection that is dropped gets this long to send what it was given.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Messages that are taken from the queue at once.
const BATCH_MAX: usize = 1024;

/// Something to send.
pub(super) enum Item {
    /// The same to each subject.
    Message {
        subjects: Vec<String>,
        headers: HeaderMap,
        payload: Bytes,
        /// Given back when it is sent.
        room: Option<OwnedSemaphorePermit>,
    },
    /// It is not sent once nobody waits for its answer any more.
    Request {
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        answer: oneshot::Sender<Result<Message, RequestError>>,
    },
}

impl Item {
    fn messages(&self) -> usize {
        match self {
            Item::Message { subjects, .. } => subjects.len(),
            Item::Request { .. } => 1,
        }
    }
}

/// The way into the queue. When all clones are dropped the task ends, after what it still has to send.
#[derive(Clone)]
pub(super) struct Outgoing {
    queue: mpsc::Sender<Item>,
    _open: Arc<DropGuard>,
}

impl Outgoing {
    /// For this client. At most so many items wait.
    pub(super) fn start(client: Client, items_max: usize) -> Outgoing {
        let (queue, items) = mpsc::channel(items_max.max(1));
        let closed = CancellationToken::new();
        let open = Arc::new(closed.clone().drop_guard());
        let given_up = async move {
            closed.cancelled().await;
            sleep(LAST_FLUSH_MAX * 2).await;
        };
        // Without tokio's budget, which would cut what goes out together.
        let task = tokio::task::unconstrained(run(client, items));
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                // Nobody sends any more, and the servers are away.
                () = given_up => {}
            }
        });
        Outgoing { queue, _open: open }
    }

    /// Waits for a place in the queue. The error: the task has ended.
    pub(super) async fn send(&self, item: Item) -> Result<(), String> {
        self.queue.send(item).await.map_err(|_| "the connection is closed".to_owned())
    }

    /// Whether there was a place in the queue.
    pub(super) fn try_send(&self, item: Item) -> bool {
        self.queue.try_send(item).is_ok()
    }
}

type Requests = FuturesUnordered<BoxFuture<'static, ()>>;

async fn run(client: Client, mut items: mpsc::Receiver<Item>) {
    let mut pace = Pace::new(Instant::now());
    let mut requests = Requests::new();
    // Taken, and not sent yet.
    let mut batch = Vec::new();
    loop {
        let gathers_until = pace.gathers_until(Instant::now());
        if !batch.is_empty() && gathers_until.is_none() {
            while batch.len() < BATCH_MAX
                && let Ok(item) = items.try_recv()
            {
                batch.push(item);
            }
            pace.sent(batch.iter().map(Item::messages).sum(), Instant::now());
            for item in batch.drain(..) {
                send(&client, item, &mut requests).await;
            }
        }
        tokio::select! {
            biased;
            // It also hands new ones to the client.
            Some(()) = requests.next(), if !requests.is_empty() => {}
            () = until(gathers_until), if !batch.is_empty() => {}
            count = items.recv_many(&mut batch, 1), if batch.is_empty() => {
                if count == 0 {
                    break;
                }
            }
        }
    }
    if timeout(LAST_FLUSH_MAX, client.flush()).await.is_err() {
        tracing::debug!("the last messages of a connection may not have been sent");
    }
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}

async fn send(client: &Client, item: Item, requests: &mut Requests) {
    match item {
        Item::Message { subjects, headers, payload, room } => {
            for subject in subjects {
                let sent =
                    client.publish_with_headers(subject, headers.clone(), payload.clone()).await;
                if let Err(error) = sent {
                    tracing::debug!(%error, "a message was not sent");
                }
            }
            drop(room);
        }
        Item::Request { subject, headers, payload, mut answer } => {
            if answer.is_closed() {
                return;
            }
            let request = Request::new().headers(headers).payload(payload).timeout(None);
            let client = client.clone();
            requests.push(Box::pin(async move {
                let answered = tokio::select! {
                    biased;
                    answered = client.send_request(subject, request) => answered,
                    () = answer.closed() => return,
                };
                // Whoever asked may have given up just now.
                answer.send(answered).ok();
            }));
        }
    }
}
