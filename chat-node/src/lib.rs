//! The chat node: connections in, messages out.
//!
//! Calls go only downwards: `{http, transport} → session → {conversation, presence, hub} → partition → ports`.
//! [`node`] builds everything and is the only place that knows all of it.

pub mod admin;
pub mod auth;
pub mod backup;
pub mod clock;
pub mod config;
pub mod conversation;
pub mod data_directory;
pub mod delivery;
pub mod http;
pub mod hub;
pub mod limits;
pub mod logging;
pub mod partition;
pub mod presence;
pub mod session;
pub mod transport;
pub mod watermark;
