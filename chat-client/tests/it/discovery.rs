//! Which node a client connects to, with service discovery and nodes that do what each test tells them to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chat_client::api::Api;
use chat_client::backoff::Backoff;
use chat_client::client::{Client, Config, Credentials};
use chat_client::event::Event;
use chat_client::state::State;
use chat_protocol::api::{Discovery, Tokens};
use chat_protocol::close::Close;
use chat_protocol::frame::Outcome;
use chat_protocol::{DeviceId, Millis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;

use crate::mock::{ME, Server};

/// Service discovery: answers as it is told; while it is told nothing, that every node is leaving.
struct Discovers {
    url: String,
    told: Arc<Mutex<Option<Discovery>>>,
    asked: Arc<AtomicUsize>,
}

impl Discovers {
    async fn start() -> Discovers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (Arc::clone(&told), Arc::clone(&asked));
        // It ends with the test's runtime.
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..read].starts_with(b"GET /v1/discovery "));
                count.fetch_add(1, Ordering::Relaxed);
                let told: Option<Discovery> = answer.lock().unwrap().clone();
                let (status, body) = match told {
                    Some(told) => ("200 OK", serde_json::to_string(&told).unwrap()),
                    None => ("503 Service Unavailable", String::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                // The client may have gone.
                drop(stream.write_all((head + &body).as_bytes()).await);
            }
        }));
        Discovers { url, told, asked }
    }

    fn tell(&self, websocket_url: &str, token: Option<&str>) {
        *self.told.lock().unwrap() = Some(Discovery {
            url: "http://unused".into(),
            websocket_url: websocket_url.into(),
            node: "node".into(),
            region: None,
            discovery_token: token.map(Into::into),
            valid_for_ms: 300_000,
        });
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn client(&self, configured: &Server) -> (Client, Receiver<Event>) {
        let config = Config {
            discover: true,
            backoff: Backoff { first_ms: 10, most_ms: 50 },
            ..Config::new(configured.url.clone())
        };
        let tokens = Tokens {
            user_id: ME,
            device_id: DeviceId::random(),
            access_token: "the token".into(),
            access_expires_at: Millis(u64::MAX),
            refresh_token: "the refresh token".into(),
        };
        let credentials = Credentials::new(Api::new(&self.url).unwrap(), tokens);
        Client::start(config, credentials, State::default())
    }
}

#[tokio::test]
async fn a_client_connects_to_the_node_that_was_picked_and_after_its_loss_to_the_next() {
    let (discovery, configured, picked) =
        (Discovers::start().await, Server::start().await, Server::start().await);
    discovery.tell(&picked.url, Some("first"));
    let (_client, _events) = discovery.client(&configured);
    let (socket, hello) = picked.welcome(Outcome::New).await;
    assert_eq!(hello.discovery_token.as_deref(), Some("first"));
    discovery.tell(&configured.url, Some("second"));
    drop(socket);
    let (_socket, hello) = configured.welcome(Outcome::Resumed).await;
    assert_eq!(hello.discovery_token.as_deref(), Some("second"));
    assert_eq!(discovery.asked(), 2);
}

#[tokio::test]
async fn a_client_that_is_sent_on_asks_again_and_goes_there() {
    let (discovery, configured, right) =
        (Discovers::start().await, Server::start().await, Server::start().await);
    discovery.tell(&configured.url, Some("stale"));
    let (_client, _events) = discovery.client(&configured);
    let (socket, _) = configured.accept().await;
    discovery.tell(&right.url, Some("fresh"));
    socket.close(Close::WrongNode.number(), "another node was picked").await;
    let (_socket, hello) = right.welcome(Outcome::New).await;
    assert_eq!(hello.discovery_token.as_deref(), Some("fresh"));
}

#[tokio::test]
async fn without_an_answer_and_without_the_node_the_configured_address_is_used() {
    let (discovery, configured) = (Discovers::start().await, Server::start().await);
    let (_client, _events) = discovery.client(&configured);
    let (socket, hello) = configured.welcome(Outcome::New).await;
    assert_eq!(hello.discovery_token, None, "discovery has no answer");
    // Nobody listens there.
    discovery.tell("ws://127.0.0.1:1/v1/socket", Some("dead"));
    drop(socket);
    let (_socket, hello) = configured.welcome(Outcome::Resumed).await;
    assert_eq!(hello.discovery_token, None, "the node that was picked is away");
}

#[tokio::test]
async fn behind_one_address_discovery_is_asked_once() {
    let (discovery, configured) = (Discovers::start().await, Server::start().await);
    discovery.tell("ws://127.0.0.1:1/v1/socket", None);
    let (_client, _events) = discovery.client(&configured);
    for _ in 0..3 {
        let (socket, hello) = configured.welcome(Outcome::New).await;
        assert_eq!(hello.discovery_token, None);
        drop(socket);
    }
    assert_eq!(discovery.asked(), 1);
}
