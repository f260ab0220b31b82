//! Conversations: commands in, decisions out, owned by one writer per partition.

pub mod command;

pub use command::{Action, Command, Conversations, Reply};
