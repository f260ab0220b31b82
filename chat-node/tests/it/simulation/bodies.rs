//! Messages too large for the bus, between two nodes.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::embedded::EmbeddedBroker;
use chat_broker::faulty::Faults;
use chat_broker::{Broker, Subject};
use chat_node::conversation::{Action, Command, Conversations, Reply};
use chat_node::delivery::Place;
use chat_node::hub::{Item, Outbox, Subscription, Taken};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use chat_protocol::{
    Body, ClientMessageId, ConversationId, DeviceId, MessageId, Millis, SessionId, UserId,
};
use chat_store::embedded::EmbeddedStore;
use uuid::Uuid;

use super::client::draft;
use super::node::Node;

const WALL: Millis = Millis(1_800_000_000_000);

/// Longer than it takes until something is in the store.
const WRITTEN: Duration = Duration::from_secs(1);

struct Pair {
    faults: Faults,
    nodes: [Node; 2],
    group: ConversationId,
    members: [UserId; 3],
}

struct Session {
    outbox: Arc<Outbox>,
    _subscription: Subscription,
}

impl Session {
    async fn of(node: &Node, user: UserId) -> Session {
        let outbox = Arc::new(Outbox::new(SessionId::random(), DeviceId::random()));
        let subscription = node.hub.join(Subject::User(user), outbox.clone()).await;
        Session { outbox, _subscription: subscription.unwrap() }
    }

    /// Lengths of the texts of all messages that come within a while, in order.
    async fn texts(&self) -> Vec<usize> {
        let mut lengths = vec![];
        while let Ok(taken) = tokio::time::timeout(Duration::from_secs(4), self.outbox.take()).await
        {
            let Taken::Items(items) = taken else { panic!("closed") };
            for item in items {
                let Item::Live(frame) = item else { continue };
                let json = frame.encoded(Encoding::Json);
                if let Ok(ServerFrame::Message(message)) = Encoding::Json.read(&json)
                    && message.kind == "text"
                {
                    let body = message.body.unwrap().to_value();
                    lengths.push(body["text"].as_str().unwrap().len());
                }
            }
        }
        lengths
    }
}

impl Pair {
    /// The first node owns the group.
    async fn start() -> Pair {
        let (faults, broker) = (Faults::new(1), Arc::new(EmbeddedBroker::memory()));
        let store = Arc::new(EmbeddedStore::memory());
        let members = [1, 2, 3].map(|number| UserId(Uuid::from_u128(number)));
        let group = ConversationId::group(members[0], Uuid::nil());
        let node = |number| {
            let (broker, store) = (broker.clone() as Arc<dyn Broker>, store.clone());
            let faults = faults.clone();
            async move { Node::start(number, broker, store, &faults, WALL, &[group.partition()]).await }
        };
        let nodes = [node(1).await, node(2).await];
        nodes[0].own(group.partition()).await;
        let pair = Pair { faults, nodes, group, members };
        let name = Some("all".to_owned());
        pair.ask(None, Action::Create { name, members: members[1..].to_vec() }).await;
        tokio::time::sleep(WRITTEN).await;
        pair
    }

    async fn ask(&self, origin: Option<SessionId>, action: Action) -> Reply {
        let command = Command {
            conversation_id: self.group,
            caller: self.members[0],
            origin,
            received_at: self.nodes[0].clock.now(),
            action,
        };
        self.nodes[0].router.command(command).await.unwrap()
    }

    async fn send(&self, origin: &Session, length: usize) -> MessageId {
        let draft = draft(ClientMessageId::random(), false, &"x".repeat(length));
        match self.ask(Some(origin.outbox.connection), Action::Send(draft)).await {
            Reply::Sent(sent) => sent.message_id,
            other => panic!("{other:?}"),
        }
    }

    fn fetched(&self) -> [u64; 2] {
        self.nodes.each_ref().map(|node| node.counters.fetched.get())
    }
}

#[tokio::test(start_paused = true)]
async fn large_messages_come_live_in_order_by_one_fetch_for_each_node() {
    let pair = Pair::start().await;
    let [one, two] = &pair.nodes;
    let [ann, ben, cat] = pair.members;
    let sender = Session::of(one, ann).await;
    let others = [
        Session::of(one, ann).await,
        Session::of(two, ben).await,
        Session::of(two, ben).await,
        Session::of(two, cat).await,
    ];
    pair.send(&sender, 1).await;
    let large = pair.send(&sender, 50_000).await;
    pair.send(&sender, 2).await;
    for session in &others {
        assert_eq!(session.texts().await, [1, 50_000, 2]);
    }
    assert_eq!(pair.fetched(), [1, 1]);

    // The message is in the store by now, the edit is not yet.
    let body = Body::text(&"y".repeat(60_000));
    pair.ask(None, Action::Edit { message_id: large, body, mentions: vec![] }).await;
    pair.send(&sender, 3).await;
    for session in &others {
        assert_eq!(session.texts().await, [60_000, 3]);
    }
    assert_eq!(pair.fetched(), [2, 2]);
    assert_eq!(sender.texts().await, [60_000], "what it sent itself it was answered");
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_owner_is_gone_comes_from_the_store() {
    let pair = Pair::start().await;
    let sender = Session::of(&pair.nodes[0], pair.members[0]).await;
    let message_id = pair.send(&sender, 50_000).await;
    let place = Place { conversation_id: pair.group, message_id };
    let fetch = || pair.nodes[1].router.message(pair.members[1], place);
    assert!(fetch().await.is_some(), "out of the tail");
    tokio::time::sleep(WRITTEN).await;
    pair.faults.cut_off(pair.nodes[0].id, true);
    assert!(fetch().await.is_some(), "out of the store");
    let nothing = Place { message_id: MessageId(message_id.0 + 1), ..place };
    assert!(pair.nodes[1].router.message(pair.members[1], nothing).await.is_none());
}
