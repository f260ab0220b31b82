//! Moves between stores in memory, broken off at random.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::faulty::{Faults, FaultyBroker, Rates, Settings};
use chat_broker::{Broker, Revision, Sequence};
use chat_protocol::record::{Record, RecordKind};
use chat_protocol::{MessageId, NodeId, Partition};
use chat_store::conformance::sample::{self, NOW};
use chat_store::conformance::tables::{self, World};
use chat_store::embedded::EmbeddedStore;
use chat_store::{Checkpoint, Row, Table};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::progress::Progress;
use super::source::Source;
use super::target::Target;
use super::*;
use crate::backup::{STORE_EPOCH_KEY, epoch_value};
use crate::partition::floor::Floor;

const EPOCH: u64 = 7;

/// What every id of the source is at or below.
fn used() -> MessageId {
    MessageId::last_of(NOW.plus(3_600_000))
}

async fn source(random: &mut StdRng) -> (Source, World) {
    let store = EmbeddedStore::memory();
    let world = tables::fill(&store, random).await;
    let log = EmbeddedBroker::memory();
    for partition in Partition::all() {
        let record = Record {
            kind: RecordKind::Closing as i32,
            epoch: EPOCH,
            reserved_until: used().0,
            ..Record::default()
        };
        log.append(partition, Sequence(0), record.to_bytes().into()).await.unwrap();
    }
    (Source::of(store, log).await, world)
}

fn empty() -> Target {
    Target { store: Box::new(EmbeddedStore::memory()), log: Box::new(EmbeddedBroker::memory()) }
}

/// One run with pages of this many rows.
async fn run(
    source: &Source,
    target: &Target,
    rows_max: usize,
    say: Say<'_>,
) -> anyhow::Result<(bool, Vec<Compared>)> {
    let (clock, lag) = (Clock::manual(NOW.plus(1_000)), Duration::from_secs(60));
    let progress = Progress::claim(source, target).await?;
    Migration { source, target, clock, lag, rows_max, say }.run(progress).await
}

fn quiet(_: &str) {}

#[tokio::test(start_paused = true)]
async fn wherever_a_run_breaks_off_the_next_ones_bring_everything_over() {
    let first = sample::seed();
    for seed in first..first + 12 {
        println!("CHAT_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (source, world) = source(&mut random).await;
        let faults = Faults::new(seed);
        let log =
            FaultyBroker::new(Arc::new(EmbeddedBroker::memory()), faults.clone(), NodeId::random());
        let target = Target { store: Box::new(EmbeddedStore::memory()), log: Box::new(log) };
        let mut broken = 0;
        let tables = loop {
            let rates = Rates {
                append_lost: 0.1,
                append_answer_lost: 0.1,
                read_error: random.random_range(0.0..0.01),
                read_stale: 0.1,
                read_delay: 0.1,
                put_lost: random.random_range(0.0..0.6),
                put_answer_lost: random.random_range(0.0..0.3),
                put_delay: 0.5,
                ..Rates::default()
            };
            faults.set(Settings { rates, ..Settings::default() });
            // As if the process were killed.
            let life = Duration::from_millis(random.random_range(1..200_000));
            let rows_max = random.random_range(5..200);
            match tokio::time::timeout(life, run(&source, &target, rows_max, &quiet)).await {
                Ok(Ok((false, tables))) => break tables,
                Ok(Ok((true, _))) => panic!("it was done without anyone having been told"),
                Ok(Err(_)) | Err(_) => broken += 1,
            }
            assert!(broken < 500, "it never ends");
            let is_done = target.log.get(STORE_EPOCH_KEY).await.is_ok_and(|key| key.is_some());
            if is_done {
                break vec![];
            }
        };
        println!("broken off {broken} times");
        assert!(tables.iter().all(Compared::is_equal));
        faults.clear();
        check(&source, &target, &world).await;
        let (is_old, _) = run(&source, &target, 100, &quiet).await.unwrap();
        // The last run may have been cut off right before it noted that.
        let (again, _) = run(&source, &target, 100, &quiet).await.unwrap();
        assert!(again && (is_old || tables.is_empty()), "nothing is left to do");
        assert!(super::unfinished(&*target.log).await.unwrap().is_none());
    }
}

async fn check(source: &Source, target: &Target, world: &World) {
    for table in Table::ALL {
        let one = tables::digest(&*source.store, table, 100).await;
        assert_eq!(one, tables::digest(&*target.store, table, 100).await, "{table:?}");
    }
    tables::shows_the_same(&*source.store, &*target.store, world).await;
    let epoch = target.store.epoch().await.unwrap();
    assert_ne!(epoch, source.epoch, "every cursor is reset");
    let key = target.log.get(STORE_EPOCH_KEY).await.unwrap().unwrap();
    assert_eq!(key.value, epoch_value(epoch));
    for partition in Partition::all() {
        let last = target.log.last(partition).await.unwrap().unwrap();
        let record = Record::from_bytes(&last.payload).unwrap();
        assert_eq!(record.kind, RecordKind::Closing as i32);
        assert_eq!(Floor::of(&record), Floor { epoch: EPOCH, reserved_until: used() });
        let expected = Checkpoint { sequence: 0, reserved_until: used(), epoch: EPOCH };
        assert_eq!(target.store.checkpoint(partition).await.unwrap(), expected);
    }
}

async fn refusal(source: &Source, target: &Target) -> String {
    run(source, target, 100, &quiet).await.unwrap_err().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_target_that_holds_anything_of_others_is_refused() {
    let mut random = StdRng::seed_from_u64(1);
    let (source, _) = source(&mut random).await;

    let target = empty();
    target.log.put(STORE_EPOCH_KEY, Revision(0), epoch_value(1)).await.unwrap();
    assert!(refusal(&source, &target).await.contains("nodes have run on already"));

    let target = empty();
    target.log.append(Partition(300), Sequence(0), Bytes::from_static(b"x")).await.unwrap();
    assert!(refusal(&source, &target).await.contains("the log of another platform"));

    let target = empty();
    let checkpoint = Checkpoint { epoch: 1, ..Checkpoint::default() };
    target.store.put_checkpoints(vec![(Partition(3), checkpoint)]).await.unwrap();
    assert!(refusal(&source, &target).await.contains("the log of another platform"));

    let target = empty();
    let row = Row::Account(sample::account("other"));
    target.store.import(vec![row]).await.unwrap();
    assert!(refusal(&source, &target).await.contains("holds accounts of another installation"));
    assert_eq!(target.log.get(MIGRATION_KEY).await.unwrap(), None, "nothing was written");

    let target = empty();
    run(&source, &target, 100, &quiet).await.unwrap();
    let (other, _) = self::source(&mut random).await;
    assert!(refusal(&other, &target).await.contains("holds another installation"));

    // The keyspace was replaced half-way.
    let target = empty();
    drop(Progress::claim(&source, &target).await.unwrap());
    let target = Target { store: Box::new(EmbeddedStore::memory()), ..target };
    assert!(refusal(&source, &target).await.contains("not the one that this migration began with"));
}

#[tokio::test(start_paused = true)]
async fn a_difference_is_told_and_no_node_starts_on_it() {
    let mut random = StdRng::seed_from_u64(2);
    let (source, _) = source(&mut random).await;
    let target = empty();
    drop(Progress::claim(&source, &target).await.unwrap());
    let row = Row::Account(sample::account("other"));
    target.store.import(vec![row]).await.unwrap();
    for _ in 0..2 {
        let refused = refusal(&source, &target).await;
        let told = "accounts: 6 rows in the old installation and 7 on the platform, NOT EQUAL";
        assert!(refused.contains(told), "{refused}");
        assert_eq!(target.log.get(STORE_EPOCH_KEY).await.unwrap(), None);
        let reason = super::unfinished(&*target.log).await.unwrap().unwrap();
        assert!(reason.contains("has not ended"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_a_node_has_run_on_since_is_copied_anew_and_after_the_end_refused() {
    let mut random = StdRng::seed_from_u64(3);
    let (mut source, world) = source(&mut random).await;
    let target = empty();
    // It ends in the last wait.
    let cut = tokio::time::timeout(Duration::from_secs(30), run(&source, &target, 10, &quiet));
    cut.await.unwrap_err();
    let used_since = MessageId::last_of(NOW.plus(7_200_000));
    let record = Record {
        kind: RecordKind::Closing as i32,
        epoch: EPOCH + 1,
        reserved_until: used_since.0,
        ..Record::default()
    };
    let last = source.log.last(Partition(0)).await.unwrap().unwrap();
    source.log.append(Partition(0), last.sequence, record.to_bytes().into()).await.unwrap();
    let user = world.accounts[0].profile.user_id;
    source.store.add_device(sample::device(user, NOW)).await.unwrap();
    source.log_end = "another".to_owned();

    let said = Mutex::new(String::new());
    let note = |text: &str| said.lock().unwrap().push_str(text);
    let (is_old, tables) = run(&source, &target, 100, &note).await.unwrap();
    assert!(!is_old && tables.iter().all(Compared::is_equal));
    assert!(said.lock().unwrap().contains("everything is copied again"));
    let last = target.log.last(Partition(0)).await.unwrap().unwrap();
    let record = Record::from_bytes(&last.payload).unwrap();
    assert_eq!((record.epoch, record.reserved_until), (EPOCH + 1, used_since.0));

    source.log_end = "a third".to_owned();
    assert!(refusal(&source, &target).await.contains("the old node has run since"));
}
