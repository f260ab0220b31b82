//! Limits, each with its reason.

use std::time::Duration;

/// A pass that nothing asked for: a watch can lose an event, and nobody tells.
pub const SLOW_PASS: Duration = Duration::from_secs(600);

/// A pass while something is being waited for that no watch reports: what a node says, or a time.
pub const WAITING_PASS: Duration = Duration::from_secs(2);

/// A pass while clients move: nodes are asked how far a batch has come, and a late look is time in which nobody moves.
pub const DRAINING_PASS: Duration = Duration::from_millis(500);

/// A pass while pods start: their watches report it sooner.
pub const STARTING_PASS: Duration = Duration::from_secs(15);

/// First and longest wait after a pass that failed.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// How long the first pass waits to see which machines are being emptied.
pub const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Until it is tried again to watch machines that may not be read: rights change rarely.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Passes at once, of different resources.
pub const PASSES_AT_ONCE: u16 = 8;

/// Events of one burst are one pass.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// Longest wait for a node's answer. A node that takes longer is unknown in this pass.
pub const NODE_ANSWER: Duration = Duration::from_secs(3);

/// Nodes asked at once.
pub const NODES_AT_ONCE: usize = 32;

/// How long a server of NATS or of the database must have been ready before another one starts again, comes or goes: it says
/// that it is well before it has heard what it missed.
pub const SERVER_SETTLE_SECONDS: i64 = 10;

/// How long a server that is not what it should be is left alone while it is not ready and another one starts.
pub const SERVER_BROKEN_SECONDS: i64 = 300;

/// Bytes of a node's answer that are read.
pub const NODE_ANSWER_BYTES: usize = 1024 * 1024;

/// Objects of one kind that a ChatCluster may own; more is a sign of a loop.
pub const OBJECTS_PER_LIST: u32 = 5000;

/// Revisions that may live at once. One more waits, so that edits in a row cannot fill a cluster.
pub const REVISIONS_MAX: usize = 3;

/// How long the end of a rollout waits for nodes to know that they own the partitions: it is no more than tidy.
pub const OWNER_SECONDS_MAX: i64 = 60;

/// Share of the first batch of a drain, in percent.
pub const FIRST_BATCH_PERCENT: i64 = 1;

/// What a drain's rate is divided by when few clients come back though nothing fails.
pub const SLOWED_BY: i64 = 4;

/// Messages of a status, in characters.
pub const MESSAGE_CHARACTERS: usize = 512;
