//! What people say to the operator by annotations, and the names by which it and others find its objects.

use std::collections::BTreeMap;

/// Label with the name of the ChatCluster, on every object that belongs to one.
pub const CLUSTER_LABEL: &str = "chatcluster.dev/cluster";

/// Label with the part of the platform: `chat`, `nats` or `scylla`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// Label with the revision of a chat node.
pub const REVISION_LABEL: &str = "chatcluster.dev/revision";

/// Annotation on a pod of a chat node whose clients are to move, batch by batch, before another pod takes its place. It
/// counts as long as it is there, whatever its value.
pub const DRAIN_ANNOTATION: &str = "chatcluster.dev/drain";

/// Annotation on a pod of a member of the database whose volume is lost. It gets an empty one, and takes its place in the
/// ring again, with the rows of the others. It counts as long as it is there, whatever its value.
pub const REPLACE_ANNOTATION: &str = "chatcluster.dev/replace";

/// Name of the operator, and of its lease; that of an operator for one namespace ends in `-NAMESPACE`.
pub const OPERATOR: &str = "chat-operator";

/// What somebody wants of a rollout.
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

/// Each annotation that is a command; its value is a rollout's id, or for [`Command::Retry`] a revision.
const ALL: [(Command, &str); 6] = [
    (Command::Promote, "chatcluster.dev/promote"),
    (Command::Abort, "chatcluster.dev/abort"),
    (Command::Abort, "chatcluster.dev/rollback"),
    (Command::Pause, "chatcluster.dev/pause"),
    (Command::Resume, "chatcluster.dev/resume"),
    (Command::Retry, "chatcluster.dev/retry"),
];

impl Command {
    /// The annotation that gives it.
    pub fn annotation(self) -> &'static str {
        ALL.iter().find(|(command, _)| *command == self).map_or("", |(_, annotation)| annotation)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        name_of(self.annotation())
    }
}

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
        name_of(self.annotation)
    }
}

fn name_of(annotation: &'static str) -> &'static str {
    annotation.split_once('/').map_or(annotation, |(_, name)| name)
}
