use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use chat_protocol::Code;
use serde_json::json;
use std::net::SocketAddr;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Server;
use crate::http::{Rate, Rates, Settings};

const NONE: fn() -> OpenApiRouter = OpenApiRouter::new;

fn limited() -> Settings {
    let rate = |burst| Rate { burst, refill_ms: 10_000 };
    let rates = Rates {
        logins_per_handle: rate(3),
        logins_per_address: rate(5),
        sign_ups_per_address: rate(4),
        requests_per_user: rate(6),
    };
    Settings { rates: Some(rates), ..Settings::default() }
}

fn from(peer: &str, path: &str, body: serde_json::Value, forwarded: &str) -> Request<Body> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .header("x-forwarded-for", forwarded)
        .extension(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
    request.body(Body::from(body.to_string())).unwrap()
}

#[tokio::test]
async fn sign_ups_are_limited_by_address() {
    let server = Server::with(limited(), NONE()).await;
    let sign_up = |peer: &'static str, name: String| {
        let body = json!({ "handle": name, "password": "correct horse" });
        // A header that nobody vouches for does not help.
        let forwarded = format!("192.0.2.{}", name.len());
        server.send(from(peer, "/v1/accounts", body, &forwarded))
    };
    for number in 0..4 {
        sign_up("198.51.100.1:1000", format!("name{number}")).await.expect(201);
    }
    let problem = sign_up("198.51.100.1:2000", "more".into()).await.refused(Code::RateLimited);
    assert!((1..=10_000).contains(&problem.retry_after_ms.unwrap()));
    sign_up("198.51.100.2:1000", "other".into()).await.expect(201);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_forwarded_address_counts() {
    let settings = Settings { trust_forwarded: true, ..limited() };
    let server = Server::with(settings, NONE()).await;
    let attempt = |forwarded: &'static str, name: String| {
        let body = json!({ "handle": name, "password": "wrong horse" });
        server.send(from("10.0.0.1:1", "/v1/sessions", body, forwarded))
    };
    for number in 0..5 {
        // What the client claimed stands before what the proxy saw.
        let answer = attempt("203.0.113.9, 192.0.2.7", format!("nobody{number}")).await;
        answer.refused(Code::WrongCredentials);
    }
    attempt("192.0.2.1, 192.0.2.7", "nobody9".into()).await.refused(Code::RateLimited);
    attempt("192.0.2.8", "nobody8".into()).await.refused(Code::WrongCredentials);
}

#[tokio::test]
async fn guesses_at_one_password_are_limited_wherever_they_come_from() {
    let server = Server::with(limited(), NONE()).await;
    server.sign_up("ann").await;
    let body = json!({ "handle": "ANN", "password": "wrong horse" });
    for number in 0..3 {
        let peer = format!("198.51.100.{number}:1");
        server
            .send(from(&peer, "/v1/sessions", body.clone(), ""))
            .await
            .refused(Code::WrongCredentials);
    }
    server.send(from("198.51.100.9:1", "/v1/sessions", body, "")).await.refused(Code::RateLimited);
}

#[tokio::test]
async fn requests_are_limited_by_user() {
    let server = Server::with(limited(), NONE()).await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    for _ in 0..6 {
        server.get(&ann.access_token, "/v1/me").await.expect(200);
    }
    server.get(&ann.access_token, "/v1/me").await.refused(Code::RateLimited);
    server.get(&bob.access_token, "/v1/me").await.expect(200);
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let server = Server::start().await;
    for path in ["/v1/discovery", "/v1/me", "/nothing", "/openapi.json"] {
        let headers = server.get("", path).await.headers;
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["cache-control"], "no-store");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'self'"));
        assert!(!policy.contains("unsafe"));
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn only_listed_origins_may_call_from_scripts() {
    let settings = Settings { origins: vec!["https://app.example.org".into()], ..limited() };
    let server = Server::with(settings, NONE()).await;
    let preflight = |origin: &str| {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri("/v1/me")
            .header("origin", origin)
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "authorization");
        server.send(request.body(Body::empty()).unwrap())
    };
    let allowed = preflight("https://app.example.org").await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://app.example.org");
    assert!(allowed.headers["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
    let other = preflight("https://evil.example.org").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_setting_that_is_no_origin_is_refused_at_the_start() {
    for bad in ["*", "app.example.org", "https://", "https://a/b", "ftp://a", "https://u@a"] {
        assert!(crate::http::answer::cross_origin(&[bad.to_owned()]).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn discovery_names_this_node_at_the_address_that_was_used() {
    let server = Server::start().await;
    let request = Request::builder().uri("/v1/discovery").header("host", "127.0.0.1:8080");
    let found = server.send(request.body(Body::empty()).unwrap()).await.expect(200);
    assert_eq!(found["url"], "http://127.0.0.1:8080");
    assert_eq!(found["websocket_url"], "ws://127.0.0.1:8080/v1/socket");
    let public_url = Some("https://chat.example.org".into());
    let server = Server::with(Settings { public_url, ..Settings::default() }, NONE()).await;
    let found = server.get("", "/v1/discovery").await.expect(200);
    assert_eq!(found["websocket_url"], "wss://chat.example.org/v1/socket");
}

#[utoipa::path(get, path = "/v1/extra", summary = "Fails in plain text", responses((status = 200, description = "Never.")))]
async fn extra() -> Response {
    (StatusCode::UPGRADE_REQUIRED, "Upgrade missing").into_response()
}

#[tokio::test]
async fn routes_of_others_get_the_same_document_and_error_form() {
    let others = OpenApiRouter::new().routes(routes!(extra));
    let server = Server::with(Settings::default(), others).await;
    let operation = &server.document["paths"]["/v1/extra"]["get"];
    assert!(operation["responses"]["default"].is_object());
    let answer = server.get("", "/v1/extra").await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    let problem = answer.refused(Code::MalformedRequest);
    assert_eq!(problem.detail, "Upgrade missing.");
}
