//! Tables of decisions: the conversation as it is, a command, and what it comes to.

use chat_protocol::error::Code;
use chat_protocol::limits::{GROUP_MEMBERS_MAX, TEXT_CHARS_MAX};
use chat_protocol::message::{Message, Role};
use chat_protocol::record::{Change, Entry, MemberChange};
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, Millis, Partition, UserId};
use chat_store::DuplicateRow;
use uuid::Uuid;

use super::*;
use crate::conversation::command::Draft;
use crate::conversation::rows;
use crate::conversation::state::Loaded;

const ANN: UserId = UserId(Uuid::from_u128(1));
const BEN: UserId = UserId(Uuid::from_u128(2));
const CEM: UserId = UserId(Uuid::from_u128(3));
const DEE: UserId = UserId(Uuid::from_u128(4));

/// A conversation that was made by commands alone.
struct World {
    state: State,
    next: MessageId,
}

impl World {
    fn new(id: ConversationId) -> World {
        World {
            state: State::new(id, Loaded::default()),
            next: MessageId::first_of(Millis::from_2025(5), id.partition()),
        }
    }

    /// Ann's group with Ben and Cem.
    fn group() -> World {
        let mut world = World::new(ConversationId::group(ANN, Uuid::nil()));
        world.ok(ANN, Action::Create { name: Some("walks".to_owned()), members: vec![BEN, CEM] });
        world
    }

    fn direct() -> World {
        let mut world = World::new(ConversationId::direct(ANN, BEN));
        world.ok(ANN, Action::Create { name: None, members: vec![BEN] });
        world
    }

    fn decide(&self, caller: UserId, action: Action, facts: Facts) -> Decision {
        let message = |_, stored: Option<Message>| stored;
        let memory = Memory { sent: None, sent_is_uncertain: false, message: &message };
        decide(&self.state, &command(&self.state, caller, action), &facts, &memory)
    }

    fn refusal(&self, caller: UserId, action: Action) -> Code {
        let facts = Facts { blocked: Some(false), ..Facts::default() };
        match self.decide(caller, action, facts) {
            Decision::Refuse(refusal) => refusal.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Commits, and returns what was committed.
    fn ok(&mut self, caller: UserId, action: Action) -> Vec<Entry> {
        let facts = Facts { blocked: Some(false), ..Facts::default() };
        match self.decide(caller, action, facts) {
            Decision::Commit(changes, _) => {
                changes.into_iter().map(|change| self.apply(change)).collect()
            }
            other => panic!("not committed: {other:?}"),
        }
    }

    fn apply(&mut self, change: Change) -> Entry {
        let entry = Entry {
            id: self.next.0,
            conversation: self.state.id.as_bytes().to_vec(),
            change: Some(change),
        };
        self.next = self.next.next_in(self.state.id.partition());
        self.state.apply(&entry).unwrap();
        entry
    }

    fn say(&mut self, caller: UserId, text: &str) -> Message {
        let entry = self.ok(caller, Action::Send(draft(text))).remove(0);
        let Some(Change::Message(sent)) = &entry.change else { panic!("not a message") };
        rows::message(self.state.id, &entry, sent).unwrap()
    }
}

fn command(state: &State, caller: UserId, action: Action) -> Command {
    Command { conversation_id: state.id, caller, origin: None, received_at: Millis(0), action }
}

fn draft(text: &str) -> Draft {
    Draft {
        client_message_id: ClientMessageId::random(),
        retry: false,
        kind: "text".to_owned(),
        body: Body::text(text),
        reply_to: None,
        mentions: vec![],
    }
}

fn send(change: impl FnOnce(&mut Draft)) -> Action {
    let mut draft = draft("hello");
    change(&mut draft);
    Action::Send(draft)
}

#[test]
fn messages_are_numbered_without_a_hole() {
    let mut world = World::direct();
    let seqs: Vec<_> =
        (0..3).map(|n| world.say(if n == 1 { BEN } else { ANN }, "hi").seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn strangers_learn_nothing_of_a_conversation() {
    let world = World::group();
    for action in
        [send(|_| {}), Action::Read { seq: 1 }, Action::Remove { user_id: BEN }, Action::Tail]
    {
        assert_eq!(world.refusal(DEE, action), Code::NotFound);
    }
    let missing = World::new(ConversationId::group(ANN, Uuid::nil()));
    assert_eq!(missing.refusal(ANN, send(|_| {})), Code::NotFound);
}

#[test]
fn text_is_one_to_a_hundred_thousand_scalar_values() {
    let mut world = World::direct();
    let body = |text: &str| Body::text(text);
    assert_eq!(world.refusal(ANN, send(|d| d.body = body(""))), Code::InvalidField);
    let long = "한".repeat(TEXT_CHARS_MAX);
    assert_eq!(world.refusal(ANN, send(|d| d.body = body(&format!("{long}!")))), Code::TooLarge);
    world.ok(ANN, send(|d| d.body = body(&long)));
    for json in ["{}", "\"text\"", "{\"text\":1}", "null", "[\"a\"]"] {
        let body = Body::from_json(json.to_owned()).unwrap();
        assert_eq!(world.refusal(ANN, send(|d| d.body = body)), Code::InvalidField, "{json}");
    }
}

#[test]
fn other_types_carry_any_json_and_names_are_checked() {
    let mut world = World::direct();
    let odd = Body::from_json("[1,{\"a\":null}]".to_owned()).unwrap();
    world.ok(ANN, send(|d| (d.kind, d.body) = ("com.example.poll".to_owned(), odd)));
    for kind in ["", "system", "Text", "a b", &"x".repeat(65)] {
        assert_eq!(
            world.refusal(ANN, send(|d| d.kind = kind.to_owned())),
            Code::InvalidField,
            "{kind}"
        );
    }
}

#[test]
fn a_repeat_is_looked_up_before_anything_else_is_checked() {
    let world = World::direct();
    let action = send(|d| (d.retry, d.body) = (true, Body::text("")));
    let Decision::Need(Need::Duplicate) = world.decide(ANN, action.clone(), Facts::default())
    else {
        panic!("a retry must be looked up");
    };
    let row = DuplicateRow {
        conversation_id: world.state.id,
        sender_id: ANN,
        client_message_id: ClientMessageId::random(),
        message_id: MessageId(77),
        seq: 5,
    };
    let facts = Facts { duplicate: Some(Some(row)), ..Facts::default() };
    assert!(matches!(world.decide(ANN, action.clone(), facts), Decision::Repeat(MessageId(77), 5)));
    let facts = Facts { duplicate: Some(None), ..Facts::default() };
    assert!(
        matches!(world.decide(ANN, action, facts), Decision::Refuse(_)),
        "then the empty text is seen"
    );
}

#[test]
fn a_fresh_owner_looks_up_first_sends_too() {
    let world = World::direct();
    let message = |_, stored: Option<Message>| stored;
    let memory = Memory { sent: None, sent_is_uncertain: true, message: &message };
    let command = command(&world.state, ANN, send(|_| {}));
    let decision = decide(&world.state, &command, &Facts::default(), &memory);
    assert!(matches!(decision, Decision::Need(Need::Duplicate)));
}

#[test]
fn blocked_people_do_not_reach_one_another() {
    let world = World::direct();
    assert!(matches!(
        world.decide(ANN, send(|_| {}), Facts::default()),
        Decision::Need(Need::Blocked(ANN, BEN))
    ));
    let facts = Facts { blocked: Some(true), ..Facts::default() };
    let Decision::Refuse(refusal) = world.decide(ANN, send(|_| {}), facts) else {
        panic!("not refused")
    };
    assert_eq!(refusal.code, Code::Blocked);
}

#[test]
fn mentions_are_members_and_replies_stay_in_the_conversation() {
    let mut world = World::group();
    assert_eq!(world.refusal(ANN, send(|d| d.mentions = vec![DEE])), Code::InvalidField);
    let entry = world.ok(ANN, send(|d| d.mentions = vec![BEN, BEN])).remove(0);
    let Some(Change::Message(sent)) = entry.change else { panic!("not a message") };
    assert_eq!(sent.mentions.len(), 1);
    let elsewhere = Partition((world.state.id.partition().0 + 1) % 256);
    let reply = MessageId::first_of(Millis::from_2025(1), elsewhere);
    assert_eq!(world.refusal(ANN, send(|d| d.reply_to = Some(reply))), Code::InvalidField);
}

#[test]
fn the_hundred_and_first_member_is_refused() {
    let mut world = World::new(ConversationId::group(ANN, Uuid::nil()));
    let people = |count: usize| {
        (0..count).map(|n| UserId(Uuid::from_u128(100 + n as u128))).collect::<Vec<_>>()
    };
    let too_many =
        Action::Create { name: Some("all".to_owned()), members: people(GROUP_MEMBERS_MAX) };
    assert_eq!(world.refusal(ANN, too_many), Code::GroupFull);
    world.ok(
        ANN,
        Action::Create { name: Some("all".to_owned()), members: people(GROUP_MEMBERS_MAX - 1) },
    );
    assert_eq!(world.refusal(ANN, Action::Invite { user_ids: vec![DEE] }), Code::GroupFull);
    world.ok(ANN, Action::Remove { user_id: people(1)[0] });
    world.ok(ANN, Action::Invite { user_ids: vec![DEE] });
    assert_eq!(world.state.members.len(), GROUP_MEMBERS_MAX);
}

#[test]
fn roles_decide_who_may_do_what() {
    let mut world = World::group();
    let rename = || Action::Change { name: Some("runs".to_owned()), picture: None };
    assert_eq!(world.refusal(BEN, rename()), Code::Forbidden);
    assert_eq!(world.refusal(BEN, Action::Invite { user_ids: vec![DEE] }), Code::Forbidden);
    assert_eq!(world.refusal(BEN, Action::Remove { user_id: CEM }), Code::Forbidden);
    assert_eq!(
        world.refusal(BEN, Action::SetRole { user_id: CEM, role: Role::Admin }),
        Code::Forbidden
    );
    world.ok(ANN, Action::SetRole { user_id: BEN, role: Role::Admin });
    world.ok(BEN, rename());
    assert_eq!(world.refusal(BEN, Action::Remove { user_id: ANN }), Code::Forbidden);
    world.ok(BEN, Action::Remove { user_id: CEM });
    assert_eq!(world.refusal(CEM, send(|_| {})), Code::NotFound);
}

#[test]
fn an_owner_who_leaves_hands_over_to_the_longest_standing_admin() {
    let mut world = World::group();
    world.ok(ANN, Action::SetRole { user_id: CEM, role: Role::Admin });
    world.ok(ANN, Action::Remove { user_id: ANN });
    assert_eq!(world.state.role(CEM), Some(Role::Owner));
    assert_eq!(world.state.role(ANN), None);
}

#[test]
fn handing_the_ownership_over_leaves_one_owner() {
    let mut world = World::group();
    world.ok(ANN, Action::SetRole { user_id: BEN, role: Role::Owner });
    assert_eq!(
        (world.state.role(ANN), world.state.role(BEN)),
        (Some(Role::Admin), Some(Role::Owner))
    );
    assert_eq!(
        world.refusal(BEN, Action::SetRole { user_id: BEN, role: Role::Member }),
        Code::Conflict
    );
}

#[test]
fn the_one_who_leaves_gets_the_message_that_tells_of_it() {
    let mut world = World::group();
    let before = world.state.clone();
    let entries = world.ok(ANN, Action::Remove { user_id: BEN });
    let kinds: Vec<_> =
        entries.iter().map(|entry| matches!(entry.change, Some(Change::Message(_)))).collect();
    assert_eq!(kinds, [true, false], "the message stands before the record of the leave");
    let mut told = before.clone();
    told.apply(&entries[0]).unwrap();
    let rows = rows::rows(&told, &world.state, &entries[1]).unwrap();
    let (audience, _) = rows.inbox.unwrap();
    assert!(audience.contains(&BEN), "and the record itself goes to the one who left");
}

#[test]
fn only_the_sender_edits_and_the_sender_or_an_admin_deletes() {
    let mut world = World::group();
    let message = world.say(BEN, "helo");
    let id = message.message_id;
    let facts = || Facts { message: Some(Some(message.clone())), ..Facts::default() };
    let edit = || Action::Edit { message_id: id, body: Body::text("hello"), mentions: vec![] };
    let code = |decision| match decision {
        Decision::Refuse(refusal) => Some(refusal.code),
        Decision::Commit(..) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(world.decide(ANN, edit(), facts())), Some(Code::Forbidden));
    assert_eq!(code(world.decide(BEN, edit(), facts())), None);
    assert_eq!(
        code(world.decide(CEM, Action::Delete { message_id: id }, facts())),
        Some(Code::Forbidden)
    );
    assert_eq!(code(world.decide(ANN, Action::Delete { message_id: id }, facts())), None);
    let gone = Message { deleted: true, ..message.clone() };
    let facts = Facts { message: Some(Some(gone)), ..Facts::default() };
    assert_eq!(code(world.decide(BEN, edit(), facts)), Some(Code::MessageDeleted));
    let facts = Facts { message: Some(None), ..Facts::default() };
    assert_eq!(code(world.decide(BEN, edit(), facts)), Some(Code::NotFound));
}

#[test]
fn editing_twice_changes_once() {
    let mut world = World::direct();
    let message = world.say(ANN, "helo");
    let edit = |text, mentions| Action::Edit {
        message_id: message.message_id,
        body: Body::text(text),
        mentions,
    };
    let facts =
        |message: &Message| Facts { message: Some(Some(message.clone())), ..Facts::default() };
    let Decision::Commit(mut changes, _) =
        world.decide(ANN, edit("hello", vec![]), facts(&message))
    else {
        panic!("no commit")
    };
    let entry = world.apply(changes.remove(0));
    let mut edited = message.clone();
    rows::overlay(&mut edited, &entry).unwrap();
    let Decision::Reply(Reply::Changed(again)) =
        world.decide(ANN, edit("hello", vec![]), facts(&edited))
    else {
        panic!("no answer")
    };
    assert_eq!(again.version, entry.message_id(), "the answer that the first one got");
    for other in [edit("hello!", vec![]), edit("hello", vec![BEN])] {
        assert!(matches!(world.decide(ANN, other, facts(&edited)), Decision::Commit(..)));
    }
}

#[test]
fn reacting_twice_changes_nothing() {
    let mut world = World::direct();
    let message = world.say(ANN, "lunch?");
    let react =
        |remove| Action::React { message_id: message.message_id, emoji: "👍".to_owned(), remove };
    let facts =
        |message: &Message| Facts { message: Some(Some(message.clone())), ..Facts::default() };
    let Decision::Commit(mut changes, _) = world.decide(BEN, react(false), facts(&message)) else {
        panic!("no commit")
    };
    let entry = world.apply(changes.remove(0));
    let mut reacted = message.clone();
    rows::overlay(&mut reacted, &entry).unwrap();
    assert_eq!(reacted.reactions.items[0].user_ids, [BEN]);
    assert!(matches!(world.decide(BEN, react(false), facts(&reacted)), Decision::Reply(_)));
    assert!(matches!(world.decide(BEN, react(true), facts(&reacted)), Decision::Commit(..)));
    assert!(matches!(world.decide(ANN, react(true), facts(&reacted)), Decision::Reply(_)));
}

#[test]
fn marks_never_go_back_nor_past_the_newest_message() {
    let mut world = World::direct();
    for _ in 0..3 {
        world.say(ANN, "hi");
    }
    world.ok(BEN, Action::Read { seq: 99 });
    assert_eq!(world.state.marks_of(BEN), (3, 3));
    assert!(matches!(
        world.decide(BEN, Action::Read { seq: 2 }, Facts::default()),
        Decision::Reply(_)
    ));
    assert!(matches!(
        world.decide(BEN, Action::Delivered { seq: 3 }, Facts::default()),
        Decision::Reply(_)
    ));
}

#[test]
fn creating_again_finds_the_same_conversation() {
    let mut world = World::direct();
    let again = |members| Action::Create { name: None, members };
    assert!(matches!(
        world.decide(BEN, again(vec![ANN]), Facts::default()),
        Decision::Reply(Reply::Conversation(_))
    ));
    assert_eq!(world.refusal(CEM, again(vec![ANN])), Code::NotFound);
    assert_eq!(world.refusal(ANN, Action::Invite { user_ids: vec![CEM] }), Code::Conflict);
    let entries = World::group().ok(ANN, Action::Invite { user_ids: vec![DEE, BEN] });
    let joined: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(&entry.change, Some(Change::Member(m)) if m.change == MemberChange::Joined as i32))
        .collect();
    assert_eq!(joined.len(), 1, "members are passed over");
    world.say(BEN, "hi");
}
