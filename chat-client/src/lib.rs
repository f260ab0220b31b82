//! A client of the chat platform that survives what networks do.
//!
//! - [`api`]: typed HTTP calls; a refusal carries its stable [`Code`](chat_protocol::Code).
//! - [`client`]: one session over WebSocket. It connects again by itself, resumes from the cursor, repeats what was not
//!   acknowledged, and hands out each change once, in order, through a bounded channel of [`event::Event`]s.
//! - [`session`], [`outbox`], [`replica`], [`backoff`]: the decisions behind it, pure: time and randomness go in.
//!
//! # What the program must store
//!
//! [`state::State`] is the program's to keep. An [`event::Event::Cursor`] says that everything before it
//! has been handed out: store its cursor in the same transaction as the entries that came before it, never earlier.
//! A cursor stored too early loses what was not stored yet; one stored too late only brings repeats, which
//! [`replica::Timeline`] drops.

pub mod api;
pub mod backoff;
pub mod client;
mod connection;
pub mod event;
mod marks;
pub mod outbox;
mod place;
pub mod replica;
pub mod session;
pub mod state;

pub use api::{Api, ApiError};
pub use chat_protocol::encoding::Encoding;
pub use client::{Client, Config, Credentials};
pub use event::Event;
pub use outbox::Draft;
pub use state::State;

/// Makes ring the process's cryptography for TLS, unless the program has chosen one.
pub(crate) fn choose_cryptography() {
    // An error means that a provider was chosen before: that one stays.
    drop(rustls::crypto::ring::default_provider().install_default());
}
