//! Conversations: commands in, decisions out, owned by one writer per partition.

pub mod command;
pub mod decide;
pub mod metrics;
pub mod owner;
pub mod owners;
mod patience;
mod read;
pub mod router;
pub mod rows;
pub mod state;

pub use command::{Action, Command, Conversations, Reply};
