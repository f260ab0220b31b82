//! How a new version replaces the old one.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rollout of a new revision: a full new fleet (green) beside the old one (blue), then the switch of new
/// connections, then clients in batches, then the end of blue.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutSpec {
    /// Whether a running rollout stands still: no switch, no further batch. What was granted ends.
    pub paused: bool,
    /// Whether green gets new connections without being asked; else the annotation `chatcluster.dev/promote` does it.
    pub auto_promote: bool,
    /// Whether the operator goes back to blue by itself when green breaks after the switch.
    pub auto_rollback: bool,
    /// How long green must have been ready, without a break, before the switch.
    #[schemars(range(min = 0, max = 86_400))]
    pub verify_seconds: i64,
    /// How long green serves new connections before the first client of blue is asked to move.
    #[schemars(range(min = 0, max = 86_400))]
    pub soak_seconds: i64,
    /// How long green may take to become ready.
    #[schemars(range(min = 10, max = 86_400))]
    pub progress_deadline_seconds: i64,
    /// What happens then.
    pub on_progress_deadline: OnProgressDeadline,
    /// How clients move.
    pub drain: DrainSpec,
    /// Rollouts that the status remembers.
    #[schemars(range(min = 0, max = 20))]
    pub history_limit: i32,
}

impl Default for RolloutSpec {
    fn default() -> RolloutSpec {
        RolloutSpec {
            paused: false,
            auto_promote: true,
            auto_rollback: true,
            verify_seconds: 5,
            soak_seconds: 30,
            progress_deadline_seconds: 600,
            on_progress_deadline: OnProgressDeadline::Abort,
            drain: DrainSpec::default(),
            history_limit: 10,
        }
    }
}

/// What happens to a new revision that does not become ready.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum OnProgressDeadline {
    /// It goes. Nobody was moved.
    #[default]
    Abort,
    /// It stays and may still become ready.
    Hold,
}

/// How clients are asked to move: batch by batch, the next one only while those of the last are seen again.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainSpec {
    /// Share of the connections that one batch moves, in percent. The first batch is 1 %.
    #[schemars(range(min = 1, max = 100))]
    pub batch_percent: i32,
    /// Least time from one batch to the next.
    #[schemars(range(min = 0, max = 3600))]
    pub batch_interval_seconds: i64,
    /// Clients asked to move per second, in the whole platform.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_per_second: i32,
    /// Each client waits for a random time in this window before it connects again.
    pub jitter: Jitter,
    /// Share of the clients that must be seen again before the next batch, in percent. Counted are those that were active
    /// and confirmed the request.
    #[schemars(range(min = 0, max = 100))]
    pub min_resume_percent: i32,
    /// How long they have for it.
    #[schemars(range(min = 1, max = 3600))]
    pub resume_window_seconds: i64,
    /// Batches in which fewer are counted than this never hold up the next.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_counted: i32,
    /// What happens when fewer come back.
    pub on_low_resume: OnLowResume,
    /// How long all batches together may take.
    #[schemars(range(min = 10, max = 604_800))]
    pub deadline_seconds: i64,
    /// What happens to the clients that are still there then.
    pub on_deadline: OnDeadline,
}

impl Default for DrainSpec {
    fn default() -> DrainSpec {
        DrainSpec {
            batch_percent: 5,
            batch_interval_seconds: 5,
            max_per_second: 200,
            jitter: Jitter::default(),
            min_resume_percent: 80,
            resume_window_seconds: 60,
            min_counted: 20,
            on_low_resume: OnLowResume::Pause,
            deadline_seconds: 3600,
            on_deadline: OnDeadline::ForceClose,
        }
    }
}

/// A window of time.
#[derive(KubeSchema, Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minMs <= self.maxMs").message("Set rollout.drain.jitter.minMs to at most rollout.drain.jitter.maxMs."))]
pub struct Jitter {
    /// Its beginning in milliseconds.
    #[serde(default)]
    #[schemars(range(min = 0, max = 120_000))]
    pub min_ms: i64,
    /// Its end in milliseconds.
    #[serde(default = "jitter_max_ms")]
    #[schemars(range(min = 0, max = 120_000))]
    pub max_ms: i64,
}

impl Default for Jitter {
    fn default() -> Jitter {
        Jitter { min_ms: 0, max_ms: jitter_max_ms() }
    }
}

fn jitter_max_ms() -> i64 {
    5000
}

/// What happens when too few clients come back.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum OnLowResume {
    /// No further batch until enough are back, or somebody resumes by hand. While green takes connections and nobody is
    /// seen to fail, the drain goes on at a quarter of the rate: phones that sleep never come back.
    #[default]
    Pause,
    /// Back to blue.
    RollBack,
}

/// What happens to the clients that are left at the drain's deadline.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum OnDeadline {
    /// They are all told to connect again, in one batch, and blue ends.
    #[default]
    ForceClose,
    /// Back to blue.
    RollBack,
}
