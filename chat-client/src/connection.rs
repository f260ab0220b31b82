//! A WebSocket that carries frames in either encoding.

use chat_protocol::Code;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ClientFrame, SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGEPACK, ServerFrame};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::event::Answer;
use crate::session::Loss;

/// A catch-up may carry several large messages, but a frame carries one, or one batch of a room.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What arrived.
pub(crate) enum Arrived {
    Frame(Box<ServerFrame>),
    /// A refusal with a code that this client does not know.
    Refusal(Option<u64>, Answer),
    /// A ping, or a frame of a type this client does not know.
    Noise,
}

pub(crate) struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    encoding: Encoding,
}

impl Connection {
    pub(crate) async fn open(url: &str, encoding: Encoding) -> Result<Connection, Loss> {
        crate::choose_cryptography();
        let mut request = url.into_client_request().map_err(broken)?;
        let protocol = match encoding {
            Encoding::Json => SUBPROTOCOL_JSON,
            Encoding::MessagePack => SUBPROTOCOL_MESSAGEPACK,
        };
        let name = HeaderValue::from_static(protocol);
        request.headers_mut().insert("sec-websocket-protocol", name);
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let (socket, _) =
            connect_async_with_config(request, Some(config), true).await.map_err(broken)?;
        Ok(Connection { socket, encoding })
    }

    pub(crate) async fn write(&mut self, frames: &[ClientFrame]) -> Result<(), Loss> {
        for frame in frames {
            let bytes = self.encoding.write(frame);
            let message = match self.encoding {
                // What serde_json writes is UTF-8.
                Encoding::Json => Message::Text(
                    String::from_utf8(bytes).expect("JSON text is always UTF-8").into(),
                ),
                Encoding::MessagePack => Message::Binary(bytes.into()),
            };
            self.socket.feed(message).await.map_err(broken)?;
        }
        self.socket.flush().await.map_err(broken)
    }

    /// Cancel-safe: what was read in part stays in the socket's buffer.
    pub(crate) async fn read(&mut self) -> Result<Arrived, Loss> {
        match self.socket.next().await {
            None => Err(Loss::Broken("the connection ended".into())),
            Some(Err(error)) => Err(broken(error)),
            Some(Ok(Message::Close(frame))) => Err(match frame {
                Some(frame) => {
                    Loss::Closed { code: frame.code.into(), reason: frame.reason.to_string() }
                }
                None => Loss::Broken("the server closed the connection without a code".into()),
            }),
            Some(Ok(Message::Text(text))) => parse(self.encoding, text.as_bytes()),
            Some(Ok(Message::Binary(bytes))) => parse(self.encoding, &bytes),
            Some(Ok(_)) => Ok(Arrived::Noise),
        }
    }

    pub(crate) async fn close(mut self) {
        // The other side may be gone already; then there is nobody to tell.
        drop(self.socket.close(None).await);
    }
}

fn broken(error: impl std::fmt::Display) -> Loss {
    Loss::Broken(error.to_string())
}

fn parse(encoding: Encoding, bytes: &[u8]) -> Result<Arrived, Loss> {
    match encoding.read::<ServerFrame>(bytes) {
        Ok(frame) => Ok(Arrived::Frame(Box::new(frame))),
        Err(problem) => match (encoding.read::<LooseError>(bytes), problem.code) {
            (Ok(LooseError { error }), _) => Ok(error.into()),
            (Err(_), Code::UnknownFrame) => Ok(Arrived::Noise),
            // Going on would lose an entry: a new connection resumes from the cursor before it.
            (Err(_), _) => Err(Loss::Broken(problem.detail)),
        },
    }
}

#[derive(Deserialize)]
struct LooseError {
    error: LooseErrorFields,
}

#[derive(Deserialize)]
struct LooseErrorFields {
    #[serde(default)]
    request_id: Option<u64>,
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

impl From<LooseErrorFields> for Arrived {
    fn from(error: LooseErrorFields) -> Arrived {
        let LooseErrorFields { request_id, code, detail, retry_after_ms } = error;
        Arrived::Refusal(request_id, Answer { code: None, code_text: code, detail, retry_after_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_with_an_unknown_code_is_a_refusal_in_both_encodings() {
        let frame = serde_json::json!({"error": {"request_id": 7, "code": "of_the_future", "detail": "No."}});
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            match parse(encoding, &encoding.write(&frame)) {
                Ok(Arrived::Refusal(Some(7), answer)) => {
                    assert_eq!(answer.code_text, "of_the_future");
                    assert!(!answer.is_retryable());
                }
                _ => panic!("not read as a refusal in {encoding:?}"),
            }
        }
    }

    #[test]
    fn a_frame_of_an_unknown_type_is_noise_in_both_encodings() {
        let frame = serde_json::json!({"of_the_future": {"a": 1}});
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            assert!(matches!(parse(encoding, &encoding.write(&frame)), Ok(Arrived::Noise)));
        }
    }
}
