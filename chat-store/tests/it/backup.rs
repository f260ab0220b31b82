use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chat_protocol::{MessageId, Partition};
use chat_store::conformance::sample::{Ids, group, message};
use chat_store::embedded::{OpenError, backup, renew_epoch, reset_checkpoints, restore};
use chat_store::{Checkpoint, Store, Write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_ends_under_constant_writes_and_is_of_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store.db"), folder.path().join("copy.db"));
    let store = super::open(&path);
    let id = group();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn({
        let (store, stop, written) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&written));
        async move {
            let mut ids = Ids::of(id);
            let mut seq = 0;
            while !stop.load(Ordering::Relaxed) {
                // Large enough that the copy takes several steps.
                seq += 1;
                let row = message(id, ids.next_id(), seq, &"x".repeat(60_000));
                let sequence = Checkpoint { sequence: seq, ..Checkpoint::default() };
                let writes = vec![Write::Message(row)];
                store.apply(Partition(0), writes, Some(sequence)).await.unwrap();
                written.store(seq, Ordering::Relaxed);
            }
        }
    });
    while written.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let before = written.load(Ordering::Relaxed);
    let target = copy.clone();
    let source = path.clone();
    tokio::task::spawn_blocking(move || backup(&source, &target)).await.unwrap().unwrap();
    let after = written.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(after > before, "nothing was written meanwhile");

    let copied = super::open(&copy);
    let checkpoint = copied.checkpoint(Partition(0)).await.unwrap().sequence;
    assert!(checkpoint >= before && checkpoint <= after + 1);
    let history = copied.history_before(id, MessageId(u64::MAX), 10_000).await.unwrap();
    assert_eq!(history.len() as u64, checkpoint);
    assert_eq!(copied.epoch().await.unwrap(), store.epoch().await.unwrap());
}

#[tokio::test]
async fn a_restored_store_has_a_new_epoch_and_is_replayed_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let store = super::open(&file("store.db"));
    let checkpoint = Checkpoint { sequence: 50, reserved_until: MessageId(777), epoch: 4 };
    store.put_checkpoints(vec![(Partition(9), checkpoint)]).await.unwrap();
    backup(&file("store.db"), &file("copy.db")).unwrap();
    let epoch = restore(&file("copy.db"), &file("restored.db")).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("store.db"))
        .collect();
    names.sort();
    assert_eq!(names, ["copy.db", "restored.db"], "nothing else is left behind");

    let restored = super::open(&file("restored.db"));
    assert_eq!(restored.epoch().await.unwrap(), epoch);
    assert_ne!(store.epoch().await.unwrap(), epoch);
    let found = restored.checkpoint(Partition(9)).await.unwrap();
    assert_eq!(found, Checkpoint { sequence: 0, ..checkpoint }, "the floor of ids is kept");
    // The replay brings checkpoints of old records.
    let replayed = Checkpoint { sequence: 2, reserved_until: MessageId(5), epoch: 1 };
    restored.put_checkpoints(vec![(Partition(9), replayed)]).await.unwrap();
    assert_eq!(restored.checkpoint(Partition(9)).await.unwrap(), replayed);
}

#[tokio::test]
async fn nothing_is_overwritten_or_made_out_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    drop(super::open(&file("store.db")));
    std::fs::write(file("there"), "precious").unwrap();
    let error = backup(&file("store.db"), &file("there")).unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(file("there")).unwrap(), b"precious");
    assert!(backup(&file("missing"), &file("copy")).is_err());
    assert!(backup(&file("there"), &file("copy")).is_err());
    assert!(renew_epoch(&file("missing")).is_err());
    assert!(reset_checkpoints(&file("missing")).is_err());
    assert!(!file("missing").exists() && !file("copy").exists());
}
