//! What crosses the wire, and what every id means.
//!
//! Owns the ids, the cursor, the frames of the chat service, the bodies of the HTTP API and of the admin port's calls,
//! the error and close codes, and the records of the log. Knows nothing of sockets, runtimes, brokers or stores: everything here is a value or a pure
//! function of values.

pub mod admin;
pub mod api;
pub mod body;
pub mod close;
pub mod cursor;
pub mod encoding;
pub mod error;
pub mod frame;
pub mod id;
pub mod limits;
pub mod message;
pub mod record;
pub mod time;

pub use body::Body;
pub use error::Code;
pub use id::{
    ClientMessageId, ConversationId, ConversationKind, DeviceId, MessageId, NodeId, Partition,
    SessionId, UserId,
};
pub use time::Millis;
