//! Not tests: run with `cargo test --release -p chat-store -- --ignored --nocapture speed`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_protocol::{MessageId, UserId};
use chat_store::conformance::sample::{Ids, group, message, pointer, react};
use chat_store::{DuplicateRow, InboxRow, Store, Write};

const MESSAGES: usize = 200_000;
const CONVERSATIONS: usize = 500;
/// Messages in one call of `apply`: what a partition's writer has after some milliseconds.
const BATCH: usize = 20;

/// Processor time of this process so far, all threads: what counts where a machine is shared. 0 where unknown.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in brackets: the 12th and 13th fields, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

async fn write_all(
    store: Arc<chat_store::embedded::EmbeddedStore>,
) -> (Duration, Duration, Vec<Ids>) {
    let mut all = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..CONVERSATIONS {
        let id = group();
        let mut ids = Ids::of(id);
        let users: Arc<[UserId]> = Arc::from([UserId::random(), UserId::random()]);
        let mut calls = Vec::new();
        let mut seq = 0;
        while seq < MESSAGES / CONVERSATIONS {
            let mut writes = Vec::new();
            for _ in 0..BATCH {
                seq += 1;
                let row = message(
                    id,
                    ids.after_ms(700),
                    seq as u64,
                    "Shall we meet at the usual place at noon?",
                );
                writes.push(Write::Duplicate(DuplicateRow {
                    conversation_id: id,
                    sender_id: row.sender_id,
                    client_message_id: row.client_message_id,
                    message_id: row.message_id,
                    seq: row.seq,
                }));
                // Not packed: the worst case of a chat of two.
                writes.push(Write::Inbox(InboxRow {
                    users: Arc::clone(&users),
                    conversation_id: id,
                    pointers: vec![pointer(row.message_id)],
                }));
                if seq % 5 == 0 {
                    writes.push(react(&row, users[0], "👍", ids.next_id(), false));
                }
                writes.push(Write::Message(row));
            }
            calls.push(writes);
        }
        tasks.push((id.partition(), calls));
        all.push(ids);
    }
    let (start, processor) = (Instant::now(), processor_time());
    let tasks: Vec<_> = tasks
        .into_iter()
        .map(|(partition, calls)| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for writes in calls {
                    store.apply(partition, writes, None).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (start.elapsed(), processor_time() - processor, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn messages_per_second_and_time_of_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = super::open(&path);
    let (taken, processor, conversations) = write_all(Arc::clone(&store)).await;
    let mut pages = Vec::new();
    for ids in conversations.iter().cycle().take(5_000) {
        let start = Instant::now();
        let page = store.history_before(ids.conversation(), MessageId(u64::MAX), 50).await.unwrap();
        pages.push(start.elapsed());
        assert_eq!(page.len(), 50);
    }
    pages.sort();
    let size = std::fs::metadata(&path).unwrap().len();
    let report = format!(
        "{:.0} messages/s, {:.0} per second of processor time; page of 50: median {:?}, p99 {:?}; {} bytes/message\n",
        MESSAGES as f64 / taken.as_secs_f64(),
        MESSAGES as f64 / processor.as_secs_f64(),
        pages[pages.len() / 2],
        pages[pages.len() * 99 / 100],
        size / MESSAGES as u64
    );
    std::io::stderr().write_all(report.as_bytes()).unwrap();
}
