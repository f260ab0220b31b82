//! Watching keys: a push consumer of the bucket, whose heartbeats tell silence from interruption.
//!
//! A task follows the consumer and keeps the latest of each key; the watcher takes from there. When heartbeats stay away, a
//! number is missing, or the connection breaks, the task makes a new consumer and gets everything again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use chat_protocol::Millis;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::Keys;
use super::message::{is_removal, number};
use crate::broker::{Change, Entry, Revision, WATCH_SILENCE_MAX, Watch};

const HEARTBEAT: Duration = Duration::from_millis(250);
/// Without any message for this long the watch is interrupted.
const SILENCE_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(SILENCE_MAX.as_millis() < WATCH_SILENCE_MAX.as_millis());
/// The server drops the consumer of a watcher who is gone after this time.
const INACTIVE: Duration = Duration::from_secs(5);
/// A replica that lags is waited for this long before what it knows counts as everything.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct KeyWatch {
    known: Arc<Known>,
    /// Ends the task.
    _task: DropGuard,
}

/// Shared by the task that follows and the watcher who asks.
struct Known {
    state: Mutex<State>,
    changed: Notify,
    prefix: String,
}

#[derive(Default)]
struct State {
    /// The latest of each key that is to be told: written, or gone.
    waiting: BTreeMap<String, Option<Entry>>,
    /// Keys that were told of and exist.
    told: BTreeSet<String>,
    /// The newest revision heard of each key, removals included, so that a replica that lags takes nothing back.
    newest: BTreeMap<String, u64>,
    /// Nothing is certain since `Interrupted`.
    is_interrupted: bool,
    tell_current: bool,
    tell_interrupted: bool,
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Change> {
        let mut state = self.state();
        if std::mem::take(&mut state.tell_interrupted) {
            return Some(Change::Interrupted);
        }
        while let Some((key, entry)) = state.waiting.pop_first() {
            match entry {
                Some(entry) => {
                    state.told.insert(key.clone());
                    return Some(Change::Written { key, entry });
                }
                None if state.told.remove(&key) => return Some(Change::Removed { key }),
                // It came and went before it was told.
                None => {}
            }
        }
        std::mem::take(&mut state.tell_current).then_some(Change::Current)
    }

    fn interrupt(&self) {
        let mut state = self.state();
        if !state.is_interrupted {
            state.is_interrupted = true;
            state.tell_interrupted = true;
        }
        state.tell_current = false;
        drop(state);
        self.changed.notify_one();
    }

    fn note(&self, key: &str, sequence: u64, entry: Option<Entry>) {
        if !key.starts_with(&self.prefix) {
            return;
        }
        let mut state = self.state();
        // Equal after an interruption: told again.
        if state.newest.get(key).is_some_and(|newest| sequence < *newest) {
            return;
        }
        state.newest.insert(key.to_owned(), sequence);
        state.waiting.insert(key.to_owned(), entry);
        drop(state);
        self.changed.notify_one();
    }

    /// Everything there is was noted; what was known and is not `seen` is gone.
    fn become_current(&self, seen: &BTreeSet<String>) {
        let mut state = self.state();
        let known = state.told.iter().chain(state.waiting.keys());
        let gone: Vec<String> = known.filter(|key| !seen.contains(*key)).cloned().collect();
        for key in gone {
            state.waiting.insert(key, None);
        }
        state.newest.retain(|key, _| seen.contains(key));
        state.is_interrupted = false;
        state.tell_current = true;
        drop(state);
        self.changed.notify_one();
    }
}

#[async_trait]
impl Watch for KeyWatch {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.known.take() {
                return change;
            }
            // A permit is kept if the change comes before this.
            self.known.changed.notified().await;
        }
    }
}

pub(super) fn watch(keys: Keys, prefix: &str, closed: &CancellationToken) -> KeyWatch {
    let known = Arc::new(Known {
        state: Mutex::default(),
        changed: Notify::new(),
        prefix: prefix.to_owned(),
    });
    let end = closed.child_token();
    let task = Follower { keys, known: known.clone() };
    let ended = end.clone();
    // Ends with the watch, or with the broker.
    tokio::spawn(async move {
        let known = task.known.clone();
        if ended.run_until_cancelled(task.run()).await.is_none() {
            known.interrupt();
        }
    });
    KeyWatch { known, _task: end.drop_guard() }
}

struct Follower {
    keys: Keys,
    known: Arc<Known>,
}

impl Follower {
    async fn run(self) {
        loop {
            let reason = match self.follow().await {
                Ok(never) => match never {},
                Err(reason) => reason,
            };
            tracing::debug!(reason, "the watch of keys is interrupted");
            self.known.interrupt();
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Until something breaks.
    async fn follow(&self) -> Result<std::convert::Infallible, String> {
        let connection = &self.keys.connection;
        let mut state = connection.state();
        connection.connected(connection.deadline()).await?;
        state.mark_unchanged();
        let reconnects = state.borrow().reconnects;
        let mut consumer = self.consume().await?;
        if consumer.is_complete() {
            self.known.become_current(&consumer.seen);
        }
        let mut complete = consumer.is_complete();
        loop {
            let wait = match complete {
                true => SILENCE_MAX,
                false => SILENCE_MAX.min(consumer.patience()),
            };
            tokio::select! {
                changed = state.changed() => {
                    changed.map_err(|_| "the connection is closed".to_owned())?;
                    let now = *state.borrow();
                    if !now.connected || now.reconnects != reconnects {
                        return Err("the connection broke".to_owned());
                    }
                }
                message = timeout(wait, consumer.messages.next()) => match message {
                    Ok(Some(message)) => self.handle(&mut consumer, message).await?,
                    Ok(None) => return Err("the connection is closed".to_owned()),
                    Err(_) if complete => return Err("no heartbeat".to_owned()),
                    Err(_) => {}
                },
            }
            if !complete && consumer.is_complete() {
                complete = true;
                self.known.become_current(&consumer.seen);
            }
            if !complete && consumer.started.elapsed() > SILENCE_MAX + CATCH_UP_MAX {
                return Err("no replica tells all keys".to_owned());
            }
        }
    }

    async fn consume(&self) -> Result<Consumer, String> {
        let Keys { connection, names } = &self.keys;
        let stream = names.keys();
        let deadline = connection.deadline();
        // From the leader: whatever this consumer's replica knows, it is to know this, too.
        let info: Value = connection
            .api(format!("STREAM.INFO.{stream}"), &json!({}), deadline)
            .await
            .map_err(|error| error.to_string())?;
        let last = info["state"]["last_seq"].as_u64().unwrap_or(0);
        let inbox = connection.client.new_inbox();
        let subscribed = connection.client.subscribe(inbox.clone());
        let messages = tokio::time::timeout_at(deadline, subscribed)
            .await
            .map_err(|_| "not subscribed in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let body = json!({
            "stream_name": stream,
            "config": {
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subject": names.key(">"),
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": 1,
                "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
                "flow_control": true,
                "mem_storage": true,
                "num_replicas": 1,
                "inactive_threshold": INACTIVE.as_nanos() as u64,
            },
        });
        let made: Value = connection
            .api(format!("CONSUMER.CREATE.{stream}"), &body, deadline)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Consumer {
            messages,
            started: Instant::now(),
            last_wanted: last,
            pending: made["num_pending"].as_u64().unwrap_or(0),
            delivered: 0,
            last_delivered: 0,
            seen: BTreeSet::new(),
        })
    }

    async fn handle(&self, consumer: &mut Consumer, message: Message) -> Result<(), String> {
        if let Some(status) = message.status {
            return self.handle_status(consumer, status.as_u16(), &message).await;
        }
        let place = message.reply.as_ref().and_then(|reply| Delivery::parse(reply));
        let place = place.ok_or_else(|| "a key came without its number".to_owned())?;
        if place.delivered != consumer.delivered + 1 {
            return Err("a change was lost".to_owned());
        }
        consumer.delivered = place.delivered;
        consumer.pending = place.pending;
        consumer.last_delivered = consumer.last_delivered.max(place.sequence);
        let start = self.keys.names.key("");
        let Some(key) = message.subject.strip_prefix(start.as_str()) else { return Ok(()) };
        let removed = is_removal(&message);
        match removed {
            true => consumer.seen.remove(key),
            false => consumer.seen.insert(key.to_owned()),
        };
        let entry = (!removed).then(|| Entry {
            revision: Revision(place.sequence),
            value: message.payload.clone(),
            written_at: place.stored_at,
        });
        self.known.note(key, place.sequence, entry);
        Ok(())
    }

    async fn handle_status(
        &self,
        consumer: &Consumer,
        status: u16,
        message: &Message,
    ) -> Result<(), String> {
        if status != 100 {
            return Err(format!("the consumer ended ({status})"));
        }
        // The server waits for an answer before it sends more.
        let stalled = message.headers.as_ref().and_then(|h| h.get("Nats-Consumer-Stalled"));
        let answer_to =
            stalled.map(|s| s.to_string()).or(message.reply.as_ref().map(|r| r.to_string()));
        if let Some(subject) = answer_to {
            let answer = self.keys.connection.client.publish(subject, Bytes::new());
            timeout(SILENCE_MAX, answer).await.ok();
        }
        match number(message, "Nats-Last-Consumer") {
            Some(last) if last > consumer.delivered => Err("a change was lost".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A consumer of one life.
struct Consumer {
    messages: Subscriber,
    started: Instant,
    /// The bucket's last sequence when the consumer was made.
    last_wanted: u64,
    /// Keys still to come.
    pending: u64,
    delivered: u64,
    last_delivered: u64,
    seen: BTreeSet<String>,
}

impl Consumer {
    /// Whether everything there was came. The last message may have been a removal that is gone by now, so a replica that
    /// does not have it is not waited for without end.
    fn is_complete(&self) -> bool {
        self.pending == 0 && (self.last_delivered >= self.last_wanted || self.patience().is_zero())
    }

    fn patience(&self) -> Duration {
        CATCH_UP_MAX.saturating_sub(self.started.elapsed())
    }
}

/// What the reply subject of a delivery tells.
#[derive(Debug, PartialEq, Eq)]
struct Delivery {
    sequence: u64,
    delivered: u64,
    stored_at: Millis,
    pending: u64,
}

impl Delivery {
    /// `$JS.ACK.` [domain, account] stream, consumer, attempt, sequence, delivered, nanoseconds, pending [, token].
    fn parse(reply: &str) -> Option<Delivery> {
        let parts: Vec<&str> = reply.split('.').collect();
        let first = match parts.len() {
            9 => 5,
            11.. => 7,
            _ => return None,
        };
        let number = |at: usize| parts.get(first + at)?.parse::<u64>().ok();
        Some(Delivery {
            sequence: number(0)?,
            delivered: number(1)?,
            stored_at: Millis(number(2)? / 1_000_000),
            pending: number(3)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { state: Mutex::default(), changed: Notify::new(), prefix: "lease.".to_owned() }
    }

    fn entry(revision: u64) -> Entry {
        let value = Bytes::from(revision.to_string());
        Entry { revision: Revision(revision), value, written_at: Millis(revision) }
    }

    fn take_all(known: &Known) -> Vec<Change> {
        std::iter::from_fn(|| known.take()).collect()
    }

    fn keys(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_gone_after_an_interruption_is_told() {
        let known = known();
        let written = |key: &str, revision| {
            let key = key.to_owned();
            Change::Written { key, entry: entry(revision) }
        };
        for (key, sequence) in [("lease.1", 1), ("lease.2", 2), ("other", 3)] {
            known.note(key, sequence, Some(entry(sequence)));
        }
        known.become_current(&keys(&["lease.1", "lease.2", "other"]));
        let told = [written("lease.1", 1), written("lease.2", 2), Change::Current];
        assert_eq!(take_all(&known), told);
        for _ in 0..2 {
            known.interrupt();
        }
        known.note("lease.2", 2, Some(entry(2)));
        known.become_current(&keys(&["lease.2"]));
        let gone = Change::Removed { key: "lease.1".to_owned() };
        let told = [Change::Interrupted, gone, written("lease.2", 2), Change::Current];
        assert_eq!(take_all(&known), told);
    }

    #[test]
    fn a_replica_that_lags_takes_nothing_back() {
        let known = known();
        known.note("lease.1", 5, Some(entry(5)));
        known.note("lease.1", 4, Some(entry(4)));
        known.note("lease.1", 3, None);
        known.note("lease.2", 6, Some(entry(6)));
        known.note("lease.2", 7, None);
        known.become_current(&keys(&["lease.1"]));
        let one = Change::Written { key: "lease.1".to_owned(), entry: entry(5) };
        assert_eq!(take_all(&known), [one, Change::Current], "and what came and went is not told");
    }

    #[test]
    fn a_delivery_is_parsed_in_both_forms() {
        let wanted = Delivery { sequence: 7, delivered: 3, stored_at: Millis(5), pending: 2 };
        for reply in [
            "$JS.ACK.KV_chat.consumer.1.7.3.5000000.2",
            "$JS.ACK.domain.hash.KV_chat.consumer.1.7.3.5000000.2",
            "$JS.ACK.domain.hash.KV_chat.consumer.1.7.3.5000000.2.token",
        ] {
            assert_eq!(Delivery::parse(reply).as_ref(), Some(&wanted), "{reply}");
        }
        for reply in ["", "$JS.ACK", "$JS.ACK.KV_chat.consumer.1.x.3.5000000.2"] {
            assert_eq!(Delivery::parse(reply), None, "{reply}");
        }
    }
}
