//! Deaths at the log and at the bus.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{
    AppendError, Broker, Bus, Entry, Error, Receiver, RequestError, Responder, Revision, Sequence,
    StoredRecord, Subject, Watch,
};
use chat_node::conversation::{Action, Command};
use chat_node::delivery::Frame;
use chat_protocol::Partition;
use chat_protocol::record::{Record, RecordKind};
use cluster::step::Step;
use futures_util::poll;

use crate::death::Deaths;
use crate::store::MortalWrites;

/// An append that is sent reaches the log within this time, or does not: both are wanted.
const ON_ITS_WAY_MAX: Duration = Duration::from_micros(1_500);

/// Enough for an answer to leave the process.
const ANSWER: Duration = Duration::from_millis(20);

/// The log, the keys and the bus.
pub(crate) struct MortalBroker {
    inner: Arc<dyn Broker>,
    deaths: Arc<Deaths>,
    writes: Arc<MortalWrites>,
}

impl MortalBroker {
    /// In front of `inner`.
    pub(crate) fn new(
        inner: Arc<dyn Broker>,
        deaths: Arc<Deaths>,
        writes: Arc<MortalWrites>,
    ) -> MortalBroker {
        MortalBroker { inner, deaths, writes }
    }
}

/// The steps before an append, while it is under way, and after it.
fn steps(kind: RecordKind) -> [Option<Step>; 3] {
    match kind {
        RecordKind::Batch => [Step::Decided, Step::AppendSent, Step::AppendAccepted].map(Some),
        RecordKind::Opening => [None, Some(Step::OpeningSent), Some(Step::OpeningAccepted)],
        RecordKind::Closing => [None, Some(Step::ClosingSent), Some(Step::ClosingAccepted)],
        RecordKind::Tick | RecordKind::Unknown => [None; 3],
    }
}

#[async_trait]
impl Broker for MortalBroker {
    async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let record = Record::from_bytes(&payload).expect("this program has just written it");
        let [before, sent, after] = steps(record.kind());
        if let Some(before) = before {
            self.deaths.pass(before);
        }
        if let Some(first) = record.entries.first() {
            self.writes.committed(partition, first.message_id());
        }
        let mut append = pin!(self.inner.append(partition, expected, payload));
        if sent.is_some_and(|sent| self.deaths.passes(sent)) {
            // The connection has it after this.
            let answer = poll!(&mut append);
            assert!(answer.is_pending(), "no answer can be there yet: {answer:?}");
            self.deaths.die(ON_ITS_WAY_MAX.mul_f64(rand::random()));
        }
        let accepted = append.await?;
        if let Some(after) = after {
            self.deaths.pass(after);
        }
        if record.kind() == RecordKind::Opening {
            self.writes.opened(partition);
        }
        Ok(accepted)
    }

    async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        self.inner.last(partition).await
    }

    async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let page = self.inner.read_log(partition, after, bytes_max).await?;
        if self.writes.is_opening(partition) {
            self.deaths.pass(Step::ReplayRead);
        }
        Ok(page)
    }

    async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        self.inner.purge(partition, up_to, min_age).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        self.inner.put(key, expected, value).await
    }

    async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        self.inner.remove(key, expected).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, Error> {
        self.inner.watch(prefix).await
    }

    async fn connect(&self, receiver: Arc<dyn Receiver>) -> Result<Arc<dyn Bus>, Error> {
        let inner = self.inner.connect(receiver).await?;
        Ok(Arc::new(MortalBus { inner, deaths: self.deaths.clone() }))
    }
}

struct MortalBus {
    inner: Arc<dyn Bus>,
    deaths: Arc<Deaths>,
}

#[async_trait]
impl Bus for MortalBus {
    async fn subscribe(&self, subject: Subject) -> Result<(), Error> {
        self.inner.subscribe(subject).await
    }

    async fn unsubscribe(&self, subject: Subject) -> Result<(), Error> {
        self.inner.unsubscribe(subject).await
    }

    fn publish(&self, subjects: &[Subject], payload: Bytes) {
        // Only owners tell people of messages.
        if matches!(subjects, [Subject::User(_), ..])
            && self.deaths.is_due_at(Step::Answered)
            && Frame::all(payload.clone()).iter().any(|frame| frame.tells_message)
            && self.deaths.passes(Step::Answered)
        {
            self.deaths.die(ANSWER);
        }
        self.inner.publish(subjects, payload);
    }

    async fn serve(
        &self,
        subject: Subject,
        rank: u64,
        responder: Arc<dyn Responder>,
    ) -> Result<(), Error> {
        let responder = Arc::new(MortalResponder { inner: responder, deaths: self.deaths.clone() });
        self.inner.serve(subject, rank, responder).await
    }

    async fn stop_serving(&self, subject: Subject, patience: Duration) -> Result<(), Error> {
        self.inner.stop_serving(subject, patience).await
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        self.inner.request(subject, payload, deadline).await
    }
}

struct MortalResponder {
    inner: Arc<dyn Responder>,
    deaths: Arc<Deaths>,
}

#[async_trait]
impl Responder for MortalResponder {
    async fn respond(&self, subject: Subject, payload: Bytes) -> Bytes {
        // Behind the byte that says which kind of request it is.
        let command =
            payload.get(1..).and_then(|json| serde_json::from_slice::<Command>(json).ok());
        if command.is_some_and(|command| matches!(command.action, Action::Send(_))) {
            self.deaths.pass(Step::CommandReceived);
        }
        self.inner.respond(subject, payload).await
    }
}
