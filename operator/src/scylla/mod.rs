//! The managed database while it runs: which member comes, starts again, is replaced or leaves next.
//!
//! What members are made of is in [`crate::build`]. Members tell of their ring by CQL, which ScyllaDB and its double have in
//! common; they are told through a file of their rack's ConfigMap, so the operator runs no command in a pod.
//!
//! **No member leaves the ring, or joins it, unless all others are well and agree on who is in it; and its pod and volume go
//! only when all others say that it has left.**

mod cql;
mod members;
mod plan;
mod starts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::nodes::Peer;

pub use cql::CqlRing;
pub use members::{Claim, Database, Member, Rack};
pub use plan::{Event, Plan, next_step};

/// What a member says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct View {
    /// Its id in the ring.
    pub host: String,
    /// Whether it has joined the ring.
    pub has_joined: bool,
    /// Version of the schema.
    pub schema: String,
    /// Whom it knows beside itself: addresses by id.
    pub others: BTreeMap<String, String>,
    /// Copies of each row in the platform's keyspace, if there is one.
    pub copies: Option<i32>,
}

/// Asks members about their ring.
#[async_trait]
pub trait Ring: Send + Sync {
    /// Views by the members' names. A member that does not answer has none.
    async fn ask(&self, members: &[Peer], keyspace: &str) -> BTreeMap<String, View>;
}
