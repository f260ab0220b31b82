//! Messages, revisions, reactions, and the answers to repeated sends.

use std::sync::Arc;

use chat_protocol::limits::BODY_BYTES_MAX;
use chat_protocol::message::{Message, Reactions};
use chat_protocol::{Body, ClientMessageId, MessageId, UserId};

use super::sample::*;
use crate::row::*;
use crate::store::Store;

const DONE: &str = "a store without faults does what it is asked";

async fn apply(store: &dyn Store, writes: Vec<Write>) {
    store.apply(chat_protocol::Partition(0), writes, None).await.expect(DONE);
}

async fn now(store: &dyn Store, row: &MessageRow) -> Message {
    let found = store.message(row.conversation_id, row.message_id).await.expect(DONE);
    found.expect("the message is there")
}

/// See [`Store::message`].
pub async fn a_message_is_read_as_it_was_sent(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let mut row = message(id, ids.next_id(), 1, "Grüße 👋 \u{0} \"quoted\"");
    row.reply_to = Some(MessageId(17));
    row.mentions = vec![UserId::random(), UserId::random()];
    apply(&*store, vec![Write::Message(row.clone())]).await;
    let expected = Message {
        conversation_id: id,
        message_id: row.message_id,
        version: row.message_id,
        seq: 1,
        sender_id: row.sender_id,
        client_message_id: row.client_message_id,
        kind: "text".into(),
        body: Some(row.body.clone()),
        created_at: row.message_id.created_at(),
        edited_at: None,
        deleted: false,
        reply_to: row.reply_to,
        mentions: row.mentions.clone(),
        reactions: Reactions::default(),
    };
    assert_eq!(now(&*store, &row).await, expected);
    assert_eq!(store.message(id, ids.next_id()).await.expect(DONE), None);
    assert_eq!(store.message(group(), row.message_id).await.expect(DONE), None);
}

/// See [`Store::history_before`] and [`Store::history_after`].
pub async fn history_pages_meet_without_gap_or_overlap(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let rows: Vec<_> = (1..=23).map(|seq| message(id, ids.next_id(), seq, "m")).collect();
    apply(&*store, rows.iter().cloned().map(Write::Message).collect()).await;
    let expected: Vec<MessageId> = rows.iter().map(|row| row.message_id).collect();

    let (mut found, mut before) = (Vec::new(), MessageId(u64::MAX));
    loop {
        let page = store.history_before(id, before, 5).await.expect(DONE);
        assert!(page.len() <= 5);
        let Some(last) = page.last() else { break };
        before = last.message_id;
        found.extend(page.iter().map(|message| message.message_id));
    }
    found.reverse();
    assert_eq!(found, expected);

    let (mut found, mut after) = (Vec::new(), MessageId::ZERO);
    loop {
        let page = store.history_after(id, after, 5).await.expect(DONE);
        assert!(page.len() <= 5);
        let Some(last) = page.last() else { break };
        after = last.message_id;
        found.extend(page.iter().map(|message| message.message_id));
    }
    assert_eq!(found, expected);
    let none = store.history_before(id, MessageId::ZERO, 5).await.expect(DONE);
    assert!(none.is_empty());
    assert!(store.history_after(id, MessageId(u64::MAX), 5).await.expect(DONE).is_empty());
}

/// See [`Store::messages`].
pub async fn messages_that_do_not_exist_are_left_out(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let rows: Vec<_> = (1..=4).map(|seq| message(id, ids.next_id(), seq, "m")).collect();
    apply(&*store, rows.iter().cloned().map(Write::Message).collect()).await;
    let wanted = vec![rows[3].message_id, ids.next_id(), MessageId(u64::MAX), rows[1].message_id];
    let mut found: Vec<_> = store
        .messages(id, wanted)
        .await
        .expect(DONE)
        .into_iter()
        .map(|message| message.message_id)
        .collect();
    found.sort();
    assert_eq!(found, vec![rows[1].message_id, rows[3].message_id]);
    assert!(store.messages(id, Vec::new()).await.expect(DONE).is_empty());
}

/// A message written again after its edit does not undo it.
pub async fn the_newest_edit_wins_in_any_order(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let row = message(id, ids.next_id(), 1, "first");
    let (second, third) = (ids.next_id(), ids.after_ms(5_000));
    let writes = [
        edit(&row, third, "third"),
        Write::Message(row.clone()),
        edit(&row, second, "second"),
        Write::Message(row.clone()),
    ];
    for (number, write) in writes.into_iter().enumerate() {
        apply(&*store, vec![write]).await;
        if number > 0 {
            let found = now(&*store, &row).await;
            assert_eq!(found.body, Some(Body::text("third")));
            assert_eq!((found.version, found.edited_at), (third, Some(third.created_at())));
            assert_eq!(found.kind, "text");
        }
    }
}

/// Whatever comes before, after or between.
pub async fn a_deletion_is_never_undone(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [0, 3, 2, 1]] {
        let mut row = message(id, ids.next_id(), 1, "secret");
        row.mentions = vec![UserId::random()];
        let (before, deleted, after) = (ids.next_id(), ids.next_id(), ids.next_id());
        let writes = [
            Write::Message(row.clone()),
            edit(&row, before, "before"),
            delete(&row, deleted),
            edit(&row, after, "after"),
        ];
        let reaction = react(&row, UserId::random(), "👍", after, false);
        apply(&*store, order.iter().map(|n| writes[*n].clone()).collect()).await;
        apply(&*store, vec![reaction]).await;
        let found = now(&*store, &row).await;
        assert!(found.deleted, "order {order:?}");
        assert_eq!((found.body, found.kind.as_str()), (None, ""), "order {order:?}");
        assert_eq!((found.version, found.edited_at), (deleted, None), "order {order:?}");
        assert!(found.mentions.is_empty() && found.reactions.is_empty());
        assert_eq!((found.seq, found.sender_id), (1, row.sender_id));
    }
}

/// The message is not there before its own row is.
pub async fn a_revision_without_its_message_shows_nothing(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let row = message(id, ids.next_id(), 1, "m");
    let reaction = react(&row, UserId::random(), "👍", ids.next_id(), false);
    apply(&*store, vec![edit(&row, ids.next_id(), "edit"), reaction]).await;
    assert_eq!(store.message(id, row.message_id).await.expect(DONE), None);
    assert!(store.messages(id, vec![row.message_id]).await.expect(DONE).is_empty());
    let history = store.history_before(id, MessageId(u64::MAX), 10).await.expect(DONE);
    assert!(history.is_empty());
    apply(&*store, vec![Write::Message(row.clone())]).await;
    let found = now(&*store, &row).await;
    assert_eq!(found.body, Some(Body::text("edit")));
    assert_eq!(found.reactions.items.len(), 1);
}

/// The version of all reactions counts those taken back.
pub async fn reactions_are_grouped_by_first_appearance(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let row = message(id, ids.next_id(), 1, "m");
    let others = message(id, ids.next_id(), 2, "m");
    let [ann, bob, eve] = [UserId::random(), UserId::random(), UserId::random()];
    let writes = vec![
        Write::Message(row.clone()),
        Write::Message(others.clone()),
        react(&row, ann, "👍", ids.next_id(), false),
        react(&row, bob, "🎉", ids.next_id(), false),
        react(&row, eve, "👍", ids.next_id(), false),
        react(&row, bob, "👍", ids.next_id(), false),
        react(&row, eve, "❤️", ids.next_id(), false),
        react(&row, ann, "👍", ids.next_id(), true),
        react(&row, eve, "❤️", ids.next_id(), true),
    ];
    let last = ids.next_id();
    let mut reversed = writes.clone();
    reversed.reverse();
    for order in [writes, reversed] {
        apply(&*store, order).await;
        let reactions = now(&*store, &row).await.reactions;
        assert!(reactions.version < last && reactions.version > row.message_id);
        let items: Vec<_> = reactions
            .items
            .iter()
            .map(|item| (item.emoji.as_str(), item.user_ids.clone()))
            .collect();
        assert_eq!(items, vec![("👍", vec![eve, bob]), ("🎉", vec![bob])]);
        assert!(now(&*store, &others).await.reactions.is_empty());
    }
    apply(&*store, vec![react(&row, ann, "👍", last, false)]).await;
    let page = store.history_before(id, MessageId(u64::MAX), 10).await.expect(DONE);
    assert_eq!(page[1].reactions.version, last);
    assert_eq!(page[1].reactions.items[0].user_ids, vec![eve, bob, ann]);
}

/// The largest body that the protocol allows.
pub async fn the_longest_body_survives(store: Arc<dyn Store>) {
    let id = group();
    let text = "é".repeat((BODY_BYTES_MAX - 20) / 2);
    let row = message(id, Ids::of(id).next_id(), 1, &text);
    assert!(row.body.as_json().len() <= BODY_BYTES_MAX);
    apply(&*store, vec![Write::Message(row.clone())]).await;
    assert_eq!(now(&*store, &row).await.body, Some(row.body));
}

/// See [`Store::duplicate`].
pub async fn a_repeated_send_finds_its_answer(store: Arc<dyn Store>) {
    let id = group();
    let row = DuplicateRow {
        conversation_id: id,
        sender_id: UserId::random(),
        client_message_id: ClientMessageId::random(),
        message_id: Ids::of(id).next_id(),
        seq: 12,
    };
    let (sender, client) = (row.sender_id, row.client_message_id);
    assert_eq!(store.duplicate(id, sender, client).await.expect(DONE), None);
    apply(&*store, vec![Write::Duplicate(row.clone()), Write::Duplicate(row.clone())]).await;
    assert_eq!(store.duplicate(id, sender, client).await.expect(DONE), Some(row.clone()));
    assert_eq!(store.duplicate(group(), sender, client).await.expect(DONE), None);
    assert_eq!(store.duplicate(id, UserId::random(), client).await.expect(DONE), None);
    // Much later the id means another message; a late write of the old row does not bring it back.
    let later = Ids::from(id, NOW.plus(8 * 24 * 3_600_000)).next_id();
    let newer = DuplicateRow { message_id: later, seq: 90, ..row.clone() };
    apply(&*store, vec![Write::Duplicate(newer.clone())]).await;
    apply(&*store, vec![Write::Duplicate(row)]).await;
    assert_eq!(store.duplicate(id, sender, client).await.expect(DONE), Some(newer));
}
