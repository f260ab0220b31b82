//! A person's device: a client that survives what happens, and tells the log what it gets.

use chat_client::client::RequestError;
use chat_client::event::Ended;
use chat_client::{Api, Client, Config, Credentials, Draft, Event, State};
use chat_protocol::ConversationId;
use chat_protocol::api::Tokens;
use chat_protocol::frame::Outcome;
use chat_protocol::message::Message;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use crate::log::{DeviceNumber, Entry, Log, Seen};
use crate::poll;

/// How long an attempt to connect may take: a node that hangs takes connections and says nothing.
const CONNECT_TIMEOUT_MS: u64 = 3_000;

/// What a device that polls speaks with.
#[derive(Clone)]
pub(crate) struct Chatter {
    pub(crate) api: Api,
    pub(crate) credentials: Credentials,
}

/// How a device is connected.
enum Way {
    Socket(Client),
    Poll(Chatter),
}

/// A device that is connected, or trying to be.
pub struct Device {
    number: DeviceNumber,
    way: Way,
    log: Log,
    listening: JoinHandle<()>,
}

impl Device {
    /// Connects with these tokens.
    pub fn start(number: DeviceNumber, api: Api, tokens: Tokens, log: Log) -> Device {
        let config =
            Config { connect_timeout_ms: CONNECT_TIMEOUT_MS, ..Config::new(api.websocket_url()) };
        let credentials = Credentials::new(api, tokens);
        let (client, events) = Client::start(config, credentials, State::default());
        let listening = tokio::spawn(listen(number, events, log.clone()));
        Device { number, way: Way::Socket(client), log, listening }
    }

    /// Begins to poll with these tokens.
    pub fn poll(number: DeviceNumber, api: Api, tokens: Tokens, log: Log) -> Device {
        let chatter = Chatter { credentials: Credentials::new(api.clone(), tokens), api };
        let listening = tokio::spawn(poll::listen(number, chatter.clone(), log.clone()));
        Device { number, way: Way::Poll(chatter), log, listening }
    }

    /// Sends a text.
    pub async fn send(&self, conversation: ConversationId, text: &str) -> Result<(), RequestError> {
        let draft = Draft::text(conversation, text);
        let message = draft.client_message_id;
        self.log.add(Entry::Sent { device: self.number, conversation, message });
        match &self.way {
            Way::Socket(client) => client.send(draft).await,
            Way::Poll(chatter) => {
                poll::send(chatter, draft, &self.log).await;
                Ok(())
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A text as the check wants it; system messages are not sent by anybody.
pub fn seen(message: &Message) -> Option<Seen> {
    (message.kind == "text").then_some(Seen {
        conversation: message.conversation_id,
        id: message.message_id,
        seq: message.seq,
        message: message.client_message_id,
    })
}

async fn listen(device: DeviceNumber, mut events: Receiver<Event>, log: Log) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Message(message) => {
                if let Some(message) = seen(&message) {
                    log.add(Entry::Received { device, message });
                }
            }
            Event::Sent { client_message_id, sent } => log.add(Entry::Acknowledged {
                message: client_message_id,
                place: sent.map(|sent| (sent.message_id, sent.seq)),
            }),
            Event::Refused { draft, refusal } => log.add(Entry::Refused {
                message: draft.client_message_id,
                reason: refusal.to_string(),
            }),
            Event::Connected(welcome) => {
                if welcome.outcome == Outcome::Reset {
                    log.add(Entry::Reset { device });
                }
                log.add(Entry::Connected { device });
            }
            Event::Disconnected { reason, .. } => {
                log.add(Entry::Disconnected { device, reason });
            }
            Event::Ended(Ended::Closed) => return,
            Event::Ended(ended) => {
                log.add(Entry::Ended { device, reason: format!("{ended:?}") });
                return;
            }
            _ => {}
        }
    }
}
