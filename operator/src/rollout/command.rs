//! Commands that people give by annotations.

use std::collections::BTreeMap;

/// What somebody wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Switch now, without waiting further.
    Promote,
    /// End the rollout and stay with, or go back to, the revision before.
    Abort,
    /// Stand still.
    Pause,
    /// Go on, also if few clients came back.
    Resume,
    /// Try a rejected revision again.
    Retry,
}

const ALL: [(Command, &str); 6] = [
    (Command::Promote, "chatcluster.dev/promote"),
    (Command::Abort, "chatcluster.dev/abort"),
    (Command::Abort, "chatcluster.dev/rollback"),
    (Command::Pause, "chatcluster.dev/pause"),
    (Command::Resume, "chatcluster.dev/resume"),
    (Command::Retry, "chatcluster.dev/retry"),
];

/// A command and what it is about: a rollout's id, or for [`Command::Retry`] a revision. So a command that comes late
/// cannot hit a later rollout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// What to do.
    pub command: Command,
    /// Annotation that said so.
    pub annotation: &'static str,
    /// Rollout or revision.
    pub target: String,
}

impl Order {
    /// The first command among annotations. The next one is read when this one is done and removed.
    pub fn find(annotations: &BTreeMap<String, String>) -> Option<Order> {
        ALL.iter().find_map(|(command, annotation)| {
            let target = annotations.get(*annotation)?.clone();
            Some(Order { command: *command, annotation, target })
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.annotation.split_once('/').map_or(self.annotation, |(_, name)| name)
    }
}
