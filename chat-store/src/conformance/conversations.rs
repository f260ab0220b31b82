//! Conversations, members and marks.

use std::sync::Arc;

use chat_protocol::message::Role;
use chat_protocol::{ConversationId, MessageId, UserId};

use super::sample::*;
use crate::row::*;
use crate::store::Store;

const DONE: &str = "a store without faults does what it is asked";

async fn apply(store: &dyn Store, id: ConversationId, writes: Vec<Write>) {
    store.apply(id.partition(), writes, None).await.expect(DONE);
}

fn row(conversation_id: ConversationId, created_id: MessageId) -> ConversationRow {
    ConversationRow {
        conversation_id,
        created_id,
        version: created_id,
        creator_id: UserId::random(),
        name: Some("before".into()),
        picture: None,
    }
}

/// See [`Store::conversation`].
pub async fn the_highest_version_of_a_conversation_wins(store: Arc<dyn Store>) {
    let id = group();
    assert_eq!(store.conversation(id).await.expect(DONE), None);
    let mut ids = Ids::of(id);
    let first = row(id, ids.next_id());
    let second = ConversationRow { version: ids.next_id(), name: None, ..first.clone() };
    let third = ConversationRow {
        version: ids.next_id(),
        picture: Some("https://pictures.example/1".into()),
        ..second.clone()
    };
    for (written, expected) in
        [(&second, &second), (&first, &second), (&third, &third), (&second, &third)]
    {
        apply(&*store, id, vec![Write::Conversation(written.clone())]).await;
        assert_eq!(store.conversation(id).await.expect(DONE).as_ref(), Some(expected));
    }
}

/// See [`Store::rooms`].
pub async fn rooms_come_newest_first_in_pages(store: Arc<dyn Store>) {
    let mut expected = Vec::new();
    for number in 0..7u64 {
        let id = room();
        let created_id = Ids::from(id, NOW.plus(number)).next_id();
        expected.push(row(id, created_id));
        apply(&*store, id, vec![Write::Conversation(row(id, created_id))]).await;
        // The version rule leaves the first; and no group is a room.
        let id = group();
        apply(&*store, id, vec![Write::Conversation(row(id, Ids::of(id).next_id()))]).await;
    }
    expected.reverse();
    let expected: Vec<_> = expected.iter().map(|row| row.conversation_id).collect();
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = store.rooms(before, 3).await.expect(DONE);
        assert!(page.len() <= 3);
        assert!(page.windows(2).all(|two| two[0].created_id > two[1].created_id));
        let Some(last) = page.last() else { break };
        before = Some(last.created_id);
        found.extend(page.iter().map(|row| row.conversation_id));
    }
    // Other cases may have made rooms too.
    found.retain(|id| expected.contains(id));
    assert_eq!(found, expected);
}

/// A late write of an earlier version does not bring a member back.
pub async fn a_membership_that_ended_stays_ended(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let begun = joined(id, UserId::random(), ids.next_id());
    let promoted = MemberRow { role: Role::Admin, version: ids.next_id(), ..begun.clone() };
    let ended = left(&promoted, ids.next_id());
    for write in [&ended, &begun, &promoted] {
        apply(&*store, id, vec![Write::Member(write.clone())]).await;
        assert_eq!(store.members(id).await.expect(DONE), vec![ended.clone()]);
    }
}

/// Intervals may arrive in any order.
pub async fn a_user_is_a_member_while_any_interval_is_open(store: Arc<dyn Store>) {
    let id = group();
    let user = UserId::random();
    let mut ids = Ids::of(id);
    let first = joined(id, user, ids.next_id());
    let first_ended = left(&first, ids.next_id());
    let second = joined(id, user, ids.next_id());
    let second_ended = left(&second, ids.next_id());
    let steps = [
        (&second, vec![id]),
        (&first, vec![id]),
        (&first_ended, vec![id]),
        (&second_ended, vec![]),
        (&second, vec![]),
    ];
    for (write, expected) in steps {
        apply(&*store, id, vec![Write::Member(write.clone())]).await;
        assert_eq!(store.conversations_of(user, None, 10).await.expect(DONE), expected);
    }
    assert_eq!(store.members(id).await.expect(DONE).len(), 2);
}

/// See [`Store::conversations_of`].
pub async fn conversations_of_a_user_come_in_pages(store: Arc<dyn Store>) {
    let user = UserId::random();
    let mut expected: Vec<ConversationId> =
        (0..10).map(|n| if n % 2 == 0 { group() } else { room() }).collect();
    for id in &expected {
        let member = joined(*id, user, Ids::of(*id).next_id());
        apply(&*store, *id, vec![Write::Member(member)]).await;
    }
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.conversations_of(user, after, 3).await.expect(DONE);
        assert!(page.len() <= 3);
        after = page.last().copied();
        if after.is_none() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
}

/// See [`Store::marks`].
pub async fn marks_only_rise(store: Arc<dyn Store>) {
    let id = group();
    let user_id = UserId::random();
    let mark = |seq| MarkRow { conversation_id: id, user_id, seq };
    let steps = [
        (Write::Delivered(mark(4)), (0, 4)),
        (Write::Read(mark(3)), (3, 4)),
        (Write::Read(mark(2)), (3, 4)),
        (Write::Delivered(mark(3)), (3, 4)),
        (Write::Delivered(mark(9)), (3, 9)),
        (Write::Read(mark(9)), (9, 9)),
    ];
    for (write, expected) in steps {
        apply(&*store, id, vec![write]).await;
        let marks = store.marks(id).await.expect(DONE);
        assert_eq!(marks.get(&user_id), Some(&expected));
        assert_eq!(marks.len(), 1);
    }
}
