//! How long senders wait when a node is killed, and when it leaves as it is asked to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use chat_client::Api;
use chat_protocol::api::{NewConversation, NewMessage, SignUp};
use chat_protocol::{ClientMessageId, ConversationId};
use cluster::Platform;
use tokio::time::sleep;
use uuid::Uuid;

use crate::figure::Figures;

/// Spread over the partitions of both nodes.
const CONVERSATIONS: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time until the platform is whole again.
const WHOLE_MAX: Duration = Duration::from_secs(60);
const TAKE_OVER_MARK_SECONDS: f64 = 6.0;
const HAND_OVER_MARK_MS: f64 = 200.0;

/// What the senders have seen.
#[derive(Default)]
struct Waits(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The longest wait since it was last asked for.
    longest: Duration,
    /// When the last acknowledged send of each conversation was begun.
    begun: HashMap<ConversationId, Instant>,
}

impl Waits {
    fn saw(&self, conversation: ConversationId, begun: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.longest = seen.longest.max(begun.elapsed());
        seen.begun.insert(conversation, begun);
    }

    fn take_ms(&self) -> f64 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seen.longest).as_secs_f64() * 1e3
    }

    /// Waits until every conversation has had a send that was begun after this moment: what was under way is over, too.
    async fn all_go_on(&self) -> anyhow::Result<()> {
        let now = Instant::now();
        let waiting = || {
            let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            seen.begun.values().filter(|begun| **begun <= now).count()
        };
        while waiting() > 0 {
            anyhow::ensure!(now.elapsed() < WHOLE_MAX, "{} conversations stand still", waiting());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

pub(crate) async fn measure(
    platform: &Arc<Platform>,
    quick: bool,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let api = Api::new(&format!("http://{}", platform.nodes[0].address()))?;
    let (token, conversations) = prepare(&api).await?;
    let (waits, is_over) = (Arc::new(Waits::default()), Arc::new(AtomicBool::new(false)));
    let send = |conversation: &ConversationId| {
        tokio::spawn(send(
            api.clone(),
            token.clone(),
            *conversation,
            waits.clone(),
            is_over.clone(),
        ))
    };
    let senders: Vec<_> = conversations.iter().map(send).collect();
    sleep(Duration::from_secs(3)).await;
    figures.add("outage", "longest send when nothing happens", waits.take_ms(), "ms");

    let rounds = if quick { 2 } else { 5 };
    let mut leaves_ms = Vec::new();
    for _ in 0..rounds {
        whole(platform).await?;
        waits.take_ms();
        blocking(platform, |platform| platform.nodes[1].terminate()).await?;
        waits.all_go_on().await?;
        leaves_ms.push(waits.take_ms());
        blocking(platform, |platform| platform.nodes[1].restart()).await?;
    }
    leaves_ms.sort_by(f64::total_cmp);
    eprintln!("hand-overs, longest sends in ms: {leaves_ms:?}");
    figures.at_most(
        "outage",
        "node leaves: longest send, median",
        leaves_ms[rounds / 2],
        "ms",
        HAND_OVER_MARK_MS,
    );
    figures.add("outage", "node leaves: longest send, worst", leaves_ms[rounds - 1], "ms");

    whole(platform).await?;
    waits.take_ms();
    blocking(platform, |platform| platform.nodes[1].kill()).await?;
    waits.all_go_on().await?;
    let seconds = waits.take_ms() / 1e3;
    figures.at_most("outage", "node killed: longest send", seconds, "s", TAKE_OVER_MARK_SECONDS);
    is_over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.context("a sender failed")??;
    }
    blocking(platform, |platform| platform.nodes[1].restart()).await
}

async fn blocking(
    platform: &Arc<Platform>,
    work: impl FnOnce(&Platform) + Send + 'static,
) -> anyhow::Result<()> {
    let platform = platform.clone();
    tokio::task::spawn_blocking(move || work(&platform)).await.context("a fault could not be made")
}

/// Waits until every node owns its share.
async fn whole(platform: &Arc<Platform>) -> anyhow::Result<()> {
    let start = Instant::now();
    blocking(platform, |platform| platform.nodes.iter().for_each(|node| node.wait_until_ready()))
        .await?;
    loop {
        let owned =
            |node: &cluster::node::ChatNode| node.metric("chat_partitions_owned").unwrap_or(0.0);
        let shares: Vec<f64> = platform.nodes.iter().map(owned).collect();
        // Rendezvous hashing does not divide evenly.
        let least = 320.0 / platform.nodes.len() as f64 / 2.0;
        if shares.iter().all(|share| *share >= least) {
            sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < WHOLE_MAX, "nodes own {shares:?} partitions");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn prepare(api: &Api) -> anyhow::Result<(String, Vec<ConversationId>)> {
    let run = &Uuid::new_v4().simple().to_string()[..8];
    let mut people = Vec::new();
    for number in 0..=CONVERSATIONS {
        let account = SignUp {
            handle: format!("o{run}.{number}"),
            password: "benchmark password".to_owned(),
            name: None,
            device_name: None,
        };
        people.push(api.sign_up(&account).await.context("sign up")?);
    }
    let token = people[0].access_token.clone();
    let mut conversations = Vec::new();
    for other in &people[1..] {
        let body = NewConversation::Direct { user_id: other.user_id };
        conversations
            .push(api.create(&token, &body).await.context("make a conversation")?.conversation_id);
    }
    Ok((token, conversations))
}

/// Sends one message after another, each again until it is acknowledged.
async fn send(
    api: Api,
    token: String,
    conversation: ConversationId,
    waits: Arc<Waits>,
    is_over: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        let mut body: NewMessage = serde_json::from_value(serde_json::json!({
            "client_message_id": ClientMessageId(Uuid::new_v4()), "type": "text", "body": { "text": "still here" }
        }))?;
        let start = Instant::now();
        while let Err(error) = api.send(&token, conversation, &body).await {
            anyhow::ensure!(error.is_retryable(), "a message was refused: {error}");
            anyhow::ensure!(start.elapsed() < WHOLE_MAX, "a message waits too long: {error}");
            body.retry = true;
            sleep(Duration::from_millis(5)).await;
        }
        waits.saw(conversation, start);
        sleep(PAUSE).await;
    }
    Ok(())
}
