use chat_protocol::limits::{DUPLICATE_DAYS, INBOX_DAYS};
use chat_protocol::{ClientMessageId, MessageId, Millis, Partition, UserId};
use chat_store::conformance::sample::*;
use chat_store::{DuplicateRow, Store, Write};
use scylla::client::session_builder::SessionBuilder;

use super::Database;

const DAY_MS: u64 = 24 * 3_600_000;

#[tokio::test]
async fn the_database_removes_rows_in_time_and_a_replay_does_not_prolong_them() {
    let database = Database::shared();
    let session = SessionBuilder::new().known_nodes(&database.addresses).build().await.unwrap();
    let store = database.store().await;
    let (id, user) = (group(), UserId::random());
    let days_ago = |days: u64| Millis(NOW.0 - days * DAY_MS);
    let row = |made: Millis| DuplicateRow {
        conversation_id: id,
        sender_id: user,
        client_message_id: ClientMessageId::random(),
        message_id: Ids::from(id, made).next_id(),
        seq: 1,
    };
    let life = async |row: &DuplicateRow| {
        let text = "SELECT TTL(seq) FROM chat_test.duplicate
                    WHERE conversation = ? AND sender = ? AND client_message_id = ?";
        let client = row.client_message_id.as_bytes().to_vec();
        let key = (id.as_bytes().to_vec(), user.as_bytes().to_vec(), client);
        let answer = session.query_unpaged(text, key).await.unwrap().into_rows_result().unwrap();
        answer.maybe_first_row::<(Option<i32>,)>().unwrap().and_then(|(life,)| life)
    };
    let day = (DAY_MS / 1_000) as i32;

    // A day of slack for clocks that differ.
    let young = row(days_ago(DUPLICATE_DAYS - 2));
    for _ in 0..2 {
        let write = Write::Duplicate(young.clone());
        store.apply(Partition(0), vec![write], None).await.unwrap();
        let life = life(&young).await.unwrap();
        assert!(life > 3 * day - 100 && life <= 3 * day, "{life} s, {} days", life / day);
    }
    // A replay a day later.
    store.expire(NOW.plus(DAY_MS)).await.unwrap();
    let later = row(days_ago(DUPLICATE_DAYS - 2));
    let write = Write::Duplicate(later.clone());
    store.apply(Partition(0), vec![write], None).await.unwrap();
    let left = life(&later).await.unwrap();
    assert!(left > 2 * day - 100 && left <= 2 * day, "{left} s");

    // What is over comes back from no replay.
    let over = row(days_ago(DUPLICATE_DAYS + 2));
    let pointer = pointer(Ids::from(id, days_ago(INBOX_DAYS + 8)).next_id());
    let writes = vec![Write::Duplicate(over.clone()), inbox(user, id, &[pointer])];
    store.apply(Partition(0), writes, None).await.unwrap();
    assert_eq!(life(&over).await, None);
    let week = (pointer.id.created_at().since_2025() / (7 * DAY_MS)) as i64;
    let text = "SELECT first_id FROM chat_test.inbox WHERE user = ? AND week = ?";
    let rows = session.query_unpaged(text, (user.as_bytes().to_vec(), week)).await.unwrap();
    assert_eq!(rows.into_rows_result().unwrap().rows_num(), 0);
}

#[tokio::test]
async fn a_node_whose_clock_is_ahead_still_finds_what_the_watermark_covers() {
    let database = Database::shared();
    let store = database.store_at(NOW.plus(400 * DAY_MS)).await;
    let right = database.store().await;
    let (id, user) = (group(), UserId::random());
    let pointer = pointer(Ids::of(id).next_id());
    right.apply(Partition(0), vec![inbox(user, id, &[pointer])], None).await.unwrap();
    let watermark = MessageId::last_of(NOW.plus(1_000));
    let above = MessageId::last_of(Millis(NOW.0 - 10 * DAY_MS));
    let page = store.inbox(user, above, watermark, 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
}
