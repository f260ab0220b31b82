//! What the operator tells. All times are absolute, so that a restart of the operator changes nothing.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a ChatCluster.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChatClusterStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where things stand, in a word.
    pub phase: Phase,
    /// State in detail.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods of the active revision.
    pub replicas: i32,
    /// Those of them that are ready.
    pub ready_replicas: i32,
    /// Labels of the active revision's pods, for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Revision that new clients get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_revision: Option<String>,
    /// Revision that is being tried before it becomes active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_revision: Option<String>,
    /// Revision whose nodes own the partitions; all nodes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_revision: Option<String>,
    /// Revision that failed or was sent back. It does not start again until the spec changes or somebody retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_revision: Option<String>,
    /// The rollout that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// How often single pods were emptied; a part of the ids of those rollouts.
    #[serde(default)]
    pub moves: i64,
    /// The last command given by an annotation, and what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_command: Option<HandledCommand>,
    /// Rollouts that ended, newest first.
    pub history: Vec<HistoryEntry>,
    /// Ready NATS servers and how many there should be, such as `3/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<String>,
    /// Ready members of the database and how many there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scylla: Option<String>,
    /// Members of the database that have joined its ring.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// The member of the database that leaves the ring. It is written here before it is told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaving_member: Option<LeavingMember>,
}

/// A member of the database that has joined its ring.
#[derive(JsonSchema, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its pod.
    pub pod: String,
    /// Its id in the ring.
    pub host: String,
}

/// A member of the database that leaves the ring.
#[derive(JsonSchema, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeavingMember {
    /// Its pod.
    pub pod: String,
    /// Its id in the ring; none if it never joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// Where a ChatCluster stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Phase {
    /// Its first revision is being started.
    #[default]
    Starting,
    /// One revision serves, and it is the wanted one.
    Steady,
    /// Pods start: those of the new revision, or those that take the place of pods that are to go.
    Provisioning,
    /// The new revision is ready and has to stay so for a while.
    Verifying,
    /// The new revision is verified and waits for `chatcluster.dev/promote`.
    AwaitingPromotion,
    /// New clients are sent to the new revision.
    Switching,
    /// The new revision serves new clients; nobody was asked to move yet.
    Soaking,
    /// Clients of older revisions, or of pods that are to go, are asked to move, batch by batch.
    Draining,
    /// Pods without clients go.
    Retiring,
    /// One revision serves, and it is not the wanted one: that one was rejected.
    Held,
    /// The spec is not valid; nothing was changed.
    Refused,
    /// Everything is being removed.
    Deleting,
}

/// One aspect of the state, as all of Kubernetes writes it.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A rollout that runs.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// What annotations that promote, pause or abort must name.
    pub id: String,
    /// Revision that served when it began.
    pub from: String,
    /// Revision that is to serve.
    pub to: String,
    /// Pods whose clients move to other pods of the same revision, and that go then. Empty if revisions change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
    /// Whether it goes back to a revision that served before.
    #[serde(default)]
    pub rollback: bool,
    /// Whether somebody paused it by annotation.
    #[serde(default)]
    pub paused: bool,
    /// Whether it was promoted by hand.
    #[serde(default)]
    pub promoted: bool,
    /// Step.
    pub phase: Phase,
    /// Nodes that the spec asked for when it began.
    #[serde(default)]
    pub nodes: i32,
    /// When it began.
    pub started_at: Timestamp,
    /// When this step began.
    pub phase_started_at: Timestamp,
    /// Since when the new revision has been ready without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// When this step is ended, whatever has come of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Timestamp>,
    /// Connections of the older revisions when the drain began.
    #[serde(default)]
    pub connections: i64,
    /// The batch that is under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchStatus>,
    /// Clients told to move in all batches before this one.
    #[serde(default)]
    pub told: i64,
    /// Those of them that were counted.
    #[serde(default)]
    pub counted: i64,
    /// Those of the counted that were seen again.
    #[serde(default)]
    pub resumed: i64,
    /// Connections that died with their pod.
    #[serde(default)]
    pub lost: i64,
    /// Whether the drain goes on at a quarter of its rate.
    #[serde(default)]
    pub slowed: bool,
    /// What it does or waits for, in a sentence.
    #[serde(default)]
    pub message: String,
}

/// One batch of a drain. It is written here before it is granted.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchStatus {
    /// Its number, from 1.
    pub number: i64,
    /// How many clients of which pod.
    pub grants: Vec<Grant>,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// Whether all that is left is told to move because of the deadline.
    #[serde(default)]
    pub forced: bool,
    /// Whether somebody resumed the rollout after it, however many came back.
    #[serde(default)]
    pub accepted: bool,
    /// When all its nodes had ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What one node may do in a batch.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The pod.
    pub pod: String,
    /// Most clients that it may ask to move.
    pub connections: i64,
}

/// A command that was given by an annotation.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandledCommand {
    /// Which one.
    pub command: String,
    /// Rollout or revision that it named.
    pub target: String,
    /// When it was handled.
    pub at: Timestamp,
    /// What came of it, in a sentence.
    pub result: String,
}

/// A rollout that ended.
#[derive(JsonSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its id.
    pub id: String,
    /// Revision that served when it began.
    pub from: String,
    /// Revision that was to serve.
    pub to: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Clients told to move.
    pub told: i64,
    /// Those that were counted.
    pub counted: i64,
    /// Those of the counted that were seen again.
    pub resumed: i64,
    /// Connections that died with their pod.
    pub lost: i64,
    /// Why it ended so.
    pub message: String,
}

/// How a rollout ended.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// The new revision serves alone.
    Completed,
    /// It ended before the switch: by hand, or because the new revision was not ready in time.
    Aborted,
    /// Another spec took its place before the switch.
    Superseded,
    /// It ended after the switch, and a rollout back followed.
    RolledBack,
}
