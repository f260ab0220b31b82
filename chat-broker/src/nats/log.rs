//! The log: appends, reads, purges.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use chat_protocol::{Millis, Partition};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::connection::{ApiError, Connection, RequestFailure, parse_answer};
use super::message::{expecting, millis, number, place};
use super::options::NatsOptions;
use super::streams::Names;
use crate::broker::{AppendError, Error, Sequence, StoredRecord};

/// Wrong last sequence of the subject.
pub(super) const WRONG_SEQUENCE: u64 = 10071;
/// The same without a number: the leader has an earlier write to the subject under way.
pub(super) const WRONG_SEQUENCE_IN_FLIGHT: u64 = 10164;
const STORE_FAILED: u64 = 10077;
const MESSAGE_TOO_LARGE: u64 = 10054;
/// Of the account, or of the server.
const NO_RESOURCES: [u64; 3] = [10002, 10023, 10047];

/// Most records that one page holds, however small they are.
const PAGE_RECORDS_MAX: usize = 10_000;
/// Most bytes that one page holds, however many were asked for.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Subject and headers of a record, which the server counts, too.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// One replica that hangs must not use up the whole deadline.
const READ_ATTEMPT_MAX: Duration = Duration::from_millis(1500);
/// Headers of an append.
const HEADER_BYTES_MAX: usize = 128;

pub(super) struct Log {
    connection: Connection,
    names: Names,
    payload_bytes_max: usize,
    append_deadline: Duration,
    /// Bytes of appends that may be under way.
    room: Semaphore,
    room_bytes: usize,
}

/// What one replica answers to one request: its records of a subject, in order and without a hole.
struct Batch {
    messages: Vec<Message>,
    /// Whether the replica has more.
    more: bool,
}

#[derive(Deserialize)]
struct Accepted {
    seq: u64,
}

impl Log {
    pub(super) fn new(connection: Connection, names: Names, options: &NatsOptions) -> Log {
        let room_bytes =
            options.appends_bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Log {
            connection,
            names,
            payload_bytes_max: options.payload_bytes_max,
            append_deadline: options.append_deadline,
            room: Semaphore::new(room_bytes),
            room_bytes,
        }
    }

    pub(super) async fn append(
        &self,
        partition: Partition,
        expected: Sequence,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let server_bytes_max = self.connection.client.max_payload();
        if payload.len() > self.payload_bytes_max
            || payload.len() + HEADER_BYTES_MAX > server_bytes_max
        {
            return Err(AppendError::TooLarge);
        }
        let deadline = Instant::now() + self.append_deadline;
        let unknown = |reason: &str| AppendError::Unknown(reason.to_owned());
        // One over the whole room takes all of it. A 0 would never wait.
        let bytes = (payload.len() + HEADER_BYTES_MAX).min(self.room_bytes) as u32;
        let _room = timeout_at(deadline, self.room.acquire_many(bytes))
            .await
            .map_err(|_| unknown("too many appends are under way"))?
            .map_err(|_| unknown("the broker is closed"))?;
        let subject = self.names.record(partition);
        let headers = Some(expecting(expected.0));
        match self.connection.request(subject, headers, payload, deadline).await {
            Ok(answer) => match parse_answer::<Accepted>(&answer.payload) {
                Ok(accepted) => Ok(Sequence(accepted.seq)),
                Err(error) => Err(append_error(error)),
            },
            Err(RequestFailure::TooLarge) => Err(AppendError::TooLarge),
            // Also "nobody listens": a stream without a leader is no proof that an earlier copy is not in its log.
            Err(failure) => Err(unknown(&failure.to_string())),
        }
    }

    pub(super) async fn last(&self, partition: Partition) -> Result<Option<StoredRecord>, Error> {
        Ok(self.last_with_time(partition).await?.map(|(record, _)| record))
    }

    async fn last_with_time(
        &self,
        partition: Partition,
    ) -> Result<Option<(StoredRecord, Millis)>, Error> {
        let body = json!({ "last_by_subj": self.names.record(partition) });
        let message = read_one(&self.connection, &self.names.stream(partition), &body).await?;
        message.map(record).transpose()
    }

    pub(super) async fn read_log(
        &self,
        partition: Partition,
        after: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let bytes_max = bytes_max.min(PAGE_BYTES_MAX);
        let stream = self.names.stream(partition);
        let subject = self.names.record(partition);
        let mut page: Vec<StoredRecord> = Vec::new();
        let mut bytes = 0;
        // Each request is answered by one replica, and a replica's log is a beginning of the log. So what any of them has
        // behind a record is what is behind it, and a page of several answers has no hole either.
        loop {
            let last = page.last().map_or(after, |record| record.sequence);
            let Some(next) = last.0.checked_add(1) else { return Ok(page) };
            let left = bytes_max - bytes;
            let count = (PAGE_RECORDS_MAX - page.len()).min(left / RECORD_OVERHEAD_BYTES + 1);
            let body = json!({
                "seq": next,
                "next_by_subj": subject,
                "batch": count,
                "max_bytes": left + count.min(64) * RECORD_OVERHEAD_BYTES,
            });
            let batch = self.read(&stream, &body).await?;
            if batch.messages.is_empty() {
                return Ok(page);
            }
            for message in batch.messages {
                let (record, _) = record(message)?;
                if record.sequence <= last {
                    return Err(Error("a replica answered with another record".to_owned()));
                }
                bytes += record.payload.len();
                if !page.is_empty() && bytes > bytes_max {
                    return Ok(page);
                }
                page.push(record);
            }
            if !batch.more || page.len() >= PAGE_RECORDS_MAX || bytes >= bytes_max {
                return Ok(page);
            }
        }
    }

    pub(super) async fn purge(
        &self,
        partition: Partition,
        up_to: Sequence,
        min_age: Duration,
    ) -> Result<u64, Error> {
        // It may be stale: then there is a later one, and so this one may go only with a later purge.
        let Some((last, last_stored_at)) = self.last_with_time(partition).await? else {
            return Ok(0);
        };
        let mut end = last.sequence.0.min(up_to.0.saturating_add(1));
        if !min_age.is_zero() {
            end = end.min(self.first_younger(partition, min_age, last_stored_at).await?);
        }
        if end <= 1 {
            return Ok(0);
        }
        #[derive(Deserialize)]
        struct Purged {
            purged: u64,
        }
        let subject = format!("STREAM.PURGE.{}", self.names.stream(partition));
        // Up to, and not including, `seq`.
        let body = json!({ "filter": self.names.record(partition), "seq": end });
        let purged: Result<Purged, ApiError> =
            self.connection.api(subject, &body, self.connection.deadline()).await;
        purged.map(|purged| purged.purged).map_err(|error| Error(error.to_string()))
    }

    /// The sequence before which every record is old enough, by the server's clock.
    async fn first_younger(
        &self,
        partition: Partition,
        min_age: Duration,
        last_stored_at: Millis,
    ) -> Result<u64, Error> {
        let stream = self.names.stream(partition);
        let info: Value = self
            .connection
            .api(format!("STREAM.INFO.{stream}"), &json!({}), self.connection.deadline())
            .await
            .map_err(|error| Error(error.to_string()))?;
        let now = info["ts"].as_str().and_then(millis);
        let now = now.ok_or_else(|| Error("the server does not tell its time".to_owned()))?;
        let min_age_ms = u64::try_from(min_age.as_millis()).unwrap_or(u64::MAX);
        let Some(limit) = now.0.checked_sub(min_age_ms).map(Millis) else { return Ok(0) };
        if last_stored_at <= limit {
            return Ok(u64::MAX);
        }
        // Just behind the limit, since the server looks for what is not older.
        let Some(start) = super::message::rfc3339(limit.plus(1)) else { return Ok(0) };
        let body = json!({ "next_by_subj": self.names.record(partition), "start_time": start });
        Ok(match read_one(&self.connection, &stream, &body).await? {
            Some(message) => record(message)?.0.sequence.0,
            // The last record is younger: the replica that answers does not know it yet. Nothing is certain.
            None => 0,
        })
    }

    /// A batch; asks again if a replica does not answer, since another one may.
    async fn read(&self, stream: &str, body: &Value) -> Result<Batch, Error> {
        let deadline = self.connection.deadline();
        loop {
            let attempt = deadline.min(Instant::now() + READ_ATTEMPT_MAX);
            match self.try_read(stream, body, attempt).await {
                Ok(batch) => return Ok(batch),
                Err(error) if attempt == deadline => return Err(error),
                Err(error) => tracing::debug!(%error, stream, "a read of the log is repeated"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_read(
        &self,
        stream: &str,
        body: &Value,
        deadline: Instant,
    ) -> Result<Batch, Error> {
        let failed = |reason: String| Error(reason);
        self.connection.connected(deadline).await.map_err(failed)?;
        let client = &self.connection.client;
        let collect = async {
            let inbox = client.new_inbox();
            let mut answers =
                client.subscribe(inbox.clone()).await.map_err(|error| Error(error.to_string()))?;
            client
                .publish_with_reply(direct_get(stream), inbox, body.to_string().into())
                .await
                .map_err(|error| Error(error.to_string()))?;
            let mut messages = Vec::new();
            let mut last = 0;
            loop {
                let Some(message) = answers.next().await else {
                    return Err(Error("the connection is closed".to_owned()));
                };
                match message.status.map(|status| status.as_u16()) {
                    None => {}
                    Some(404) => return Ok(Batch { messages, more: false }),
                    Some(204) if number(&message, "Nats-Last-Sequence") == Some(last) => {
                        let more = number(&message, "Nats-Num-Pending") != Some(0);
                        return Ok(Batch { messages, more });
                    }
                    Some(204) => return Err(Error("an answer was lost".to_owned())),
                    Some(status) => return Err(read_refused(status, &message)),
                }
                // Each names the one before it, so that a lost one shows.
                if number(&message, "Nats-Last-Sequence") != Some(last) {
                    return Err(Error("an answer was lost".to_owned()));
                }
                last = number(&message, "Nats-Sequence").unwrap_or(0);
                messages.push(message);
            }
        };
        timeout_at(deadline, collect)
            .await
            .unwrap_or_else(|_| Err(Error("no replica answered in time".to_owned())))
    }
}

fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

fn read_refused(status: u16, message: &Message) -> Error {
    let description = message.description.as_deref().unwrap_or_default();
    Error(match status {
        503 => "no replica of the stream is there".to_owned(),
        status => format!("the read was refused: {description} ({status})"),
    })
}

/// Reads one message of a stream from whichever replica answers. It may be stale.
pub(super) async fn read_one(
    connection: &Connection,
    stream: &str,
    body: &Value,
) -> Result<Option<Message>, Error> {
    let deadline = connection.deadline();
    loop {
        let attempt = deadline.min(Instant::now() + READ_ATTEMPT_MAX);
        let body = Bytes::from(body.to_string());
        let failure = match connection.request(direct_get(stream), None, body, attempt).await {
            Ok(message) => match message.status.map(|status| status.as_u16()) {
                None => return Ok(Some(message)),
                Some(404) => return Ok(None),
                Some(status) => read_refused(status, &message),
            },
            Err(RequestFailure::NoResponder) => {
                Error("no replica of the stream is there".to_owned())
            }
            Err(failure) => Error(failure.to_string()),
        };
        if attempt == deadline {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn record(message: Message) -> Result<(StoredRecord, Millis), Error> {
    let place = place(&message);
    let place = place.ok_or_else(|| Error("a record came without its sequence".to_owned()))?;
    let sequence = Sequence(place.sequence);
    Ok((StoredRecord { sequence, payload: message.payload }, place.stored_at))
}

fn append_error(error: ApiError) -> AppendError {
    let shown = error.to_string();
    match error {
        ApiError::Code { code: WRONG_SEQUENCE, .. } => AppendError::Refused,
        ApiError::Code { code: MESSAGE_TOO_LARGE, .. } => AppendError::TooLarge,
        ApiError::Code { code, .. } if NO_RESOURCES.contains(&code) => AppendError::Full,
        ApiError::Code { code: STORE_FAILED, description } => {
            // The stream's own limits are checked before anything is written; what else a store may fail at is not.
            let full = ["maximum bytes", "maximum messages", "insufficient", "no space"];
            let description = description.to_lowercase();
            match full.iter().any(|text| description.contains(text)) {
                true => AppendError::Full,
                false => AppendError::Unknown(shown),
            }
        }
        ApiError::Code { code: WRONG_SEQUENCE_IN_FLIGHT, .. } => {
            AppendError::Unknown(format!("an append to this partition is under way: {shown}"))
        }
        _ => AppendError::Unknown(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: u64, description: &str) -> AppendError {
        append_error(ApiError::Code { code, description: description.to_owned() })
    }

    #[test]
    fn only_what_is_certain_is_not_unknown() {
        assert_eq!(code(10071, "wrong last sequence: 7"), AppendError::Refused);
        assert_eq!(code(10077, "maximum bytes exceeded"), AppendError::Full);
        assert_eq!(code(10047, "insufficient storage resources available"), AppendError::Full);
        assert_eq!(code(10054, "message size exceeds maximum allowed"), AppendError::TooLarge);
        for (number, description) in
            [(10164, "wrong last sequence"), (10077, "input/output error"), (10008, ""), (0, "")]
        {
            assert!(matches!(code(number, description), AppendError::Unknown(_)), "{number}");
        }
        let lost = ApiError::Unavailable("no answer in time".to_owned());
        assert!(matches!(append_error(lost), AppendError::Unknown(_)));
    }
}
