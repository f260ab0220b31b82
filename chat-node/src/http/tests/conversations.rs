use chat_protocol::error::Refusal;
use chat_protocol::message::Role;
use chat_protocol::{Code, ConversationId, MessageId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::double::conversation;
use super::{NOW, Server};
use crate::conversation::Action;

#[tokio::test]
async fn a_conversation_is_made_once_however_often_it_is_asked_for() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let request_id = Uuid::new_v4();
    let group = json!({ "kind": "group", "request_id": request_id, "name": " Trip ", "members": [bob.user_id, ann.user_id, bob.user_id] });
    let room = json!({ "kind": "room", "request_id": request_id, "name": "Stage" });
    let direct = json!({ "kind": "direct", "user_id": bob.user_id });
    for body in [group, room, direct] {
        let made =
            server.post(&ann.access_token, "/v1/conversations", body.clone()).await.expect(201);
        let again = server.post(&ann.access_token, "/v1/conversations", body).await.expect(200);
        assert_eq!(made, again);
    }
    let commands = server.conversations.commands.lock().unwrap();
    assert_eq!(commands.len(), 3);
    assert_eq!(commands[0].conversation_id, ConversationId::group(ann.user_id, request_id));
    assert_eq!(commands[2].conversation_id, ConversationId::direct(bob.user_id, ann.user_id));
    let Action::Create { name, members } = &commands[0].action else { panic!() };
    assert_eq!((name.as_deref(), members.as_slice()), (Some("Trip"), &[bob.user_id][..]));
    let Action::Create { name, members } = &commands[2].action else { panic!() };
    assert_eq!((name.as_deref(), members.as_slice()), (None, &[bob.user_id][..]));
}

#[tokio::test]
async fn conversations_with_nobody_or_too_many_are_refused() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let stranger = UserId::random();
    let many: Vec<UserId> = (0..100).map(|_| UserId::random()).collect();
    let request_id = Uuid::new_v4();
    for (body, code) in [
        (json!({ "kind": "direct", "user_id": ann.user_id }), Code::InvalidField),
        (json!({ "kind": "direct", "user_id": stranger }), Code::NotFound),
        (
            json!({ "kind": "group", "request_id": request_id, "name": "x", "members": [stranger] }),
            Code::NotFound,
        ),
        (
            json!({ "kind": "group", "request_id": request_id, "name": "x", "members": many }),
            Code::GroupFull,
        ),
        (json!({ "kind": "group", "request_id": request_id, "name": " " }), Code::InvalidField),
        (json!({ "kind": "room", "request_id": request_id, "name": "a\u{0}" }), Code::InvalidField),
        (json!({ "kind": "room", "request_id": "x", "name": "a" }), Code::MalformedRequest),
        (json!({ "kind": "village" }), Code::MalformedRequest),
    ] {
        server.post(&ann.access_token, "/v1/conversations", body).await.refused(code);
    }
    assert!(server.conversations.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_reaches_the_owner_as_it_was_sent() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let id = ConversationId::direct(ann.user_id, bob.user_id);
    let path = format!("/v1/conversations/{id}/messages");
    let client_message_id = Uuid::new_v4();
    let body = json!({
        "client_message_id": client_message_id, "retry": true, "type": "text",
        "body": { "text": "hi 👋", "n": 1.50 }, "reply_to": "17", "mentions": [bob.user_id],
    });
    let sent = server.post(&ann.access_token, &path, body).await.expect(201);
    assert_eq!((&sent["message_id"], &sent["seq"]), (&json!("42"), &json!(7)));
    let command = server.conversations.commands.lock().unwrap().pop().unwrap();
    assert_eq!((command.conversation_id, command.caller), (id, ann.user_id));
    assert_eq!(sent["created_at"], json!(command.received_at));
    assert!(command.origin.is_none() && command.received_at >= NOW);
    let Action::Send(draft) = command.action else { panic!() };
    assert_eq!(draft.client_message_id.0, client_message_id);
    assert!(draft.retry);
    assert_eq!(draft.body.to_value(), json!({ "text": "hi 👋", "n": 1.5 }));
    assert_eq!((draft.reply_to, draft.mentions), (Some(MessageId(17)), vec![bob.user_id]));
}

#[tokio::test]
async fn a_message_may_be_larger_than_other_bodies_but_not_without_limit() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let id = ConversationId::direct(ann.user_id, UserId::random());
    let path = format!("/v1/conversations/{id}/messages");
    let message = |length: usize| json!({ "client_message_id": Uuid::new_v4(), "type": "text", "body": { "text": "a".repeat(length) } });
    server.post(&ann.access_token, &path, message(300_000)).await.expect(201);
    server.post(&ann.access_token, &path, message(1_400_000)).await.refused(Code::TooLarge);
    let name = json!({ "name": "a".repeat(65_536) });
    server.patch(&ann.access_token, "/v1/me", name).await.refused(Code::TooLarge);
}

#[tokio::test]
async fn what_is_asked_of_messages_and_members_becomes_a_command() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let body = json!({ "kind": "group", "request_id": Uuid::new_v4(), "name": "Trip" });
    let made = server.post(&ann.access_token, "/v1/conversations", body).await.expect(201);
    let base = format!("/v1/conversations/{}", made["conversation_id"].as_str().unwrap());
    let token = &ann.access_token;
    let last = || server.conversations.last_action();

    let path = format!("{base}/messages/99");
    let edit = json!({ "body": { "text": "x" } });
    assert_eq!(server.patch(token, &path, edit).await.expect(200), json!({ "version": "42" }));
    assert!(matches!(last(), Action::Edit { message_id: MessageId(99), .. }));
    server.delete(token, &path).await.expect(200);
    assert!(matches!(last(), Action::Delete { message_id: MessageId(99) }));
    let path = format!("{base}/messages/99/reactions/%F0%9F%91%8D");
    server.put(token, &path, Value::Null).await.expect(200);
    assert!(matches!(last(), Action::React { emoji, remove: false, .. } if emoji == "👍"));
    server.delete(token, &path).await.expect(200);
    assert!(matches!(last(), Action::React { emoji, remove: true, .. } if emoji == "👍"));
    for bad in ["%20", "%00", "%FF", &"a".repeat(65)] {
        let path = format!("{base}/messages/99/reactions/{bad}");
        server.put(token, &path, Value::Null).await.refused(Code::InvalidField);
    }
    server.put(token, &format!("{base}/read"), json!({ "seq": 3 })).await.expect(204);
    assert!(matches!(last(), Action::Read { seq: 3 }));
    server.put(token, &format!("{base}/delivered"), json!({ "seq": 4 })).await.expect(204);
    assert!(matches!(last(), Action::Delivered { seq: 4 }));
    server.post(token, &format!("{base}/typing"), json!({ "active": true })).await.expect(204);
    assert!(matches!(last(), Action::Typing { active: true }));

    let change = json!({ "name": " New ", "picture": "" });
    server.patch(token, &base, change).await.expect(200);
    assert!(
        matches!(last(), Action::Change { name: Some(name), picture: Some(picture) } if name == "New" && picture.is_empty())
    );
    let members = format!("{base}/members");
    server.post(token, &members, json!({ "user_ids": [bob.user_id] })).await.expect(200);
    assert!(matches!(last(), Action::Invite { user_ids } if user_ids == [bob.user_id]));
    for (bad, code) in [(vec![], Code::InvalidField), (vec![UserId::random()], Code::NotFound)] {
        server.post(token, &members, json!({ "user_ids": bad })).await.refused(code);
    }
    let member = format!("{members}/{}", bob.user_id);
    server.patch(token, &member, json!({ "role": "admin" })).await.expect(200);
    assert!(
        matches!(last(), Action::SetRole { user_id, role: Role::Admin } if user_id == bob.user_id)
    );
    server.delete(token, &member).await.expect(204);
    assert!(matches!(last(), Action::Remove { user_id } if user_id == bob.user_id));
}

#[tokio::test]
async fn nobody_is_invited_by_someone_they_have_blocked() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let path = format!("/v1/blocks/{}", ann.user_id);
    server.put(&bob.access_token, &path, Value::Null).await.expect(204);
    let group = |members: Value| json!({ "kind": "group", "request_id": Uuid::new_v4(), "name": "Trip", "members": members });
    let path = "/v1/conversations";
    server.post(&ann.access_token, path, group(json!([bob.user_id]))).await.refused(Code::Blocked);
    let made = server.post(&ann.access_token, path, group(json!([]))).await.expect(201);
    let path = format!("{path}/{}/members", made["conversation_id"].as_str().unwrap());
    let invite = json!({ "user_ids": [bob.user_id] });
    server.post(&ann.access_token, &path, invite).await.refused(Code::Blocked);
}

#[tokio::test]
async fn history_is_paged_in_both_directions() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let id = ConversationId::direct(ann.user_id, UserId::random());
    let path = format!("/v1/conversations/{id}/messages");
    let newest = server.get(&ann.access_token, &path).await.expect(200);
    assert_eq!(newest, json!({ "messages": [], "more": false, "tail_missing": true }));
    for query in ["?before=9&limit=200", "?after=5"] {
        server.get(&ann.access_token, &format!("{path}{query}")).await.expect(200);
    }
    for query in
        ["?before=9&after=5", "?before=x", "?after=-1", "?limit=0", "?limit=201", "?limit=x"]
    {
        let answer = server.get(&ann.access_token, &format!("{path}{query}")).await;
        answer.refused(Code::InvalidField);
    }
    let asked = server.conversations.asked_history.lock().unwrap();
    let (nine, five) = (Some(MessageId(9)), Some(MessageId(5)));
    assert_eq!(*asked, [(None, None, 50), (nine, None, 200), (None, five, 50)]);
}

#[tokio::test]
async fn conversations_and_rooms_come_in_pages_even_when_made_at_the_same_moment() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    for number in 0..7 {
        let id = ConversationId::room(ann.user_id, Uuid::from_u128(number));
        // Four of them in one millisecond.
        let made = conversation(id, None, &[], NOW.plus(number.saturating_sub(3) as u64));
        server.conversations.made.lock().unwrap().insert(id, made);
    }
    for path in ["/v1/rooms", "/v1/conversations"] {
        let mut seen = Vec::new();
        let mut query = "?limit=2".to_owned();
        for expected in [2, 2, 2, 1] {
            let page = server.get(&ann.access_token, &format!("{path}{query}")).await.expect(200);
            let items = page["items"].as_array().unwrap();
            assert_eq!(items.len(), expected, "{path}{query}");
            seen.extend(items.iter().map(Value::to_string));
            query = format!("?limit=2&after={}", page["next"].as_str().unwrap_or("end"));
        }
        assert!(query.ends_with("end"));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7, "{path}");
    }
    server.get(&ann.access_token, "/v1/rooms?after=x").await.refused(Code::InvalidField);
}

#[tokio::test]
async fn a_refusal_of_the_owner_reaches_the_client_as_it_is() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let id = ConversationId::direct(ann.user_id, UserId::random());
    for code in Code::ALL {
        let refusal = Refusal::new(*code, "A sentence.").retry_after(1_500);
        *server.conversations.refusal.lock().unwrap() = Some(refusal);
        let path = format!("/v1/conversations/{id}/read");
        let answer = server.put(&ann.access_token, &path, json!({ "seq": 1 })).await;
        assert_eq!(answer.status, code.http_status());
        assert_eq!(answer.headers["retry-after"], "2");
        let problem = answer.refused(*code);
        assert_eq!((problem.detail.as_str(), problem.retry_after_ms), ("A sentence.", Some(1_500)));
    }
}
