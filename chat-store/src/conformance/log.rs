//! Epoch, checkpoints, quarantine, and the promise that order and repetition do not matter.

use std::collections::HashMap;
use std::sync::Arc;

use chat_protocol::message::{Message, Role};
use chat_protocol::{ConversationId, MessageId, Partition, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sample::*;
use crate::row::*;
use crate::store::Store;

const DONE: &str = "a store without faults does what it is asked";

fn checkpoint(sequence: u64, epoch: u64) -> Checkpoint {
    let reserved_until = MessageId::last_of(NOW.plus(sequence));
    Checkpoint { sequence, reserved_until, epoch }
}

/// Two partitions that a case may use alone: a store may be shared with other cases.
fn partitions() -> (Partition, Partition) {
    let drawn = rand::random_range(0..100);
    (Partition(drawn), Partition(drawn + 100))
}

/// See [`Store::epoch`].
pub async fn the_epoch_stays_the_same(store: Arc<dyn Store>) {
    let first = store.epoch().await.expect(DONE);
    assert_eq!(store.epoch().await.expect(DONE), first);
}

/// See [`Store::put_checkpoints`]. Needs an empty store.
pub async fn a_checkpoint_is_read_as_it_was_written(store: Arc<dyn Store>) {
    let (one, other) = partitions();
    assert_eq!(store.checkpoint(one).await.expect(DONE), Checkpoint::default());
    let both = vec![(one, checkpoint(5, 1)), (other, checkpoint(9, 2))];
    store.put_checkpoints(both).await.expect(DONE);
    assert_eq!(store.checkpoint(one).await.expect(DONE), checkpoint(5, 1));
    assert_eq!(store.checkpoint(other).await.expect(DONE), checkpoint(9, 2));
    store.put_checkpoints(vec![(one, checkpoint(6, 1))]).await.expect(DONE);
    assert_eq!(store.checkpoint(one).await.expect(DONE), checkpoint(6, 1));
}

/// See [`Store::apply`].
pub async fn a_checkpoint_comes_with_all_its_rows(store: Arc<dyn Store>) {
    let conversation = group();
    let partition = conversation.partition();
    let mut ids = Ids::of(conversation);
    for round in 1..=20u64 {
        let rows: Vec<_> =
            (1..=10).map(|n| message(conversation, ids.next_id(), round * 10 + n, "m")).collect();
        let last = rows.last().map(|row| row.message_id).unwrap_or_default();
        let writes = rows.into_iter().map(Write::Message).collect();
        let writer = Arc::clone(&store);
        let apply = tokio::spawn(async move {
            writer.apply(partition, writes, Some(checkpoint(round, 1))).await
        });
        // Whoever sees the checkpoint, before or after the answer, sees the rows.
        loop {
            let answered = apply.is_finished();
            if store.checkpoint(partition).await.expect(DONE).sequence >= round {
                let found = store.message(conversation, last).await.expect(DONE);
                assert!(found.is_some(), "checkpoint {round} is there, its rows are not");
                break;
            }
            assert!(!answered, "the call has returned, and its checkpoint is not there");
            tokio::task::yield_now().await;
        }
        apply.await.expect("it does not panic").expect(DONE);
    }
}

/// A stale owner's late checkpoint does not lower the floor of ids.
pub async fn a_late_lower_checkpoint_changes_nothing(store: Arc<dyn Store>) {
    let (partition, _) = partitions();
    for written in [checkpoint(50, 7), checkpoint(40, 7), checkpoint(60, 6)] {
        store.apply(partition, Vec::new(), Some(written)).await.expect(DONE);
        assert_eq!(store.checkpoint(partition).await.expect(DONE), checkpoint(50, 7));
    }
    // A log that begins anew counts from 1 again, under a higher epoch.
    store.put_checkpoints(vec![(partition, checkpoint(1, 8))]).await.expect(DONE);
    assert_eq!(store.checkpoint(partition).await.expect(DONE), checkpoint(1, 8));
}

/// See [`Store::quarantine`].
pub async fn an_entry_can_be_quarantined_twice(store: Arc<dyn Store>) {
    let row = QuarantineRow {
        partition: Partition(3),
        id: MessageId(rand::random::<u64>() >> 2),
        entry: vec![1, 2, 3],
        reason: "it was refused".into(),
    };
    store.quarantine(row.clone()).await.expect(DONE);
    store.quarantine(row).await.expect(DONE);
}

/// Everything that can be read of some conversations and users.
#[derive(Debug, PartialEq)]
struct Seen {
    messages: Vec<Vec<Message>>,
    conversations: Vec<Option<ConversationRow>>,
    members: Vec<Vec<MemberRow>>,
    marks: Vec<HashMap<UserId, (u64, u64)>>,
    conversations_of: Vec<Vec<ConversationId>>,
    inboxes: Vec<InboxPage>,
    duplicates: Vec<Option<DuplicateRow>>,
}

async fn see(
    store: &dyn Store,
    conversations: &[ConversationId],
    users: &[UserId],
    sent: &[DuplicateRow],
) -> Seen {
    let mut seen = Seen {
        messages: Vec::new(),
        conversations: Vec::new(),
        members: Vec::new(),
        marks: Vec::new(),
        conversations_of: Vec::new(),
        inboxes: Vec::new(),
        duplicates: Vec::new(),
    };
    for id in conversations {
        let history = store.history_after(*id, MessageId::ZERO, 1_000).await;
        seen.messages.push(history.expect(DONE));
        seen.conversations.push(store.conversation(*id).await.expect(DONE));
        let mut members = store.members(*id).await.expect(DONE);
        members.sort_by_key(|member| (member.user_id, member.joined_id));
        seen.members.push(members);
        seen.marks.push(store.marks(*id).await.expect(DONE));
    }
    for user in users {
        seen.conversations_of.push(store.conversations_of(*user, None, 100).await.expect(DONE));
        let up_to = MessageId(u64::MAX);
        seen.inboxes.push(store.inbox(*user, MessageId::ZERO, up_to, 10_000).await.expect(DONE));
    }
    for row in sent {
        let found = store.duplicate(row.conversation_id, row.sender_id, row.client_message_id);
        seen.duplicates.push(found.await.expect(DONE));
    }
    seen
}

/// What a random history of one conversation writes.
fn history(
    conversation_id: ConversationId,
    users: &[UserId],
    random: &mut StdRng,
    sent: &mut Vec<DuplicateRow>,
) -> Vec<Write> {
    let mut ids = Ids::of(conversation_id);
    let created_id = ids.next_id();
    let mut conversation = ConversationRow {
        conversation_id,
        created_id,
        version: created_id,
        creator_id: users[0],
        name: None,
        picture: None,
    };
    let mut writes = vec![Write::Conversation(conversation.clone())];
    let mut open: HashMap<UserId, MemberRow> = HashMap::new();
    let mut rows: Vec<MessageRow> = Vec::new();
    let mut pointers = Vec::new();
    for _ in 0..60 {
        let id = ids.after_ms(random.random_range(0..50));
        let user = users[random.random_range(0..users.len())];
        let target = rows.get(random.random_range(0..rows.len().max(1)));
        let emoji = ["👍", "🎉", "❤️"][random.random_range(0..3)];
        let (kind, target_id) = match (random.random_range(0..8), target) {
            (0, Some(of)) => {
                writes.push(edit(of, id, &format!("edit {id}")));
                (PointerKind::Revision, of.message_id)
            }
            (1, Some(of)) if random.random_bool(0.3) => {
                writes.push(delete(of, id));
                (PointerKind::Revision, of.message_id)
            }
            (2 | 3, Some(of)) => {
                writes.push(react(of, user, emoji, id, random.random_bool(0.3)));
                (PointerKind::Reaction, of.message_id)
            }
            (4, _) => {
                conversation = ConversationRow {
                    version: id,
                    name: Some(format!("name {id}")),
                    ..conversation.clone()
                };
                writes.push(Write::Conversation(conversation.clone()));
                (PointerKind::Conversation, MessageId::ZERO)
            }
            (5, _) => {
                let row = match open.remove(&user) {
                    Some(member) if random.random_bool(0.7) => left(&member, id),
                    Some(member) => {
                        let changed = MemberRow { role: Role::Admin, version: id, ..member };
                        open.insert(user, changed.clone());
                        changed
                    }
                    None => {
                        open.insert(user, joined(conversation_id, user, id));
                        joined(conversation_id, user, id)
                    }
                };
                writes.push(Write::Member(row));
                (PointerKind::Conversation, MessageId::ZERO)
            }
            (6, _) => {
                let row = MarkRow { conversation_id, user_id: user, seq: rows.len() as u64 };
                writes.push(match random.random_bool(0.5) {
                    true => Write::Read(row),
                    false => Write::Delivered(row),
                });
                (PointerKind::Read, MessageId::ZERO)
            }
            _ => {
                let row = message(conversation_id, id, rows.len() as u64 + 1, &format!("m {id}"));
                let (sender_id, client_message_id) = (row.sender_id, row.client_message_id);
                let (message_id, seq) = (id, row.seq);
                let duplicate =
                    DuplicateRow { conversation_id, sender_id, client_message_id, message_id, seq };
                writes.push(Write::Duplicate(duplicate.clone()));
                sent.push(duplicate);
                writes.push(Write::Message(row.clone()));
                rows.push(row);
                (PointerKind::Message, id)
            }
        };
        pointers.push(Pointer { id, kind, target: target_id });
    }
    let mut rest: &[Pointer] = &pointers;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(random.random_range(1..=rest.len().min(8)));
        writes.push(Write::Inbox(InboxRow {
            users: users.into(),
            conversation_id,
            pointers: batch.to_vec(),
        }));
        rest = after;
    }
    writes
}

/// Applying rows again, in any order and mixed with others, ends in the same tables. Applied to the same ids a second
/// time, so that what differs could only come from order or repetition.
pub async fn the_same_writes_in_any_order_and_repeated_read_the_same(store: Arc<dyn Store>) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..5 {
        // The reference gets everything in order. The others are copies under other ids that come shuffled.
        let users: Vec<UserId> = (0..4).map(|_| UserId::random()).collect();
        let conversations = [group(), group()];
        let mut sent = Vec::new();
        let mut writes = Vec::new();
        for conversation in conversations {
            writes.extend(history(conversation, &users, &mut random, &mut sent));
        }
        let mut shuffled = writes.clone();
        shuffled.extend(writes.iter().filter(|_| random.random_bool(0.3)).cloned());
        shuffle(&mut shuffled, &mut random);
        for batch in shuffled.chunks(random.random_range(1..20)) {
            store.apply(Partition(0), batch.to_vec(), None).await.expect(DONE);
        }
        let disordered = see(&*store, &conversations, &users, &sent).await;
        let expected = expect(&writes, &conversations, &users, &sent);
        assert_eq!(disordered.conversations, expected.conversations, "seed {seed} round {round}");
        assert_eq!(disordered.members, expected.members, "seed {seed} round {round}");
        assert_eq!(disordered.marks, expected.marks, "seed {seed} round {round}");
        assert_eq!(disordered.conversations_of, expected.conversations_of, "seed {seed}");
        assert_eq!(disordered.inboxes, expected.inboxes, "seed {seed} round {round}");
        assert_eq!(disordered.duplicates, expected.duplicates, "seed {seed} round {round}");
        let now = disordered.messages.iter().flatten().map(essence);
        assert_eq!(now.collect::<Vec<_>>(), essences(&writes), "seed {seed} round {round}");
        // In order, after all that, changes nothing.
        store.apply(Partition(0), writes, None).await.expect(DONE);
        let again = see(&*store, &conversations, &users, &sent).await;
        assert_eq!(again, disordered, "seed {seed} round {round}");
    }
}

/// What the model below says of a message: id, version, text, deleted, who reacts with what, reactions' version.
type Essence = (MessageId, MessageId, Option<String>, bool, Vec<(String, Vec<UserId>)>, MessageId);

fn essence(message: &Message) -> Essence {
    let mut reactions: Vec<_> =
        message.reactions.items.iter().map(|r| (r.emoji.clone(), r.user_ids.clone())).collect();
    reactions.sort();
    let text = message.body.as_ref().map(|body| body.as_json().to_owned());
    let version = message.reactions.version;
    (message.message_id, message.version, text, message.deleted, reactions, version)
}

/// A naive reading of writes in log order, message by message.
fn essences(writes: &[Write]) -> Vec<Essence> {
    let mut essences = Vec::new();
    for write in writes {
        let Write::Message(row) = write else { continue };
        let id = row.message_id;
        let mut essence: Essence =
            (id, id, Some(row.body.as_json().into()), false, Vec::new(), MessageId::ZERO);
        let mut latest: HashMap<(String, UserId), (MessageId, bool)> = HashMap::new();
        for write in writes {
            match write {
                // The first deletion ends it; the sample may delete twice, and then the later one counts.
                Write::Revision(r) if r.message_id == id && (!essence.3 || r.content.is_none()) => {
                    essence.1 = r.version;
                    essence.2 = r.content.as_ref().map(|(body, _)| body.as_json().into());
                    essence.3 = r.content.is_none();
                }
                Write::Reaction(r) if r.message_id == id => {
                    latest.insert((r.emoji.clone(), r.user_id), (r.version, r.removed));
                    essence.5 = r.version;
                }
                _ => {}
            }
        }
        let mut present: Vec<_> = latest.into_iter().filter(|(_, (_, removed))| !removed).collect();
        present.sort_by_key(|((emoji, _), (version, _))| (emoji.clone(), *version));
        for ((emoji, user), _) in present {
            match essence.4.last_mut() {
                Some((last, users)) if *last == emoji => users.push(user),
                _ => essence.4.push((emoji, vec![user])),
            }
        }
        if essence.3 {
            essence.4.clear();
            essence.5 = MessageId::ZERO;
        }
        essences.push(essence);
    }
    essences
}

/// A naive reading of writes in log order; messages are left to [`essences`].
fn expect(
    writes: &[Write],
    conversations: &[ConversationId],
    users: &[UserId],
    sent: &[DuplicateRow],
) -> Seen {
    let mut rows: HashMap<ConversationId, ConversationRow> = HashMap::new();
    let mut members: HashMap<(ConversationId, UserId, MessageId), MemberRow> = HashMap::new();
    let mut marks: HashMap<ConversationId, HashMap<UserId, (u64, u64)>> = HashMap::new();
    let mut entries: Vec<InboxEntry> = Vec::new();
    for write in writes {
        match write {
            Write::Conversation(row) => {
                rows.insert(row.conversation_id, row.clone());
            }
            Write::Member(row) => {
                let key = (row.conversation_id, row.user_id, row.joined_id);
                members.insert(key, row.clone());
            }
            Write::Read(row) => {
                let mark = marks.entry(row.conversation_id).or_default();
                let mark = mark.entry(row.user_id).or_default();
                mark.0 = mark.0.max(row.seq);
            }
            Write::Delivered(row) => {
                let mark = marks.entry(row.conversation_id).or_default();
                let mark = mark.entry(row.user_id).or_default();
                mark.1 = mark.1.max(row.seq);
            }
            Write::Inbox(row) => entries.extend(
                row.pointers
                    .iter()
                    .map(|p| InboxEntry { pointer: *p, conversation_id: row.conversation_id }),
            ),
            _ => {}
        }
    }
    entries.sort();
    let of = |id: &ConversationId| {
        let mut of: Vec<MemberRow> =
            members.values().filter(|row| row.conversation_id == *id).cloned().collect();
        of.sort_by_key(|member| (member.user_id, member.joined_id));
        of
    };
    let open = |user: &UserId| {
        let mut open: Vec<ConversationId> = members
            .values()
            .filter(|row| row.user_id == *user && row.left_id.is_none())
            .map(|row| row.conversation_id)
            .collect();
        open.sort();
        open.dedup();
        open
    };
    Seen {
        messages: Vec::new(),
        conversations: conversations.iter().map(|id| rows.get(id).cloned()).collect(),
        members: conversations.iter().map(of).collect(),
        marks: conversations.iter().map(|id| marks.remove(id).unwrap_or_default()).collect(),
        conversations_of: users.iter().map(open).collect(),
        inboxes: users
            .iter()
            .map(|_| InboxPage { entries: entries.clone(), more: false })
            .collect(),
        duplicates: sent.iter().cloned().map(Some).collect(),
    }
}
