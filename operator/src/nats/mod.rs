//! The managed NATS servers while they run: which one may start again, and what they say.
//!
//! What the servers are made of is in [`crate::build`].

mod monitor;
mod restart;

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::nodes::Peer;

pub use monitor::HttpMonitor;
pub use restart::{Server, next_restart};

/// What a server says on its monitoring port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// What is wrong with it or its streams and consumers; none if all of its copies are current.
    pub trouble: Option<String>,
    /// The server that leads the meta group, as far as this one knows.
    pub leader: Option<String>,
}

/// Asks servers how they are.
#[async_trait]
pub trait Monitor: Send + Sync {
    /// Reports by name. A server that does not answer has none.
    async fn ask(&self, servers: &[Peer]) -> BTreeMap<String, Report>;
}
