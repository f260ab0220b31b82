use chat_broker::Subject;
use chat_protocol::api::Tokens;
use chat_protocol::frame::{AccountChanged, AccountPart, ServerFrame};
use chat_protocol::{Code, MessageId, Partition, UserId};
use chat_store::{ConfirmedRow, Store};
use serde_json::{Value, json};

use super::{NOW, Server};
use crate::auth::{self, KeyRing, Revocation, issuer};
use crate::delivery::{Class, Frame};
use crate::http::Settings;

fn account(part: AccountPart) -> ServerFrame {
    ServerFrame::Account(AccountChanged { part })
}

#[tokio::test]
async fn a_new_account_is_logged_in_at_once() {
    let server = Server::start().await;
    let body = json!({ "handle": "Ann", "password": "correct horse", "name": " Ann B. ", "device_name": "Desk" });
    let made = server.post("", "/v1/accounts", body).await.expect(201);
    let tokens: Tokens = serde_json::from_value(made).unwrap();
    // The clock goes on while the request is served.
    let life_ms = tokens.access_expires_at.since(NOW);
    assert!((900_000..960_000).contains(&life_ms), "{life_ms}");
    let me = server.get(&tokens.access_token, "/v1/me").await.expect(200);
    assert_eq!(me, json!({ "user_id": tokens.user_id, "handle": "ann", "name": "Ann B." }));
    let devices = server.get(&tokens.access_token, "/v1/devices").await.expect(200);
    let device = &devices["items"][0];
    assert_eq!(device["name"], "Desk");
    assert_eq!(device["current"], true);
    assert_eq!(device["device_id"], json!(tokens.device_id));
    assert_eq!(device.get("received_until"), None, "it has shown no cursor yet");
    let safe = MessageId::first_of(NOW.plus(5), Partition(3));
    let row = ConfirmedRow { user_id: tokens.user_id, device_id: tokens.device_id, safe };
    server.store.put_confirmed(vec![row]).await.unwrap();
    let devices = server.get(&tokens.access_token, "/v1/devices").await.expect(200);
    assert_eq!(devices["items"][0]["received_until"], json!(NOW.plus(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_sign_ups_with_one_handle_at_once_exactly_one_wins() {
    let server = Server::start().await;
    let body = json!({ "handle": "ann", "password": "correct horse" });
    let all = (0..8).map(|_| server.post("", "/v1/accounts", body.clone()));
    let answers = futures_util::future::join_all(all).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|one| one.status == 201);
    assert_eq!(won.len(), 1);
    for answer in lost {
        answer.refused(Code::HandleTaken);
    }
    server.log_in("ann").await;
}

#[tokio::test]
async fn wrong_passwords_and_unknown_handles_get_the_same_answer() {
    let server = Server::start().await;
    server.sign_up("ann").await;
    let mut answers = Vec::new();
    for handle in ["ann", "nobody", "not a handle"] {
        let body = json!({ "handle": handle, "password": "wrong horse" });
        let problem = server.post("", "/v1/sessions", body).await.refused(Code::WrongCredentials);
        answers.push(problem.detail);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn requests_without_a_good_token_are_refused() {
    let server = Server::start().await;
    let tokens = server.sign_up("ann").await;
    let mut tampered = tokens.access_token.clone();
    let flipped = if tampered.ends_with('A') { "Q" } else { "A" };
    tampered.replace_range(tampered.len() - 1.., flipped);
    let forged = {
        let clock = crate::clock::Clock::manual(NOW);
        let other =
            crate::auth::Auth::new(Default::default(), KeyRing::random().into(), clock).unwrap();
        other.new_session(tokens.user_id, tokens.device_id).unwrap().tokens.access_token
    };
    for bad in ["", "nonsense", &tampered, &forged, &tokens.refresh_token] {
        server.get(bad, "/v1/me").await.refused(Code::Unauthenticated);
    }
    server.get(&tokens.access_token, "/v1/me").await.expect(200);
    server.clock.step(15 * 60 * 1_000);
    server.get(&tokens.access_token, "/v1/me").await.refused(Code::TokenExpired);
}

#[tokio::test]
async fn a_refresh_token_works_once_and_a_second_use_logs_the_device_out() {
    let server = Server::start().await;
    let first = server.sign_up("ann").await;
    let refresh = |token: &str| {
        let body = json!({ "refresh_token": token });
        let server = &server;
        async move { server.post("", "/v1/sessions/refresh", body).await }
    };
    server.clock.step(3_600_000);
    let second: Tokens =
        serde_json::from_value(refresh(&first.refresh_token).await.expect(200)).unwrap();
    assert_eq!((second.user_id, second.device_id), (first.user_id, first.device_id));
    assert_ne!(second.refresh_token, first.refresh_token);
    server.get(&second.access_token, "/v1/me").await.expect(200);

    refresh(&first.refresh_token).await.refused(Code::Unauthenticated);
    server.get(&second.access_token, "/v1/me").await.refused(Code::Unauthenticated);
    refresh(&second.refresh_token).await.refused(Code::Unauthenticated);
    for nonsense in ["", "abc", "é"] {
        refresh(nonsense).await.refused(Code::Unauthenticated);
    }
}

#[tokio::test]
async fn an_unused_refresh_token_expires() {
    let server = Server::start().await;
    let tokens = server.sign_up("ann").await;
    server.clock.step(61 * 24 * 3_600_000);
    let body = json!({ "refresh_token": tokens.refresh_token });
    server.post("", "/v1/sessions/refresh", body).await.refused(Code::Unauthenticated);
}

#[tokio::test]
async fn logout_ends_this_device_at_once_and_tells_every_node() {
    let server = Server::start().await;
    let desk = server.sign_up("ann").await;
    let phone = server.log_in("ann").await;
    server.delete(&phone.access_token, "/v1/sessions/current").await.expect(204);
    server.get(&phone.access_token, "/v1/me").await.refused(Code::Unauthenticated);
    server.get(&desk.access_token, "/v1/me").await.expect(200);

    let to_user = server.heard.to(Subject::User(desk.user_id));
    let closing = to_user.into_iter().flat_map(Frame::all);
    let closed: Vec<_> =
        closing.filter(|frame| frame.class == Class::Revoked).map(|frame| frame.origin.0).collect();
    assert_eq!(closed, [phone.device_id.0]);
    let to_nodes = server.heard.to(Subject::Nodes);
    let told: Vec<_> = to_nodes.iter().map(|one| Revocation::from_payload(one).unwrap()).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].device_id, phone.device_id);
    assert!(told[0].until >= phone.access_expires_at);
    let devices = server.get(&desk.access_token, "/v1/devices").await.expect(200);
    assert_eq!(devices["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn logout_everywhere_ends_all_devices() {
    let server = Server::start().await;
    let devices = [server.sign_up("ann").await, server.log_in("ann").await];
    let other = server.sign_up("bob").await;
    server.delete(&devices[0].access_token, "/v1/sessions").await.expect(204);
    for device in devices {
        server.get(&device.access_token, "/v1/me").await.refused(Code::Unauthenticated);
        let body = json!({ "refresh_token": device.refresh_token });
        server.post("", "/v1/sessions/refresh", body).await.refused(Code::Unauthenticated);
    }
    server.get(&other.access_token, "/v1/me").await.expect(200);
}

#[tokio::test]
async fn a_new_password_replaces_the_old_one_and_logs_the_other_devices_out() {
    let server = Server::start().await;
    let desk = server.sign_up("ann").await;
    let phone = server.log_in("ann").await;
    let change = |old: &str| json!({ "old_password": old, "new_password": "battery staple" });
    let path = "/v1/me/password";
    server.put(&desk.access_token, path, change("wrong")).await.refused(Code::WrongCredentials);
    server.get(&phone.access_token, "/v1/me").await.expect(200);
    server.put(&desk.access_token, path, change("correct horse")).await.expect(204);
    server.get(&phone.access_token, "/v1/me").await.refused(Code::Unauthenticated);
    server.get(&desk.access_token, "/v1/me").await.expect(200);
    for (password, status) in [("correct horse", 401), ("battery staple", 201)] {
        let body = json!({ "handle": "ann", "password": password });
        server.post("", "/v1/sessions", body).await.expect(status);
    }
}

#[tokio::test]
async fn the_longest_unused_device_makes_room_for_the_hundred_and_first() {
    let server = Server::start().await;
    let first = server.sign_up("ann").await;
    for _ in 0..100 {
        server.clock.step(1_000);
        server.log_in("ann").await;
    }
    server.get(&first.access_token, "/v1/me").await.refused(Code::Unauthenticated);
    let newest = server.log_in("ann").await;
    let devices = server.get(&newest.access_token, "/v1/devices").await.expect(200);
    assert_eq!(devices["items"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn profile_and_settings_change_and_the_own_devices_are_told() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let token = &ann.access_token;
    let change = json!({ "name": "Ann", "status": "away", "picture": "https://example.org/a.png" });
    let changed = server.patch(token, "/v1/me", change).await.expect(200);
    assert_eq!(changed["status"], "away");
    let cleared = server.patch(token, "/v1/me", json!({ "status": "", "picture": "" })).await;
    let cleared = cleared.expect(200);
    assert_eq!((&cleared["status"], &cleared["picture"]), (&Value::Null, &Value::Null));
    assert_eq!(cleared["name"], "Ann");
    for bad in
        [json!({ "name": " " }), json!({ "picture": "http://x" }), json!({ "status": "a\nb" })]
    {
        server.patch(token, "/v1/me", bad).await.refused(Code::InvalidField);
    }

    let empty = server.get(token, "/v1/me/settings").await.expect(200);
    assert_eq!(empty, json!({ "settings": {} }));
    let settings = json!({ "settings": { "theme": "dark", "n": [1, 2.5, null] } });
    server.put(token, "/v1/me/settings", settings.clone()).await.expect(200);
    assert_eq!(server.get(token, "/v1/me/settings").await.expect(200), settings);
    let large = json!({ "settings": { "text": "a".repeat(16 * 1024) } });
    server.put(token, "/v1/me/settings", large).await.refused(Code::TooLarge);
    assert_eq!(
        server.heard.frames_to(ann.user_id),
        [AccountPart::Profile, AccountPart::Profile, AccountPart::Settings].map(account)
    );
}

#[tokio::test]
async fn devices_are_renamed_and_removed_by_their_owner_only() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let phone = server.log_in("ann").await;
    let bob = server.sign_up("bob").await;
    let path = format!("/v1/devices/{}", phone.device_id);
    let name = json!({ "name": "Old phone" });
    server.patch(&bob.access_token, &path, name.clone()).await.refused(Code::NotFound);
    server.delete(&bob.access_token, &path).await.refused(Code::NotFound);
    server.get(&phone.access_token, "/v1/me").await.expect(200);
    let renamed = server.patch(&ann.access_token, &path, name).await.expect(200);
    assert_eq!((&renamed["name"], &renamed["current"]), (&json!("Old phone"), &json!(false)));
    server.delete(&ann.access_token, &path).await.expect(204);
    server.get(&phone.access_token, "/v1/me").await.refused(Code::Unauthenticated);
    server.delete(&ann.access_token, &path).await.refused(Code::NotFound);
}

#[tokio::test]
async fn people_are_found_by_the_beginning_of_their_handle_and_by_id() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let anna = server.sign_up("anna").await;
    server.sign_up("bob").await;
    let token = &ann.access_token;
    let found = server.get(token, "/v1/users?handle=ANN").await.expect(200);
    let handles: Vec<_> =
        found["items"].as_array().unwrap().iter().map(|one| &one["handle"]).collect();
    assert_eq!(handles, ["ann", "anna"]);
    let one = server.get(token, "/v1/users?handle=ann&limit=1").await.expect(200);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let path = format!("/v1/users/{}", anna.user_id);
    assert_eq!(server.get(token, &path).await.expect(200)["handle"], "anna");
    let path = format!("/v1/users/{}", UserId::random());
    server.get(token, &path).await.refused(Code::NotFound);
}

#[tokio::test]
async fn people_of_an_external_issuer_get_their_account_with_their_first_request() {
    let (issuer, _directory) = issuer::tests::issuer();
    let external_issuer = Some(issuer.settings().clone());
    let auth = auth::Settings { external_issuer, ..auth::Settings::default() };
    let server = Server::with_auth(Settings { rates: None, ..Settings::default() }, auth).await;
    server.sign_up("taken").await;
    let token = |sub: &str, handle: &str| {
        issuer::tests::token(json!({ "sub": sub, "preferred_username": handle, "name": "Ann" }))
    };
    let first = server.get(&token("1", "Ann.B"), "/v1/me").await.expect(200);
    assert_eq!((&first["handle"], &first["name"]), (&json!("ann.b"), &json!("Ann")));
    let again = server.get(&token("1", "renamed"), "/v1/me").await.expect(200);
    assert_eq!(again, first);
    let devices = server.get(&token("1", "x"), "/v1/devices").await.expect(200);
    assert_eq!(devices["items"].as_array().unwrap().len(), 1);
    for wish in ["taken", "not a handle"] {
        let other = server.get(&token(wish, wish), "/v1/me").await.expect(200);
        let digits = other["user_id"].as_str().unwrap().replace('-', "");
        assert_eq!(other["handle"], json!(digits));
    }
    for password in ["", "correct horse"] {
        let body = json!({ "handle": "ann.b", "password": password });
        server.post("", "/v1/sessions", body).await.refused(Code::WrongCredentials);
    }
}
