use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use chat_protocol::api::Discovery;
use chat_protocol::{Code, NodeId};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

use super::Server;
use crate::auth::{self, KeyRing};
use crate::discovery::{Directory, NodeDescription, Region, RegionNetwork, Role, Roles};
use crate::http::Settings;

fn node(name: &str, region: &str) -> NodeDescription {
    NodeDescription {
        name: name.to_owned(),
        region: Region::parse(region),
        host: Some(format!("{name}.chat.example.org:8443")),
        ..NodeDescription::alone(NodeId::random())
    }
}

async fn server(nodes: Vec<NodeDescription>) -> Server {
    let settings = Settings {
        public_url: Some("https://chat.example.org".to_owned()),
        regions: vec![RegionNetwork::parse("198.51.100.0/24=asia").unwrap()],
        region_header: Some("x-region".to_owned()),
        rates: None,
        ..Settings::default()
    };
    let keys = KeyRing::random().into();
    let directory = Directory::new(NodeId::random(), move || nodes.clone(), keys);
    Server::among(directory, settings, auth::Settings::default(), OpenApiRouter::new()).await
}

async fn ask(server: &Server, path: &str, peer: &str, header: &str) -> Discovery {
    let request = Request::builder()
        .uri(path)
        .header("x-region", header)
        .extension(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
    let answer = server.send(request.body(Body::empty()).unwrap()).await;
    serde_json::from_value(answer.expect(200)).unwrap()
}

#[tokio::test]
async fn a_node_of_the_clients_region_is_picked_with_its_own_address_and_a_token() {
    let server = server(vec![node("a", "eu"), node("b", "asia"), node("c", "us")]).await;
    let (near, far) = ("198.51.100.7:1", "192.0.2.1:1");
    let found = ask(&server, "/v1/discovery?region=us", near, "eu").await;
    assert_eq!((found.node.as_str(), found.region.as_deref()), ("c", Some("us")));
    assert_eq!(found.url, "https://c.chat.example.org:8443");
    assert_eq!(found.websocket_url, "wss://c.chat.example.org:8443/v1/socket");
    assert!(found.discovery_token.is_some());
    assert_eq!(ask(&server, "/v1/discovery", near, "eu").await.node, "b", "by its address");
    assert_eq!(ask(&server, "/v1/discovery", far, "eu").await.node, "a", "by the proxy's word");
}

#[tokio::test]
async fn nobody_is_sent_to_a_leaving_node() {
    let leaving = NodeDescription { draining: true, ..node("a", "eu") };
    let both = server(vec![leaving.clone(), node("b", "asia")]).await;
    for _ in 0..20 {
        let found = ask(&both, "/v1/discovery?region=eu", "192.0.2.1:1", "").await;
        assert_eq!(found.node, "b");
    }
    let alone = server(vec![leaving]).await;
    alone.get("", "/v1/discovery").await.refused(Code::Draining);
}

#[tokio::test]
async fn a_node_serves_what_its_roles_say() {
    let with = |roles| {
        let settings = Settings { roles, rates: None, ..Settings::default() };
        Server::with(settings, socket())
    };
    let account = json!({ "handle": "ann", "password": "correct horse" });
    let api = with(Roles::of([Role::Api]).unwrap()).await;
    api.post("", "/v1/accounts", account.clone()).await.expect(201);
    api.get("", "/v1/socket").await.refused(Code::NotFound);
    let gateway = with(Roles::of([Role::Gateway]).unwrap()).await;
    gateway.post("", "/v1/accounts", account).await.refused(Code::NotFound);
    gateway.get("", "/").await.refused(Code::NotFound);
    gateway.get("", "/v1/socket").await.expect(200);
    for server in [api, gateway] {
        let request = Request::builder().uri("/v1/discovery").header("host", "a.example.org");
        server.send(request.body(Body::empty()).unwrap()).await.expect(200);
    }
}

#[utoipa::path(get, path = "/v1/socket", responses((status = 200, description = "Fine.")))]
async fn pretend() {}

/// In place of the transports.
fn socket() -> OpenApiRouter {
    OpenApiRouter::new().routes(utoipa_axum::routes!(pretend))
}
