//! Who is seen as online, and until when.

use std::time::Duration;

use chat_protocol::Code;
use chat_protocol::frame::{ClientFrame, Presence, ServerFrame};
use tokio::time::Instant;

use crate::client::{Gone, PATIENCE, Person, Socket, api};
use crate::process::NodeProcess;

const SHORT: &[&str] = &["--heartbeat-interval-ms=200", "--offline-after-ms=1000"];

async fn friends(node: &NodeProcess) -> (Person, Person) {
    let (ann, ben) = (Person::new(node, "ann").await, Person::new(node, "ben").await);
    api(node).befriend(ann.token(), ben.id()).await.unwrap();
    api(node).befriend(ben.token(), ann.id()).await.unwrap();
    (ann, ben)
}

async fn beat(socket: &mut Socket) {
    socket.send(&ClientFrame::Heartbeat(Default::default())).await.unwrap();
}

/// What the watcher hears of anyone's presence within this time, while it keeps its own connection alive.
async fn heard(watcher: &mut Socket, limit: Duration) -> Option<Presence> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        beat(watcher).await;
        let next = Instant::now() + Duration::from_millis(150);
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            match watcher.next_within(left).await {
                Some(Ok(ServerFrame::Presence(presence))) => return Some(presence),
                Some(Ok(_)) => {}
                Some(Err(gone)) => panic!("the watcher is {gone:?}"),
                None => break,
            }
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_friend_is_online_at_connect_and_offline_after_silence() {
    let node = NodeProcess::start(SHORT).await;
    let (ann, ben) = friends(&node).await;
    let mut watcher = Socket::of(&node, &ben, None).await;
    let mut silent = Socket::of(&node, &ann, None).await;
    let connected = Instant::now();

    let online = heard(&mut watcher, PATIENCE).await.expect("the friend came");
    assert!(online.online && online.user_id == ann.id());
    assert!(online.last_active_at.is_some());
    let offline = heard(&mut watcher, PATIENCE).await.expect("the friend left");
    let silence = connected.elapsed();
    assert!(!offline.online && offline.user_id == ann.id());
    assert_eq!(offline.last_active_at, online.last_active_at, "silence is no activity");
    assert!(silence > Duration::from_millis(800), "{silence:?} is too early");
    let gone = loop {
        if let Err(gone) = silent.next().await {
            break gone;
        }
    };
    assert_eq!(gone, Gone::Closed(3001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_is_seen_at_once_and_closes_the_connection() {
    let node = NodeProcess::start(&["--offline-after-ms=30000"]).await;
    let (ann, ben) = friends(&node).await;
    let mut watcher = Socket::of(&node, &ben, None).await;
    let mut socket = Socket::of(&node, &ann, None).await;
    assert!(heard(&mut watcher, PATIENCE).await.expect("the friend came").online);

    api(&node).log_out(ann.token()).await.unwrap();
    let left = heard(&mut watcher, Duration::from_secs(10)).await.expect("long before the silence");
    assert!(!left.online);
    assert_eq!(socket.refused().await.1, Gone::Closed(3502));
    let refused = api(&node).me(ann.token()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_is_not_seen_as_leaving() {
    let node =
        NodeProcess::start(&["--heartbeat-interval-ms=500", "--offline-after-ms=3000"]).await;
    let (ann, ben) = friends(&node).await;
    let mut watcher = Socket::of(&node, &ben, None).await;
    let mut socket = Socket::of(&node, &ann, None).await;
    assert!(heard(&mut watcher, PATIENCE).await.expect("the friend came").online);
    let began = Instant::now();
    // Longer than the silence that would count.
    while began.elapsed() < Duration::from_millis(4_500) {
        drop(socket);
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket = Socket::of(&node, &ann, None).await;
        let heard = heard(&mut watcher, Duration::from_millis(500)).await;
        assert!(heard.is_none_or(|presence| presence.online), "{heard:?}");
    }
    drop(socket);
    let left = heard(&mut watcher, PATIENCE).await.expect("the friend left for good");
    assert!(!left.online);
}
