use axum::body::Body;
use axum::http::{Method, Request};
use chat_protocol::{Code, ConversationId, UserId};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::Server;
use crate::http::Settings;

fn request(method: Method, path: &str, media_type: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("content-type", media_type);
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn a_body_that_is_not_of_the_documented_form_is_explained() {
    let server = Server::start().await;
    for (body, hint) in [
        ("{", "line 1"),
        ("", "EOF"),
        ("[]", "invalid"),
        ("{\"handle\": \"ann\"}", "password"),
        ("{\"handle\": 1, \"password\": \"x\"}", "handle: invalid type"),
        ("{\"handle\": \"ann\", \"password\": \"x\"} trailing", "trailing"),
    ] {
        let json = request(Method::POST, "/v1/accounts", "application/json; charset=utf-8", body);
        let problem = server.send(json).await.refused(Code::MalformedRequest);
        assert!(problem.detail.contains(hint), "{body}: {}", problem.detail);
    }
}

#[tokio::test]
async fn bodies_of_other_media_types_are_refused() {
    let server = Server::start().await;
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let other = request(Method::POST, "/v1/accounts", media_type, "{}");
        server.send(other).await.refused(Code::UnsupportedMediaType);
    }
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_refused() {
    let server = Server::start().await;
    for path in ["/v1/nothing", "/v2/me", "/nothing.html", "/../etc/passwd", "/problems/nothing"] {
        server.get("", path).await.refused(Code::NotFound);
    }
    let answer = server.delete("", "/v1/me/settings").await;
    let allowed = answer.headers["allow"].to_str().unwrap().to_owned();
    assert!(allowed.contains("GET") && allowed.contains("PUT"), "{allowed}");
    answer.refused(Code::MethodNotAllowed);
}

#[tokio::test]
async fn bad_ids_and_queries_are_named() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    for path in [
        "/v1/users/nobody",
        "/v1/users/%FF",
        "/v1/conversations/x",
        "/v1/users?handle=",
        "/v1/users",
        "/v1/users?handle=ann&limit=many",
        "/v1/friends?after=x",
        "/v1/conversations?limit=0",
    ] {
        server.get(&ann.access_token, path).await.refused(Code::InvalidField);
    }
    let id = ConversationId::direct(ann.user_id, UserId::random());
    let path = format!("/v1/conversations/{id}/messages/x");
    let problem = server.delete(&ann.access_token, &path).await.refused(Code::InvalidField);
    assert!(problem.detail.contains("message"), "{}", problem.detail);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_announced_or_not() {
    let server = Server::start().await;
    let large = vec![b' '; 64 * 1024 + 1];
    let announced = Request::builder()
        .method(Method::POST)
        .uri("/v1/accounts")
        .header("content-type", "application/json")
        .header("content-length", large.len());
    let announced = announced.body(Body::from(large.clone())).unwrap();
    server.send(announced).await.refused(Code::TooLarge);
    let pieces = large.chunks(1_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
    let pieces: Vec<_> = pieces.collect();
    let streamed = Body::from_stream(futures_util::stream::iter(pieces));
    let streamed = request(Method::POST, "/v1/accounts", "application/json", streamed);
    server.send(streamed).await.refused(Code::TooLarge);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let settings = Settings { body_wait_ms: 20, ..Settings::default() };
    let server = Server::with(settings, OpenApiRouter::new()).await;
    let never =
        Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let never = request(Method::POST, "/v1/accounts", "application/json", never);
    server.send(never).await.refused(Code::MalformedRequest);
}

#[tokio::test]
async fn a_panic_costs_one_request_and_tells_nothing() {
    let server = Server::start().await;
    let ann = server.sign_up("ann").await;
    let id = ConversationId::direct(ann.user_id, UserId::random());
    let path = format!("/v1/conversations/{id}/messages");
    let body = json!({ "client_message_id": Uuid::new_v4(), "type": "panic", "body": null });
    let problem = server.post(&ann.access_token, &path, body).await.refused(Code::Internal);
    assert!(!problem.detail.contains("asked to"), "{}", problem.detail);
    server.get(&ann.access_token, "/v1/me").await.expect(200);
}

#[tokio::test]
async fn the_clients_request_id_is_kept_if_it_is_sane() {
    let server = Server::start().await;
    let ask = |id: &str| {
        let request = Request::builder().uri("/v1/me").header("x-request-id", id);
        server.send(request.body(Body::empty()).unwrap())
    };
    let kept = ask("trace-1.a_b").await;
    assert_eq!(kept.headers["x-request-id"], "trace-1.a_b");
    kept.refused(Code::Unauthenticated);
    for odd in ["", "a b", "<script>", &"a".repeat(65)] {
        let answer = ask(odd).await;
        let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
        assert!(Uuid::parse_str(&id).is_ok(), "{odd} became {id}");
        answer.refused(Code::Unauthenticated);
    }
}
