//! Thousands of accounts, fast.

use std::rc::Rc;

use anyhow::Context;
use chat_client::Api;
use chat_protocol::api::{NewConversation, SignUp};
use chat_protocol::{ConversationId, UserId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Requests under way at once; as many connections are kept alive.
const CONCURRENCY: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) user_id: UserId,
    pub(crate) token: String,
}

/// Signs up `count` people.
pub(crate) async fn sign_up(api: &Api, count: usize) -> anyhow::Result<Vec<Account>> {
    // Handles are unique on a platform, and this may not be its first run.
    let run = &Uuid::new_v4().simple().to_string()[..8];
    let started = std::time::Instant::now();
    let accounts = concurrently(count, |n| {
        let (api, handle) = (api.clone(), format!("b{run}.{n}"));
        async move {
            let password = "benchmark password".to_owned();
            let body = SignUp { handle, password, name: None, device_name: Some("bench".into()) };
            let tokens = api.sign_up(&body).await.context("sign up")?;
            Ok(Account { user_id: tokens.user_id, token: tokens.access_token })
        }
    })
    .await?;
    eprintln!("signed up {count} accounts in {:.1} s", started.elapsed().as_secs_f64());
    Ok(accounts)
}

/// Runs `count` pieces of work, some at once, and keeps their order.
pub(crate) async fn concurrently<T, F>(
    count: usize,
    work: impl Fn(usize) -> F,
) -> anyhow::Result<Vec<T>>
where
    T: 'static,
    F: Future<Output = anyhow::Result<T>> + 'static,
{
    let permits = Rc::new(Semaphore::new(CONCURRENCY));
    let mut tasks = JoinSet::new();
    for n in 0..count {
        let (permits, work) = (Rc::clone(&permits), work(n));
        tasks.spawn_local(async move {
            let _permit = permits.acquire().await.context("the semaphore is never closed")?;
            work.await.map(|done| (n, done))
        });
    }
    let mut results = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        results.push(done.context("a task of the generator failed")??);
    }
    results.sort_by_key(|(n, _)| *n);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// One group of all these people; the first makes it.
pub(crate) async fn group(api: &Api, people: &[Account]) -> anyhow::Result<ConversationId> {
    let (owner, others) = people.split_first().context("a group needs people")?;
    let body = NewConversation::Group {
        request_id: Uuid::new_v4(),
        name: "benchmark".into(),
        members: others.iter().map(|account| account.user_id).collect(),
    };
    let made = api.create(&owner.token, &body).await.context("make the group")?;
    anyhow::ensure!(
        made.members.len() == people.len(),
        "the group has {} members instead of {}",
        made.members.len(),
        people.len()
    );
    Ok(made.conversation_id)
}

/// A live room of the first one's.
pub(crate) async fn room(api: &Api, owner: &Account) -> anyhow::Result<ConversationId> {
    let body = NewConversation::Room { request_id: Uuid::new_v4(), name: "benchmark".into() };
    Ok(api.create(&owner.token, &body).await.context("make the live room")?.conversation_id)
}

/// The one conversation of two people.
pub(crate) async fn direct(
    api: Api,
    one: Account,
    other: Account,
) -> anyhow::Result<ConversationId> {
    let body = NewConversation::Direct { user_id: other.user_id };
    Ok(api.create(&one.token, &body).await.context("make the conversation")?.conversation_id)
}
