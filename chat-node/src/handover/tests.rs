//! The whole of it, without sockets: time is tokio's, which the tests pause.

use std::sync::Arc;
use std::time::Duration;

use chat_protocol::admin::{AdminCode, Amount, Batch, Grant, Jitter, Order, Phase, Target};
use chat_protocol::close::Close;
use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::error::Code;
use chat_protocol::frame::{Reconnect, ServerFrame};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Handover, Parts};
use crate::hub::Taken;
use crate::session::registry::End;
use crate::session::tests::world::{World, id, world};
use crate::session::{Connection, Settings};

/// One that does what is due by itself.
pub(crate) fn handover(world: &World) -> Arc<Handover> {
    let handover = Handover::new(Parts {
        gateway: world.gateway.clone(),
        bus: world.bus.clone(),
        membership: None,
        partitions: Box::new(|| 0),
        name: "node-1".to_owned(),
        revision: None,
        start: 1,
        stop: CancellationToken::new(),
    });
    tokio::spawn(handover.clone().run(world.stop.clone()));
    handover
}

async fn surroundings(clients: usize) -> (World, Arc<Handover>, Vec<Connection>) {
    let settings = Settings { rate: None, watermark_wait_ms: 0, ..Settings::default() };
    let world = world(settings).await;
    world.announce(id(5), id(5));
    let handover = handover(&world);
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(connect(&world, None).await);
    }
    (world, handover, connections)
}

async fn connect(world: &World, cursor: Option<String>) -> Connection {
    world.gateway.hello(&world.hello(cursor), Encoding::Json).await.unwrap()
}

/// What waits for a client: its last `reconnect` frame, and the end.
fn read(connection: &mut Connection) -> (Option<Reconnect>, Option<Close>) {
    let outbox = connection.session.outbox.clone();
    let mut told = None;
    loop {
        match outbox.take().now_or_never() {
            Some(Taken::Items(items)) => {
                for item in items {
                    let written = connection.write(item).unwrap();
                    match Encoding::Json.read(&written.bytes).unwrap() {
                        ServerFrame::Reconnect(reconnect) => told = Some(reconnect),
                        _ => assert!(told.is_none(), "nothing else waits"),
                    }
                }
            }
            Some(Taken::End(close)) => return (told, Some(close)),
            None => return (told, None),
        }
    }
}

fn order(epoch: u64) -> Order {
    Order { rollout: "to-green".to_owned(), epoch }
}

fn grant(batch: u32, count: u64) -> Grant {
    Grant {
        rollout: "to-green".to_owned(),
        epoch: 3,
        batch,
        sessions: Amount::Count(count),
        rate_per_second: 2,
        jitter: Jitter { min_ms: 1_000, max_ms: 2_000 },
        target: Some(Target { revision: "green".to_owned(), generation: 1 }),
    }
}

fn batch(handover: &Handover) -> Batch {
    *handover.status(vec![]).batches.last().unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_asks_as_many_as_were_granted_at_the_rate_and_once() {
    let (world, handover, mut connections) = surroundings(10).await;
    handover.prepare(&order(3)).unwrap();
    assert!(handover.not_ready().is_some());
    assert_eq!(handover.status(vec![]).phase, Phase::Prepared);
    handover.drain(&grant(1, 4)).unwrap();
    assert_eq!(batch(&handover).asked, 1, "the rate is two a second");
    let early = handover.drain(&grant(2, 1)).unwrap_err();
    assert_eq!(early.code, AdminCode::BatchRunning);
    pass(2).await;
    assert_eq!(batch(&handover).asked, 4);
    handover.drain(&grant(1, 4)).unwrap();
    handover.drain(&Grant { epoch: 4, ..grant(1, 9) }).unwrap();
    pass(2).await;
    assert_eq!(batch(&handover).asked, 4, "the same batch moves nobody twice");
    assert_eq!(handover.status(vec![]).sessions.not_asked, 6);
    let old = handover.drain(&grant(2, 1)).unwrap_err();
    assert_eq!(old.code, AdminCode::StaleEpoch);
    let told: Vec<Reconnect> = connections.iter_mut().filter_map(|c| read(c).0).collect();
    assert_eq!(told.len(), 4);
    for reconnect in told {
        assert!((1_000..=2_000).contains(&reconnect.delay_ms));
        assert!(reconnect.token.is_some());
    }
    assert!(world.gateway.hello(&world.hello(None), Encoding::Json).await.is_ok(), "it serves");
}

#[tokio::test(start_paused = true)]
async fn who_stays_is_closed_five_seconds_after_its_delay_and_cut_five_later() {
    let (world, handover, mut connections) = surroundings(1).await;
    let at_once = Jitter { min_ms: 0, max_ms: 0 };
    handover.drain(&Grant { jitter: at_once, ..grant(1, 1) }).unwrap();
    pass(4).await;
    let (told, end) = read(&mut connections[0]);
    assert!(told.is_some() && end.is_none(), "it is served all the while");
    pass(2).await;
    assert_eq!(read(&mut connections[0]).1, Some(Close::Restart));
    connections[0].ended(End::Closed(Close::Restart));
    connections.clear();
    let batch = batch(&handover);
    assert_eq!((batch.gone, batch.here, batch.acknowledged, batch.counted), (1, 0, 0, 0));
    assert!(handover.status(vec![]).handed_over);
    assert_eq!(world.gateway.parts.metrics.abrupt_closes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_its_cursor_is_counted_once() {
    let (world, handover, mut connections) = surroundings(3).await;
    let at_once = Jitter { min_ms: 0, max_ms: 0 };
    handover.drain(&Grant { jitter: at_once, rate_per_second: 100, ..grant(1, 3) }).unwrap();
    pass(1).await;
    let mut cursors = Vec::new();
    for mut connection in connections.drain(..) {
        cursors.push(read(&mut connection).0.unwrap().cursor);
        connection.acknowledged();
        connection.ended(End::ByPeer);
    }
    assert_eq!((batch(&handover).counted, batch(&handover).resumed), (3, 0));
    let mut back = Vec::new();
    for cursor in [&cursors[0], &cursors[0], &cursors[1]] {
        back.push(connect(&world, Some(cursor.clone())).await);
        pass(1).await;
    }
    let two = batch(&handover);
    assert_eq!((two.counted, two.resumed, two.pending, two.settled), (3, 2, 1, false));
    pass(61).await;
    back.push(connect(&world, Some(cursors[2].clone())).await);
    pass(1).await;
    let late = batch(&handover);
    assert_eq!((late.counted, late.resumed, late.pending, late.settled), (3, 2, 0, true));
    for connection in &mut back {
        connection.ended(End::ByPeer);
    }
    let lineage = Cursor::decode(&cursors[0]).unwrap().session;
    assert_eq!(back[0].session.lineage, lineage);
}

#[tokio::test(start_paused = true)]
async fn a_node_hears_from_others_who_came_to_them() {
    let (_world, handover, mut connections) = surroundings(1).await;
    handover.drain(&grant(1, 1)).unwrap();
    let lineage = connections[0].session.lineage;
    connections[0].acknowledged();
    connections[0].ended(End::ByPeer);
    connections.clear();
    let payload = super::service::returned_payload(&[chat_protocol::SessionId::random(), lineage]);
    assert!(handover.hear(&payload));
    assert!(!handover.hear(b"P12") && !handover.hear(b""));
    assert_eq!(batch(&handover).resumed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_keeps_whoever_was_not_asked_and_who_has_not_left() {
    let (world, handover, mut connections) = surroundings(6).await;
    handover.drain(&grant(1, 4)).unwrap();
    pass(1).await;
    handover.cancel(&order(3)).unwrap();
    let asked = batch(&handover).asked;
    assert!((1..4).contains(&asked), "{asked}");
    assert_eq!((handover.not_ready(), handover.status(vec![]).phase), (None, Phase::Serving));
    pass(30).await;
    assert_eq!(batch(&handover).asked, asked);
    assert_eq!(batch(&handover).skipped, 4 - asked);
    for connection in &mut connections {
        assert_eq!(read(connection).1, None, "nobody is closed");
        connection.ended(End::ByPeer);
    }
    assert!(!world.gateway.sessions.sends_away());
    let late = handover.drain(&grant(2, 1)).unwrap_err();
    assert_eq!(late.code, AdminCode::RolloutCancelled);
    let next = Grant { rollout: "to-blue".to_owned(), ..grant(1, 6) };
    handover.drain(&next).unwrap();
    pass(4).await;
    assert_eq!(batch(&handover).asked, 6, "they may be asked again");
}

#[tokio::test(start_paused = true)]
async fn the_end_asks_everyone_lets_nobody_in_and_waits_for_the_delays() {
    let (world, handover, mut connections) = surroundings(3).await;
    handover
        .drain(&Grant { jitter: Jitter { min_ms: 90_000, max_ms: 90_000 }, ..grant(1, 1) })
        .unwrap();
    let leaving = handover.clone();
    let end = tokio::spawn(async move { leaving.leave(1_000).await });
    while !world.gateway.sessions.is_draining() {
        tokio::task::yield_now().await;
    }
    let refused = world.gateway.hello(&world.hello(None), Encoding::Json).await.err().unwrap();
    assert_eq!(refused.code, Code::Draining);
    let told: Vec<u64> = connections.iter_mut().map(|c| read(c).0.unwrap().delay_ms).collect();
    assert_eq!(told.iter().filter(|delay| **delay <= 1_000).count(), 2);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for mut connection in connections {
        assert_eq!(read(&mut connection).1, Some(Close::Restart));
        connection.ended(End::Closed(Close::Restart));
    }
    let drained = end.await.unwrap();
    assert_eq!((drained.told, drained.cut_off), (2, 0));
    assert_eq!(world.gateway.parts.metrics.abrupt_closes.get(), 0);
    assert_eq!(handover.cancel(&order(9)).unwrap_err().code, AdminCode::Stopping);
}
