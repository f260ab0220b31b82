//! Whatever is written in whatever order: the embedded store and this one read the same.

use std::collections::HashMap;
use std::sync::Arc;

use chat_protocol::api::ProfileChange;
use chat_protocol::frame::Friendship;
use chat_protocol::message::Role;
use chat_protocol::{ConversationId, MessageId, Partition, SessionId, UserId};
use chat_store::conformance::sample::*;
use chat_store::embedded::EmbeddedStore;
use chat_store::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Database;

struct World {
    conversations: Vec<ConversationId>,
    users: Vec<UserId>,
    writes: Vec<Write>,
    ids: Vec<MessageId>,
    duplicates: Vec<DuplicateRow>,
}

/// What a log of some conversations implies; the first is long enough for several buckets.
fn world(random: &mut StdRng) -> World {
    let conversations = vec![group(), group(), room()];
    let users: Vec<UserId> = (0..4).map(|_| UserId::random()).collect();
    let mut world =
        World { conversations, users, writes: Vec::new(), ids: Vec::new(), duplicates: Vec::new() };
    for (index, length) in [(0, 600), (1, 60), (2, 150)] {
        let id = world.conversations[index];
        write_conversation(&mut world, id, length, random);
    }
    world
}

fn write_conversation(world: &mut World, id: ConversationId, length: u64, random: &mut StdRng) {
    let mut ids = Ids::of(id);
    let created_id = ids.next_id();
    let conversation = |version, name: &str| ConversationRow {
        conversation_id: id,
        created_id,
        version,
        creator_id: UserId::random(),
        name: (!name.is_empty()).then(|| name.to_owned()),
        picture: None,
    };
    world.writes.push(Write::Conversation(conversation(created_id, "first")));
    let mut sent: Vec<MessageRow> = Vec::new();
    let mut members: HashMap<UserId, MemberRow> = HashMap::new();
    for _ in 0..length {
        let entry = ids.after_ms(random.random_range(0..3) * random.random_range(0..2_000));
        let user = world.users[random.random_range(0..world.users.len())];
        let of = (!sent.is_empty()).then(|| sent[random.random_range(0..sent.len())].clone());
        let emoji = ["👍", "🎉", "❤️"][random.random_range(0..3)];
        let (kind, target) = match (random.random_range(0..12), of) {
            (0, Some(of)) => {
                let mut write = edit(&of, entry, &format!("edit {entry}"));
                if let Write::Revision(RevisionRow { content: Some((_, mentions)), .. }) =
                    &mut write
                {
                    mentions.extend(random.random_bool(0.5).then_some(user));
                }
                world.writes.push(write);
                (PointerKind::Revision, of.message_id)
            }
            (1, Some(of)) if random.random_bool(0.3) => {
                world.writes.push(delete(&of, entry));
                (PointerKind::Revision, of.message_id)
            }
            (2 | 3, Some(of)) => {
                world.writes.push(react(&of, user, emoji, entry, random.random_bool(0.3)));
                (PointerKind::Reaction, of.message_id)
            }
            (4, _) => {
                let name = ["", "name", "other"][random.random_range(0..3)];
                world.writes.push(Write::Conversation(conversation(entry, name)));
                (PointerKind::Conversation, MessageId::ZERO)
            }
            (5, _) => {
                let member = match members.remove(&user) {
                    Some(member) if random.random_bool(0.5) => left(&member, entry),
                    Some(member) => {
                        let member = MemberRow { role: Role::Admin, version: entry, ..member };
                        members.insert(user, member.clone());
                        member
                    }
                    None => {
                        members.insert(user, joined(id, user, entry));
                        joined(id, user, entry)
                    }
                };
                world.writes.push(Write::Member(member));
                (PointerKind::Conversation, MessageId::ZERO)
            }
            (6, _) => {
                let mark = MarkRow { conversation_id: id, user_id: user, seq: sent.len() as u64 };
                world.writes.push(match random.random_bool(0.5) {
                    true => Write::Read(mark),
                    false => Write::Delivered(mark),
                });
                (PointerKind::Read, MessageId::ZERO)
            }
            _ => {
                let mut row = message(id, entry, sent.len() as u64 + 1, &format!("m {entry}"));
                row.reply_to = sent.last().map(|last| last.message_id);
                row.mentions.extend(random.random_bool(0.2).then_some(user));
                let duplicate = DuplicateRow {
                    conversation_id: id,
                    sender_id: row.sender_id,
                    client_message_id: row.client_message_id,
                    message_id: entry,
                    seq: row.seq,
                };
                world.duplicates.push(duplicate.clone());
                world.writes.push(Write::Duplicate(duplicate));
                world.writes.push(Write::Message(row.clone()));
                sent.push(row);
                (PointerKind::Message, entry)
            }
        };
        world.ids.push(entry);
        let pointers = vec![Pointer { id: entry, kind, target }];
        let users = world.users.iter().copied().filter(|_| random.random_bool(0.7)).collect();
        world.writes.push(Write::Inbox(InboxRow { users, conversation_id: id, pointers }));
    }
}

/// Some id of the world, or beside one, or an end.
fn bound(world: &World, random: &mut StdRng) -> MessageId {
    match random.random_range(0..6) {
        0 => MessageId::ZERO,
        1 => MessageId(u64::MAX),
        n => MessageId(world.ids[random.random_range(0..world.ids.len())].0 - 1 + n % 3),
    }
}

async fn compare(world: &World, ours: &dyn Store, theirs: &dyn Store, random: &mut StdRng) {
    for id in &world.conversations {
        assert_eq!(ours.conversation(*id).await, theirs.conversation(*id).await);
        assert_eq!(ours.marks(*id).await, theirs.marks(*id).await);
        assert_eq!(ours.members(*id).await, theirs.members(*id).await);
        let everything = ours.history_after(*id, MessageId::ZERO, 1_000).await;
        assert_eq!(everything, theirs.history_after(*id, MessageId::ZERO, 1_000).await);
        for _ in 0..12 {
            let (at, limit) = (bound(world, random), random.random_range(1..200));
            let before = ours.history_before(*id, at, limit).await;
            assert_eq!(before, theirs.history_before(*id, at, limit).await, "before {at} {limit}");
            let after = ours.history_after(*id, at, limit).await;
            assert_eq!(after, theirs.history_after(*id, at, limit).await, "after {at} {limit}");
            let some: Vec<MessageId> =
                world.ids.iter().copied().filter(|_| random.random_bool(0.1)).collect();
            let found = ours.messages(*id, some.clone()).await;
            assert_eq!(found, theirs.messages(*id, some).await);
        }
    }
    for user in &world.users {
        let after = random.random_bool(0.5).then(|| world.conversations[0]);
        let limit = random.random_range(1..4);
        let found = ours.conversations_of(*user, after, limit).await;
        assert_eq!(found, theirs.conversations_of(*user, after, limit).await);
        for _ in 0..6 {
            let (above, up_to) = (bound(world, random), bound(world, random));
            let limit = random.random_range(1..300);
            let page = ours.inbox(*user, above, up_to, limit).await;
            assert_eq!(page, theirs.inbox(*user, above, up_to, limit).await, "({above}, {up_to}]");
        }
    }
    for row in world.duplicates.iter().step_by(5) {
        let (id, sender, client) = (row.conversation_id, row.sender_id, row.client_message_id);
        let found = ours.duplicate(id, sender, client).await;
        assert_eq!(found, theirs.duplicate(id, sender, client).await);
    }
}

#[tokio::test]
async fn rows_of_the_log_read_the_same_from_both_stores() {
    let database = Database::shared();
    let seed = seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..3 {
        let ours = database.store().await;
        let theirs = EmbeddedStore::memory();
        let world = world(&mut random);
        let mut ordered = world.writes.clone();
        if random.random_bool(0.8) {
            shuffle(&mut ordered, &mut random);
        }
        let mut rest = ordered.as_slice();
        while !rest.is_empty() {
            let length = random.random_range(1..60).min(rest.len());
            let (some, after) = rest.split_at(length);
            ours.apply(Partition(0), some.to_vec(), None).await.unwrap();
            theirs.apply(Partition(0), some.to_vec(), None).await.unwrap();
            // A replay of what was written before.
            if random.random_bool(0.2) {
                let from = random.random_range(0..world.writes.len());
                let to = (from + 100).min(world.writes.len());
                let again = world.writes[from..to].to_vec();
                ours.apply(Partition(0), again.clone(), None).await.unwrap();
                theirs.apply(Partition(0), again, None).await.unwrap();
            }
            rest = after;
        }
        compare(&world, &*ours, &theirs, &mut random).await;
        // And to a node that comes later.
        let other = database.store().await;
        compare(&world, &*other, &theirs, &mut random).await;
    }
}

#[tokio::test]
async fn accounts_and_friends_read_the_same_from_both_stores() {
    let database = Database::shared();
    let seed = seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let ours: Arc<dyn Store> = database.store().await;
    let theirs: Arc<dyn Store> = Arc::new(EmbeddedStore::memory());
    let accounts: Vec<Account> = (0..6).map(|_| account("eq")).collect();
    let users: Vec<UserId> = accounts.iter().map(|account| account.profile.user_id).collect();
    let devices: Vec<DeviceRow> = users.iter().map(|user| device(*user, NOW)).collect();
    let text = ["", "one", "two"];
    for step in 0..300 {
        let (one, other) = (random.random_range(0..6), random.random_range(0..6));
        let (user, friend) = (users[one], users[other]);
        let now = NOW.plus(step);
        let device = &devices[one];
        let device_id = device.device.device_id;
        let name = |random: &mut StdRng| {
            random.random_bool(0.6).then(|| text[random.random_range(0..3)].to_owned())
        };
        macro_rules! both {
            ($call:expr) => {{
                let call = $call;
                assert_eq!(call(&ours).await, call(&theirs).await, "seed {seed} step {step}");
            }};
        }
        match random.random_range(0..10) {
            // Repeated only at once: much later it would be another device with the same id.
            0 if theirs.account(user).await.unwrap().is_none() => {
                for _ in 0..2 {
                    both!(async |s: &Arc<dyn Store>| {
                        s.create_account(accounts[one].clone(), device.clone()).await
                    });
                }
            }
            1 => {
                let (name, picture, status) =
                    (name(&mut random), name(&mut random), name(&mut random));
                let change = ProfileChange { name, picture, status };
                both!(async |s: &Arc<dyn Store>| s.change_profile(user, change.clone()).await);
            }
            2 => {
                let digest = [random.random_range(0..3u8) + 7; 32];
                let new = [random.random_range(0..3u8) + 7; 32];
                // A new digest is never one that was valid before: it is drawn at random.
                if digest != new {
                    let mut fresh = new;
                    fresh[0] = random.random();
                    fresh[1] = random.random();
                    both!(async |s: &Arc<dyn Store>| {
                        let end = now.plus(40);
                        s.rotate_refresh(user, device_id, digest, fresh, now, end).await
                    });
                }
            }
            3 => both!(async |s: &Arc<dyn Store>| {
                s.rename_device(user, device_id, "renamed".into()).await
            }),
            // One that was there: an id that is removed before its device is made confirms nothing later, as CQL keeps a
            // tombstone of it. Ids are drawn at random, so that happens nowhere else.
            4 if random.random_bool(0.3) && theirs.account(user).await.unwrap().is_some() => {
                both!(async |s: &Arc<dyn Store>| s.remove_device(user, device_id).await);
            }
            5 | 6 => {
                let kinds = [
                    Friendship::None,
                    Friendship::Requested,
                    Friendship::Received,
                    Friendship::Friends,
                ];
                let expected = match random.random_bool(0.7) {
                    true => theirs.friendship(user, friend).await.unwrap(),
                    false => kinds[random.random_range(0..4)],
                };
                let next = kinds[random.random_range(0..4)];
                if user != friend {
                    both!(async |s: &Arc<dyn Store>| {
                        s.set_friendship(user, friend, expected, next, now).await
                    });
                }
            }
            8 if theirs.devices(user).await.unwrap().len() == 1 => {
                let safe = MessageId::first_of(NOW.plus(random.random_range(0..400)), Partition(3));
                let row = ConfirmedRow { user_id: user, device_id, safe };
                both!(async |s: &Arc<dyn Store>| s.put_confirmed(vec![row]).await);
            }
            7 => {
                let blocked = random.random_bool(0.6);
                both!(async |s: &Arc<dyn Store>| s.set_block(user, friend, blocked).await);
            }
            _ => {
                let sessions = (0..random.random_range(0..3)).map(|_| SessionId::random());
                let row = PresenceRow {
                    user_id: user,
                    sessions: sessions.collect(),
                    last_active_at: random.random_bool(0.5).then_some(now),
                };
                both!(async |s: &Arc<dyn Store>| s.put_presence(vec![row.clone()]).await);
            }
        }
        if step % 20 == 0 {
            let handle = accounts[other].profile.handle.as_str();
            both!(async |s: &Arc<dyn Store>| s.account_by_handle(handle).await);
            both!(async |s: &Arc<dyn Store>| s.profiles(users.clone()).await);
            both!(async |s: &Arc<dyn Store>| s.devices(user).await);
            both!(async |s: &Arc<dyn Store>| s.confirmed(user).await);
            both!(async |s: &Arc<dyn Store>| s.friends(user, Some(friend), 3).await);
            both!(async |s: &Arc<dyn Store>| s.friends(user, None, 10).await);
            both!(async |s: &Arc<dyn Store>| s.friendship(user, friend).await);
            both!(async |s: &Arc<dyn Store>| s.blocks(user).await);
            both!(async |s: &Arc<dyn Store>| s.is_blocked(user, friend).await);
            both!(async |s: &Arc<dyn Store>| s.presence(users.clone()).await);
        }
    }
}
