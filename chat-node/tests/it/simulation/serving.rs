//! Whether other nodes reach an owner.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::Broker;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::faulty::{Faults, Rates, Settings};
use chat_node::conversation::{Action, Command, Conversations, Reply};
use chat_protocol::error::Refusal;
use chat_protocol::{ClientMessageId, Code, ConversationId, Millis, Partition, UserId};
use chat_store::embedded::EmbeddedStore;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::draft;
use super::node::Node;

const WALL: Millis = Millis(1_800_000_000_000);

struct Trio {
    faults: Faults,
    nodes: [Node; 3],
    group: ConversationId,
    creator: UserId,
}

impl Trio {
    async fn start() -> Trio {
        let (faults, broker) = (Faults::new(1), Arc::new(EmbeddedBroker::memory()));
        let (creator, store) = (UserId(Uuid::from_u128(1)), Arc::new(EmbeddedStore::memory()));
        let group = ConversationId::group(creator, Uuid::nil());
        let node = |number| {
            let (broker, store) = (broker.clone() as Arc<dyn Broker>, store.clone());
            let faults = faults.clone();
            async move { Node::start(number, broker, store, &faults, WALL, &[group.partition()]).await }
        };
        let nodes = [node(1).await, node(2).await, node(3).await];
        Trio { faults, nodes, group, creator }
    }

    fn partition(&self) -> Partition {
        self.group.partition()
    }

    async fn own(&self, node: usize) {
        self.nodes[node].own(self.partition()).await;
    }

    /// Asks at a node for the group to be made, which may be asked again.
    async fn ask(&self, node: usize) -> Result<(), Refusal> {
        let action = Action::Create {
            name: Some("both".to_owned()),
            members: vec![UserId(Uuid::from_u128(2))],
        };
        self.command(node, action).await.map(drop)
    }

    async fn command(&self, node: usize, action: Action) -> Result<Reply, Refusal> {
        let command = Command {
            conversation_id: self.group,
            caller: self.creator,
            origin: None,
            received_at: self.nodes[node].clock.now(),
            action,
        };
        self.nodes[node].router.command(command).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_could_not_serve_its_partition_tries_on() {
    let trio = Trio::start().await;
    trio.faults.set_rates(Rates { serve_error: 1.0, ..Rates::default() });
    trio.own(0).await;
    assert_eq!(trio.ask(0).await, Ok(()), "its own commands are served meanwhile");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(trio.ask(1).await.unwrap_err().code, Code::Moved);
    trio.faults.set_rates(Rates::default());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(trio.ask(1).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_owner_before_that_serves_late_does_not_take_the_place_of_the_next() {
    let trio = Trio::start().await;
    trio.faults.set_rates(Rates { serve_error: 1.0, ..Rates::default() });
    trio.own(0).await;
    // The first one does not hear of it, and still tries to serve: nothing is written to its log.
    trio.faults.set_rates(Rates::default());
    trio.own(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(trio.nodes[0].owners.local(trio.partition()).is_some());
    assert_eq!(trio.ask(2).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_counts_although_the_owner_was_asked_again_meanwhile() {
    let trio = Trio::start().await;
    trio.own(0).await;
    assert_eq!(trio.ask(0).await, Ok(()));
    let delay_max = Duration::from_millis(1_500);
    let rates = Rates { request_delay: 1.0, ..Rates::default() };
    trio.faults.set(Settings { rates, delay_max, ..Settings::default() });
    for number in 0..20 {
        let draft = draft(ClientMessageId(Uuid::from_u128(number)), false, "hello");
        let began = Instant::now();
        let sent = trio.command(1, Action::Send(draft)).await;
        assert!(matches!(sent, Ok(Reply::Sent(_))), "{sent:?}");
        let taken = began.elapsed();
        assert!(taken <= delay_max + Duration::from_millis(50), "{taken:?}");
    }
}
