//! Presence: who is online, and who learns of it.
//!
//! Heartbeats end at the node that holds the socket: one atomic store each ([`Attendance`]), looked at by one timing wheel.
//! [`PresenceService`] is the node's side: it announces connections, per partition, to the partition's owner.
//! [`PresenceOwners`] is the owners' side: it decides who is online, writes that to the store and tells friends. Decisions
//! are pure state machines ([`owner::Owner`], [`announcer::Announcer`], [`wheel::Wheel`]); the services only move data.

pub mod announcer;
mod attendance;
pub mod command;
mod friends;
mod metrics;
pub mod owner;
mod owners;
mod service;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub mod wheel;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::error::Refusal;
use chat_protocol::frame::Presence;
use chat_protocol::{SessionId, UserId};

pub use attendance::Attendance;
pub use command::{PresenceCommand, PresenceReply, Route};
pub use metrics::Metrics;
pub use owners::PresenceOwners;
pub use service::PresenceService;

/// Presence as sessions and the HTTP API see it.
#[async_trait]
pub trait Presences: Send + Sync {
    /// A connection of a user stands. Its user is online from now on; the connection counts until it says that it left, or
    /// until it has been silent for the configured time. `connection` is new for every connection.
    fn arrive(&self, user: UserId, connection: SessionId) -> Arc<Attendance>;

    /// Presence of these users, at most a few hundred.
    async fn snapshot(&self, users: Vec<UserId>) -> Result<Vec<Presence>, Refusal>;
}

/// Times of presence. All nodes of a platform should agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often clients send a heartbeat, and nodes tell owners that they are there.
    pub heartbeat_interval_ms: u64,
    /// A connection silent for this long no longer counts.
    pub offline_after_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { heartbeat_interval_ms: 5_000, offline_after_ms: 30_000 }
    }
}

impl Settings {
    fn offline_after(&self) -> Duration {
        Duration::from_millis(self.offline_after_ms.max(1))
    }

    /// A node must be heard a few times within the time of silence, whatever the heartbeat of its clients.
    fn beat_every(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms.max(1)).min(self.offline_after() / 4)
    }
}
