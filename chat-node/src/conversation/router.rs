//! Finds the owner of a conversation and asks it; reads what needs no owner from the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{Bus, RequestError, Subject};
use chat_protocol::api::{ConversationHead, History};
use chat_protocol::error::{Code, Refusal};
use chat_protocol::message::{Conversation, Message};
use chat_protocol::{ConversationId, MessageId, Partition, UserId};
use chat_store::Store;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::command::{Action, Command, Conversations, Reply};
use super::owner::moved;
use super::owners::{KIND_COMMAND, KIND_COMPANION, KIND_MESSAGE, Owners};
use super::patience::Patience;
use super::read::{Reader, Tail, Wanted};
use crate::delivery::Place;

/// How long a command is held while its partition changes owners.
const HOLD: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// How long history waits for the owner's tail.
const TAIL_DEADLINE: Duration = Duration::from_millis(500);

/// Conversations, wherever their owners are.
pub struct Router {
    owners: Arc<Owners>,
    bus: Arc<dyn Bus>,
    reader: Reader,
    deadline: Duration,
    patience: Patience,
}

impl Router {
    /// A router that waits at most `deadline` for an owner's answer.
    pub fn new(
        owners: Arc<Owners>,
        bus: Arc<dyn Bus>,
        store: Arc<dyn Store>,
        deadline: Duration,
    ) -> Router {
        let (reader, patience) = (Reader::new(store), Patience::default());
        Router { owners, bus, reader, deadline, patience }
    }

    /// Whether this node owns a partition.
    pub fn is_local(&self, partition: Partition) -> bool {
        self.owners.local(partition).is_some()
    }

    /// Asks the owner of a partition, on another node, for something that is not about a conversation.
    pub async fn companion(
        &self,
        partition: Partition,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let mut tagged = vec![KIND_COMPANION];
        tagged.extend_from_slice(&payload);
        self.bus.request(Subject::Partition(partition), tagged.into(), deadline).await
    }

    async fn ask(&self, command: Command, deadline: Duration) -> Result<Reply, Refusal> {
        let started = Instant::now();
        let until = started + deadline;
        loop {
            let answer = match self.owners.submit(command.clone()) {
                // The first poll puts the command into the owner's queue: a caller's commands keep their order.
                Some(answer) => match tokio::time::timeout_at(until, answer).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(moved()),
                    Err(_) => return Err(no_answer()),
                },
                None => self.ask_elsewhere(&command, until).await?,
            };
            let is_held = match &answer {
                Err(refusal) if refusal.code == Code::Moved => {
                    started.elapsed() < HOLD.min(deadline)
                }
                // No other command may be carried out twice.
                Err(refusal) if refusal.code == Code::DeadlineExceeded => {
                    Instant::now() < until && matches!(command.action, Action::Send(_))
                }
                _ => false,
            };
            if !is_held {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the node that owns the conversation's partition. An owner that does not answer for a while may be gone, and then
    /// a message is sent again, the same bytes: an owner that has begun since the command was received looks it up in the
    /// store, and one that has not remembers it. So it is committed once, and whichever answer comes first counts. Each wait
    /// is twice as long as the one before, so that a slow owner is not flooded.
    async fn ask_elsewhere(
        &self,
        command: &Command,
        until: Instant,
    ) -> Result<Result<Reply, Refusal>, Refusal> {
        let partition = command.conversation_id.partition();
        let is_repeatable = matches!(command.action, Action::Send(_));
        let began = Instant::now();
        let mut patience = self.patience.now();
        let mut again_at = began + patience;
        let question = question(command)?;
        let mut asked = FuturesUnordered::new();
        asked.push(self.request(partition, question.clone(), until));
        loop {
            tokio::select! {
                biased;
                Some(answer) = asked.next() => {
                    let code = answer.as_ref().err().map(|refusal| refusal.code);
                    let is_final = !matches!(code, Some(Code::Moved | Code::DeadlineExceeded));
                    if is_final && is_repeatable {
                        self.patience.answered(began.elapsed());
                    }
                    if is_final || asked.is_empty() {
                        return Ok(answer);
                    }
                }
                () = sleep_until(again_at), if is_repeatable && again_at < until => {
                    if self.is_local(partition) {
                        return Ok(Err(no_answer()));
                    }
                    asked.push(self.request(partition, question.clone(), until));
                    patience = patience.saturating_mul(2);
                    again_at += patience;
                }
            }
        }
    }

    async fn request(
        &self,
        partition: Partition,
        question: Bytes,
        until: Instant,
    ) -> Result<Reply, Refusal> {
        let left = until.saturating_duration_since(Instant::now());
        match self.bus.request(Subject::Partition(partition), question, left).await {
            Ok(answer) => serde_json::from_slice(&answer).unwrap_or_else(|_| Err(moved())),
            Err(RequestError::NoResponder) => Err(moved()),
            Err(RequestError::Deadline | RequestError::Unavailable(_)) => Err(no_answer()),
        }
    }

    /// What the owner has committed and the store lacks.
    async fn tail(&self, caller: UserId, id: ConversationId) -> Tail {
        Tail::answered(self.ask(Command::tail(caller, id), TAIL_DEADLINE).await)
    }

    /// One message as it is: from its owner's unwritten tail and the store. `reader` is one of those whom the owner said that
    /// it is there. `None`: there is none, as far as can be found out.
    pub async fn message(&self, reader: UserId, place: Place) -> Option<Message> {
        let wanted = Wanted { reader, place };
        let partition = place.conversation_id.partition();
        if self.is_local(partition) {
            return self.owners.message(wanted).await;
        }
        let mut payload = vec![KIND_MESSAGE];
        serde_json::to_writer(&mut payload, &wanted).ok()?;
        let subject = Subject::Partition(partition);
        let found = match self.bus.request(subject, payload.into(), TAIL_DEADLINE).await {
            Ok(answer) => serde_json::from_slice(&answer).ok().flatten(),
            Err(_) => None,
        };
        // An owner that is gone has written it, or its heir does; one of an older version does not know the question.
        match found {
            None => self.reader.message(place, &Tail::default()).await.ok().flatten(),
            found => found,
        }
    }
}

fn question(command: &Command) -> Result<Bytes, Refusal> {
    let mut payload = vec![KIND_COMMAND];
    match serde_json::to_writer(&mut payload, command) {
        Ok(()) => Ok(payload.into()),
        Err(error) => {
            tracing::error!(%error, "a command cannot be written");
            let detail = "The server could not pass this on. It was logged.";
            Err(Refusal::new(Code::Internal, detail))
        }
    }
}

fn no_answer() -> Refusal {
    let detail = "There was no answer in time. It may have been carried out all the same; try again with the same id.";
    Refusal::new(Code::DeadlineExceeded, detail).retry_after(500)
}

#[async_trait]
impl Conversations for Router {
    async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        self.ask(command, self.deadline).await
    }

    async fn head(&self, caller: UserId, id: ConversationId) -> Result<ConversationHead, Refusal> {
        self.reader.head(caller, id).await
    }

    async fn list(
        &self,
        caller: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationHead>, Refusal> {
        self.reader.list(caller, after, limit).await
    }

    async fn history_before(
        &self,
        caller: UserId,
        id: ConversationId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<History, Refusal> {
        let view = self.reader.visible(caller, id).await?;
        // The tail first: what leaves it meanwhile is in the store by the time that is read.
        let tail = self.tail(caller, id).await;
        self.reader.before(&view, &tail, before, limit).await
    }

    async fn history_after(
        &self,
        caller: UserId,
        id: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<History, Refusal> {
        let view = self.reader.visible(caller, id).await?;
        let tail = self.tail(caller, id).await;
        self.reader.after(&view, &tail, after, limit).await
    }

    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Conversation>, Refusal> {
        self.reader.rooms(before, limit).await
    }
}
