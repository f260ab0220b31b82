pub(crate) mod world;

use std::collections::BTreeSet;

use chat_protocol::close::Close;
use chat_protocol::cursor::Cursor;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ClientFrame, JoinRoom, Outcome, ServerFrame, TypingNow};
use chat_protocol::{Body, ClientMessageId, ConversationId, frame};
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use self::world::{World, id, message, world};
use super::*;
use crate::hub::Taken;

fn quiet() -> Settings {
    Settings { rate: None, watermark_wait_ms: 0, ..Settings::default() }
}

/// What waits for a connection, as its client reads it.
fn frames(connection: &mut Connection) -> (Vec<ServerFrame>, Option<Close>) {
    let outbox = connection.session.outbox.clone();
    let mut frames = vec![];
    loop {
        match outbox.take().now_or_never() {
            Some(Taken::Items(items)) => {
                for item in items {
                    let written = connection.write(item).unwrap();
                    frames.push(Encoding::Json.read(&written.bytes).unwrap());
                }
            }
            Some(Taken::End(close)) => return (frames, Some(close)),
            None => return (frames, None),
        }
    }
}

fn message_ids(frames: &[ServerFrame]) -> Vec<MessageId> {
    frames
        .iter()
        .filter_map(|frame| match frame {
            ServerFrame::Message(message) => Some(message.message_id),
            _ => None,
        })
        .collect()
}

fn last_cursor(frames: &[ServerFrame]) -> Option<(Cursor, bool)> {
    frames.iter().rev().find_map(|frame| match frame {
        ServerFrame::Cursor(c) => Some((Cursor::decode(&c.cursor).unwrap(), c.catching_up)),
        _ => None,
    })
}

async fn connect(world: &World, cursor: Option<String>) -> Connection {
    world.gateway.hello(&world.hello(cursor), Encoding::Json).await.unwrap()
}

async fn read(world: &World, connection: &Connection) {
    world.gateway.read_now(&connection.session).await;
}

#[tokio::test]
async fn a_new_session_is_welcomed_first_and_begins_at_the_safe_watermark() {
    let world = world(quiet()).await;
    world.announce(id(1000), id(1000));
    let mut connection = connect(&world, None).await;
    world.publish(id(1500));
    read(&world, &connection).await;
    let (frames, _) = frames(&mut connection);
    let ServerFrame::Welcome(welcome) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(welcome.outcome, Outcome::New);
    assert_eq!(message_ids(&frames), [id(1500)]);
    let (cursor, catching_up) = last_cursor(&frames).unwrap();
    assert_eq!((cursor.safe, cursor.session), (id(1000), welcome.session_id));
    assert!(catching_up, "its ticket is not settled yet");
    world.announce(id(2000), id(2000));
    read(&world, &connection).await;
    let (frames, _) = self::frames(&mut connection);
    let (cursor, catching_up) = last_cursor(&frames).unwrap();
    assert_eq!((cursor.safe, catching_up), (id(2000), false));
}

#[tokio::test]
async fn a_resume_brings_everything_above_the_cursor_once_and_in_order() {
    let world = world(quiet()).await;
    for n in 1..=500 {
        world.store_message(id(n), "text").await;
    }
    world.announce(id(490), id(500));
    let cursor = Cursor {
        store_epoch: 7,
        safe: id(100),
        extra: vec![id(103)],
        rooms: vec![],
        session: SessionId::random(),
    };
    let mut connection = connect(&world, Some(cursor.encode())).await;
    let mut got = vec![];
    let mut last = None;
    for _ in 0..20 {
        read(&world, &connection).await;
        let (frames, end) = frames(&mut connection);
        assert_eq!(end, None);
        got.extend(message_ids(&frames));
        last = last_cursor(&frames).or(last);
    }
    let expected: Vec<_> = (101..=500).filter(|n| *n != 103).map(id).collect();
    assert_eq!(got, expected);
    let (told, catching_up) = last.unwrap();
    assert_eq!((told.safe, told.session, catching_up), (id(490), cursor.session, true));
}

#[tokio::test]
async fn what_live_delivery_lost_comes_with_the_next_read_and_what_it_sent_does_not() {
    let world = world(quiet()).await;
    world.announce(id(10), id(10));
    let mut connection = connect(&world, None).await;
    for n in 11..20 {
        world.store_message(id(n), "text").await;
        if n != 15 {
            world.publish(id(n));
        }
    }
    let (live, _) = frames(&mut connection);
    assert_eq!(message_ids(&live).len(), 8);
    assert_eq!(last_cursor(&live), None, "live frames never move the cursor");
    world.announce(id(30), id(30));
    read(&world, &connection).await;
    let (repaired, _) = frames(&mut connection);
    assert_eq!(message_ids(&repaired), [id(15)]);
    assert_eq!(last_cursor(&repaired).unwrap().0.safe, id(30));
}

#[tokio::test]
async fn a_long_catch_up_waits_for_the_socket_instead_of_overflowing() {
    let world = world(quiet()).await;
    let text = "x".repeat(50_000);
    for n in 1..=60 {
        world.store_message(id(n), &text).await;
    }
    world.announce(id(100), id(100));
    let cursor = Cursor {
        store_epoch: 7,
        safe: id(0),
        extra: vec![],
        rooms: vec![],
        session: SessionId::random(),
    };
    let mut connection = connect(&world, Some(cursor.encode())).await;
    for _ in 0..10 {
        read(&world, &connection).await;
        assert!(connection.session.outbox.read_bytes() < 1_500_000);
    }
    let mut got = vec![];
    for _ in 0..40 {
        let (frames, end) = frames(&mut connection);
        assert_eq!(end, None);
        got.extend(message_ids(&frames));
        let highest = got.iter().max().copied().unwrap_or_default();
        if let Some((cursor, _)) = last_cursor(&frames) {
            assert!(cursor.safe <= highest || got.len() == 60, "nothing unsent is passed");
        }
        read(&world, &connection).await;
    }
    assert_eq!(got, (1..=60).map(id).collect::<Vec<_>>());
}

#[tokio::test]
async fn cursors_of_another_store_are_reset_and_garbage_is_refused() {
    let world = world(quiet()).await;
    world.announce(id(50), id(50));
    let foreign = Cursor {
        store_epoch: 8,
        safe: id(1),
        extra: vec![],
        rooms: vec![],
        session: SessionId::random(),
    };
    let mut connection = connect(&world, Some(foreign.encode())).await;
    let (frames, _) = frames(&mut connection);
    assert!(matches!(&frames[0], ServerFrame::Welcome(w) if w.outcome == Outcome::Reset));
    let garbage = world.hello(Some("garbage".into()));
    let refused = world.gateway.hello(&garbage, Encoding::Json).await.err().unwrap();
    assert_eq!(refused.code, Code::InvalidCursor);
}

/// The contract: at every moment, an entry at or below the last cursor was sent on this connection or before it.
#[tokio::test]
async fn an_entry_at_or_below_the_cursor_was_sent_whatever_is_lost_late_or_out_of_order() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    for run in 0..25 {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(run));
        let world = world(quiet()).await;
        world.announce(id(1), id(1));
        let mut connection = connect(&world, None).await;
        let (mut issued, mut unwritten) = (vec![], vec![]);
        let (mut received, mut cursor) = (BTreeSet::new(), id(1));
        let mut cursor_text = None;
        let mut clock = 10;
        for _ in 0..120 {
            match random.random_range(0..10) {
                0..=2 => {
                    clock += random.random_range(1..5);
                    issued.push(id(clock));
                    unwritten.push(id(clock));
                    if random.random_bool(0.6) {
                        world.publish(id(clock));
                    }
                }
                3..=5 if !unwritten.is_empty() => {
                    let index = random.random_range(0..unwritten.len());
                    world.store_message(unwritten.swap_remove(index), "text").await;
                }
                6 => {
                    clock += 1;
                    let lowest = unwritten.iter().min().copied();
                    let safe = lowest.map_or(id(clock), |id| MessageId(id.0 - 1));
                    world.announce(safe, issued.iter().max().copied().unwrap_or(safe));
                }
                7..=8 => read(&world, &connection).await,
                _ if random.random_bool(0.3) => {
                    drop(connection);
                    connection = connect(&world, cursor_text.clone()).await;
                    if cursor_text.is_none() {
                        // Without a cursor a client loads what is in the store, after `welcome`.
                        let stored = issued.iter().filter(|id| !unwritten.contains(id));
                        received.extend(stored.copied());
                    }
                }
                _ => {}
            }
            if random.random_bool(0.5) {
                let (frames, _) = frames(&mut connection);
                received.extend(message_ids(&frames));
                if let Some((told, _)) = last_cursor(&frames) {
                    assert!(told.safe >= cursor, "run {run}: a cursor fell");
                    cursor = told.safe;
                    cursor_text = Some(told.encode());
                }
                let missing: Vec<_> =
                    issued.iter().filter(|id| **id <= cursor && !received.contains(id)).collect();
                assert!(missing.is_empty(), "run {run}: {missing:?} at or below {cursor}");
            }
        }
    }
}

fn send(world: &World, request_id: u64) -> ClientFrame {
    ClientFrame::Send(frame::Send {
        request_id,
        conversation_id: world.conversation,
        client_message_id: ClientMessageId::random(),
        retry: false,
        kind: "text".into(),
        body: Body::text(&request_id.to_string()),
        reply_to: None,
        mentions: vec![],
    })
}

#[tokio::test]
async fn commands_reach_their_owner_in_the_order_of_their_frames_and_answers_as_they_come() {
    let world = world(Settings { requests_in_flight_max: 8, ..quiet() }).await;
    let mut connection = connect(&world, None).await;
    world.owners.held.lock().unwrap().insert(1);
    (1..=8).for_each(|n| connection.receive(send(&world, n)));
    assert!(!connection.has_room(), "the socket is not read until one is answered");
    for _ in 0..7 {
        connection.carry_on().await;
    }
    let order: Vec<_> = world
        .owners
        .commands
        .lock()
        .unwrap()
        .iter()
        .map(|command| match &command.action {
            crate::conversation::Action::Send(draft) => draft.body.to_value()["text"].clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    let acks = |frames: Vec<ServerFrame>| -> Vec<u64> {
        let ack = |frame| match frame {
            ServerFrame::Ack(ack) => Some(ack.request_id),
            _ => None,
        };
        frames.into_iter().filter_map(ack).collect()
    };
    assert_eq!(acks(frames(&mut connection).0), [2, 3, 4, 5, 6, 7, 8]);
    world.owners.release.notify_one();
    connection.carry_on().await;
    assert_eq!(acks(frames(&mut connection).0), [1]);
    assert!(!connection.is_busy());
}

#[tokio::test]
async fn too_many_requests_are_refused_with_the_time_to_wait() {
    let rate = Some(Rate { per_second: 10, burst: 3 });
    let world = world(Settings { rate, ..quiet() }).await;
    let mut connection = connect(&world, None).await;
    (1..=4).for_each(|n| connection.receive(send(&world, n)));
    let (frames, _) = frames(&mut connection);
    let ServerFrame::Error(error) = frames.last().unwrap() else { panic!("{frames:?}") };
    assert_eq!((error.request_id, error.code), (Some(4), Code::RateLimited));
    assert!(error.retry_after_ms.unwrap() <= 100);
}

#[tokio::test]
async fn typing_has_no_answer_and_a_second_hello_is_refused() {
    let world = world(quiet()).await;
    let mut connection = connect(&world, None).await;
    let typing = TypingNow { conversation_id: world.conversation, active: true };
    connection.receive(ClientFrame::Typing(typing));
    connection.carry_on().await;
    let (typed, _) = frames(&mut connection);
    assert!(matches!(&typed[..], [ServerFrame::Welcome(_)]), "{typed:?}");
    connection.receive(ClientFrame::Hello(world.hello(None)));
    let (refused, _) = frames(&mut connection);
    assert!(matches!(&refused[..], [ServerFrame::Error(e)] if e.code == Code::HelloExpected));
}

#[tokio::test]
async fn a_resumed_room_brings_its_newest_messages_and_counts_the_others() {
    let world = world(quiet()).await;
    let room = ConversationId::room(world.user, Uuid::nil());
    let messages = (1..=300).map(|n| {
        let mut message = message(room, id(n), "in the room");
        message.seq = n;
        message
    });
    world.owners.rooms.lock().unwrap().insert(room, messages.collect());
    let mut connection = connect(&world, None).await;
    connection.receive(ClientFrame::JoinRoom(JoinRoom { request_id: 1, room_id: room }));
    connection.carry_on().await;
    let (joined, _) = frames(&mut connection);
    assert!(matches!(joined.last(), Some(ServerFrame::Ack(_))), "{joined:?}");
    let cursor = Cursor {
        store_epoch: 7,
        safe: id(1),
        extra: vec![],
        rooms: vec![(room, id(50))],
        session: SessionId::random(),
    };
    let mut resumed = connect(&world, Some(cursor.encode())).await;
    resumed.carry_on().await;
    let (frames, _) = frames(&mut resumed);
    let batch = frames.iter().find_map(|frame| match frame {
        ServerFrame::Room(batch) => Some(batch),
        _ => None,
    });
    let batch = batch.unwrap();
    assert_eq!((batch.messages.len(), batch.skipped), (100, 150));
    assert_eq!(batch.messages.last().unwrap().message_id, id(300));
    world.announce(id(400), id(400));
    read(&world, &resumed).await;
    let (after, _) = self::frames(&mut resumed);
    assert_eq!(last_cursor(&after).unwrap().0.rooms, [(room, id(300))]);
}

#[tokio::test]
async fn a_connection_dropped_without_an_end_counts_as_abrupt() {
    let world = world(quiet()).await;
    drop(connect(&world, None).await);
    assert_eq!(world.gateway.parts.metrics.abrupt_closes.get(), 1);
    assert!(world.gateway.sessions.is_empty());
}

#[tokio::test]
async fn a_restart_that_the_client_was_not_told_of_counts_as_abrupt() {
    let world = world(quiet()).await;
    let mut connection = connect(&world, None).await;
    connection.session.outbox.close(Close::Restart);
    connection.ended(registry::End::Closed(Close::Restart));
    drop(connection);
    assert_eq!(world.gateway.parts.metrics.abrupt_closes.get(), 1);
}

#[tokio::test]
async fn the_schedule_reads_inboxes_by_itself_until_a_session_is_complete() {
    let settings = Settings { catch_up_interval_ms: 50, first_audit_ms: 100, ..quiet() };
    let world = world(settings).await;
    world.announce(id(5), id(5));
    world.spawn();
    let mut connection = connect(&world, None).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        assert!(tokio::time::Instant::now() < deadline, "never complete");
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.announce(id(8), id(8));
        if last_cursor(&frames(&mut connection).0).is_some_and(|(_, catching_up)| !catching_up) {
            break;
        }
    }
    world.stop.cancel();
    world.tracker.close();
    tokio::time::timeout(Duration::from_secs(5), world.tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn while_the_store_is_away_a_session_is_live_and_completes_once_it_is_back() {
    let settings = Settings { catch_up_interval_ms: 50, ..quiet() };
    let world = world(settings).await;
    world.store_message(id(4), "missed").await;
    world.announce(id(5), id(5));
    world.faults.set_away(true);
    world.spawn();
    let cursor = Cursor {
        store_epoch: 7,
        safe: id(1),
        extra: vec![],
        rooms: vec![],
        session: SessionId::random(),
    };
    let mut connection = connect(&world, Some(cursor.encode())).await;
    let failures = world.gateway.parts.metrics.inbox_read_failures.clone();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while failures.get() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the inbox was never asked for");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.publish(id(9));
    let (live, _) = frames(&mut connection);
    assert_eq!(message_ids(&live), [id(9)], "live at once");
    assert_eq!(last_cursor(&live), None, "and no cursor without a read");
    world.faults.heal();
    let mut got = vec![];
    loop {
        assert!(tokio::time::Instant::now() < deadline, "never complete");
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.announce(id(8), id(8));
        let (frames, _) = frames(&mut connection);
        got.extend(message_ids(&frames));
        if last_cursor(&frames).is_some_and(|(_, catching_up)| !catching_up) {
            break;
        }
    }
    assert_eq!(got, [id(4)]);
}

/// What is in the store of the world's device once everything noted is written.
async fn confirmed(world: &World) -> Option<MessageId> {
    world.gateway.confirmed.write_due(&*world.store, Duration::MAX).await;
    world.store.confirmed(world.user).await.unwrap().first().map(|row| row.safe)
}

#[tokio::test]
async fn the_cursor_that_a_device_shows_is_kept_and_never_resumed_from() {
    let world = world(quiet()).await;
    world.add_device().await;
    world.announce(id(100), id(100));
    let shown = |safe| Cursor {
        store_epoch: 7,
        safe,
        extra: vec![],
        rooms: vec![],
        session: SessionId::random(),
    };
    drop(connect(&world, None).await);
    assert_eq!(confirmed(&world).await, None, "a new device has shown nothing");
    let mut connection = connect(&world, Some(shown(id(40)).encode())).await;
    assert_eq!(confirmed(&world).await, Some(id(40)));

    world.gateway.read_now(&connection.session).await;
    let (frames, _) = frames(&mut connection);
    let (cursor, _) = last_cursor(&frames).unwrap();
    assert_eq!(cursor.safe, id(100));
    assert_eq!(confirmed(&world).await, Some(id(40)), "what was sent need not have arrived");
    let heartbeat =
        |cursor: String| ClientFrame::Heartbeat(frame::Heartbeat { cursor: Some(cursor) });
    let foreign = Cursor { store_epoch: 8, ..shown(id(90)) };
    for nothing in ["no cursor".to_owned(), foreign.encode()] {
        connection.receive(heartbeat(nothing));
        assert_eq!(confirmed(&world).await, Some(id(40)));
    }
    connection.receive(heartbeat(cursor.encode()));
    assert_eq!(confirmed(&world).await, Some(id(100)));
    connection.receive(heartbeat(shown(id(900)).encode()));
    assert_eq!(confirmed(&world).await, Some(id(100)), "no further than what was written");
    drop(connect(&world, Some(shown(id(900)).encode())).await);
    assert_eq!(confirmed(&world).await, Some(id(100)), "no further than what can be");

    let behind = connect(&world, Some(shown(id(60)).encode())).await;
    assert_eq!(behind.session.position(), id(60), "a session goes on from its own cursor");
    assert_eq!(confirmed(&world).await, Some(id(100)));
}

#[tokio::test]
async fn a_store_that_fails_delays_what_was_confirmed_and_nothing_else() {
    let world = world(quiet()).await;
    world.add_device().await;
    world.announce(id(100), id(100));
    let cursor = Cursor {
        store_epoch: 7,
        safe: id(40),
        extra: vec![],
        rooms: vec![],
        session: SessionId::random(),
    };
    let faulty = world.gateway.parts.store.clone();
    world.faults.set_away(true);
    drop(connect(&world, Some(cursor.encode())).await);
    world.gateway.confirmed.write_due(&*faulty, Duration::MAX).await;
    world.faults.set_away(false);
    assert_eq!(world.store.confirmed(world.user).await.unwrap(), []);
    assert_eq!(confirmed(&world).await, Some(id(40)));
}
