//! Presence: who is online, and who learns of it.

mod attendance;

use std::sync::Arc;

use async_trait::async_trait;
use chat_protocol::error::Refusal;
use chat_protocol::frame::Presence;
use chat_protocol::{SessionId, UserId};

pub use attendance::Attendance;

/// Presence as sessions and the HTTP API see it.
#[async_trait]
pub trait Presences: Send + Sync {
    /// A connection of a user stands. Its user is online from now on; the connection counts until it says that it left, or
    /// until it has been silent for the configured time. `connection` is new for every connection.
    fn arrive(&self, user: UserId, connection: SessionId) -> Arc<Attendance>;

    /// Presence of these users, at most a few hundred.
    async fn snapshot(&self, users: Vec<UserId>) -> Result<Vec<Presence>, Refusal>;
}
