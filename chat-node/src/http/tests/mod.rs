//! The API from outside: requests go through the whole router; store and bus are the embedded ones.

mod accounts;
mod conversations;
mod discovery;
mod document;
mod double;
mod errors;
mod friends;
mod service;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use chat_broker::embedded::EmbeddedBroker;
use chat_broker::{Broker as _, Bus, Receiver, Subject};
use chat_protocol::api::{Problem, Tokens};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::ServerFrame;
use chat_protocol::{Code, Millis, UserId};
use chat_store::embedded::EmbeddedStore;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use self::double::{Conversations, Presences};
use super::{Services, Settings, router};
use crate::auth::{self, Auth, KeyRing, PasswordCost};
use crate::clock::Clock;
use crate::delivery::{Class, Frame};
use crate::discovery::Directory;

const NOW: Millis = Millis(1_800_000_000_000);

/// Everything published to the subjects that a test listens to.
#[derive(Default)]
struct Heard(Mutex<Vec<(Subject, Bytes)>>);

impl Receiver for Heard {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        let mut heard = self.0.lock().unwrap();
        heard.extend(subjects.iter().map(|subject| (*subject, payload.clone())));
    }
}

impl Heard {
    fn to(&self, subject: Subject) -> Vec<Bytes> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|(to, _)| *to == subject).map(|(_, payload)| payload.clone()).collect()
    }

    /// Frames to one user, without those for the node.
    fn frames_to(&self, user: UserId) -> Vec<ServerFrame> {
        let frames = self.to(Subject::User(user)).into_iter();
        let frames = frames.flat_map(Frame::all);
        let for_clients = frames.filter(|frame| frame.class != Class::Revoked);
        for_clients
            .map(|frame| Encoding::Json.read(&frame.encoded(Encoding::Json)).unwrap())
            .collect()
    }
}

struct Server {
    routes: Router,
    document: Value,
    clock: Clock,
    store: Arc<EmbeddedStore>,
    bus: Arc<dyn Bus>,
    heard: Arc<Heard>,
    conversations: Arc<Conversations>,
    presences: Arc<Presences>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
    }

    /// The answer's content, after a look at its status.
    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The answer as a problem, after a look at everything that a problem must have.
    #[track_caller]
    fn refused(self, code: Code) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: Problem = serde_json::from_value(self.json()).unwrap();
        assert_eq!(problem.code, code, "{}", problem.detail);
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(problem.kind, format!("/problems/{code}"));
        assert!(!problem.title.is_empty() && !problem.detail.is_empty());
        let id = self.headers["x-request-id"].to_str().unwrap();
        assert_eq!(problem.request_id.as_deref(), Some(id));
        assert_eq!(problem.retry_after_ms.is_some(), self.headers.contains_key("retry-after"));
        let challenge = self.headers.contains_key("www-authenticate");
        assert_eq!(challenge, self.status == StatusCode::UNAUTHORIZED);
        problem
    }
}

impl Server {
    async fn start() -> Server {
        Server::with(Settings { rates: None, ..Settings::default() }, OpenApiRouter::new()).await
    }

    async fn with(settings: Settings, others: OpenApiRouter) -> Server {
        Server::with_all(settings, auth::Settings::default(), others).await
    }

    async fn with_auth(settings: Settings, auth: auth::Settings) -> Server {
        Server::with_all(settings, auth, OpenApiRouter::new()).await
    }

    async fn with_all(settings: Settings, auth: auth::Settings, others: OpenApiRouter) -> Server {
        Server::among(Directory::alone(), settings, auth, others).await
    }

    async fn among(
        directory: Directory,
        settings: Settings,
        auth: auth::Settings,
        others: OpenApiRouter,
    ) -> Server {
        let clock = Clock::manual(NOW);
        let heard = Arc::new(Heard::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&heard) as _;
        let bus = EmbeddedBroker::memory().connect(receiver).await.unwrap();
        bus.subscribe(Subject::Nodes).await.unwrap();
        let cheap = auth::Settings {
            password_cost: PasswordCost::cheapest(),
            password_wait_ms: 60_000,
            ..auth
        };
        let auth = Auth::new(cheap, Arc::new(KeyRing::random()), clock.clone()).unwrap();
        let store = Arc::new(EmbeddedStore::memory());
        let conversations = Arc::new(Conversations::default());
        let presences = Arc::new(Presences::default());
        let services = Services {
            store: Arc::clone(&store) as _,
            conversations: Arc::clone(&conversations) as _,
            presences: Arc::clone(&presences) as _,
            bus: Arc::clone(&bus),
            auth: Arc::new(auth),
            clock: clock.clone(),
            directory: Arc::new(directory),
            settings,
        };
        let (routes, document) = router(services, others).unwrap();
        let document = serde_json::to_value(document).unwrap();
        Server { routes, document, clock, store, bus, heard, conversations, presences }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(value) => {
                request = request.header("content-type", "application/json");
                Body::from(value.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, token, Some(body)).await
    }

    async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, token, Some(body)).await
    }

    async fn patch(&self, token: &str, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, token, Some(body)).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call(Method::DELETE, path, token, None).await
    }

    /// Signs somebody up, and listens to what their devices are told.
    async fn sign_up(&self, handle: &str) -> Tokens {
        let body = json!({ "handle": handle, "password": "correct horse" });
        let tokens = self.post("", "/v1/accounts", body).await.expect(201);
        let tokens: Tokens = serde_json::from_value(tokens).unwrap();
        self.bus.subscribe(Subject::User(tokens.user_id)).await.unwrap();
        tokens
    }

    async fn log_in(&self, handle: &str) -> Tokens {
        let body = json!({ "handle": handle, "password": "correct horse", "device_name": "Phone" });
        serde_json::from_value(self.post("", "/v1/sessions", body).await.expect(201)).unwrap()
    }
}
