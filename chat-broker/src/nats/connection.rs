//! One connection to the servers: how it is made, whether it stands, and requests over it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State as ClientState;
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message,
};
use bytes::Bytes;
use rand::RngExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::options::{Authentication, NatsOptions, OpenError};
use super::outgoing::{Item, Outgoing};

/// A server that does not answer two of these is given up, and another one is tried.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);
/// Commands that wait for the connection. Appends have a limit of their own in bytes; publications, too.
const COMMANDS_MAX: usize = 2048;
/// Messages of one subscription that wait to be taken, before some are dropped.
pub(super) const SUBSCRIPTION_MESSAGES_MAX: usize = 16 * 1024;

/// What happened to the connection since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) connected: bool,
    /// How often it was made again.
    pub(super) reconnects: u64,
    /// How often messages were dropped because they were not taken fast enough.
    pub(super) overflows: u64,
}

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Where everything goes that is not rare.
    pub(super) outgoing: Outgoing,
    state: watch::Receiver<State>,
    /// A subject at which nobody listens: the answer that says so proves that the server handled all that was sent before.
    nowhere: Arc<str>,
    deadline: Duration,
}

/// Whether a connection gets what it publishes, if it subscribes to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    Yes,
    No,
}

/// Why JetStream did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// It refused.
    Code { code: u64, description: String },
    /// It may have been done.
    Unavailable(String),
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApiError::Code { code, description } => write!(f, "{description} ({code})"),
            ApiError::Unavailable(reason) => f.write_str(reason),
        }
    }
}

impl Connection {
    /// Connects, and from then on connects again for ever. `purpose` tells apart the connections of a node.
    pub(super) async fn open(
        options: &NatsOptions,
        purpose: &str,
        echo: Echo,
    ) -> Result<Connection, OpenError> {
        let initial = State { connected: true, reconnects: 0, overflows: 0 };
        let (told, state) = watch::channel(initial);
        let told = Arc::new(told);
        let mut connect = client_options(options, purpose).await?.event_callback(move |event| {
            let told = told.clone();
            async move { note(&told, &event) }
        });
        if echo == Echo::No {
            connect = connect.no_echo();
        }
        let client = connect
            .connect(&options.servers[..])
            .await
            .map_err(|error| connect_error(options, &error))?;
        Ok(Connection {
            outgoing: Outgoing::start(client.clone(), options.outgoing_max),
            client,
            state,
            nowhere: format!("{}.nowhere", options.prefix).into(),
            deadline: options.deadline,
        })
    }

    /// Changes with every event of the connection.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the connection stands: what is handed to the client while it does not would wait in its queue, and be
    /// sent long after its deadline.
    pub(super) async fn connected(&self, deadline: Instant) -> Result<(), String> {
        let mut state = self.state.clone();
        let stands = async {
            // The event may come later than the break.
            while self.client.connection_state() != ClientState::Connected {
                if timeout(Duration::from_millis(50), state.changed())
                    .await
                    .is_ok_and(|e| e.is_err())
                {
                    return Err("the connection is closed".to_owned());
                }
            }
            Ok(())
        };
        match timeout_at(deadline, stands).await {
            Ok(result) => result,
            Err(_) => Err("not connected to a NATS server".to_owned()),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, RequestFailure> {
        self.connected(deadline).await.map_err(RequestFailure::Unavailable)?;
        let (answer, answered) = oneshot::channel();
        let headers = headers.unwrap_or_default();
        let item = Item::Request { subject, headers, payload, answer };
        // The deadline also covers the wait for a place in the queue.
        let asked = async {
            self.outgoing.send(item).await?;
            answered.await.map_err(|_| "the connection is closed".to_owned())
        };
        let answered = match timeout_at(deadline, asked).await {
            Err(_) => return Err(RequestFailure::Deadline),
            Ok(Err(reason)) => return Err(RequestFailure::Unavailable(reason)),
            Ok(Ok(answered)) => answered,
        };
        answered.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => RequestFailure::NoResponder,
            RequestErrorKind::TimedOut => RequestFailure::Deadline,
            RequestErrorKind::MaxPayloadExceeded => RequestFailure::TooLarge,
            _ => RequestFailure::Unavailable(error.to_string()),
        })
    }

    /// Returns when the server has handled everything that was sent before.
    pub(super) async fn settle(&self) -> Result<(), String> {
        let deadline = Instant::now() + self.deadline;
        match self.request(self.nowhere.to_string(), None, Bytes::new(), deadline).await {
            Ok(_) | Err(RequestFailure::NoResponder) => Ok(()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Asks JetStream's API.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(unavailable)?;
        let subject = format!("$JS.API.{subject}");
        let answer =
            self.request(subject, None, body.into(), deadline).await.map_err(unavailable)?;
        parse_answer(&answer.payload)
    }

    /// When an operation that begins now must be done.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }
}

fn unavailable(error: impl ToString) -> ApiError {
    ApiError::Unavailable(error.to_string())
}

/// An answer of JetStream: what was asked for, or an error.
pub(super) fn parse_answer<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
    let value: Value = serde_json::from_slice(payload).map_err(unavailable)?;
    if let Some(error) = value.get("error") {
        let description = error["description"].as_str().unwrap_or_default().to_owned();
        return Err(ApiError::Code { code: error["err_code"].as_u64().unwrap_or(0), description });
    }
    serde_json::from_value(value).map_err(unavailable)
}

/// What came of a request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestFailure {
    #[error("nobody listens")]
    NoResponder,
    #[error("no answer in time")]
    Deadline,
    #[error("the message is larger than the server takes")]
    TooLarge,
    #[error("{0}")]
    Unavailable(String),
}

/// Logs each change once, and tells it.
fn note(told: &watch::Sender<State>, event: &Event) {
    match event {
        Event::Disconnected => {
            if told.borrow().connected {
                tracing::warn!("the connection to NATS broke; connecting again");
            }
            told.send_modify(|state| state.connected = false);
        }
        Event::Connected => {
            let was_connected = told.borrow().connected;
            told.send_modify(|state| {
                state.reconnects += u64::from(!was_connected);
                state.connected = true;
            });
            if !was_connected {
                tracing::info!("connected to NATS again");
            }
        }
        Event::SlowConsumer(_) => {
            told.send_modify(|state| state.overflows += 1);
        }
        // Every failed attempt to connect tells one.
        event => tracing::debug!(%event, "the connection to NATS tells"),
    }
}

async fn client_options(options: &NatsOptions, purpose: &str) -> Result<ConnectOptions, OpenError> {
    let mut connect = ConnectOptions::new()
        .name(format!("{} {purpose}", options.prefix))
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(options.deadline))
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    connect = match &options.authentication {
        Authentication::None => connect,
        Authentication::Password { user, password } => {
            connect.user_and_password(user.clone(), password.clone())
        }
        Authentication::Token(token) => connect.token(token.clone()),
        Authentication::CredentialsFile(path) => {
            let unreadable = |error: std::io::Error| OpenError::CredentialsFile {
                path: path.clone(),
                reason: error.to_string(),
            };
            connect.credentials_file(path).await.map_err(unreadable)?
        }
    };
    if options.tls.required {
        connect = connect.require_tls(true);
    }
    if let Some(path) = &options.tls.root_certificates {
        connect = connect.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &options.tls.client_certificate {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(connect)
}

/// The first attempts go to the other servers at once; then ever slower, and not all nodes at the same moment.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = Duration::from_millis(10 << exponent).min(RECONNECT_DELAY_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn connect_error(options: &NatsOptions, error: &ConnectError) -> OpenError {
    let servers = options.shown_servers();
    // The chain of causes holds what matters: refused, unknown host, bad certificate.
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = inner.source();
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            OpenError::Credentials(servers)
        }
        ConnectErrorKind::Tls => OpenError::Tls { servers, reason },
        _ if reason.contains("certificate") || reason.to_lowercase().contains("tls") => {
            OpenError::Tls { servers, reason }
        }
        ConnectErrorKind::ServerParse => OpenError::Invalid(format!(
            "The address of a NATS server cannot be understood: {reason}. Write it like nats://host:4222."
        )),
        _ => OpenError::Unreachable { servers, reason },
    }
}
