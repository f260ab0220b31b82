//! What crosses the wire, and what every id means.
//!
//! Owns the ids, the cursor, the frames of the chat service, the bodies of the HTTP API and of the admin port's calls,
//! the error and close codes, and the records of the log. Knows nothing of sockets, runtimes, brokers or stores:
//! everything here is a value or a pure function of values. Without the feature `messages` there is [`admin`] alone.

pub mod admin;
#[cfg(feature = "messages")]
pub mod api;
#[cfg(feature = "messages")]
pub mod body;
#[cfg(feature = "messages")]
pub mod close;
#[cfg(feature = "messages")]
pub mod cursor;
#[cfg(feature = "messages")]
pub mod encoding;
#[cfg(feature = "messages")]
pub mod error;
#[cfg(feature = "messages")]
pub mod frame;
#[cfg(feature = "messages")]
pub mod id;
#[cfg(feature = "messages")]
pub mod limits;
#[cfg(feature = "messages")]
pub mod message;
#[cfg(feature = "messages")]
pub mod record;
#[cfg(feature = "messages")]
pub mod time;

#[cfg(feature = "messages")]
pub use body::Body;
#[cfg(feature = "messages")]
pub use error::Code;
#[cfg(feature = "messages")]
pub use id::{
    ClientMessageId, ConversationId, ConversationKind, DeviceId, MessageId, NodeId, Partition,
    SessionId, UserId,
};
#[cfg(feature = "messages")]
pub use time::Millis;
