//! An owner dies together with a store that acknowledges before it syncs: its heir knows from the log what the store has
//! lost, before that is written again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_broker::Broker;
use chat_broker::embedded::EmbeddedBroker;
use chat_node::conversation::{Action, Command, Conversations, Reply};
use chat_protocol::api::{History, Sent};
use chat_protocol::error::Refusal;
use chat_protocol::{
    Body, ClientMessageId, Code, ConversationId, MessageId, Millis, Partition, UserId,
};
use chat_store::embedded::EmbeddedStore;
use chat_store::faulty::FaultyStore;
use chat_store::{Store, Write};
use tokio::time::sleep;
use uuid::Uuid;

use super::client::draft;
use super::node::Node;

const WALL_MS: u64 = 40_000_000_000;
const LAG: Duration = Duration::from_secs(60);

struct Platform {
    broker: Arc<dyn Broker>,
    broker_faults: chat_broker::faulty::Faults,
    store: Arc<dyn Store>,
    store_faults: chat_store::faulty::Faults,
    group: ConversationId,
}

impl Platform {
    fn new(creator: UserId) -> Platform {
        let store_faults = chat_store::faulty::Faults::new(1);
        store_faults.set_durability_lag(LAG);
        let inner = Arc::new(EmbeddedStore::memory());
        Platform {
            broker: Arc::new(EmbeddedBroker::memory()),
            broker_faults: chat_broker::faulty::Faults::new(1),
            store: Arc::new(FaultyStore::new(inner, store_faults.clone())),
            store_faults,
            group: ConversationId::group(creator, Uuid::from_u128(7)),
        }
    }

    fn partition(&self) -> Partition {
        self.group.partition()
    }

    /// A node that owns the partition of the group.
    async fn owner(&self, number: u64) -> Node {
        let node = self.node(number).await;
        node.own(self.partition()).await;
        node
    }

    /// A node that owns nothing yet.
    async fn node(&self, number: u64) -> Node {
        let used = [self.partition()];
        let (broker, store) = (self.broker.clone(), self.store.clone());
        let wall = Millis::from_2025(WALL_MS + number * 1_000);
        Node::start(number, broker, store, &self.broker_faults, wall, &used).await
    }

    async fn ask(&self, node: &Node, caller: UserId, action: Action) -> Reply {
        self.try_to(node, caller, action).await.expect("it is carried out")
    }

    async fn try_to(&self, node: &Node, caller: UserId, action: Action) -> Result<Reply, Refusal> {
        let received_at = node.clock.now();
        let conversation_id = self.group;
        let command = Command { conversation_id, caller, origin: None, received_at, action };
        node.router.command(command).await
    }

    async fn send(&self, node: &Node, caller: UserId, number: u128, retry: bool) -> Sent {
        let text = format!("number {number}");
        let draft = draft(ClientMessageId(Uuid::from_u128(number)), retry, &text);
        match self.ask(node, caller, Action::Send(draft)).await {
            Reply::Sent(sent) => sent,
            other => panic!("a send is answered {other:?}"),
        }
    }

    /// Entries that the owner has beside the store.
    async fn tail(&self, node: &Node, caller: UserId) -> usize {
        match self.ask(node, caller, Action::Tail).await {
            Reply::Tail(entries) => entries.len(),
            other => panic!("a tail is answered {other:?}"),
        }
    }

    async fn seqs(&self) -> Vec<u64> {
        let messages = self.store.history_after(self.group, MessageId::ZERO, 100).await.unwrap();
        messages
            .iter()
            .filter(|message| message.kind == "text")
            .map(|message| message.seq)
            .collect()
    }

    fn watermark(&self, node: &Node) -> MessageId {
        let handle = node.owners.local(self.partition()).expect("it owns the partition");
        handle.progress(node.clock.now(), MessageId::ZERO).expect("it is open").watermark
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_store_has_lost_is_known_to_the_next_owner_and_keeps_its_watermark() {
    let [ann, bob, carol] = [1, 2, 3].map(|number| UserId(Uuid::from_u128(number)));
    let platform = Platform::new(ann);
    let one = platform.owner(1).await;
    let name = Some("all of us".to_owned());
    platform.ask(&one, ann, Action::Create { name, members: vec![bob] }).await;
    let first = platform.send(&one, ann, 101, false).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(platform.seqs().await, [first.seq]);

    let durable_to = platform.store.checkpoint(platform.partition()).await.unwrap().sequence;
    assert!(durable_to > 0);

    // It acknowledges what it will not have after its crash.
    platform.store_faults.set_forgetful(true);
    let second = platform.send(&one, ann, 102, false).await;
    platform.ask(&one, ann, Action::Invite { user_ids: vec![carol] }).await;
    let third = platform.send(&one, bob, 103, false).await;
    sleep(Duration::from_secs(1)).await;
    platform.broker_faults.cut_off(one.id, true);
    platform.store_faults.set_forgetful(false);

    let two = platform.owner(2).await;
    let inherited = platform.tail(&two, ann).await;
    assert!(
        inherited >= 3,
        "two messages and the join are history before anything new is: {inherited}"
    );
    let repeated = platform.send(&two, ann, 102, true).await;
    assert_eq!((repeated.message_id, repeated.seq), (second.message_id, second.seq));
    let fourth = platform.send(&two, carol, 104, false).await;
    assert_eq!(fourth.seq, third.seq + 1, "the store does not know of the third");
    let edit =
        Action::Edit { message_id: second.message_id, body: Body::text("meant"), mentions: vec![] };
    assert!(matches!(platform.ask(&two, ann, edit).await, Reply::Changed(_)));
    let tail = platform.tail(&two, ann).await;
    assert_eq!(tail, inherited + 2, "one message and an edit since");
    assert_eq!(platform.seqs().await, [first.seq], "nothing of this is in the store yet");
    assert!(platform.watermark(&two) < second.message_id, "so no watermark passes it");

    sleep(Duration::from_secs(5)).await;
    let seqs = [first.seq, second.seq, third.seq, fourth.seq];
    assert_eq!(platform.seqs().await, seqs, "it was written beside all that");
    let watermark = platform.watermark(&two);
    assert!(watermark >= fourth.message_id);
    let inbox = platform.store.inbox(carol, MessageId::ZERO, watermark, 100).await.unwrap();
    let targets: Vec<_> = inbox.entries.iter().map(|entry| entry.pointer.target).collect();
    assert!(targets.contains(&third.message_id) && targets.contains(&fourth.message_id));
    assert!(!targets.contains(&first.message_id), "she was not there yet");
    let checkpoint = platform.store.checkpoint(platform.partition()).await.unwrap();
    assert_eq!(checkpoint.sequence, durable_to, "the store may lose it once more");
    sleep(LAG * 2).await;
    let checkpoint = platform.store.checkpoint(platform.partition()).await.unwrap();
    assert!(checkpoint.sequence > durable_to, "but not for ever");
}

/// A store that was watched for longer than it may lose what it takes.
async fn watched(platform: &Platform, ann: UserId) -> (Node, Sent) {
    let one = platform.owner(1).await;
    platform
        .ask(&one, ann, Action::Create { name: Some("notes".to_owned()), members: vec![] })
        .await;
    let first = platform.send(&one, ann, 101, false).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(platform.seqs().await, [first.seq]);
    (one, first)
}

/// Lets the owner write what it has, and tell so in the log.
async fn settle(node: &Node) {
    sleep(Duration::from_secs(2)).await;
    node.owners.look_at_logs();
    sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_there_all_the_time_is_not_written_again() {
    let ann = UserId(Uuid::from_u128(1));
    let platform = Platform::new(ann);
    let (one, first) = watched(&platform, ann).await;
    let two = platform.node(2).await;
    sleep(LAG + Duration::from_secs(1)).await;
    let second = platform.send(&one, ann, 102, false).await;
    settle(&one).await;

    // What the log would bring back, if it were asked.
    let written = Arc::new(Mutex::new(0));
    let counted = written.clone();
    platform.store_faults.set_refusal(Some(Arc::new(move |write| {
        *counted.lock().unwrap() += usize::from(matches!(write, Write::Message(_)));
        false
    })));
    platform.broker_faults.cut_off(one.id, true);
    two.own(platform.partition()).await;
    assert_eq!(platform.tail(&two, ann).await, 0, "all of it was taken");
    sleep(LAG * 2).await;
    assert_eq!(*written.lock().unwrap(), 0);
    let checkpoint = platform.store.checkpoint(platform.partition()).await.unwrap();
    let last = platform.broker.last(platform.partition()).await.unwrap().unwrap();
    assert!(checkpoint.sequence + 30 > last.sequence.0, "the checkpoint follows all the same");
    let repeated = platform.send(&two, ann, 102, true).await;
    assert_eq!((repeated.message_id, repeated.seq), (second.message_id, second.seq));
    assert_eq!(platform.seqs().await, [first.seq, second.seq]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_after_a_hand_over_gets_back_what_it_took_before() {
    for is_dead in [false, true] {
        let ann = UserId(Uuid::from_u128(1));
        let platform = Platform::new(ann);
        let (one, first) = watched(&platform, ann).await;
        let two = platform.node(2).await;
        sleep(LAG + Duration::from_secs(1)).await;
        // It acknowledges what it will not have after its crash.
        platform.store_faults.set_forgetful(true);
        let second = platform.send(&one, ann, 102, false).await;
        settle(&one).await;
        match is_dead {
            true => platform.broker_faults.cut_off(one.id, true),
            false => one.owners.release(platform.partition()),
        }
        sleep(Duration::from_secs(2)).await;
        two.own(platform.partition()).await;
        assert_eq!(platform.tail(&two, ann).await, 0, "it was acknowledged");
        assert_eq!(platform.seqs().await, [first.seq]);
        // Nobody writes anything, but the store is looked at.
        platform.store_faults.set_away(true);
        sleep(Duration::from_secs(3)).await;
        platform.store_faults.heal();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(platform.seqs().await, [first.seq, second.seq], "dead: {is_dead}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_has_not_watched_the_store_for_long_reads_from_the_checkpoint() {
    let ann = UserId(Uuid::from_u128(1));
    let platform = Platform::new(ann);
    let (one, first) = watched(&platform, ann).await;
    sleep(LAG * 2).await;
    platform.store_faults.set_forgetful(true);
    let second = platform.send(&one, ann, 102, false).await;
    sleep(Duration::from_secs(6)).await;
    // The owner and the store crash together, and nobody sees it.
    platform.broker_faults.cut_off(one.id, true);
    platform.store_faults.heal();
    let two = platform.owner(2).await;
    assert!(platform.tail(&two, ann).await > 0);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(platform.seqs().await, [first.seq, second.seq]);
}

#[tokio::test(start_paused = true)]
async fn history_says_that_a_store_may_lack_messages_until_it_has_them_again() {
    let ann = UserId(Uuid::from_u128(1));
    let platform = Platform::new(ann);
    let (one, first) = watched(&platform, ann).await;
    sleep(LAG + Duration::from_secs(1)).await;
    let history =
        async || one.router.history_after(ann, platform.group, MessageId::ZERO, 100).await.unwrap();
    let seqs = |history: &History| -> Vec<u64> {
        let texts = history.messages.iter().filter(|message| message.kind == "text");
        texts.map(|message| message.seq).collect()
    };
    assert!(!history().await.tail_missing);

    // It acknowledges what it will not have after its crash.
    platform.store_faults.set_forgetful(true);
    let second = platform.send(&one, ann, 102, false).await;
    settle(&one).await;
    platform.store_faults.set_away(true);
    sleep(Duration::from_secs(3)).await;
    let third = platform.send(&one, ann, 103, false).await;
    platform.store_faults.heal();
    let at_once = history().await;
    assert_eq!(seqs(&at_once), [first.seq, third.seq], "the owner has the last one itself");
    assert!(at_once.tail_missing);
    let react =
        Action::React { message_id: second.message_id, emoji: "👍".to_owned(), remove: false };
    let refusal = platform.try_to(&one, ann, react.clone()).await.unwrap_err();
    assert_eq!(refusal.code, Code::StoreUnavailable, "not that there is no such message");
    sleep(Duration::from_secs(10)).await;
    let later = history().await;
    assert_eq!(seqs(&later), [first.seq, second.seq, third.seq]);
    assert!(!later.tail_missing);
    assert!(matches!(platform.ask(&one, ann, react).await, Reply::Changed(_)));
}
