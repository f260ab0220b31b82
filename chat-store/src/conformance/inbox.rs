//! Inboxes and expiry.

use std::collections::BTreeSet;
use std::sync::Arc;

use chat_protocol::limits::{DUPLICATE_DAYS, INBOX_DAYS};
use chat_protocol::{ClientMessageId, ConversationId, MessageId, Millis, Partition, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sample::*;
use crate::row::*;
use crate::store::Store;

const DONE: &str = "a store without faults does what it is asked";
const DAY_MS: u64 = 24 * 3_600_000;

/// Pointers of one conversation, in bursts and with pauses.
fn pointers(id: ConversationId, random: &mut StdRng) -> Vec<Pointer> {
    let mut ids = Ids::of(id);
    (0..random.random_range(1..120))
        .map(|_| {
            // Now and then across a week.
            let pause_ms = match random.random_range(0..40) {
                0 => random.random_range(0..10 * DAY_MS),
                1..20 => 0,
                _ => random.random_range(0..400),
            };
            let id = ids.after_ms(pause_ms);
            match random.random_range(0..4) {
                0 => Pointer { id, kind: PointerKind::Revision, target: MessageId(id.0 - 4_096) },
                1 => Pointer { id, kind: PointerKind::Conversation, target: MessageId::ZERO },
                _ => pointer(id),
            }
        })
        .collect()
}

/// Batches of one conversation's pointers with boundaries drawn anew, as a replay makes them.
fn batches(of: &[Pointer], random: &mut StdRng) -> Vec<Vec<Pointer>> {
    let mut rest = of;
    let mut batches = Vec::new();
    while let Some(first) = rest.first() {
        let within = rest
            .partition_point(|p| p.id.created_at().since(first.id.created_at()) < INBOX_SPAN_MS);
        let (batch, after) = rest.split_at(random.random_range(1..=within));
        batches.push(batch.to_vec());
        rest = after;
    }
    batches
}

async fn check_reads(
    store: &dyn Store,
    user: UserId,
    all: &BTreeSet<InboxEntry>,
    random: &mut StdRng,
    seed: u64,
) {
    let entries: Vec<InboxEntry> = all.iter().copied().collect();
    for _ in 0..10 {
        let mut bound = || match random.random_range(0..5) {
            0 => MessageId::ZERO,
            1 => MessageId(u64::MAX),
            _ => {
                let entry = entries[random.random_range(0..entries.len())];
                MessageId(entry.pointer.id.0 + random.random_range(0..2))
            }
        };
        let (mut above, up_to) = (bound(), bound());
        let limit = random.random_range(1..60);
        loop {
            let expected: Vec<InboxEntry> = entries
                .iter()
                .copied()
                .filter(|entry| entry.pointer.id > above && entry.pointer.id <= up_to)
                .collect();
            let page = store.inbox(user, above, up_to, limit).await.expect(DONE);
            let got = page.entries.len();
            assert!(got <= limit, "seed {seed}: a page of {got} with limit {limit}");
            assert_eq!(page.entries, expected[..got.min(expected.len())], "seed {seed}");
            if !page.more {
                assert_eq!(got, expected.len(), "seed {seed}: the last page is not the end");
                break;
            }
            let last = page.entries.last().expect("a page that is cut has entries");
            above = last.pointer.id;
        }
    }
}

/// Random packings, overlapping conversations, replays with other batches, any limit.
pub async fn pages_hold_what_was_written_however_it_was_packed(store: Arc<dyn Store>) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..8 {
        let user = UserId::random();
        let mut all = BTreeSet::new();
        let mut writes = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let conversation_id = group();
            let of = pointers(conversation_id, &mut random);
            all.extend(of.iter().map(|p| InboxEntry { pointer: *p, conversation_id }));
            for batch in batches(&of, &mut random) {
                writes.push(inbox(user, conversation_id, &batch));
            }
            // Replays: some part again, in other batches.
            for _ in 0..random.random_range(0..3) {
                let part = &of[random.random_range(0..of.len())..];
                for batch in batches(part, &mut random) {
                    writes.push(inbox(user, conversation_id, &batch));
                }
            }
        }
        shuffle(&mut writes, &mut random);
        for write in writes {
            store.apply(Partition(0), vec![write], None).await.expect(DONE);
        }
        check_reads(&*store, user, &all, &mut random, seed).await;
    }
}

/// A row of a group goes to each of them, and to nobody else.
pub async fn all_users_of_a_row_get_its_pointers(store: Arc<dyn Store>) {
    let id = group();
    let mut ids = Ids::of(id);
    let users: Arc<[UserId]> = (0..5).map(|_| UserId::random()).collect();
    let pointers: Vec<Pointer> = (0..3).map(|_| pointer(ids.next_id())).collect();
    let row =
        InboxRow { users: Arc::clone(&users), conversation_id: id, pointers: pointers.clone() };
    store.apply(id.partition(), vec![Write::Inbox(row)], None).await.expect(DONE);
    let up_to = MessageId(u64::MAX);
    for user in users.iter() {
        let page = store.inbox(*user, MessageId::ZERO, up_to, 10).await.expect(DONE);
        let found: Vec<Pointer> = page.entries.iter().map(|entry| entry.pointer).collect();
        assert_eq!(found, pointers);
    }
    let page = store.inbox(UserId::random(), MessageId::ZERO, up_to, 10).await.expect(DONE);
    assert_eq!(page, InboxPage::default());
}

/// Not before their time, and at the latest a week after it. Uses times of 2025 only.
pub async fn rows_expire_when_their_time_is_over(store: Arc<dyn Store>) {
    let id = group();
    let user = UserId::random();
    let start = Millis::from_2025(40 * DAY_MS);
    let mut ids = Ids::from(id, start);
    let written: Vec<DuplicateRow> = (0..50)
        .map(|seq| DuplicateRow {
            conversation_id: id,
            sender_id: user,
            client_message_id: ClientMessageId::random(),
            message_id: ids.after_ms(2_000),
            seq,
        })
        .collect();
    let mut writes: Vec<Write> = written.iter().cloned().map(Write::Duplicate).collect();
    writes.extend(written.iter().map(|row| inbox(user, id, &[pointer(row.message_id)])));
    store.apply(id.partition(), writes, None).await.expect(DONE);

    let remaining = async |now: Millis| {
        while store.expire(now).await.expect(DONE) > 0 {}
        let mut duplicates = 0;
        for row in &written {
            let found = store.duplicate(id, user, row.client_message_id).await.expect(DONE);
            duplicates += usize::from(found.is_some());
        }
        let up_to = MessageId(u64::MAX);
        let page = store.inbox(user, MessageId::ZERO, up_to, 1_000).await.expect(DONE);
        (duplicates, page.entries.len())
    };
    assert_eq!(remaining(start).await, (50, 50));
    assert_eq!(remaining(start.plus(DUPLICATE_DAYS * DAY_MS - 1)).await, (50, 50));
    assert_eq!(remaining(start.plus((DUPLICATE_DAYS + 2) * DAY_MS)).await, (0, 50));
    assert_eq!(remaining(start.plus(INBOX_DAYS * DAY_MS - 1)).await, (0, 50));
    assert_eq!(remaining(start.plus((INBOX_DAYS + 8) * DAY_MS)).await, (0, 0));
}
