//! A person's device that polls: it has no socket, asks again and again, and sends by plain HTTP.

use std::collections::HashSet;
use std::time::Duration;

use chat_client::Draft;
use chat_protocol::MessageId;
use chat_protocol::api::{NewMessage, Sync};
use chat_protocol::frame::{Outcome, ServerFrame};
use tokio::time::sleep;

use crate::device::{Chatter, seen};
use crate::log::{DeviceNumber, Entry, Log};

/// How long the server may keep a poll waiting.
const WAIT_MS: u64 = 20_000;

/// Between two tries after one that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Polls until it is aborted.
pub(crate) async fn listen(device: DeviceNumber, chatter: Chatter, log: Log) {
    let mut cursor: Option<String> = None;
    let mut have = HashSet::new();
    let mut is_connected = false;
    loop {
        match poll(&chatter, cursor.as_deref()).await {
            Ok(sync) => {
                if sync.outcome == Outcome::Reset && cursor.is_some() {
                    have.clear();
                    log.add(Entry::Reset { device });
                }
                if !is_connected {
                    is_connected = true;
                    log.add(Entry::Connected { device });
                }
                take(device, &sync, &mut have, &log);
                cursor = Some(sync.cursor);
                sleep(Duration::from_millis(sync.retry_after_ms)).await;
            }
            Err(error) => {
                if is_connected {
                    is_connected = false;
                    log.add(Entry::Disconnected { device, reason: error });
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn poll(chatter: &Chatter, cursor: Option<&str>) -> Result<Sync, String> {
    let token = chatter.credentials.access_token().await.map_err(|error| error.to_string())?;
    chatter.api.sync(&token, cursor, WAIT_MS).await.map_err(|error| error.to_string())
}

/// An answer that was lost on its way comes again, so that a message is taken once by its id.
fn take(device: DeviceNumber, sync: &Sync, have: &mut HashSet<MessageId>, log: &Log) {
    for frame in &sync.frames {
        let ServerFrame::Message(message) = frame else { continue };
        if let Some(message) = seen(message).filter(|message| have.insert(message.id)) {
            log.add(Entry::Received { device, message });
        }
    }
}

/// Sends until there is an answer. What was sent before cannot be overtaken, because it waits for the answer.
pub(crate) async fn send(chatter: &Chatter, draft: Draft, log: &Log) {
    let message = draft.client_message_id;
    let mut body = NewMessage {
        client_message_id: message,
        retry: false,
        kind: draft.kind,
        body: draft.body,
        reply_to: None,
        mentions: Vec::new(),
    };
    loop {
        if let Ok(token) = chatter.credentials.access_token().await {
            match chatter.api.send(&token, draft.conversation_id, &body).await {
                Ok(sent) => {
                    log.add(Entry::Acknowledged {
                        message,
                        place: Some((sent.message_id, sent.seq)),
                    });
                    return;
                }
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    log.add(Entry::Refused { message, reason: error.to_string() });
                    return;
                }
            }
        }
        body.retry = true;
        sleep(PAUSE).await;
    }
}
