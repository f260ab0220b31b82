//! The conditions of a ChatCluster, as a pure function of what was seen and planned.

use crds::{ChatCluster, ChatClusterStatus, Condition, Phase};
use jiff::Timestamp;

use crate::build::{self, Revision};
use crate::limits;
use crate::names;
use crate::observe::Part;

/// What the conditions tell about.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What is wrong with the spec.
    pub problems: Vec<String>,
    /// Secrets that are missing, or lack a key.
    pub secrets: Vec<String>,
    /// NATS.
    pub nats: Part,
    /// Why no NATS server starts again though one should.
    pub nats_waits: Option<String>,
    /// The database.
    pub scylla: Part,
    /// What members of the database wait for, though they should come, start again or leave.
    pub scylla_waits: Option<String>,
    /// Volumes that do not have the size that they should.
    pub volumes: Vec<String>,
    /// What failed in this pass.
    pub failure: Option<String>,
}

impl Findings {
    /// Why no rollout goes on just now.
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.secrets.clone();
        for (name, part) in [("NATS", self.nats), ("the database", self.scylla)] {
            if let (Some(wanted), false) = (part.wanted, part.is_whole()) {
                let restarts = match (part.restarting, part.shrinking) {
                    (true, _) => ", and they are being restarted",
                    (false, true) => ", and one of them leaves",
                    (false, false) => "",
                };
                obstacles.push(format!(
                    "{} of {wanted} members of {name} are ready{restarts}.",
                    part.ready
                ));
            }
        }
        obstacles
    }
}

/// A condition before it is compared with the last one: type, whether it holds, reason, message.
type Draft = (&'static str, Option<bool>, &'static str, String);

/// Fills in what people and programs read. `status` is as the planner left it.
pub fn describe(
    cluster: &ChatCluster,
    mut status: ChatClusterStatus,
    findings: &Findings,
    now: Timestamp,
) -> ChatClusterStatus {
    let (own, _) = build::place(cluster);
    status.observed_generation = cluster.metadata.generation;
    status.nats = findings.nats.shown();
    status.scylla = findings.scylla.shown();
    status.selector = status.active_revision.as_deref().map(|revision| {
        let labels = names::revision_selector(&own, Revision::new(revision).as_str());
        let pairs: Vec<String> =
            labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(",")
    });
    if !findings.problems.is_empty() {
        status.phase = Phase::Refused;
    }
    let drafts = drafts(cluster, &status, findings);
    status.conditions = drafts
        .into_iter()
        .map(|draft| finish(draft, &status.conditions, cluster.metadata.generation, now))
        .collect();
    status
}

fn finish(
    (type_, holds, reason, message): Draft,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = match holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let same = before.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(limits::MESSAGE_CHARACTERS).collect(),
        last_transition_time: same.map_or(now, |old| old.last_transition_time),
        observed_generation: generation,
    }
}

fn drafts(cluster: &ChatCluster, status: &ChatClusterStatus, findings: &Findings) -> Vec<Draft> {
    let accepted = match findings.problems.is_empty() {
        true => ("Accepted", Some(true), "Valid", "The spec is valid.".to_owned()),
        false => ("Accepted", Some(false), "Invalid", findings.problems.join(" ")),
    };
    let secrets = match findings.secrets.is_empty() {
        true => ("SecretsReady", Some(true), "Found", "All Secrets are there.".to_owned()),
        false => ("SecretsReady", Some(false), "Missing", findings.secrets.join(" ")),
    };
    let volumes = match findings.volumes.is_empty() {
        true => {
            ("VolumesReady", Some(true), "AsWanted", "Volumes are as large as asked.".to_owned())
        }
        false => ("VolumesReady", Some(false), "TooSmall", findings.volumes.join(" ")),
    };
    let parts = vec![
        accepted,
        secrets,
        volumes,
        part("NatsReady", "NATS servers", findings.nats, findings.nats_waits.as_deref()),
        part(
            "ScyllaReady",
            "members of the database",
            findings.scylla,
            findings.scylla_waits.as_deref(),
        ),
        available(status),
        rollout(status),
    ];
    let mut drafts = vec![ready(cluster, status, findings, &parts)];
    drafts.extend(parts);
    drafts.push(match cluster.spec.paused {
        true => ("Paused", Some(true), "Asked", "The operator changes nothing.".to_owned()),
        false => ("Paused", Some(false), "NotAsked", "The operator works.".to_owned()),
    });
    drafts
}

fn part(type_: &'static str, what: &str, part: Part, waits: Option<&str>) -> Draft {
    let Some(wanted) = part.wanted else {
        return (type_, Some(true), "External", format!("The {what} are not managed here."));
    };
    let mut text = format!("{} of {wanted} {what} are ready.", part.ready);
    if let Some(waits) = waits {
        text = format!("{text} {waits}");
    }
    match (part.is_whole(), waits) {
        (true, None) => (type_, Some(true), "AllReady", text),
        (true, Some(_)) => (type_, Some(false), "Waits", text),
        (false, _) if part.restarting => (type_, Some(false), "Restarting", text),
        (false, _) if part.shrinking => (type_, Some(false), "MemberLeaves", text),
        (false, _) => (type_, Some(false), "SomeMissing", text),
    }
}

fn available(status: &ChatClusterStatus) -> Draft {
    let (ready, all) = (status.ready_replicas, status.replicas);
    let text = format!("{ready} of {all} chat nodes are ready.");
    match (status.active_revision.is_some(), ready > 0) {
        (false, _) => ("Available", Some(false), "Starting", "No revision serves yet.".to_owned()),
        (true, true) => ("Available", Some(true), "NodesReady", text),
        (true, false) => ("Available", Some(false), "NoNodeReady", text),
    }
}

fn rollout(status: &ChatClusterStatus) -> Draft {
    if let Some(run) = status.rollout.as_ref().filter(|run| !run.pods.is_empty()) {
        let text = format!("Pods are emptied, by rollout {}: {}", run.id, run.message);
        return ("Progressing", Some(true), "PodsLeave", text);
    }
    if let Some(run) = &status.rollout {
        let text = format!("Rollout {} to revision {}: {}", run.id, run.to, run.message);
        return ("Progressing", Some(true), "RolloutRuns", text);
    }
    match (&status.rejected_revision, status.phase) {
        (Some(revision), Phase::Held) => (
            "Progressing",
            Some(false),
            "RevisionRejected",
            format!(
                "Revision {revision} was rejected. Change the spec, or annotate the ChatCluster with \
                 chatcluster.dev/retry={revision}."
            ),
        ),
        (_, Phase::Held) => (
            "Progressing",
            Some(false),
            "WaitsForDependencies",
            "A new revision waits until NATS and the database are whole.".to_owned(),
        ),
        (_, Phase::Starting) => (
            "Progressing",
            Some(true),
            "WaitsForDependencies",
            "Chat nodes start when NATS and the database are ready.".to_owned(),
        ),
        _ => ("Progressing", Some(false), "Steady", "The wanted revision serves.".to_owned()),
    }
}

fn ready(
    cluster: &ChatCluster,
    status: &ChatClusterStatus,
    findings: &Findings,
    parts: &[Draft],
) -> Draft {
    if let Some(failure) = &findings.failure {
        return ("Ready", Some(false), "Failed", failure.clone());
    }
    let bad =
        parts.iter().find(|(type_, holds, ..)| *type_ != "Progressing" && *holds != Some(true));
    if let Some((_, _, reason, message)) = bad {
        return ("Ready", Some(false), *reason, message.clone());
    }
    let wanted = cluster.spec.chat.replicas;
    if status.ready_replicas < wanted {
        let text = format!("{} of {wanted} chat nodes are ready.", status.ready_replicas);
        return ("Ready", Some(false), "NodesMissing", text);
    }
    if status.phase == Phase::Held {
        let (_, _, reason, message) = rollout(status);
        return ("Ready", Some(false), reason, message);
    }
    ("Ready", Some(true), "AllReady", "Everything is as the spec says.".to_owned())
}
