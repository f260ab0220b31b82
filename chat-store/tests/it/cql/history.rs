use std::sync::Arc;

use chat_protocol::message::Message;
use chat_protocol::{Body, ConversationId, MessageId, Partition, UserId};
use chat_store::conformance::sample::*;
use chat_store::{MessageRow, Store, Write};

use super::Database;

/// More than two buckets.
const MESSAGES: u64 = 300;

fn rows(id: ConversationId, count: u64) -> (Vec<MessageRow>, Ids) {
    let mut ids = Ids::of(id);
    let rows = (1..=count).map(|seq| message(id, ids.after_ms(700), seq, &format!("m {seq}")));
    (rows.collect(), ids)
}

async fn apply(store: &dyn Store, writes: Vec<Write>) {
    store.apply(Partition(0), writes, None).await.unwrap();
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq).collect()
}

#[tokio::test]
async fn pages_go_across_buckets_in_both_directions() {
    let database = Database::shared();
    let store = database.store().await;
    let id = group();
    let (rows, _) = rows(id, MESSAGES);
    apply(&*store, rows.iter().cloned().map(Write::Message).collect()).await;
    // Another node has never heard of this conversation.
    let other = database.store().await;
    for store in [store, other] {
        let newest = store.history_before(id, MessageId(u64::MAX), 50).await.unwrap();
        assert_eq!(seqs(&newest), (251..=300).rev().collect::<Vec<_>>());
        let middle = store.history_before(id, rows[149].message_id, 50).await.unwrap();
        assert_eq!(seqs(&middle), (100..=149).rev().collect::<Vec<_>>());
        let all = store.history_before(id, MessageId(u64::MAX), 1_000).await.unwrap();
        assert_eq!(seqs(&all), (1..=300).rev().collect::<Vec<_>>());
        let upwards = store.history_after(id, rows[99].message_id, 50).await.unwrap();
        assert_eq!(seqs(&upwards), (101..=150).collect::<Vec<_>>());
        let all = store.history_after(id, MessageId::ZERO, 1_000).await.unwrap();
        assert_eq!(seqs(&all), (1..=300).collect::<Vec<_>>());
        for row in [&rows[0], &rows[127], &rows[128], &rows[255], &rows[256], &rows[299]] {
            let found = store.message(id, row.message_id).await.unwrap();
            assert_eq!(found.map(|message| message.seq), Some(row.seq));
        }
        let some = rows.iter().step_by(3).map(|row| row.message_id).collect();
        let found = store.messages(id, some).await.unwrap();
        assert_eq!(seqs(&found), (1..=300).step_by(3).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_concerns_a_message_finds_it_in_any_bucket_and_any_order() {
    let database = Database::shared();
    let store = database.store().await;
    let id = group();
    let (rows, mut ids) = rows(id, MESSAGES);
    let user = UserId::random();
    let changed = [5, 127, 128, 200, 256, 299];
    let mut changes = Vec::new();
    for index in changed {
        let row = &rows[index];
        changes.push(edit(row, ids.next_id(), &format!("edited {}", row.seq)));
        changes.push(react(row, user, "👍", ids.next_id(), false));
    }
    changes.push(delete(&rows[257], ids.next_id()));
    let mut turned: Vec<Write> = rows.iter().cloned().map(Write::Message).collect();
    // Changes before their messages; later buckets before earlier ones; each call a few rows.
    turned.reverse();
    for some in changes.chunks(3) {
        apply(&*store, some.to_vec()).await;
    }
    for some in turned.chunks(7) {
        apply(&*store, some.to_vec()).await;
    }
    check_changed(&*store, id, &rows, &changed).await;
    // In log order, once more: nothing changes. As by another node.
    let other = database.store().await;
    turned.reverse();
    turned.extend(changes);
    for some in turned.chunks(40) {
        apply(&*other, some.to_vec()).await;
    }
    check_changed(&*other, id, &rows, &changed).await;
}

async fn check_changed(
    store: &dyn Store,
    id: ConversationId,
    rows: &[MessageRow],
    changed: &[usize],
) {
    let up = store.history_after(id, MessageId::ZERO, 1_000).await.unwrap();
    let mut down = store.history_before(id, MessageId(u64::MAX), 1_000).await.unwrap();
    down.reverse();
    assert_eq!(seqs(&up), (1..=MESSAGES).collect::<Vec<_>>());
    assert_eq!(up, down);
    for (index, message) in up.iter().enumerate() {
        assert_eq!(message.message_id, rows[index].message_id);
        let edited = changed.contains(&index);
        assert_eq!(message.edited_at.is_some(), edited, "seq {}", message.seq);
        assert_eq!(message.reactions.items.len(), usize::from(edited), "seq {}", message.seq);
        assert_eq!(message.deleted, index == 257, "seq {}", message.seq);
        if edited {
            assert_eq!(message.body, Some(Body::text(&format!("edited {}", message.seq))));
        }
    }
}

#[tokio::test]
async fn a_message_that_is_missing_at_the_start_of_a_bucket_hides_no_others() {
    let database = Database::shared();
    let store = database.store().await;
    let id = group();
    let (mut rows, mut ids) = rows(id, 140);
    // Set aside, because the store refused it: the first of the second bucket.
    let missing = rows.remove(128);
    apply(&*store, rows.iter().cloned().map(Write::Message).collect()).await;
    apply(&*store, vec![edit(&rows[130], ids.next_id(), "edited")]).await;
    let found = store.history_after(id, rows[125].message_id, 10).await.unwrap();
    assert_eq!(seqs(&found), [127, 128, 130, 131, 132, 133, 134, 135, 136, 137]);
    assert_eq!(found[4].body, Some(Body::text("edited")));
    // And if it comes after all.
    apply(&*store, vec![Write::Message(missing)]).await;
    let found = store.history_before(id, rows[130].message_id, 4).await.unwrap();
    assert_eq!(seqs(&found), [131, 130, 129, 128]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_page_see_what_was_acknowledged_before_they_asked() {
    let database = Database::shared();
    let store = database.store().await;
    let id = group();
    let (rows, _) = rows(id, 40);
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                loop {
                    let page = store.history_before(id, MessageId(u64::MAX), 50).await.unwrap();
                    if page.len() == 40 {
                        break;
                    }
                }
            })
        })
        .collect();
    for row in rows {
        let seq = row.seq;
        apply(&*store, vec![Write::Message(row)]).await;
        let page = store.history_before(id, MessageId(u64::MAX), 50).await.unwrap();
        assert_eq!(page[0].seq, seq, "a read that began before the write was shared");
    }
    for reader in readers {
        reader.await.unwrap();
    }
}
