//! A node's surroundings: the real store and bus in memory, doubles for what is beside sessions.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::{Broker, Bus, Subject};
use chat_protocol::api::{ConversationHead, History, Sent};
use chat_protocol::frame::{Hello, Presence, ServerFrame};
use chat_protocol::id::CONVERSATION_PARTITIONS;
use chat_protocol::message::{Conversation, Message};
use chat_protocol::{
    Body, ClientMessageId, ConversationId, DeviceId, Millis, NodeId, Partition, UserId,
};
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::{Faults, FaultyStore};
use chat_store::{InboxRow, MessageRow, Pointer, PointerKind, Write};
use uuid::Uuid;

use super::super::*;
use crate::auth::KeyRing;
use crate::conversation::{Command, Reply};
use crate::delivery;
use crate::discovery::{Directory, NodeDescription, Pick, TOKEN_LIFE_MS, token};
use crate::watermark::{Announcement, Echo, PartitionState};

pub(crate) const NOW: Millis = Millis(1_800_000_000_000);

/// Tokens are `user/device`.
pub(crate) struct Tokens;

impl Authenticate for Tokens {
    fn authenticate(&self, token: &str) -> Result<Caller, Refusal> {
        let ids = token.split_once('/').and_then(|(user, device)| {
            Some((user.parse::<UserId>().ok()?, device.parse::<DeviceId>().ok()?))
        });
        let (user_id, device_id) =
            ids.ok_or_else(|| Refusal::new(Code::Unauthenticated, "Not a token."))?;
        Ok(Caller { user_id, device_id, expires_at: NOW.plus(1_000_000) })
    }
}

pub(crate) struct Everyone(pub(crate) Clock);

#[async_trait]
impl Presences for Everyone {
    fn arrive(&self, user: UserId, connection: SessionId) -> Arc<Attendance> {
        Arc::new(Attendance::new(user, connection, self.0.elapsed()))
    }

    async fn snapshot(&self, users: Vec<UserId>) -> Result<Vec<Presence>, Refusal> {
        let offline = |user_id| Presence { user_id, online: false, last_active_at: None };
        Ok(users.into_iter().map(offline).collect())
    }
}

/// Remembers commands in the order in which they were polled first, and answers once it may.
#[derive(Default)]
pub(crate) struct Owners {
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) rooms: Mutex<HashMap<ConversationId, Vec<Message>>>,
    pub(crate) held: Mutex<HashSet<u64>>,
    pub(crate) release: tokio::sync::Notify,
}

fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "There is no such conversation.")
}

#[async_trait]
impl Conversations for Owners {
    async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        let number = {
            let mut commands = self.commands.lock().unwrap();
            commands.push(command);
            commands.len() as u64
        };
        if self.held.lock().unwrap().contains(&number) {
            self.release.notified().await;
        }
        Ok(Reply::Sent(Sent { message_id: MessageId(number), seq: number, created_at: NOW }))
    }

    async fn head(&self, _: UserId, id: ConversationId) -> Result<ConversationHead, Refusal> {
        let rooms = self.rooms.lock().unwrap();
        let messages = rooms.get(&id).ok_or_else(not_found)?;
        let last_message = messages.last().cloned();
        let conversation = Conversation {
            conversation_id: id,
            kind: id.kind(),
            version: MessageId(1),
            name: None,
            picture: None,
            created_at: NOW,
            members: vec![],
        };
        let last_seq = messages.len() as u64;
        Ok(ConversationHead { conversation, last_message, last_seq, read_seq: 0, unread: 0 })
    }

    async fn list(
        &self,
        _: UserId,
        _: Option<ConversationId>,
        _: usize,
    ) -> Result<Vec<ConversationHead>, Refusal> {
        Ok(vec![])
    }

    async fn history_before(
        &self,
        _: UserId,
        id: ConversationId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<History, Refusal> {
        let rooms = self.rooms.lock().unwrap();
        let messages = rooms.get(&id).ok_or_else(not_found)?;
        let below = |m: &&Message| before.is_none_or(|before| m.message_id < before);
        let found: Vec<_> = messages.iter().rev().filter(below).cloned().collect();
        let more = found.len() > limit;
        let messages = found.into_iter().take(limit).collect();
        Ok(History { messages, more, tail_missing: false })
    }

    async fn history_after(
        &self,
        _: UserId,
        id: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<History, Refusal> {
        let rooms = self.rooms.lock().unwrap();
        let messages = rooms.get(&id).ok_or_else(not_found)?;
        let found = messages.iter().filter(|m| m.message_id > after).take(limit).cloned();
        Ok(History { messages: found.collect(), more: false, tail_missing: false })
    }

    async fn rooms(&self, _: Option<MessageId>, _: usize) -> Result<Vec<Conversation>, Refusal> {
        Ok(vec![])
    }
}

pub(crate) struct World {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) store: Arc<EmbeddedStore>,
    /// Those of the store as sessions see it.
    pub(crate) faults: Faults,
    pub(crate) owners: Arc<Owners>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) conversation: ConversationId,
    node: NodeId,
    other: NodeId,
    keys: Arc<KeyRing>,
    seq: std::sync::atomic::AtomicU64,
    _broker: EmbeddedBroker,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        self.gateway.parts.hub.detach();
    }
}

/// An id `ms` after the tests' start of time.
pub(crate) fn id(ms: u64) -> MessageId {
    MessageId::first_of(NOW.plus(ms), Partition(0))
}

pub(crate) async fn world(settings: Settings) -> World {
    let clock = Clock::manual(NOW);
    let metrics = Metrics::default();
    let hub = Hub::new(clock.clone(), metrics.hub.clone());
    let broker = EmbeddedBroker::memory();
    let bus = broker.connect(hub.clone()).await.unwrap();
    hub.attach(bus.clone());
    let store = Arc::new(EmbeddedStore::memory());
    let faults = Faults::new(1);
    let owners = Arc::new(Owners::default());
    let (node, other) = (NodeId::random(), NodeId::random());
    let nodes = [node, other].map(NodeDescription::alone);
    let keys = Arc::new(KeyRing::random());
    let parts = Parts {
        settings,
        clock: clock.clone(),
        store: Arc::new(FaultyStore::new(store.clone(), faults.clone())),
        store_epoch: 7,
        hub,
        watermarks: Arc::new(Watermarks::new(node)),
        conversations: owners.clone(),
        presences: Arc::new(Everyone(clock)),
        authenticate: Arc::new(Tokens),
        directory: Arc::new(Directory::new(node, move || nodes.to_vec(), keys.clone())),
        metrics,
    };
    let user = UserId::random();
    World {
        gateway: Gateway::new(parts),
        store,
        faults,
        owners,
        bus,
        user,
        device: DeviceId::random(),
        conversation: ConversationId::group(user, Uuid::nil()),
        node,
        other,
        keys,
        seq: Default::default(),
        _broker: broker,
        tracker: TaskTracker::new(),
        stop: CancellationToken::new(),
    }
}

impl World {
    pub(crate) fn spawn(&self) {
        self.gateway.spawn(&self.tracker, &self.stop);
    }

    /// The user's device, as a login has it.
    pub(crate) async fn add_device(&self) {
        let mut row = chat_store::conformance::sample::device(self.user, NOW);
        row.device.device_id = self.device;
        self.store.add_device(row).await.unwrap();
    }

    pub(crate) fn token(&self) -> String {
        format!("{}/{}", self.user, self.device)
    }

    /// What discovery gives to a client that is to connect to another node.
    pub(crate) fn token_for_another_node(&self) -> Option<String> {
        let pick = Pick { node: Some(self.other), revision: None, generation: None };
        token::sign(&self.keys, &pick, NOW, TOKEN_LIFE_MS)
    }

    pub(crate) fn hello(&self, cursor: Option<String>) -> Hello {
        Hello {
            versions: vec![1],
            token: self.token(),
            cursor,
            discovery_token: None,
            capabilities: vec![],
            client: None,
        }
    }

    /// Every owner says: all up to `watermark` is in the store, `highest` is the highest id issued; and answers probes.
    pub(crate) fn announce(&self, watermark: MessageId, highest: MessageId) {
        let watermarks = &self.gateway.parts.watermarks;
        let probe = watermarks.probe().unwrap_or(0);
        let partitions = (0..CONVERSATION_PARTITIONS)
            .map(|partition| PartitionState {
                partition: partition.into(),
                watermark: watermark.0,
                highest: highest.0,
            })
            .collect();
        let echoes = vec![Echo { node: self.node.as_bytes().to_vec(), probe }];
        watermarks.hear(&Announcement { node: vec![1; 16], partitions, echoes, probe: 0 });
    }

    /// Writes a message and its inbox pointer, as an owner does.
    pub(crate) async fn store_message(&self, id: MessageId, text: &str) {
        let seq = self.seq.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let row = MessageRow {
            conversation_id: self.conversation,
            message_id: id,
            seq,
            sender_id: self.user,
            client_message_id: ClientMessageId::random(),
            kind: "text".into(),
            body: Body::text(text),
            reply_to: None,
            mentions: vec![],
        };
        let pointer = Pointer { id, kind: PointerKind::Message, target: id };
        let inbox = InboxRow {
            users: [self.user].into(),
            conversation_id: self.conversation,
            pointers: vec![pointer],
        };
        let writes = vec![Write::Message(row), Write::Inbox(inbox)];
        self.store.apply(Partition(0), writes, None).await.unwrap();
    }

    pub(crate) fn message(&self, id: MessageId) -> Message {
        message(self.conversation, id, "live")
    }

    /// Publishes a message live.
    pub(crate) fn publish(&self, id: MessageId) {
        let frame = ServerFrame::Message(self.message(id));
        let payload = delivery::payload(crate::delivery::Class::Chat, id, None, &frame);
        self.bus.publish(&[Subject::User(self.user)], payload);
    }
}

pub(crate) fn message(conversation_id: ConversationId, id: MessageId, text: &str) -> Message {
    Message {
        conversation_id,
        message_id: id,
        version: id,
        seq: 1,
        sender_id: UserId(Uuid::nil()),
        client_message_id: ClientMessageId(Uuid::nil()),
        kind: "text".into(),
        body: Some(Body::text(text)),
        created_at: id.created_at(),
        edited_at: None,
        deleted: false,
        reply_to: None,
        mentions: vec![],
        reactions: Default::default(),
    }
}
