use std::sync::Arc;

use chat_protocol::{ClientMessageId, MessageId, Millis, Partition, UserId};
use chat_store::conformance::sample::{Ids, NOW, group, inbox, pointer};
use chat_store::embedded::EmbeddedStore;
use chat_store::{DuplicateRow, InboxRow, Store, Write};

const ROWS: u64 = 5_000;

#[tokio::test]
async fn expiry_goes_on_in_bounded_steps_and_spares_what_is_young() {
    let store = EmbeddedStore::memory();
    let (id, young) = (group(), UserId::random());
    let mut ids = Ids::from(id, Millis::from_2025(0));
    let users: Arc<[UserId]> = (0..ROWS).map(|_| UserId::random()).collect();
    let mut writes: Vec<Write> = (0..ROWS)
        .map(|seq| {
            Write::Duplicate(DuplicateRow {
                conversation_id: id,
                sender_id: young,
                client_message_id: ClientMessageId::random(),
                message_id: ids.next_id(),
                seq,
            })
        })
        .collect();
    let pointers = vec![pointer(ids.next_id())];
    writes.push(Write::Inbox(InboxRow { users, conversation_id: id, pointers }));
    writes.push(inbox(young, id, &[pointer(Ids::of(id).next_id())]));
    store.apply(Partition(0), writes, None).await.unwrap();
    let mut steps = Vec::new();
    loop {
        match store.expire(NOW).await.unwrap() {
            0 => break,
            removed => steps.push(removed),
        }
    }
    assert_eq!(steps, [4_000, 4_000, 2_000]);
    let page = store.inbox(young, MessageId::ZERO, MessageId(u64::MAX), 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
}
