use chat_protocol::api::Tokens;
use chat_protocol::frame::{AccountChanged, AccountPart, FriendChanged, Friendship, ServerFrame};
use chat_protocol::{Code, UserId};
use serde_json::{Value, json};

use super::Server;

fn friend(user_id: UserId, friendship: Friendship) -> ServerFrame {
    ServerFrame::Friend(FriendChanged { user_id, friendship })
}

async fn ask(server: &Server, from: &Tokens, to: &Tokens) -> super::Answer {
    server.put(&from.access_token, &format!("/v1/friends/{}", to.user_id), Value::Null).await
}

async fn end(server: &Server, from: &Tokens, to: &Tokens) -> super::Answer {
    server.delete(&from.access_token, &format!("/v1/friends/{}", to.user_id)).await
}

async fn block(server: &Server, from: &Tokens, whom: &Tokens) -> super::Answer {
    server.put(&from.access_token, &format!("/v1/blocks/{}", whom.user_id), Value::Null).await
}

async fn friends(server: &Server, of: &Tokens) -> Vec<(String, String)> {
    let page = server.get(&of.access_token, "/v1/friends").await.expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = page["items"].as_array().unwrap().iter();
    items.map(|one| (text(&one["profile"]["handle"]), text(&one["friendship"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[tokio::test]
async fn a_request_is_accepted_by_asking_back_and_ended_by_either_side() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let asked = ask(&server, &ann, &bob).await.expect(200);
    assert_eq!(asked, json!({ "user_id": bob.user_id, "friendship": "requested" }));
    ask(&server, &ann, &bob).await.expect(200);
    assert_eq!(friends(&server, &ann).await, pairs(&[("bob", "requested")]));
    assert_eq!(friends(&server, &bob).await, pairs(&[("ann", "received")]));
    let accepted = ask(&server, &bob, &ann).await.expect(200);
    assert_eq!(accepted["friendship"], "friends");
    assert_eq!(friends(&server, &ann).await, pairs(&[("bob", "friends")]));
    let ended = end(&server, &ann, &bob).await.expect(200);
    assert_eq!(ended["friendship"], "none");
    end(&server, &ann, &bob).await.expect(200);
    assert!(friends(&server, &ann).await.is_empty() && friends(&server, &bob).await.is_empty());
    // Each step is told once to each side, as that side sees it.
    let steps = [Friendship::Requested, Friendship::Friends, Friendship::None];
    let to_ann = server.heard.frames_to(ann.user_id);
    assert_eq!(to_ann, steps.map(|step| friend(bob.user_id, step)));
    let steps = [Friendship::Received, Friendship::Friends, Friendship::None];
    let to_bob = server.heard.frames_to(bob.user_id);
    assert_eq!(to_bob, steps.map(|step| friend(ann.user_id, step)));
}

#[tokio::test]
async fn a_request_is_refused_or_cancelled() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    for ender in [&ann, &bob] {
        ask(&server, &ann, &bob).await.expect(200);
        let other = if std::ptr::eq(ender, &ann) { &bob } else { &ann };
        end(&server, ender, other).await.expect(200);
        assert!(friends(&server, &ann).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_each_other_at_once_become_friends() {
    for _ in 0..20 {
        let server = Server::start().await;
        let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
        let (one, other) = tokio::join!(ask(&server, &ann, &bob), ask(&server, &bob, &ann));
        one.expect(200);
        other.expect(200);
        assert_eq!(friends(&server, &ann).await, pairs(&[("bob", "friends")]));
        assert_eq!(friends(&server, &bob).await, pairs(&[("ann", "friends")]));
    }
}

#[tokio::test]
async fn nobody_befriends_themselves_or_a_stranger_to_the_platform() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    ask(&server, &ann, &ann).await.refused(Code::InvalidField);
    let unknown = Tokens { user_id: UserId::random(), ..ann.clone() };
    ask(&server, &ann, &unknown).await.refused(Code::NotFound);
    block(&server, &ann, &ann).await.refused(Code::InvalidField);
    block(&server, &ann, &unknown).await.refused(Code::NotFound);
}

#[tokio::test]
async fn a_block_ends_the_friendship_and_holds_until_it_is_lifted() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    ask(&server, &ann, &bob).await.expect(200);
    ask(&server, &bob, &ann).await.expect(200);
    block(&server, &ann, &bob).await.expect(204);
    block(&server, &ann, &bob).await.expect(204);
    assert!(friends(&server, &ann).await.is_empty() && friends(&server, &bob).await.is_empty());
    let last = server.heard.frames_to(bob.user_id).pop();
    assert_eq!(last, Some(friend(ann.user_id, Friendship::None)));
    let last = server.heard.frames_to(ann.user_id).pop();
    let changed = AccountChanged { part: AccountPart::Blocks };
    assert_eq!(last, Some(ServerFrame::Account(changed)));

    ask(&server, &bob, &ann).await.refused(Code::Blocked);
    ask(&server, &ann, &bob).await.refused(Code::Blocked);
    let direct = json!({ "kind": "direct", "user_id": ann.user_id });
    server.post(&bob.access_token, "/v1/conversations", direct).await.refused(Code::Blocked);
    let list = server.get(&ann.access_token, "/v1/blocks").await.expect(200);
    assert_eq!(list["items"][0]["handle"], "bob");
    let list = server.get(&bob.access_token, "/v1/blocks").await.expect(200);
    assert_eq!(list["items"], json!([]));

    server.delete(&ann.access_token, &format!("/v1/blocks/{}", bob.user_id)).await.expect(204);
    ask(&server, &bob, &ann).await.expect(200);
}

#[tokio::test]
async fn lists_of_people_come_in_pages() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    for number in 0..5 {
        let other = server.sign_up(&format!("friend{number}")).await;
        ask(&server, &ann, &other).await.expect(200);
        let other = server.sign_up(&format!("foe{number}")).await;
        block(&server, &ann, &other).await.expect(204);
    }
    for path in ["/v1/friends", "/v1/blocks"] {
        let mut seen = Vec::new();
        let mut query = "?limit=2".to_owned();
        for expected in [2, 2, 1] {
            let page = server.get(&ann.access_token, &format!("{path}{query}")).await.expect(200);
            let items = page["items"].as_array().unwrap();
            assert_eq!(items.len(), expected);
            seen.extend(items.iter().map(Value::to_string));
            query = format!("?limit=2&after={}", page["next"].as_str().unwrap_or("end"));
        }
        assert!(query.ends_with("end"), "no further page is announced");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }
}

#[tokio::test]
async fn presence_is_told_of_friends_only() {
    let server = Server::start().await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    let cleo = server.sign_up("cleo").await;
    ask(&server, &ann, &bob).await.expect(200);
    ask(&server, &bob, &ann).await.expect(200);
    ask(&server, &cleo, &ann).await.expect(200);
    let told = server.get(&ann.access_token, "/v1/presence").await.expect(200);
    assert_eq!(told["users"].as_array().unwrap().len(), 1);
    assert_eq!(told["users"][0]["user_id"], json!(bob.user_id));
    assert_eq!(*server.presences.asked.lock().unwrap(), [vec![bob.user_id]]);
    let told = server.get(&cleo.access_token, "/v1/presence").await.expect(200);
    assert_eq!(told["users"], json!([]));
}
