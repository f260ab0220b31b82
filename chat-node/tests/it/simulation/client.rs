//! A person who sends, and repeats what was not acknowledged, at any node.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_node::conversation::command::Draft;
use chat_node::conversation::{Action, Command, Conversations, Reply};
use chat_protocol::api::Sent;
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::node::Node;

/// A text message to send.
pub(super) fn draft(client_message_id: ClientMessageId, retry: bool, text: &str) -> Draft {
    Draft {
        client_message_id,
        retry,
        kind: "text".to_owned(),
        body: Body::text(text),
        reply_to: None,
        mentions: vec![],
    }
}

/// A send that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) conversation: ConversationId,
    pub(super) sender: UserId,
    pub(super) client_message_id: ClientMessageId,
    pub(super) sent: Sent,
    pub(super) text: String,
}

/// An edit that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Edited {
    pub(super) message: MessageId,
    pub(super) version: MessageId,
    pub(super) text: String,
}

/// What all clients have been promised.
#[derive(Clone, Default)]
pub(super) struct Promises {
    pub(super) acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    /// Edits that were acknowledged.
    pub(super) edited: Arc<Mutex<Vec<Edited>>>,
}

pub(super) struct Client {
    pub(super) user: UserId,
    pub(super) conversations: Vec<ConversationId>,
    pub(super) random: StdRng,
    pub(super) promises: Promises,
}

impl Client {
    pub(super) fn new(
        user: UserId,
        conversations: Vec<ConversationId>,
        seed: u64,
        promises: Promises,
    ) -> Client {
        Client { user, conversations, random: StdRng::seed_from_u64(seed), promises }
    }

    /// Sends `count` messages one after the other, edits some, until each is acknowledged.
    pub(super) async fn run(mut self, nodes: Arc<Mutex<Vec<Arc<Node>>>>, count: usize) {
        for number in 0..count {
            let conversation =
                self.conversations[self.random.random_range(0..self.conversations.len())];
            let sent = self.send(&nodes, conversation, number).await;
            if self.random.random_bool(0.15) {
                self.edit(&nodes, conversation, sent.message_id, number).await;
            }
            let pause = Duration::from_millis(self.random.random_range(0..400));
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(
        &mut self,
        nodes: &Mutex<Vec<Arc<Node>>>,
        conversation: ConversationId,
        number: usize,
    ) -> Sent {
        let client_message_id = ClientMessageId(uuid::Uuid::from_u128(self.random.random()));
        let text = format!("{} says {number}", self.user);
        for attempt in 0.. {
            let draft = draft(client_message_id, attempt > 0, &text);
            if let Some(Reply::Sent(sent)) =
                self.ask(nodes, conversation, Action::Send(draft)).await
            {
                let user = self.user;
                self.promises.acknowledged.lock().unwrap().push(Acknowledged {
                    conversation,
                    sender: user,
                    client_message_id,
                    sent: sent.clone(),
                    text,
                });
                return sent;
            }
        }
        unreachable!("the loop ends with an acknowledgement")
    }

    async fn edit(
        &mut self,
        nodes: &Mutex<Vec<Arc<Node>>>,
        conversation: ConversationId,
        message_id: MessageId,
        number: usize,
    ) {
        let text = format!("{} meant {number}", self.user);
        for _ in 0..20 {
            let action = Action::Edit { message_id, body: Body::text(&text), mentions: vec![] };
            if let Some(Reply::Changed(changed)) = self.ask(nodes, conversation, action).await {
                let edit = Edited { message: message_id, version: changed.version, text };
                self.promises.edited.lock().unwrap().push(edit);
                return;
            }
        }
    }

    /// Asks any node; waits a little after a refusal.
    async fn ask(
        &mut self,
        nodes: &Mutex<Vec<Arc<Node>>>,
        conversation_id: ConversationId,
        action: Action,
    ) -> Option<Reply> {
        let node = {
            let nodes = nodes.lock().unwrap();
            nodes[self.random.random_range(0..nodes.len())].clone()
        };
        let received_at = node.clock.now();
        let command =
            Command { conversation_id, caller: self.user, origin: None, received_at, action };
        // A client gives up waiting before the node does, now and then; the first copy may then come late.
        let patience = Duration::from_millis(self.random.random_range(200..4_000));
        let answer = tokio::time::timeout(patience, node.router.command(command)).await;
        match answer {
            Ok(Ok(reply)) => Some(reply),
            _ => {
                tokio::time::sleep(Duration::from_millis(self.random.random_range(10..500))).await;
                None
            }
        }
    }
}
