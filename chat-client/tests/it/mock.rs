//! A server that does what each test tells it to: it accepts connections one by one and hands them over.

use std::time::Duration;

use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ClientFrame, Hello, Limits, Outcome, ServerFrame, Welcome};
use chat_protocol::{DeviceId, Millis, SessionId, UserId};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const ME: UserId = UserId(Uuid::from_u128(1));

pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) url: String,
}

pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    encoding: Encoding,
}

impl Server {
    pub(crate) async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/socket", listener.local_addr().unwrap());
        Server { listener, url }
    }

    /// The next connection, with its hello.
    pub(crate) async fn accept(&self) -> (Socket, Hello) {
        let (stream, _) =
            timeout(LIMIT, self.listener.accept()).await.expect("a connection").unwrap();
        let mut encoding = Encoding::Json;
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let choose = |request: &Request, mut response: Response| {
            let wanted = request.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
            encoding = match wanted.as_str() {
                "chat.v1.json" => Encoding::Json,
                "chat.v1.msgpack" => Encoding::MessagePack,
                other => panic!("unknown subprotocol {other}"),
            };
            let value = HeaderValue::from_str(&wanted).unwrap();
            response.headers_mut().insert("sec-websocket-protocol", value);
            Ok(response)
        };
        let stream = accept_hdr_async(stream, choose).await.unwrap();
        let mut socket = Socket { stream, encoding };
        match socket.read().await {
            ClientFrame::Hello(hello) => (socket, hello),
            other => panic!("the first frame is {other:?}"),
        }
    }

    /// The same, answered with `welcome`.
    pub(crate) async fn welcome(&self, outcome: Outcome) -> (Socket, Hello) {
        let (mut socket, hello) = self.accept().await;
        socket.write(welcome(outcome, 5_000)).await;
        (socket, hello)
    }
}

impl Socket {
    pub(crate) async fn read(&mut self) -> ClientFrame {
        let message = timeout(LIMIT, self.stream.next()).await.expect("a frame").unwrap().unwrap();
        let is_text = matches!(message, Message::Text(_));
        assert_eq!(is_text, self.encoding == Encoding::Json, "{message:?}");
        self.encoding.read(&message.into_data()).unwrap()
    }

    /// The next send, passing over heartbeats.
    pub(crate) async fn read_send(&mut self) -> chat_protocol::frame::Send {
        loop {
            match self.read().await {
                ClientFrame::Send(send) => return send,
                ClientFrame::Heartbeat(_) => {}
                other => panic!("not a send: {other:?}"),
            }
        }
    }

    pub(crate) async fn write(&mut self, frame: ServerFrame) {
        let bytes = self.encoding.write(&frame);
        let message = match self.encoding {
            Encoding::Json => Message::Text(String::from_utf8(bytes).unwrap().into()),
            Encoding::MessagePack => Message::Binary(bytes.into()),
        };
        self.stream.send(message).await.unwrap();
    }

    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.stream.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.stream.next().await {}
    }
}

pub(crate) fn welcome(outcome: Outcome, heartbeat_interval_ms: u64) -> ServerFrame {
    ServerFrame::Welcome(Welcome {
        version: 1,
        session_id: SessionId::random(),
        user_id: ME,
        device_id: DeviceId::random(),
        outcome,
        heartbeat_interval_ms,
        offline_after_ms: 30_000,
        server_time: Millis(0),
        limits: Limits { text_chars: 100_000, body_bytes: 400_000, frame_bytes: 1_000_000 },
    })
}
