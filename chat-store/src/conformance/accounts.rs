//! Accounts, settings, devices, friends, blocks and presence.

use std::sync::Arc;

use chat_protocol::api::{Profile, ProfileChange};
use chat_protocol::frame::Friendship;
use chat_protocol::{DeviceId, MessageId, Partition, SessionId, UserId};

use super::sample::*;
use crate::row::*;
use crate::store::Store;

const DONE: &str = "a store without faults does what it is asked";

async fn sign_up(store: &dyn Store, account: &Account) -> DeviceRow {
    let device = device(account.profile.user_id, NOW);
    assert!(store.create_account(account.clone(), device.clone()).await.expect(DONE));
    device
}

/// See [`Store::account`].
pub async fn an_account_is_found_by_id_and_handle(store: Arc<dyn Store>) {
    let account = account("ann");
    let (user, handle) = (account.profile.user_id, account.profile.handle.clone());
    assert_eq!(store.account(user).await.expect(DONE), None);
    assert_eq!(store.account_by_handle(&handle).await.expect(DONE), None);
    let device = sign_up(&*store, &account).await;
    assert_eq!(store.account(user).await.expect(DONE), Some(account.clone()));
    assert_eq!(store.account_by_handle(&handle).await.expect(DONE), Some(account.clone()));
    assert_eq!(store.devices(user).await.expect(DONE), vec![device]);
    let found = store.profiles(vec![UserId::random(), user]).await.expect(DONE);
    assert_eq!(found, vec![account.profile.clone()]);
    store.change_password(user, "$new".into()).await.expect(DONE);
    let changed = Account { password_hash: "$new".into(), ..account };
    assert_eq!(store.account(user).await.expect(DONE), Some(changed));
}

/// Handles are unique, and who is refused leaves nothing behind.
pub async fn one_of_many_concurrent_sign_ups_gets_the_handle(store: Arc<dyn Store>) {
    let handle = account("taken").profile.handle;
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let (store, mut account) = (Arc::clone(&store), account("x"));
            account.profile.handle = handle.clone();
            let user = account.profile.user_id;
            tokio::spawn(async move {
                (user, store.create_account(account, device(user, NOW)).await.expect(DONE))
            })
        })
        .collect();
    let mut winners = Vec::new();
    for attempt in attempts {
        let (user, made) = attempt.await.expect("it does not panic");
        assert_eq!(store.account(user).await.expect(DONE).is_some(), made);
        assert_eq!(store.devices(user).await.expect(DONE).len(), usize::from(made));
        winners.extend(made.then_some(user));
    }
    assert_eq!(winners.len(), 1);
    let found = store.account_by_handle(&handle).await.expect(DONE);
    assert_eq!(found.map(|account| account.profile.user_id), Some(winners[0]));
}

/// After an error, the same call again succeeds if its first attempt was done.
pub async fn a_sign_up_that_heard_nothing_can_be_repeated(store: Arc<dyn Store>) {
    let account = account("again");
    let device = sign_up(&*store, &account).await;
    assert!(store.create_account(account.clone(), device.clone()).await.expect(DONE));
    assert_eq!(store.devices(account.profile.user_id).await.expect(DONE), vec![device]);
}

/// See [`Store::search_handles`].
pub async fn handles_are_searched_by_prefix(store: Arc<dyn Store>) {
    let prefix = format!("p{}", &account("").profile.handle[..12]);
    let mut expected = Vec::new();
    for ending in ["", "_", "a", "z", "zz"] {
        let mut account = account("");
        account.profile.handle = format!("{prefix}{ending}");
        sign_up(&*store, &account).await;
        expected.push(account.profile);
    }
    expected.sort_by(|a, b| a.handle.cmp(&b.handle));
    assert_eq!(store.search_handles(&prefix, 10).await.expect(DONE), expected);
    assert_eq!(store.search_handles(&prefix, 2).await.expect(DONE), expected[..2]);
    let longer = store.search_handles(&format!("{prefix}z"), 10).await.expect(DONE);
    assert_eq!(longer.len(), 2);
    assert!(store.search_handles(&format!("{prefix}q"), 10).await.expect(DONE).is_empty());
    assert!(store.search_handles(&format!("{prefix}%"), 10).await.expect(DONE).is_empty());
}

/// See [`Store::change_profile`].
pub async fn a_profile_changes_field_by_field(store: Arc<dyn Store>) {
    let account = account("p");
    let user = account.profile.user_id;
    sign_up(&*store, &account).await;
    let text = |text: &str| Some(text.to_owned());
    let change = |name, picture, status| ProfileChange { name, picture, status };
    let steps = [
        (change(text("New"), None, None), ("New", None, None)),
        (change(None, text("https://p"), text("here")), ("New", text("https://p"), text("here"))),
        (change(None, text(""), None), ("New", None, text("here"))),
        (change(None, None, None), ("New", None, text("here"))),
    ];
    for (change, (name, picture, status)) in steps {
        let expected = Profile { name: name.into(), picture, status, ..account.profile.clone() };
        let changed = store.change_profile(user, change).await.expect(DONE);
        assert_eq!(changed.as_ref(), Some(&expected));
        assert_eq!(store.profiles(vec![user]).await.expect(DONE), vec![expected]);
    }
    let nobody = store.change_profile(UserId::random(), change(text("x"), None, None));
    assert_eq!(nobody.await.expect(DONE), None);
}

/// See [`Store::put_settings`].
pub async fn settings_are_replaced(store: Arc<dyn Store>) {
    let user = UserId::random();
    assert_eq!(store.settings(user).await.expect(DONE), None);
    for json in [r#"{"a":1}"#, "{}"] {
        store.put_settings(user, json.into()).await.expect(DONE);
        assert_eq!(store.settings(user).await.expect(DONE).as_deref(), Some(json));
    }
}

/// See [`Store::devices`].
pub async fn devices_are_added_renamed_and_removed(store: Arc<dyn Store>) {
    let user = UserId::random();
    let (newer, mut older) = (device(user, NOW.plus(5)), device(user, NOW));
    store.add_device(newer.clone()).await.expect(DONE);
    store.add_device(older.clone()).await.expect(DONE);
    assert_eq!(store.devices(user).await.expect(DONE), vec![older.clone(), newer.clone()]);
    older.device.name = "tablet".into();
    let (id, name) = (older.device.device_id, "tablet".to_owned());
    assert!(store.rename_device(user, id, name.clone()).await.expect(DONE));
    assert!(!store.rename_device(UserId::random(), id, name.clone()).await.expect(DONE));
    assert!(!store.rename_device(user, DeviceId::random(), name).await.expect(DONE));
    assert_eq!(store.devices(user).await.expect(DONE), vec![older.clone(), newer.clone()]);
    assert!(store.remove_device(user, id).await.expect(DONE));
    assert!(!store.remove_device(user, id).await.expect(DONE));
    assert_eq!(store.devices(user).await.expect(DONE), vec![newer]);
    let gone = store.rotate_refresh(user, id, [7; 32], [8; 32], NOW, NOW.plus(1)).await;
    assert_eq!(gone.expect(DONE), RefreshOutcome::Gone);
}

/// See [`Store::put_confirmed`].
pub async fn what_a_device_confirmed_only_rises_and_goes_with_it(store: Arc<dyn Store>) {
    let user = UserId::random();
    let devices = [device(user, NOW), device(user, NOW.plus(1)), device(user, NOW.plus(2))];
    for row in &devices {
        store.add_device(row.clone()).await.expect(DONE);
    }
    let ids = devices.each_ref().map(|row| row.device.device_id);
    let row = |device: usize, ms, partition| {
        let safe = MessageId::first_of(NOW.plus(ms), Partition(partition));
        ConfirmedRow { user_id: user, device_id: ids[device], safe }
    };
    let found = async || {
        let mut rows = store.confirmed(user).await.expect(DONE);
        rows.sort_by_key(|row| ids.iter().position(|id| *id == row.device_id));
        rows
    };
    assert_eq!(found().await, []);
    store.put_confirmed(vec![row(0, 10, 0), row(1, 20, 0)]).await.expect(DONE);
    assert_eq!(found().await, [row(0, 10, 0), row(1, 20, 0)]);
    // The second two are late: of another node, or of an attempt that nobody heard of.
    store.put_confirmed(vec![row(0, 30, 5)]).await.expect(DONE);
    store.put_confirmed(vec![row(0, 29, 9), row(1, 5, 9)]).await.expect(DONE);
    assert_eq!(found().await, [row(0, 30, 5), row(1, 20, 0)]);
    // Of one moment, in a lower partition and further on there.
    store.put_confirmed(vec![row(0, 30, 7)]).await.expect(DONE);
    let mut lower = row(0, 30, 6);
    lower.safe = lower.safe.next_in(Partition(6));
    store.put_confirmed(vec![lower]).await.expect(DONE);
    assert_eq!(found().await, [row(0, 30, 7), row(1, 20, 0)]);
    assert!(store.remove_device(user, ids[0]).await.expect(DONE));
    store.put_confirmed(vec![row(0, 40, 0)]).await.expect(DONE);
    assert_eq!(found().await, [row(1, 20, 0)], "it is not brought back");
    assert_eq!(store.confirmed(UserId::random()).await.expect(DONE), []);
}

/// See [`Store::rotate_refresh`].
pub async fn a_refresh_token_works_once(store: Arc<dyn Store>) {
    let user = UserId::random();
    let row = device(user, NOW);
    let id = row.device.device_id;
    store.add_device(row.clone()).await.expect(DONE);
    let rotate = async |old: u8, new: u8, now| {
        let outcome = store.rotate_refresh(user, id, [old; 32], [new; 32], now, now.plus(500));
        outcome.await.expect(DONE)
    };
    assert_eq!(rotate(7, 8, NOW.plus(10)).await, RefreshOutcome::Rotated);
    let mut expected = row;
    expected.device.last_seen_at = NOW.plus(10);
    expected.refresh_digest = [8; 32];
    expected.refresh_expires_at = NOW.plus(510);
    assert_eq!(rotate(7, 9, NOW.plus(20)).await, RefreshOutcome::Reused);
    assert_eq!(store.devices(user).await.expect(DONE), vec![expected]);
    assert_eq!(rotate(8, 9, NOW.plus(509)).await, RefreshOutcome::Rotated);
    assert_eq!(rotate(9, 10, NOW.plus(5_000)).await, RefreshOutcome::Gone);
}

/// Compare and set: two who hold the same token do not both get a new one.
pub async fn only_one_of_many_concurrent_refreshes_succeeds(store: Arc<dyn Store>) {
    let user = UserId::random();
    let row = device(user, NOW);
    let id = row.device.device_id;
    store.add_device(row).await.expect(DONE);
    let attempts: Vec<_> = (100..120u8)
        .map(|new| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.rotate_refresh(user, id, [7; 32], [new; 32], NOW, NOW.plus(9)).await
            })
        })
        .collect();
    let mut rotated = 0;
    for attempt in attempts {
        match attempt.await.expect("it does not panic").expect(DONE) {
            RefreshOutcome::Rotated => rotated += 1,
            outcome => assert_eq!(outcome, RefreshOutcome::Reused),
        }
    }
    assert_eq!(rotated, 1);
}

/// See [`Store::set_friendship`].
pub async fn both_sides_of_a_friendship_change_together(store: Arc<dyn Store>) {
    use Friendship::{Friends, None, Received, Requested};
    let (ann, bob) = (UserId::random(), UserId::random());
    let sides = async || {
        let both = (store.friendship(ann, bob).await, store.friendship(bob, ann).await);
        (both.0.expect(DONE), both.1.expect(DONE))
    };
    let set = async |one, other, expected, new, at| {
        store.set_friendship(one, other, expected, new, NOW.plus(at)).await.expect(DONE)
    };
    assert_eq!(sides().await, (None, None));
    assert_eq!(set(ann, bob, None, Requested, 1).await, Requested);
    assert_eq!(sides().await, (Requested, Received));
    assert_eq!(set(bob, ann, None, Requested, 2).await, Received);
    assert_eq!(sides().await, (Requested, Received));
    assert_eq!(set(bob, ann, Received, Friends, 3).await, Friends);
    assert_eq!(sides().await, (Friends, Friends));
    let row = FriendRow { user_id: bob, friendship: Friends, since: NOW.plus(3) };
    assert_eq!(store.friends(ann, Option::None, 10).await.expect(DONE), vec![row]);
    assert_eq!(set(ann, bob, Friends, None, 4).await, None);
    assert_eq!(sides().await, (None, None));
    assert!(store.friends(ann, Option::None, 10).await.expect(DONE).is_empty());
    assert!(store.friends(bob, Option::None, 10).await.expect(DONE).is_empty());
}

/// See [`Store::friends`].
pub async fn friends_come_in_pages(store: Arc<dyn Store>) {
    let user = UserId::random();
    let mut expected: Vec<UserId> = (0..8).map(|_| UserId::random()).collect();
    for other in &expected {
        let (none, asked) = (Friendship::None, Friendship::Requested);
        store.set_friendship(user, *other, none, asked, NOW).await.expect(DONE);
    }
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.friends(user, after, 3).await.expect(DONE);
        assert!(page.len() <= 3);
        after = page.last().map(|row| row.user_id);
        if after.is_none() {
            break;
        }
        found.extend(page.into_iter().map(|row| row.user_id));
    }
    assert_eq!(found, expected);
}

/// See [`Store::is_blocked`].
pub async fn a_block_holds_for_both_sides(store: Arc<dyn Store>) {
    let (ann, bob) = (UserId::random(), UserId::random());
    for blocked in [true, true, false, false] {
        store.set_block(ann, bob, blocked).await.expect(DONE);
        assert_eq!(store.is_blocked(ann, bob).await.expect(DONE), blocked);
        assert_eq!(store.is_blocked(bob, ann).await.expect(DONE), blocked);
        let expected: &[UserId] = if blocked { &[bob] } else { &[] };
        assert_eq!(store.blocks(ann).await.expect(DONE), expected);
        assert!(store.blocks(bob).await.expect(DONE).is_empty());
    }
}

/// See [`Store::online_in`].
pub async fn presence_is_what_was_written_last(store: Arc<dyn Store>) {
    let (ann, bob) = (UserId::random(), UserId::random());
    let online = PresenceRow {
        user_id: ann,
        sessions: vec![SessionId::random(), SessionId::random()],
        last_active_at: Some(NOW),
    };
    let offline = PresenceRow { user_id: bob, sessions: Vec::new(), last_active_at: None };
    store.put_presence(vec![online.clone(), offline.clone()]).await.expect(DONE);
    let found = store.presence(vec![ann, UserId::random(), bob]).await.expect(DONE);
    assert_eq!(found, vec![online.clone(), offline]);
    let own = Partition::of_user(ann);
    for partition in [own, Partition((own.0 + 1) % 256)] {
        let mut found = store.online_in(partition).await.expect(DONE);
        // Others may share the store.
        found.retain(|row| row.user_id == ann || row.user_id == bob);
        let expected = if partition == own { vec![online.clone()] } else { Vec::new() };
        assert_eq!(found, expected);
    }
    let gone = PresenceRow { sessions: Vec::new(), ..online };
    store.put_presence(vec![gone.clone()]).await.expect(DONE);
    assert_eq!(store.presence(vec![ann]).await.expect(DONE), vec![gone]);
    let found = store.online_in(own).await.expect(DONE);
    assert!(found.iter().all(|row| row.user_id != ann));
}
