//! People go on talking while the store is slow or away.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::embedded::EmbeddedBroker;
use chat_node::conversation::{Action, Command, Conversations, Reply};
use chat_protocol::error::Refusal;
use chat_protocol::{ClientMessageId, Code, ConversationId, Millis, UserId};
use chat_store::Store;
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::{FaultRates, Faults, FaultyStore};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::draft;
use super::node::Node;

const ANN: UserId = UserId(Uuid::from_u128(1));
const BEN: UserId = UserId(Uuid::from_u128(2));

/// A direct conversation in which something was said a moment ago.
struct Pair {
    node: Node,
    store: Arc<dyn Store>,
    faults: Faults,
    direct: ConversationId,
}

impl Pair {
    async fn start() -> Pair {
        let (faults, direct) = (Faults::new(1), ConversationId::direct(ANN, BEN));
        let inner = Arc::new(EmbeddedStore::memory());
        let store: Arc<dyn Store> = Arc::new(FaultyStore::new(inner, faults.clone()));
        let (broker, lost) =
            (Arc::new(EmbeddedBroker::memory()), chat_broker::faulty::Faults::new(1));
        let (wall, used) = (Millis(1_800_000_000_000), [direct.partition()]);
        let node = Node::start(1, broker, store.clone(), &lost, wall, &used).await;
        node.own(direct.partition()).await;
        let pair = Pair { node, store, faults, direct };
        pair.command(Action::Create { name: None, members: vec![BEN] }).await.unwrap();
        pair.send(0).await.unwrap();
        pair
    }

    async fn command(&self, action: Action) -> Result<Reply, Refusal> {
        let received_at = self.node.clock.now();
        let (conversation_id, caller) = (self.direct, ANN);
        let command = Command { conversation_id, caller, origin: None, received_at, action };
        self.node.router.command(command).await
    }

    async fn send(&self, number: u128) -> Result<Reply, Refusal> {
        let draft = draft(ClientMessageId(Uuid::from_u128(number)), false, "hello");
        self.command(Action::Send(draft)).await
    }

    /// Sends once a second, and returns the longest time that one took.
    async fn send_for_a_minute(&self, first: u128) -> Duration {
        let mut longest = Duration::ZERO;
        for number in first..first + 60 {
            let began = Instant::now();
            let sent = self.send(number).await;
            assert!(matches!(sent, Ok(Reply::Sent(_))), "number {number}: {sent:?}");
            longest = longest.max(began.elapsed());
            sleep(Duration::from_secs(1)).await;
        }
        longest
    }
}

#[tokio::test(start_paused = true)]
async fn two_people_go_on_while_the_store_is_away() {
    let pair = Pair::start().await;
    sleep(Duration::from_secs(70)).await;
    pair.send(1).await.unwrap();
    pair.faults.set_away(true);
    let longest = pair.send_for_a_minute(100).await;
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    pair.faults.heal();
    pair.send_for_a_minute(200).await;
}

#[tokio::test(start_paused = true)]
async fn two_people_wait_little_for_a_slow_store() {
    let pair = Pair::start().await;
    sleep(Duration::from_secs(70)).await;
    pair.send(1).await.unwrap();
    let rates = FaultRates { delay: 1.0, delay_ms_max: 4_000, ..FaultRates::default() };
    pair.faults.set_rates(rates);
    let longest = pair.send_for_a_minute(100).await;
    assert!(longest < Duration::from_millis(100), "it is read beside the sends: {longest:?}");
    pair.faults.set_rates(FaultRates { delay_ms_max: 40_000, ..rates });
    let longest = pair.send_for_a_minute(200).await;
    assert!(longest < Duration::from_millis(600), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_waited_for_where_nobody_knows_lately() {
    let pair = Pair::start().await;
    sleep(Duration::from_secs(120)).await;
    pair.store.set_block(BEN, ANN, true).await.unwrap();
    let rates = FaultRates { delay: 1.0, delay_ms_max: 2_000, ..FaultRates::default() };
    pair.faults.set_rates(rates);
    assert_eq!(pair.send(1).await.unwrap_err().code, Code::Blocked);
}

#[tokio::test(start_paused = true)]
async fn a_block_counts_within_seconds() {
    let pair = Pair::start().await;
    sleep(Duration::from_secs(70)).await;
    pair.send(1).await.unwrap();
    pair.store.set_block(BEN, ANN, true).await.unwrap();
    sleep(Duration::from_secs(9)).await;
    pair.send(2).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pair.send(3).await.unwrap_err().code, Code::Blocked, "it was read meanwhile");
    pair.store.set_block(BEN, ANN, false).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    pair.send(4).await.expect("what is older than that is read first");
}
