//! Nodes that die in the middle of a change of a friendship.

use chat_protocol::UserId;
use chat_protocol::frame::Friendship;
use chat_store::Store;
use chat_store::conformance::sample::NOW;
use scylla::client::session_builder::SessionBuilder;

use super::Database;

fn bytes(user: UserId) -> Vec<u8> {
    user.as_bytes().to_vec()
}

#[tokio::test]
async fn lists_say_what_the_pair_says_whoever_died_in_the_middle() {
    let database = Database::shared();
    let store = database.store().await;
    let session = SessionBuilder::new().known_nodes(&database.addresses).build().await.unwrap();
    let (ann, bob) = (UserId::random(), UserId::random());
    let (low, high) = if ann < bob { (ann, bob) } else { (bob, ann) };
    let list = async |user: UserId| {
        let rows = store.friends(user, None, 10).await.unwrap();
        rows.into_iter().map(|row| (row.user_id, row.friendship)).collect::<Vec<_>>()
    };
    let note = async |turn: i64| {
        for (user, other) in [(low, high), (high, low)] {
            let text = "UPDATE chat_test.friend USING TIMESTAMP ? SET pending = true WHERE user = ? AND other = ?";
            session.query_unpaged(text, (turn * 2, bytes(user), bytes(other))).await.unwrap();
        }
    };

    // Only the notes: nothing has happened.
    note(1).await;
    assert_eq!((list(ann).await, list(bob).await), (vec![], vec![]));
    assert_eq!(store.friendship(ann, bob).await.unwrap(), Friendship::None);

    // The notes and the pair, but neither list.
    let text = "INSERT INTO chat_test.friend_pair (low, high, friendship, since, turn, change) \
                VALUES (?, ?, 1, 5, 1, 0x01) IF NOT EXISTS";
    session.query_unpaged(text, (bytes(low), bytes(high))).await.unwrap();
    assert_eq!(list(low).await, [(high, Friendship::Requested)]);
    assert_eq!(list(high).await, [(low, Friendship::Received)]);
    // A reader has written it down for the next.
    let text = "SELECT pending FROM chat_test.friend WHERE user = ? AND other = ?";
    let row = session.query_unpaged(text, (bytes(low), bytes(high))).await.unwrap();
    let row = row.into_rows_result().unwrap().single_row::<(bool,)>().unwrap();
    assert_eq!(row, (false,), "the note is gone");

    // Notes of a change that was never made hide nothing, and the next change goes through.
    note(2).await;
    assert_eq!(list(low).await, [(high, Friendship::Requested)]);
    let (received, friends) = (Friendship::Received, Friendship::Friends);
    assert_eq!(store.set_friendship(high, low, received, friends, NOW).await, Ok(friends));
    assert_eq!(list(low).await, [(high, Friendship::Friends)]);
    assert_eq!(list(high).await, [(low, Friendship::Friends)]);
}

#[tokio::test]
async fn of_many_who_change_one_friendship_at_once_one_does() {
    let database = Database::shared();
    let store = database.store().await;
    let (ann, bob) = (UserId::random(), UserId::random());
    let asked = [(ann, bob), (bob, ann)].repeat(6);
    let asking: Vec<_> = asked
        .into_iter()
        .map(|(user, other)| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                let (none, asked) = (Friendship::None, Friendship::Requested);
                (user, store.set_friendship(user, other, none, asked, NOW).await.unwrap())
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for ask in asking {
        outcomes.push(ask.await.unwrap());
    }
    let friendship = store.friendship(ann, bob).await.unwrap();
    assert!(matches!(friendship, Friendship::Requested | Friendship::Received));
    for (user, outcome) in outcomes {
        assert_eq!(
            outcome,
            store.friendship(user, if user == ann { bob } else { ann }).await.unwrap()
        );
    }
    let row = &store.friends(ann, None, 10).await.unwrap()[0];
    assert_eq!((row.user_id, row.friendship), (bob, friendship));
}
