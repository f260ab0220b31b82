use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use chat_protocol::{MessageId, Partition};
use chat_store::conformance::sample::{Ids, account, device, group, message};
use chat_store::embedded::{EmbeddedStore, OpenError, Options};
use chat_store::{Checkpoint, Store, Write};

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let id = group();
    let row = message(id, Ids::of(id).next_id(), 1, "m");
    let checkpoint = Checkpoint { sequence: 3, reserved_until: MessageId(9), epoch: 2 };
    let account = account("a");
    let store = super::open(&path);
    let epoch = store.epoch().await.unwrap();
    let writes = vec![Write::Message(row.clone())];
    store.apply(id.partition(), writes, Some(checkpoint)).await.unwrap();
    let user = account.profile.user_id;
    store.create_account(account.clone(), device(user, account.created_at)).await.unwrap();
    drop(store);
    assert!(!folder.path().join("store.db-wal").exists(), "closing tidies up");

    let store = super::open(&path);
    assert_eq!(store.epoch().await.unwrap(), epoch);
    assert_eq!(store.checkpoint(id.partition()).await.unwrap(), checkpoint);
    assert!(store.message(id, row.message_id).await.unwrap().is_some());
    assert_eq!(store.account(user).await.unwrap(), Some(account));
}

#[tokio::test]
async fn a_store_that_is_opened_to_be_read_takes_no_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let account = account("a");
    let user = account.profile.user_id;
    let store = super::open(&path);
    store.create_account(account.clone(), device(user, account.created_at)).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open_to_read(&path).unwrap();
    assert_eq!(store.account(user).await.unwrap(), Some(account));
    store.put_settings(user, "{}".into()).await.unwrap_err();
    assert_eq!(store.settings(user).await.unwrap(), None);
    let missing = folder.path().join("missing.db");
    assert!(EmbeddedStore::open_to_read(&missing).is_err() && !missing.exists());
}

#[test]
fn stores_have_different_epochs_unless_told() {
    let epoch = |epoch| {
        let options = Options { epoch, ..Options::default() };
        let store = EmbeddedStore::memory_with(&options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.epoch()).unwrap()
    };
    assert_ne!(epoch(None), epoch(None));
    assert_eq!(epoch(Some(5)), 5);
}

#[test]
fn a_newer_schema_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(super::open(&path));
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = EmbeddedStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("start the version that wrote it"), "{error}");
}

#[test]
fn another_programs_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let error = EmbeddedStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    std::fs::write(
        &path,
        "some text that is no database at all, but longer than a header is ".repeat(9),
    )
    .unwrap();
    let error = EmbeddedStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn only_its_owner_reads_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = super::open(&folder.path().join("store.db"));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
    drop(store);
}

/// Not a test: the process that the next test kills. Prints the id of every message that was acknowledged.
#[test]
#[ignore = "run by a_killed_process_loses_nothing_acknowledged"]
fn writes_until_killed() {
    let Ok(path) = std::env::var("CHAT_TEST_KILLED_STORE") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        let store: Arc<EmbeddedStore> = super::open(path.as_ref());
        let tasks: Vec<_> =
            (0..8).map(|_| tokio::spawn(write_and_print(Arc::clone(&store)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write_and_print(store: Arc<EmbeddedStore>) {
    let id = group();
    let mut ids = Ids::of(id);
    for _ in 0..1_000_000 {
        let row = message(id, ids.next_id(), 1, "m");
        store.apply(Partition(0), vec![Write::Message(row.clone())], None).await.unwrap();
        // One write call per line, so that the killed process leaves no half a line but the last.
        let line = format!("acknowledged {id} {}\n", row.message_id);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reopen::writes_until_killed", "--ignored", "--nocapture"])
        .env("CHAT_TEST_KILLED_STORE", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let parts: Vec<&str> = line.split(' ').collect();
        if let ["acknowledged", conversation, message] = parts[..]
            && let (Ok(conversation), Ok(message)) = (conversation.parse(), message.parse())
        {
            acknowledged.push((conversation, message));
        }
        if acknowledged.len() == 300 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 300);
    // The last line may be half an id.
    acknowledged.pop();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = super::open(&path);
        for (conversation, id) in acknowledged {
            assert!(store.message(conversation, id).await.unwrap().is_some(), "{id} is lost");
        }
    });
}
