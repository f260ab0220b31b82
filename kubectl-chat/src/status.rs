//! What `kubectl chat status` shows: a function of what was read, and now.

use crds::{
    ChatCluster, ChatClusterStatus, Condition, HistoryEntry, Outcome, Phase, RolloutStatus,
};
use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::text::{Page, Style, Tone, count, since, until, wrap};

/// Events shown.
pub(crate) const EVENTS: usize = 6;
/// Rollouts of the past that are shown.
const HISTORY: usize = 3;
/// Below this, tables become paragraphs.
const NARROW: usize = 72;

/// An event of a ChatCluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) at: Timestamp,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) warning: bool,
}

/// The page.
pub(crate) fn render(
    cluster: &ChatCluster,
    events: &[Told],
    now: Timestamp,
    style: Style,
) -> String {
    let mut page = Page::new(style);
    let Some(status) = &cluster.status else {
        page.title(&place(cluster));
        page.paragraph(
            2,
            Tone::Warning,
            "The operator has not looked at it yet: see kubectl chat doctor.",
        );
        return page.into_text();
    };
    header(&mut page, cluster, status);
    match &status.rollout {
        Some(run) => rollout(&mut page, cluster, run, now),
        None => {
            page.blank();
            page.line(&[(Tone::Plain, "No rollout is under way.")]);
        }
    }
    last_command(&mut page, status, now);
    conditions(&mut page, &status.conditions);
    happened(&mut page, events, now);
    history(&mut page, &status.history, now);
    page.into_text()
}

fn place(cluster: &ChatCluster) -> String {
    format!("ChatCluster {}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())
}

fn header(page: &mut Page, cluster: &ChatCluster, status: &ChatClusterStatus) {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.is_some_and(|condition| condition.status == "True");
    let (tone, word) = if ready { (Tone::Good, "ready") } else { (Tone::Bad, "not ready") };
    page.line(&[
        (Tone::Strong, &place(cluster)),
        (Tone::Plain, "  "),
        (phase_tone(status.phase), &format!("{:?}", status.phase)),
        (Tone::Plain, "  "),
        (tone, word),
    ]);
    let mut facts = vec![
        format!("nodes {}/{}", status.ready_replicas, cluster.spec.chat.replicas),
        format!("revision {}", status.active_revision.as_deref().unwrap_or("none")),
        format!("image {}", cluster.spec.chat.image),
    ];
    facts.extend(status.nats.as_ref().map(|nats| format!("NATS {nats}")));
    facts.extend(status.scylla.as_ref().map(|scylla| format!("database {scylla}")));
    facts.extend(status.rejected_revision.as_ref().map(|name| format!("rejected {name}")));
    let mut line = String::new();
    for fact in facts {
        if !line.is_empty() && line.chars().count() + 3 + fact.chars().count() > page.style.width {
            page.line(&[(Tone::Plain, &line)]);
            line.clear();
        }
        if !line.is_empty() {
            line.push_str("   ");
        }
        line.push_str(&fact);
    }
    page.line(&[(Tone::Plain, &line)]);
}

fn phase_tone(phase: Phase) -> Tone {
    match phase {
        Phase::Steady => Tone::Good,
        Phase::Held | Phase::AwaitingPromotion => Tone::Warning,
        Phase::Refused => Tone::Bad,
        _ => Tone::Strong,
    }
}

fn rollout(page: &mut Page, cluster: &ChatCluster, run: &RolloutStatus, now: Timestamp) {
    page.blank();
    page.title(&title(run));
    steps(page, cluster, run);
    let mut times = format!("  begun {} ago", since(run.started_at, now));
    times.push_str(&format!(", in this phase for {}", since(run.phase_started_at, now)));
    if let Some(deadline) = run.deadline_at {
        times.push_str(&format!(", which ends {}", until(deadline, now)));
    }
    page.paragraph(2, Tone::Plain, &times);
    if run.connections > 0 {
        let last = run.batch.as_ref();
        let granted: i64 =
            last.map_or(0, |batch| batch.grants.iter().map(|grant| grant.connections).sum());
        let asked = (run.told + granted).min(run.connections.max(run.told));
        progress(page, "asked to move", asked, run.connections);
        progress(page, "back again", run.resumed, run.counted);
        let lost = if run.lost > 0 { Tone::Bad } else { Tone::Plain };
        let slowed = if run.slowed { "   at a quarter of its rate" } else { "" };
        page.line(&[
            (Tone::Plain, "  lost           "),
            (lost, &run.lost.to_string()),
            (Tone::Warning, slowed),
        ]);
    }
    if let Some(batch) = &run.batch {
        let clients: i64 = batch.grants.iter().map(|grant| grant.connections).sum();
        let state = match batch.ended_at {
            Some(at) => format!("ended {} ago", since(at, now)),
            None => format!("granted {} ago", since(batch.granted_at, now)),
        };
        let nodes = count(batch.grants.len(), "node");
        let text = format!("batch {}: {clients} clients of {nodes}, {state}", batch.number);
        page.paragraph(2, Tone::Plain, &text);
    }
    let paused = run.paused || cluster.spec.rollout.paused;
    let tone = if paused { Tone::Warning } else { Tone::Plain };
    if paused {
        let how = if run.paused { "kubectl chat resume" } else { "spec.rollout.paused: false" };
        page.paragraph(2, tone, &format!("Paused; {how} lets it go on."));
    }
    page.paragraph(2, tone, &run.message);
}

fn title(run: &RolloutStatus) -> String {
    if !run.pods.is_empty() {
        return format!("Rollout {}: the clients of {} move", run.id, run.pods.join(", "));
    }
    match (run.from.is_empty(), run.rollback) {
        (true, _) => format!("Rollout {}: the first revision, {}", run.id, run.to),
        (false, true) => format!("Rollout {}: back to {}", run.id, run.to),
        (false, false) => format!("Rollout {}: from {} to {}", run.id, run.from, run.to),
    }
}

fn phases(cluster: &ChatCluster, run: &RolloutStatus) -> Vec<Phase> {
    if !run.pods.is_empty() {
        return vec![Phase::Provisioning, Phase::Draining, Phase::Retiring];
    }
    let waits = run.phase == Phase::AwaitingPromotion
        || (!cluster.spec.rollout.auto_promote && !run.rollback && !run.from.is_empty());
    let mut phases = vec![Phase::Provisioning, Phase::Verifying];
    phases.extend(waits.then_some(Phase::AwaitingPromotion));
    phases.extend([Phase::Switching, Phase::Soaking, Phase::Draining, Phase::Retiring]);
    phases
}

/// The phases of a rollout, with a sign before those that are over and the one that runs.
fn steps(page: &mut Page, cluster: &ChatCluster, run: &RolloutStatus) {
    let phases = phases(cluster, run);
    let Some(at) = phases.iter().position(|phase| *phase == run.phase) else { return };
    if page.style.width < NARROW {
        let text = format!("  step {} of {}: {:?}", at + 1, phases.len(), run.phase);
        return page.line(&[(Tone::Strong, &text)]);
    }
    let mut pieces = vec![(Tone::Plain, " ".to_owned())];
    for (index, phase) in phases.iter().enumerate() {
        let (tone, sign) = match index.cmp(&at) {
            std::cmp::Ordering::Less => (Tone::Good, if page.style.rich { "✓" } else { "+" }),
            std::cmp::Ordering::Equal => (Tone::Strong, ">"),
            std::cmp::Ordering::Greater => (Tone::Quiet, if page.style.rich { "·" } else { "." }),
        };
        pieces.push((tone, format!(" {sign} {phase:?}")));
    }
    let pieces: Vec<(Tone, &str)> =
        pieces.iter().map(|(tone, text)| (*tone, text.as_str())).collect();
    page.line(&pieces);
}

fn progress(page: &mut Page, label: &str, part: i64, all: i64) {
    let percent = if all > 0 { part.saturating_mul(100) / all } else { 0 };
    let bar = page.bar(part, all);
    page.line(&[
        (Tone::Plain, &format!("  {label:<14} ")),
        (Tone::Good, &bar),
        (Tone::Plain, &format!("  {part} of {all}   {percent} %")),
    ]);
}

fn last_command(page: &mut Page, status: &ChatClusterStatus, now: Timestamp) {
    let Some(last) = &status.last_command else { return };
    page.blank();
    let text = format!(
        "Last command: {} {}, {} ago. {}",
        last.command,
        last.target,
        since(last.at, now),
        last.result
    );
    page.paragraph(0, Tone::Plain, &text);
}

fn conditions(page: &mut Page, conditions: &[Condition]) {
    page.blank();
    page.title("Conditions");
    for condition in conditions {
        let label = [
            (Tone::Plain, format!("  {:<13} ", condition.type_)),
            (condition_tone(condition), condition.status.clone()),
        ];
        let label: Vec<(Tone, &str)> = label.iter().map(|(tone, text)| (*tone, &**text)).collect();
        if page.style.width < NARROW {
            page.line(&label);
            page.paragraph(4, Tone::Plain, &condition.message);
        } else {
            page.labelled(&label, 24, &condition.message);
        }
    }
}

fn condition_tone(condition: &Condition) -> Tone {
    match (condition.type_.as_str(), condition.status.as_str()) {
        ("Progressing", _) | ("Paused", "False") => Tone::Plain,
        ("Paused", _) => Tone::Warning,
        (_, "True") => Tone::Good,
        _ => Tone::Bad,
    }
}

fn happened(page: &mut Page, events: &[Told], now: Timestamp) {
    if events.is_empty() {
        return;
    }
    page.blank();
    page.title("Events");
    let mut events: Vec<&Told> = events.iter().collect();
    events.sort_by_key(|event| event.at);
    for event in events.iter().rev().take(EVENTS).rev() {
        let tone = if event.warning { Tone::Warning } else { Tone::Plain };
        let age = since(event.at, now);
        if page.style.width < NARROW {
            page.line(&[(Tone::Quiet, &format!("  {age} ago  ")), (tone, &event.reason)]);
            page.paragraph(4, Tone::Plain, &event.message);
        } else {
            let age = format!("  {age:>8}  ");
            let reason = format!("{:<20}", event.reason);
            page.labelled(&[(Tone::Quiet, &age), (tone, &reason)], 34, &event.message);
        }
    }
}

fn history(page: &mut Page, entries: &[HistoryEntry], now: Timestamp) {
    if entries.is_empty() {
        return;
    }
    page.blank();
    page.title("Past rollouts");
    for entry in entries.iter().take(HISTORY) {
        let tone = match entry.outcome {
            Outcome::Completed => Tone::Good,
            Outcome::Superseded => Tone::Plain,
            Outcome::Aborted | Outcome::RolledBack => Tone::Warning,
        };
        let text = format!(
            "to {}, {} ago: {} clients asked, {} of {} back, {} lost. {}",
            entry.to,
            since(entry.ended_at, now),
            entry.told,
            entry.resumed,
            entry.counted,
            entry.lost,
            entry.message
        );
        let label = format!("{:?}", entry.outcome);
        if page.style.width < NARROW {
            page.line(&[(Tone::Plain, "  "), (tone, &label)]);
            page.paragraph(4, Tone::Plain, &text);
        } else {
            page.labelled(&[(Tone::Plain, "  "), (tone, &label)], 14, &text);
        }
    }
}

/// The page, cut to the lines of a terminal: the end goes, because what happens now is at the beginning.
pub(crate) fn fit(text: &str, rows: usize) -> String {
    text.lines().take(rows.saturating_sub(1)).map(|line| format!("{line}\n")).collect()
}

/// A sentence for people at most as wide as the style says.
pub(crate) fn sentence(text: &str, style: Style) -> String {
    let mut lines = wrap(text, style.width).join("\n");
    lines.push('\n');
    lines
}
