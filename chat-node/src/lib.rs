//! The chat node: connections in, messages out.
//!
//! Calls go only downwards: `{http, transport, handover} → session → {conversation, presence, hub} → partition → ports`.
//! [`node`] builds everything and is the only place that knows all of it.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests spawn and wait as they like; they end with their runtime"
    )
)]

pub mod admin;
pub mod auth;
pub mod backup;
pub mod clock;
pub mod config;
pub mod conversation;
pub mod data_directory;
pub mod delivery;
pub mod discovery;
pub mod doctor;
pub mod handover;
pub mod http;
pub mod hub;
pub mod limits;
pub mod logging;
pub mod membership;
pub mod migrate;
pub mod node;
pub mod partition;
pub mod platform_restore;
pub mod presence;
pub mod server;
pub mod session;
pub mod transport;
pub mod watermark;
