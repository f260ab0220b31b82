//! What the tests of real nodes talk with: people with tokens, and raw WebSockets.

use std::time::Duration;

use chat_client::Api;
use chat_protocol::api::{LogIn, NewConversation, NewMessage, SignUp, Sync, Tokens};
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{
    Ack, ClientFrame, ErrorFrame, Hello, Outcome, Send, ServerFrame, Welcome,
};
use chat_protocol::message::Message;
use chat_protocol::{Body, ClientMessageId, ConversationId, UserId};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message as WsMessage;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

use crate::process::NodeProcess;

/// Longer than anything that is to happen takes, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

const PASSWORD: &str = "correct horse battery";

/// A person, logged in on one device.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) handle: String,
    pub(crate) tokens: Tokens,
}

impl Person {
    /// Signs up with a handle that nobody else has.
    pub(crate) async fn new(node: &NodeProcess, name: &str) -> Person {
        let handle = format!("{name}_{}", &Uuid::new_v4().simple().to_string()[..8]);
        let tokens = api(node).sign_up(&sign_up(&handle)).await.unwrap();
        Person { handle, tokens }
    }

    /// The same person on another device.
    pub(crate) async fn other_device(&self, node: &NodeProcess) -> Person {
        let body =
            LogIn { handle: self.handle.clone(), password: PASSWORD.to_owned(), device_name: None };
        let tokens = api(node).log_in(&body).await.unwrap();
        Person { handle: self.handle.clone(), tokens }
    }

    pub(crate) fn id(&self) -> UserId {
        self.tokens.user_id
    }

    pub(crate) fn token(&self) -> &str {
        &self.tokens.access_token
    }

    /// A group of this person and others.
    pub(crate) async fn group(&self, node: &NodeProcess, others: &[&Person]) -> ConversationId {
        let members = others.iter().map(|person| person.id()).collect();
        let body =
            NewConversation::Group { request_id: Uuid::new_v4(), name: "Group".into(), members };
        api(node).create(self.token(), &body).await.unwrap().conversation_id
    }

    /// A poll that begins at this moment: its cursor is the first of a new device.
    pub(crate) async fn first_cursor(&self, node: &NodeProcess) -> String {
        api(node).sync(self.token(), None, 0).await.unwrap().cursor
    }
}

pub(crate) fn sign_up(handle: &str) -> SignUp {
    SignUp {
        handle: handle.to_owned(),
        password: PASSWORD.to_owned(),
        name: None,
        device_name: None,
    }
}

pub(crate) fn api(node: &NodeProcess) -> Api {
    Api::new(&node.url()).unwrap()
}

/// A text for the first time.
pub(crate) fn text(text: &str) -> NewMessage {
    NewMessage {
        client_message_id: ClientMessageId::random(),
        retry: false,
        kind: "text".to_owned(),
        body: Body::text(text),
        reply_to: None,
        mentions: Vec::new(),
    }
}

/// The same as a frame.
pub(crate) fn send(
    conversation_id: ConversationId,
    request_id: u64,
    new: &NewMessage,
) -> ClientFrame {
    ClientFrame::Send(Send {
        request_id,
        conversation_id,
        client_message_id: new.client_message_id,
        retry: new.retry,
        kind: new.kind.clone(),
        body: new.body.clone(),
        reply_to: new.reply_to,
        mentions: new.mentions.clone(),
    })
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// With a close frame of this number.
    Closed(u16),
    /// Without.
    Lost,
}

/// A WebSocket, one frame at a time.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) encoding: Encoding,
}

impl Socket {
    /// Connects, without `hello`.
    pub(crate) async fn open(url: &str, encoding: Encoding) -> Result<Socket, String> {
        let url = url.replacen("http", "ws", 1);
        let mut request = format!("{url}/v1/socket").into_client_request().unwrap();
        let protocol = match encoding {
            Encoding::Json => "chat.v1.json",
            Encoding::MessagePack => "chat.v1.msgpack",
        };
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let connecting = tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(request));
        let connected = connecting.await.map_err(|_| "no answer in time".to_owned())?;
        let (stream, _) = connected.map_err(|error| error.to_string())?;
        Ok(Socket { stream, encoding })
    }

    /// Connects and says `hello`.
    pub(crate) async fn connect(
        url: &str,
        token: &str,
        cursor: Option<&str>,
        encoding: Encoding,
    ) -> Result<(Socket, Welcome), String> {
        let mut socket = Socket::open(url, encoding).await?;
        socket.send(&hello(token, cursor)).await.map_err(|gone| format!("{gone:?}"))?;
        match socket.next().await {
            Ok(ServerFrame::Welcome(welcome)) => Ok((socket, welcome)),
            other => Err(format!("{other:?} in place of `welcome`")),
        }
    }

    /// A JSON connection of this person.
    pub(crate) async fn of(node: &NodeProcess, person: &Person, cursor: Option<&str>) -> Socket {
        let connected = Socket::connect(&node.url(), person.token(), cursor, Encoding::Json).await;
        let (socket, welcome) = connected.unwrap();
        assert_eq!(welcome.outcome == Outcome::New, cursor.is_none());
        socket
    }

    /// Resumes on a connection whose kernel holds little, so that what is not read stays with the server.
    pub(crate) async fn with_small_buffer(
        node: &NodeProcess,
        person: &Person,
        cursor: &str,
    ) -> Socket {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(node.address()).await.unwrap());
        let url = format!("ws://{}/v1/socket", node.address());
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut socket = Socket { stream, encoding: Encoding::Json };
        socket.send(&hello(person.token(), Some(cursor))).await.unwrap();
        let first = socket.next().await;
        assert!(matches!(first, Ok(ServerFrame::Welcome(_))), "{first:?}");
        socket
    }

    pub(crate) async fn send(&mut self, frame: &ClientFrame) -> Result<(), Gone> {
        let bytes = self.encoding.write(frame);
        self.send_raw(match self.encoding {
            Encoding::Json => WsMessage::text(String::from_utf8(bytes).unwrap()),
            Encoding::MessagePack => WsMessage::binary(bytes),
        })
        .await
    }

    pub(crate) async fn send_raw(&mut self, message: WsMessage) -> Result<(), Gone> {
        let sending = tokio::time::timeout(PATIENCE, self.stream.send(message));
        sending.await.expect("the socket takes a frame in time").map_err(|_| Gone::Lost)
    }

    /// The next frame. Fails the test if none comes in a long time.
    pub(crate) async fn next(&mut self) -> Result<ServerFrame, Gone> {
        self.next_within(PATIENCE).await.expect("a frame or the end comes in time")
    }

    /// The next frame; `None` if there is none in this time.
    pub(crate) async fn next_within(
        &mut self,
        limit: Duration,
    ) -> Option<Result<ServerFrame, Gone>> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let message = tokio::time::timeout_at(deadline, self.stream.next()).await.ok()?;
            let bytes = match message {
                Some(Ok(WsMessage::Text(text))) if self.encoding == Encoding::Json => text.into(),
                Some(Ok(WsMessage::Binary(bytes))) if self.encoding == Encoding::MessagePack => {
                    bytes
                }
                Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => continue,
                Some(Ok(WsMessage::Close(frame))) => {
                    // Reads on until the closing handshake is done.
                    while let Ok(Some(Ok(_))) =
                        tokio::time::timeout_at(deadline, self.stream.next()).await
                    {
                    }
                    let number = frame.map_or(1005, |frame| u16::from(frame.code));
                    return Some(Err(Gone::Closed(number)));
                }
                Some(Ok(other)) => panic!("{other:?} on a connection in {:?}", self.encoding),
                Some(Err(_)) | None => return Some(Err(Gone::Lost)),
            };
            let frame = self.encoding.read(&bytes).expect("a frame of the protocol");
            return Some(Ok(frame));
        }
    }

    /// Sends a request and waits for its answer; what else comes meanwhile goes to `besides`.
    pub(crate) async fn ask(
        &mut self,
        request_id: u64,
        frame: &ClientFrame,
        besides: &mut Vec<ServerFrame>,
    ) -> Result<Result<Ack, ErrorFrame>, Gone> {
        self.send(frame).await?;
        loop {
            match self.next().await? {
                ServerFrame::Ack(ack) if ack.request_id == request_id => return Ok(Ok(ack)),
                ServerFrame::Error(error) if error.request_id == Some(request_id) => {
                    return Ok(Err(error));
                }
                other => besides.push(other),
            }
        }
    }

    /// The code of the `error` frame that comes next, and how the connection ended after it.
    pub(crate) async fn refused(&mut self) -> (Option<chat_protocol::Code>, Gone) {
        let mut code = None;
        loop {
            match self.next().await {
                Ok(ServerFrame::Error(error)) => code = Some(error.code),
                Ok(_) => {}
                Err(gone) => return (code, gone),
            }
        }
    }
}

pub(crate) fn hello(token: &str, cursor: Option<&str>) -> ClientFrame {
    ClientFrame::Hello(Hello {
        versions: vec![1],
        token: token.to_owned(),
        cursor: cursor.map(str::to_owned),
        discovery_token: None,
        capabilities: Vec::new(),
        client: None,
    })
}

/// All of a conversation, oldest first.
pub(crate) async fn history(api: &Api, token: &str, conversation: ConversationId) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    let mut after = chat_protocol::MessageId::ZERO;
    loop {
        let from = chat_client::api::From::After(after);
        let page = api.history(token, conversation, from, 200).await.unwrap();
        assert!(!page.tail_missing, "somebody owns the conversation");
        let Some(last) = page.messages.last() else { return all };
        after = last.message_id;
        let more = page.more;
        all.extend(page.messages);
        if !more {
            return all;
        }
    }
}

/// Polls from a cursor until nothing is under way any more; all frames and the last cursor.
pub(crate) async fn drain(api: &Api, token: &str, cursor: &str) -> (Vec<ServerFrame>, String) {
    let mut cursor = cursor.to_owned();
    let mut frames = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let sync: Sync = api.sync(token, Some(&cursor), 0).await.unwrap();
        let quiet = sync.frames.is_empty() && !sync.catching_up;
        frames.extend(sync.frames);
        cursor = sync.cursor;
        if quiet {
            return (frames, cursor);
        }
        assert!(tokio::time::Instant::now() < deadline, "polls never come to an end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
