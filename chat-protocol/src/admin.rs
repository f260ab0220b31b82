//! What an operator and a node's admin port say to each other during a rollout. Values only; `docs/drain.md` tells the
//! order of the calls and what each restart means.
//!
//! Every call is idempotent, and carries the operator's epoch: a node refuses an older one than it has seen.

use serde::{Deserialize, Serialize};

/// Longest name of a rollout or a revision, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest delay that a grant may ask of a client: with the minute in which it counts as resumed it must fit the life of
/// a token (5 minutes).
pub const JITTER_MS_MAX: u64 = 120_000;

/// Most clients that a node asks to leave in a second.
pub const RATE_PER_SECOND_MAX: u32 = 100_000;

/// A session is active if its client was heard within this time before it was asked to leave.
pub const ACTIVE_WITHIN_MS: u64 = 10_000;

/// A session counts as resumed if it is back, on any node, within this time after its delay.
pub const RESUMED_WITHIN_MS: u64 = 60_000;

/// The body of `prepare`, `cancel` and `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The rollout, as its operator names it.
    pub rollout: String,
    /// The operator's fencing number: the transitions of its lease.
    pub epoch: u64,
}

/// The body of `drain`: one batch of clients may be asked to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The rollout.
    pub rollout: String,
    /// The operator's fencing number.
    pub epoch: u64,
    /// Numbers of a rollout's batches rise; a number that was granted before moves nobody.
    pub batch: u32,
    /// How many clients.
    pub sessions: Amount,
    /// Clients asked in a second, at most.
    pub rate_per_second: u32,
    /// Each client waits a random time in this window.
    pub jitter: Jitter,
    /// Where they should go; none: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// How many clients a batch has, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many.
    Count(u64),
    /// This share, in thousandths, of those that are here and were not asked, rounded up.
    PerMille(u32),
}

/// A window of delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jitter {
    /// Shortest delay.
    pub min_ms: u64,
    /// Longest delay.
    pub max_ms: u64,
}

/// The nodes that clients should go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Their revision.
    pub revision: String,
    /// Rises with every rollout and every rollback; a token of an older generation means nothing.
    pub generation: u64,
}

/// Whose nodes own partitions: the body of `owner-revision`, and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRevision {
    /// The revision; empty: all nodes.
    pub revision: String,
    /// The operator's fencing number.
    #[serde(default)]
    pub epoch: u64,
    /// The generation of tokens that counts from now on. It never falls.
    #[serde(default)]
    pub generation: u64,
}

/// What a node does with its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It serves, and is ready.
    #[default]
    Serving,
    /// It serves, and gets no new clients from balancers and discovery.
    Prepared,
    /// The same, and some of its clients were asked to leave.
    Draining,
    /// It ends.
    Stopping,
}

/// How a node stands. The answer of every call but `owner-revision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its configured name.
    pub node: String,
    /// Its revision, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Drawn when its process started: another one means that the node has restarted, and forgot its rollout.
    pub start: String,
    /// What it does.
    pub phase: Phase,
    /// The rollout that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// The highest epoch it has seen.
    pub epoch: u64,
    /// Why it should not get traffic; empty: it is ready.
    pub not_ready: Vec<String>,
    /// Connections and waiting polls.
    pub sessions: Sessions,
    /// The batches of this rollout, oldest first; only the last 64.
    pub batches: Vec<Batch>,
    /// Partitions that it has, is opening or is closing.
    pub partitions: u64,
    /// Whose nodes own partitions, as this node knows it.
    pub owner_revision: OwnerRevision,
    /// It has heard every partition's watermark: what is sent through it becomes complete.
    pub safe_watermark_known: bool,
    /// How old the safe watermark is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_watermark_lag_ms: Option<u64>,
    /// It has no client and no partition: it may be stopped without anyone noticing.
    pub handed_over: bool,
    /// Handshakes since the start.
    pub handshakes: Handshakes,
    /// Sockets it ended without a `reconnect` event and a close frame since its start. Must be 0.
    pub abrupt_closes: u64,
}

/// Clients of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// By WebSocket.
    pub websocket: u64,
    /// By server-sent events.
    pub events: u64,
    /// Polls that wait.
    pub polls: u64,
    /// All of these that were heard within the last 10 seconds.
    pub active: u64,
    /// All of these that were not asked to leave.
    pub not_asked: u64,
}

/// Handshakes of a node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Sessions begun.
    pub accepted: u64,
    /// Refused because the node could not, not because the client may not.
    pub failed: u64,
}

/// What has become of a batch. Its figures only rise, but for `here`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its number.
    pub batch: u32,
    /// Sessions chosen when it was granted.
    pub granted: u64,
    /// Of these, asked to leave so far.
    pub asked: u64,
    /// Of these, gone before they were asked, or spared by a cancel.
    pub skipped: u64,
    /// Of those asked: the client left by itself, or answered the close frame.
    pub acknowledged: u64,
    /// Of those asked: gone, in whatever way.
    pub gone: u64,
    /// Of those asked: still here.
    pub here: u64,
    /// Lineages that were active when they were asked, and have acknowledged: what `resumed` is measured by.
    pub counted: u64,
    /// Of those counted, back on any node within 60 seconds after their delay.
    pub resumed: u64,
    /// Of those counted, neither back nor late yet.
    pub pending: u64,
    /// Everyone was asked, and nobody is pending: the figures are final.
    pub settled: bool,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{code:?}: {detail}")]
pub struct AdminProblem {
    /// The stable code.
    pub code: AdminCode,
    /// A plain sentence: what happened, what to do.
    pub detail: String,
}

/// Stable codes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminCode {
    /// The body is not of the documented form, or a value is outside its limits.
    InvalidRequest,
    /// No or a wrong admin token, or none is configured.
    Unauthenticated,
    /// A newer operator has spoken: this one must stop.
    StaleEpoch,
    /// The node is part of another rollout: cancel that one first.
    OtherRollout,
    /// This rollout was cancelled here; a new attempt needs another name.
    RolloutCancelled,
    /// The batch before is still being asked. Ask again later.
    BatchRunning,
    /// The node is ending.
    Stopping,
    /// A node with embedded data has no others: there is nothing to set.
    SingleNode,
    /// The broker did not answer, or others wrote at the same time. Ask again.
    Unavailable,
}

impl AdminCode {
    /// Every code.
    pub const ALL: &'static [AdminCode] = &[
        AdminCode::InvalidRequest,
        AdminCode::Unauthenticated,
        AdminCode::StaleEpoch,
        AdminCode::OtherRollout,
        AdminCode::RolloutCancelled,
        AdminCode::BatchRunning,
        AdminCode::Stopping,
        AdminCode::SingleNode,
        AdminCode::Unavailable,
    ];

    /// The HTTP status it is answered with.
    pub fn http_status(self) -> u16 {
        match self {
            AdminCode::InvalidRequest => 400,
            AdminCode::Unauthenticated => 401,
            AdminCode::StaleEpoch
            | AdminCode::OtherRollout
            | AdminCode::RolloutCancelled
            | AdminCode::BatchRunning
            | AdminCode::Stopping
            | AdminCode::SingleNode => 409,
            AdminCode::Unavailable => 503,
        }
    }

    /// Whether the same call may succeed later without anyone doing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, AdminCode::BatchRunning | AdminCode::Unavailable)
    }
}

impl AdminProblem {
    /// A refusal with this code and sentence.
    pub fn new(code: AdminCode, detail: impl Into<String>) -> AdminProblem {
        AdminProblem { code, detail: detail.into() }
    }
}

impl Order {
    /// Whether its values are within their limits.
    pub fn check(&self) -> Result<(), AdminProblem> {
        check_name("rollout", &self.rollout)
    }
}

impl Grant {
    /// Whether its values are within their limits.
    pub fn check(&self) -> Result<(), AdminProblem> {
        check_name("rollout", &self.rollout)?;
        let invalid = |detail: String| Err(AdminProblem::new(AdminCode::InvalidRequest, detail));
        if self.batch == 0 {
            return invalid("batch must be 1 or more.".to_owned());
        }
        if self.rate_per_second == 0 || self.rate_per_second > RATE_PER_SECOND_MAX {
            return invalid(format!("rate_per_second must be from 1 to {RATE_PER_SECOND_MAX}."));
        }
        if self.jitter.min_ms > self.jitter.max_ms || self.jitter.max_ms > JITTER_MS_MAX {
            return invalid(format!(
                "jitter.min_ms must be at most jitter.max_ms, and that at most {JITTER_MS_MAX}."
            ));
        }
        if matches!(self.sessions, Amount::PerMille(share) if share > 1_000) {
            return invalid("sessions.per_mille must be at most 1000.".to_owned());
        }
        match &self.target {
            Some(target) => check_name("target.revision", &target.revision),
            None => Ok(()),
        }
    }
}

impl OwnerRevision {
    /// Whether its values are within their limits.
    pub fn check(&self) -> Result<(), AdminProblem> {
        match self.revision.is_empty() {
            true => Ok(()),
            false => check_name("revision", &self.revision),
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), AdminProblem> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(is_plain)
        && !name.starts_with('{')
    {
        return Ok(());
    }
    let detail = format!(
        "{field} must be 1 to {NAME_BYTES_MAX} bytes without white space, and not begin with a brace."
    );
    Err(AdminProblem::new(AdminCode::InvalidRequest, detail))
}
