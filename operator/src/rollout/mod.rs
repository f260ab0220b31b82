//! The rollout of revisions, as one pure function: [`next_step`] of the specification, the status and what is seen.
//!
//! ```text
//! Provisioning → Verifying → (AwaitingPromotion) → Switching → Soaking → Draining → Retiring → Steady
//! ```
//!
//! A rollout goes *to* a revision; every other live one is a source of clients. Going back is a rollout too, to a
//! revision that lives already, and what an abort before the switch leaves over is drained in the same way. So there is
//! one engine, and one rule: **a revision's pods go only when none of them has a client, or when a deadline has told
//! all of them to leave.**
//!
//! While a revision stays, single pods of it may have to go; their clients move to its other pods, by the same drain.
//!
//! Everything that must survive a restart of the operator is in the status, with absolute times. A step is written to
//! the status before it is acted on; acting twice changes nothing.

mod drain;
mod edit;
mod moves;
mod step;
#[cfg(test)]
mod tests;
mod world;

pub use step::next_step;
pub use world::{Disruption, Node, NodeBatch, NodeMode, Observed, Pod, View, World};

pub use crds::{Command, Order};

use crds::{ChatClusterStatus, Jitter};

use crate::build::{Fleet, Revision};

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The status to write first.
    pub status: ChatClusterStatus,
    /// The revisions to have.
    pub fleet: Fleet,
    /// What to tell nodes, after the status is written.
    pub actions: Vec<Action>,
    /// Pods to delete, after the sizes of the revisions are written.
    pub deletions: Vec<String>,
    /// What to tell people, once.
    pub events: Vec<Event>,
    /// Whether something is waited for that no watch of the cluster reports.
    pub waits: bool,
}

/// Something to tell a node. All of these may be told twice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Go on serving, but get no new clients.
    Prepare {
        /// The pod.
        pod: String,
        /// The rollout.
        rollout: String,
    },
    /// Ask some clients to move, then stop and wait.
    Grant(BatchGrant),
    /// Serve as before the rollout: nobody is to move any more.
    Cancel {
        /// The pod.
        pod: String,
        /// The rollout that the node is part of.
        rollout: String,
    },
    /// The nodes of this revision are to own the partitions.
    Own {
        /// The revision.
        revision: Revision,
        /// The rollout.
        rollout: String,
        /// Number that is higher than those of all rollouts before it.
        generation: i64,
    },
}

/// One node's part of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchGrant {
    /// The pod.
    pub pod: String,
    /// The rollout.
    pub rollout: String,
    /// Number of the batch, from 1.
    pub batch: i64,
    /// Most clients to ask.
    pub connections: i64,
    /// Most clients to ask per second.
    pub rate: i64,
    /// Window of the clients' delays.
    pub jitter: Jitter,
    /// Where they should go.
    pub target: Revision,
    /// Number that is higher than those of all rollouts before it.
    pub generation: i64,
}

/// Something worth telling once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Stable name, for programs.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
    /// Whether somebody should look.
    pub warning: bool,
}

impl Event {
    fn normal(reason: &'static str, message: impl Into<String>) -> Event {
        Event { reason, message: message.into(), warning: false }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Event {
        Event { reason, message: message.into(), warning: true }
    }
}
