//! Typed HTTP calls.

use std::time::Duration;

use chat_protocol::api::{
    Changed, ConversationHead, Discovery, Friend, History, Invite, LogIn, MessageChange,
    NewConversation, NewMessage, Page, Position, Problem, Profile, Refresh, Sent, SignUp, Sync,
    Tokens,
};
use chat_protocol::message::Conversation;
use chat_protocol::{Code, ConversationId, MessageId, UserId};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

/// Longer than the longest poll.
const TIMEOUT: Duration = Duration::from_secs(70);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server refused; its sentence says why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// The server answered in a form this client does not know.
    #[error("The server answered {status} in a form this client does not know: {detail}")]
    Unreadable {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
    /// The server cannot be reached.
    #[error("The server at {url} cannot be reached: {detail}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What the system says.
        detail: String,
    },
}

impl ApiError {
    /// The stable code, if the server gave one that this client knows.
    pub fn code(&self) -> Option<Code> {
        match self {
            ApiError::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anyone doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            ApiError::Refused(problem) => problem.code.is_retryable(),
            ApiError::Unreadable { status, .. } => *status >= 500 || *status == 429,
            ApiError::Unreachable { .. } => true,
        }
    }
}

/// The HTTP API of one server. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
}

/// Which page of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The newest messages, newest first.
    Newest,
    /// Messages before this one, newest first.
    Before(MessageId),
    /// Messages after this one, oldest first.
    After(MessageId),
}

impl Api {
    /// Calls the server with this base address, such as `https://chat.example.com`.
    pub fn new(url: &str) -> Result<Api, ApiError> {
        crate::choose_cryptography();
        let url = url.trim_end_matches('/').to_owned();
        let built = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("chat-client/", env!("CARGO_PKG_VERSION")))
            .build();
        match built {
            Ok(http) => Ok(Api { http, url }),
            Err(error) => Err(ApiError::Unreachable { url, detail: chain(&error) }),
        }
    }

    /// The base address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of the WebSocket.
    pub fn websocket_url(&self) -> String {
        let rest = self.url.strip_prefix("http").unwrap_or(&self.url);
        format!("ws{rest}/v1/socket")
    }

    /// Where to connect.
    pub async fn discovery(&self) -> Result<Discovery, ApiError> {
        self.answer(self.request(Method::GET, "/v1/discovery", None)).await
    }

    /// Makes an account.
    pub async fn sign_up(&self, body: &SignUp) -> Result<Tokens, ApiError> {
        self.answer(self.request(Method::POST, "/v1/accounts", None).json(body)).await
    }

    /// Logs in as a new device.
    pub async fn log_in(&self, body: &LogIn) -> Result<Tokens, ApiError> {
        self.answer(self.request(Method::POST, "/v1/sessions", None).json(body)).await
    }

    /// Exchanges a refresh token.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Tokens, ApiError> {
        let body = Refresh { refresh_token: refresh_token.to_owned() };
        self.answer(self.request(Method::POST, "/v1/sessions/refresh", None).json(&body)).await
    }

    /// Logs this device out.
    pub async fn log_out(&self, token: &str) -> Result<(), ApiError> {
        self.done(self.request(Method::DELETE, "/v1/sessions/current", Some(token))).await
    }

    /// The own profile.
    pub async fn me(&self, token: &str) -> Result<Profile, ApiError> {
        self.answer(self.request(Method::GET, "/v1/me", Some(token))).await
    }

    /// People whose handle begins with `prefix`.
    pub async fn users(&self, token: &str, prefix: &str) -> Result<Page<Profile>, ApiError> {
        let path = format!("/v1/users?handle={}", percent_encoded(prefix));
        self.answer(self.request(Method::GET, &path, Some(token))).await
    }

    /// Someone's profile.
    pub async fn user(&self, token: &str, user_id: UserId) -> Result<Profile, ApiError> {
        self.answer(self.request(Method::GET, &format!("/v1/users/{user_id}"), Some(token))).await
    }

    /// Friends, and requests in both directions.
    pub async fn friends(
        &self,
        token: &str,
        after: Option<&str>,
    ) -> Result<Page<Friend>, ApiError> {
        let path = format!("/v1/friends{}", after_query(after));
        self.answer(self.request(Method::GET, &path, Some(token))).await
    }

    /// Asks for a friendship, or agrees to one.
    pub async fn befriend(&self, token: &str, user_id: UserId) -> Result<(), ApiError> {
        self.done(self.request(Method::PUT, &format!("/v1/friends/{user_id}"), Some(token))).await
    }

    /// Ends a friendship, or declines one.
    pub async fn unfriend(&self, token: &str, user_id: UserId) -> Result<(), ApiError> {
        self.done(self.request(Method::DELETE, &format!("/v1/friends/{user_id}"), Some(token)))
            .await
    }

    /// A page of the own conversations.
    pub async fn conversations(
        &self,
        token: &str,
        after: Option<&str>,
    ) -> Result<Page<ConversationHead>, ApiError> {
        let path = format!("/v1/conversations{}", after_query(after));
        self.answer(self.request(Method::GET, &path, Some(token))).await
    }

    /// Makes a conversation, or finds the direct one.
    pub async fn create(
        &self,
        token: &str,
        body: &NewConversation,
    ) -> Result<Conversation, ApiError> {
        self.answer(self.request(Method::POST, "/v1/conversations", Some(token)).json(body)).await
    }

    /// Invites people.
    pub async fn invite(
        &self,
        token: &str,
        conversation: ConversationId,
        user_ids: Vec<UserId>,
    ) -> Result<(), ApiError> {
        let path = format!("/v1/conversations/{conversation}/members");
        let body = Invite { user_ids };
        self.done(self.request(Method::POST, &path, Some(token)).json(&body)).await
    }

    /// A page of a conversation's history.
    pub async fn history(
        &self,
        token: &str,
        conversation: ConversationId,
        from: From,
        limit: usize,
    ) -> Result<History, ApiError> {
        let path = history_path(conversation, from, limit);
        self.answer(self.request(Method::GET, &path, Some(token))).await
    }

    /// Sends a message by plain HTTP.
    pub async fn send(
        &self,
        token: &str,
        conversation: ConversationId,
        body: &NewMessage,
    ) -> Result<Sent, ApiError> {
        let path = format!("/v1/conversations/{conversation}/messages");
        self.answer(self.request(Method::POST, &path, Some(token)).json(body)).await
    }

    /// Changes a message.
    pub async fn edit(
        &self,
        token: &str,
        conversation: ConversationId,
        message: MessageId,
        body: &MessageChange,
    ) -> Result<Changed, ApiError> {
        let path = format!("/v1/conversations/{conversation}/messages/{message}");
        self.answer(self.request(Method::PATCH, &path, Some(token)).json(body)).await
    }

    /// Has read up to `seq`.
    pub async fn read(
        &self,
        token: &str,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<(), ApiError> {
        let path = format!("/v1/conversations/{conversation}/read");
        self.done(self.request(Method::PUT, &path, Some(token)).json(&Position { seq })).await
    }

    /// What happened since `cursor`, waiting up to `wait_ms` for something to happen.
    pub async fn sync(
        &self,
        token: &str,
        cursor: Option<&str>,
        wait_ms: u64,
    ) -> Result<Sync, ApiError> {
        let cursor = cursor.map(|c| format!("&cursor={}", percent_encoded(c))).unwrap_or_default();
        let path = format!("/v1/sync?wait_ms={wait_ms}{cursor}");
        self.answer(self.request(Method::GET, &path, Some(token))).await
    }

    fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        let response = self.accepted(request).await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::Unreadable { status, detail: error.to_string() })
    }

    async fn done(&self, request: RequestBuilder) -> Result<(), ApiError> {
        self.accepted(request).await.map(drop)
    }

    async fn accepted(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(refusal(status, &bytes))
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        ApiError::Unreachable { url: self.url.clone(), detail: chain(error) }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ApiError::Refused(Box::new(problem)),
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            ApiError::Unreadable { status: status.as_u16(), detail: text }
        }
    }
}

/// The path of a page of history.
pub fn history_path(conversation: ConversationId, from: From, limit: usize) -> String {
    let position = match from {
        From::Newest => String::new(),
        From::Before(id) => format!("&before={id}"),
        From::After(id) => format!("&after={id}"),
    };
    format!("/v1/conversations/{conversation}/messages?limit={limit}{position}")
}

fn after_query(after: Option<&str>) -> String {
    after.map(|after| format!("?after={}", percent_encoded(after))).unwrap_or_default()
}

/// RFC 3986, 2.1: everything but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The innermost cause says most: "connection refused" rather than "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_percent_encoded() {
        assert_eq!(percent_encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
        assert_eq!(percent_encoded("Az09-_.~"), "Az09-_.~");
    }

    #[test]
    fn the_socket_address_follows_the_base_address() {
        let api = |url| Api::new(url).unwrap().websocket_url();
        assert_eq!(api("http://127.0.0.1:8080/"), "ws://127.0.0.1:8080/v1/socket");
        assert_eq!(api("https://chat.example.com"), "wss://chat.example.com/v1/socket");
    }

    #[test]
    fn a_problem_keeps_its_code_and_anything_else_its_status() {
        let body = br#"{"type":"/problems/handle_taken","title":"handle taken","status":409,"detail":"Taken.","code":"handle_taken"}"#;
        assert_eq!(refusal(StatusCode::CONFLICT, body).code(), Some(Code::HandleTaken));
        let other = refusal(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(other.code().is_none() && other.is_retryable());
    }
}
