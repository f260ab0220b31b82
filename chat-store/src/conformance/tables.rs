//! Whole tables: one store's rows in another. These cases need stores of their own, and so are called with two.

use std::collections::BTreeSet;

use chat_protocol::api::Profile;
use chat_protocol::frame::Friendship;
use chat_protocol::message::Role;
use chat_protocol::{ConversationId, MessageId, Partition, SessionId, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sample::*;
use crate::row::*;
use crate::table::{Digest, Row, Table, Tables};

const DONE: &str = "a store without faults does what it is asked";

/// More than one bucket of a CQL store.
const MESSAGES: u64 = 300;

/// Fills one store and copies it into the other, which is empty: then both scan the same, and show the same.
/// Choices are drawn from the seed, which the caller prints.
pub async fn everything_gets_into_another_store(
    source: &dyn Tables,
    target: &dyn Tables,
    seed: u64,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = fill(source, &mut random).await;
    let mut copied = Vec::new();
    for table in Table::ALL {
        assert_eq!(digest(target, table, 7).await, Digest::default(), "{table:?} is empty");
        let rows_max = random.random_range(1..100);
        let read = copy(source, target, table, rows_max).await;
        assert!(read.rows > 0, "{table:?} has something to copy");
        assert_eq!(digest(source, table, 1_000).await, read, "{table:?}, in pages of {rows_max}");
        copied.push((table, read));
    }
    for (table, read) in &copied {
        let rows_max = random.random_range(1..100);
        assert_eq!(digest(target, *table, rows_max).await, *read, "{table:?}");
    }
    // As a copy that was broken off and begins again.
    for table in Table::ALL {
        copy(source, target, table, 50).await;
    }
    for (table, read) in &copied {
        assert_eq!(digest(target, *table, 1_000).await, *read, "{table:?}, imported twice");
    }
    shows_the_same(source, target, &world).await;
}

/// A store that is not empty refuses what contradicts it, and a changed row is noticed.
pub async fn what_contradicts_is_refused_and_what_differs_is_noticed(store: &dyn Tables) {
    let here = account("one");
    let device = device(here.profile.user_id, NOW);
    assert!(store.create_account(here.clone(), device.clone()).await.expect(DONE));
    let profile = Profile { user_id: UserId::random(), ..here.profile.clone() };
    let other = Account { profile, ..here.clone() };
    store.import(vec![Row::Account(other.clone())]).await.expect_err("it is refused");
    let before = digest(store, Table::Accounts, 10).await;
    assert_eq!(before.rows, 1);
    let mut digests = [Digest::default(), Digest::default()];
    digests[0].add(&Row::Account(here));
    digests[1].add(&Row::Account(other));
    assert_eq!(digests[0], before);
    assert_ne!(digests[1], before);
    store.scan(Table::Devices, vec![9, 9, 9], 10).await.expect_err("it is refused");
}

/// What [`fill`] has written.
pub struct World {
    /// A group, a direct conversation and a room.
    pub conversations: Vec<ConversationId>,
    /// Some people.
    pub accounts: Vec<Account>,
    /// Messages as they were sent.
    pub sent: Vec<MessageRow>,
}

/// Writes something into every table.
pub async fn fill(store: &dyn Tables, random: &mut StdRng) -> World {
    let accounts: Vec<Account> = (0..6).map(|_| account("who")).collect();
    let users: Vec<UserId> = accounts.iter().map(|account| account.profile.user_id).collect();
    for (index, account) in accounts.iter().enumerate() {
        let user = account.profile.user_id;
        let first = device(user, NOW);
        store.create_account(account.clone(), first.clone()).await.expect(DONE);
        store.add_device(device(user, NOW.plus(index as u64))).await.expect(DONE);
        let confirmed = |row: &DeviceRow| ConfirmedRow {
            user_id: user,
            device_id: row.device.device_id,
            safe: MessageId::first_of(NOW.plus(index as u64), Partition(7)),
        };
        store.put_confirmed(vec![confirmed(&first)]).await.expect(DONE);
        if index == 0 {
            // Somebody without any device.
            for row in store.devices(user).await.expect(DONE) {
                assert!(store.remove_device(user, row.device.device_id).await.expect(DONE));
            }
        }
        store.put_settings(user, format!("{{\"number\":{index}}}")).await.expect(DONE);
    }
    fill_people(store, &users).await;
    let conversations = vec![group(), ConversationId::direct(users[0], users[1]), room()];
    let mut sent = Vec::new();
    for (conversation, length) in conversations.iter().zip([MESSAGES, 20, 150]) {
        let writes = conversation_of(*conversation, &users, length, random, &mut sent);
        for part in writes.chunks(90) {
            store.apply(Partition(0), part.to_vec(), None).await.expect(DONE);
        }
    }
    let (partition, id) = (Partition(3), MessageId::first_of(NOW, Partition(3)));
    let row = QuarantineRow { partition, id, entry: vec![1, 2, 3], reason: "a reason".into() };
    store.quarantine(row).await.expect(DONE);
    World { conversations, accounts, sent }
}

async fn fill_people(store: &dyn Tables, users: &[UserId]) {
    use Friendship::{Friends, None, Requested};
    let ask = [(0, 1), (2, 1), (3, 4), (1, 5)].map(|(one, other)| (users[one], users[other]));
    for (index, (user, other)) in ask.into_iter().enumerate() {
        let now = NOW.plus(index as u64);
        store.set_friendship(user, other, None, Requested, now).await.expect(DONE);
        if index % 2 == 1 {
            let later = now.plus(5_000);
            store
                .set_friendship(other, user, Friendship::Received, Friends, later)
                .await
                .expect(DONE);
        }
        if index == 3 {
            store.set_friendship(user, other, Friends, None, now.plus(9_000)).await.expect(DONE);
        }
    }
    store.set_block(users[0], users[2], true).await.expect(DONE);
    store.set_block(users[2], users[0], true).await.expect(DONE);
    store.set_block(users[3], users[0], true).await.expect(DONE);
    store.set_block(users[3], users[0], false).await.expect(DONE);
    let presence =
        |user_id, sessions, last_active_at| PresenceRow { user_id, sessions, last_active_at };
    let online = vec![SessionId::random(), SessionId::random()];
    let rows = vec![
        presence(users[0], online, Some(NOW)),
        presence(users[1], vec![], Some(NOW.plus(1))),
        presence(users[2], vec![], Option::None),
    ];
    store.put_presence(rows).await.expect(DONE);
}

/// Everything that may befall a conversation.
fn conversation_of(
    id: ConversationId,
    users: &[UserId],
    length: u64,
    random: &mut StdRng,
    all: &mut Vec<MessageRow>,
) -> Vec<Write> {
    let mut ids = Ids::of(id);
    let created_id = ids.next_id();
    let row = ConversationRow {
        conversation_id: id,
        created_id,
        version: created_id,
        creator_id: users[0],
        name: Some("a name".into()),
        picture: None,
    };
    let renamed = ConversationRow { version: ids.next_id(), name: None, ..row.clone() };
    let mut writes = vec![Write::Conversation(row), Write::Conversation(renamed)];
    for (index, user) in users.iter().take(4).enumerate() {
        let member = joined(id, *user, ids.next_id());
        writes.push(Write::Member(MemberRow { role: Role::Admin, ..member.clone() }));
        if index == 1 {
            writes.push(Write::Member(left(&member, ids.next_id())));
            writes.push(Write::Member(joined(id, *user, ids.next_id())));
        }
    }
    let mut sent: Vec<MessageRow> = Vec::new();
    for seq in 1..=length {
        let user = users[random.random_range(0..4)];
        let message_id = ids.after_ms(random.random_range(0..800));
        let mut row = message(id, message_id, seq, &format!("text {seq}"));
        row.sender_id = user;
        row.reply_to = sent.last().map(|last| last.message_id).filter(|_| seq % 5 == 0);
        row.mentions.extend((seq % 7 == 0).then_some(users[3]));
        writes.push(Write::Duplicate(DuplicateRow {
            conversation_id: id,
            sender_id: user,
            client_message_id: row.client_message_id,
            message_id,
            seq,
        }));
        writes.push(Write::Message(row.clone()));
        writes.push(Write::Inbox(InboxRow {
            users: users[..4].into(),
            conversation_id: id,
            pointers: vec![pointer(message_id)],
        }));
        sent.push(row);
        let of = sent[random.random_range(0..sent.len())].clone();
        let emoji = ["👍", "🎉", "❤️"][random.random_range(0..3)];
        match random.random_range(0..8) {
            0 => writes.push(edit(&of, ids.next_id(), "edited")),
            1 => writes.push(delete(&of, ids.next_id())),
            2..5 => {
                writes.push(react(&of, user, emoji, ids.next_id(), random.random_bool(0.3)));
            }
            _ => {}
        }
    }
    // What a write that was set aside leaves: there is no message that this belongs to.
    let missing = message(id, ids.next_id(), 9_999, "never written");
    writes.push(react(&missing, users[0], "👍", ids.next_id(), false));
    writes.push(edit(&missing, ids.next_id(), "never shown"));
    for (index, user_id) in users.iter().copied().take(3).enumerate() {
        let mark = MarkRow { conversation_id: id, user_id, seq: length - index as u64 };
        writes.push(if index == 1 { Write::Delivered(mark) } else { Write::Read(mark) });
    }
    all.extend(sent);
    writes
}

async fn copy(source: &dyn Tables, target: &dyn Tables, table: Table, rows_max: usize) -> Digest {
    let mut digest = Digest::default();
    let mut from = Vec::new();
    loop {
        let page = source.scan(table, from, rows_max).await.expect(DONE);
        page.rows.iter().for_each(|row| digest.add(row));
        target.import(page.rows).await.expect(DONE);
        match page.next {
            Some(next) => from = next,
            None => return digest,
        }
    }
}

/// All rows of a table, read in pages of this size.
pub async fn digest(store: &dyn Tables, table: Table, rows_max: usize) -> Digest {
    let mut digest = Digest::default();
    let mut from = Vec::new();
    loop {
        let page = store.scan(table, from, rows_max).await.expect(DONE);
        page.rows.iter().for_each(|row| digest.add(row));
        match page.next {
            Some(next) => from = next,
            None => return digest,
        }
    }
}

/// Compares what the two show of this world.
pub async fn shows_the_same(source: &dyn Tables, target: &dyn Tables, world: &World) {
    for id in world.conversations.iter().copied() {
        let end = MessageId(u64::MAX);
        let (one, other) =
            (source.history_before(id, end, 1_000), target.history_before(id, end, 1_000));
        assert_eq!(one.await.expect(DONE), other.await.expect(DONE));
        assert_eq!(
            source.conversation(id).await.expect(DONE),
            target.conversation(id).await.expect(DONE)
        );
        let set = |rows: Vec<MemberRow>| {
            rows.into_iter().map(|row| format!("{row:?}")).collect::<BTreeSet<_>>()
        };
        let (one, other) =
            (source.members(id).await.expect(DONE), target.members(id).await.expect(DONE));
        assert_eq!(set(one), set(other));
        assert_eq!(source.marks(id).await.expect(DONE), target.marks(id).await.expect(DONE));
    }
    for message in &world.sent {
        let key = (message.conversation_id, message.sender_id, message.client_message_id);
        let found = target.duplicate(key.0, key.1, key.2).await.expect(DONE);
        assert_eq!(found, source.duplicate(key.0, key.1, key.2).await.expect(DONE));
        assert!(found.is_some());
    }
    assert_eq!(
        source.rooms(None, 10).await.expect(DONE),
        target.rooms(None, 10).await.expect(DONE)
    );
    for account in &world.accounts {
        let (user, handle) = (account.profile.user_id, &account.profile.handle);
        assert_eq!(target.account_by_handle(handle).await.expect(DONE).as_ref(), Some(account));
        let search = target.search_handles(handle, 5).await.expect(DONE);
        assert_eq!(search, std::slice::from_ref(&account.profile));
        assert_eq!(
            source.devices(user).await.expect(DONE),
            target.devices(user).await.expect(DONE)
        );
        assert_eq!(
            source.settings(user).await.expect(DONE),
            target.settings(user).await.expect(DONE)
        );
        assert_eq!(source.blocks(user).await.expect(DONE), target.blocks(user).await.expect(DONE));
        let friends = source.friends(user, None, 10).await.expect(DONE);
        assert_eq!(friends, target.friends(user, None, 10).await.expect(DONE));
        let presence = source.presence(vec![user]).await.expect(DONE);
        assert_eq!(presence, target.presence(vec![user]).await.expect(DONE));
        let conversations = source.conversations_of(user, None, 10).await.expect(DONE);
        assert_eq!(conversations, target.conversations_of(user, None, 10).await.expect(DONE));
        let (low, high) = (MessageId::ZERO, MessageId::last_of(NOW.plus(600_000)));
        let inbox = source.inbox(user, low, high, 5_000).await.expect(DONE);
        assert_eq!(inbox, target.inbox(user, low, high, 5_000).await.expect(DONE));
    }
}
