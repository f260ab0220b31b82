//! The drain: one batch after the other, the next one only while clients are seen to come back.

use crds::{BatchStatus, Grant, OnDeadline, OnLowResume, Phase, RolloutStatus};

use super::edit::Verdict;
use super::step::{Step, after, generation};
use super::{Action, BatchGrant, Event, NodeBatch, Pod, World};
use crate::build::Revision;
use crate::limits;

/// Goes on with the drain.
pub(super) fn drain(step: &mut Step<'_>, run: &RolloutStatus, target: &Revision) {
    if run.pods.is_empty() && step.goes_back_if_broken(run, target) {
        return;
    }
    let settled = match &run.batch {
        Some(batch) if batch.ended_at.is_none() => settle(step, run, batch),
        _ => true,
    };
    let now = step.world.now;
    if run.deadline_at.is_some_and(|deadline| deadline <= now) {
        at_deadline(step, run);
    } else if settled {
        next(step, target);
    }
}

/// Counts of one batch, as its nodes tell them.
#[derive(Clone, Copy, Default)]
struct Counts {
    told: i64,
    counted: i64,
    resumed: i64,
}

fn counts(world: &World, run: &RolloutStatus, batch: &BatchStatus) -> Counts {
    let mut sum = Counts::default();
    for grant in &batch.grants {
        let Some(seen) = node_batch(world, run, batch, &grant.pod) else { continue };
        sum.told += seen.told;
        sum.counted += seen.counted;
        sum.resumed += seen.resumed;
    }
    sum
}

fn node_batch<'a>(
    world: &'a World,
    run: &RolloutStatus,
    batch: &BatchStatus,
    pod: &str,
) -> Option<&'a NodeBatch> {
    let node = world.pod(pod)?.node()?;
    if node.rollout.as_deref() != Some(run.id.as_str()) {
        return None;
    }
    node.batches.iter().find(|seen| seen.number == batch.number)
}

/// Repeats the grants of the batch that is under way. True once all its nodes have ended it.
fn settle(step: &mut Step<'_>, run: &RolloutStatus, batch: &BatchStatus) -> bool {
    let world = step.world;
    let window = step.spec.drain.resume_window_seconds;
    let is_late = after(batch.granted_at, window) <= world.now;
    let (mut open, mut lost) = (0, 0);
    // A pod that is not to go any more is asked for nothing.
    let moves = |pod: &String| run.pods.is_empty() || run.pods.contains(pod);
    for grant in batch.grants.iter().filter(|grant| moves(&grant.pod)) {
        match world.pod(&grant.pod) {
            None => lost += grant.connections,
            Some(pod) if !pod.running => lost += grant.connections,
            // A node that does not answer holds up the others for a while, not for ever.
            Some(pod) if pod.node().is_none() => open += i64::from(!is_late),
            Some(_) => match node_batch(world, run, batch, &grant.pod) {
                Some(seen) if seen.is_ended => {}
                Some(_) => open += 1,
                None => {
                    open += 1;
                    step.actions.push(grant_action(step, run, batch, grant));
                }
            },
        }
    }
    if open > 0 {
        step.say(format!("Batch {} is under way on {open} nodes.", batch.number));
        return false;
    }
    if let Some(run) = &mut step.status.rollout {
        run.lost += lost;
        if let Some(batch) = &mut run.batch {
            batch.ended_at = Some(world.now);
        }
    }
    let counts = counts(world, run, batch);
    step.events.push(Event::normal(
        "DrainBatchCompleted",
        format!("Batch {}: {} clients were asked to move.", batch.number, counts.told),
    ));
    true
}

fn grant_action(
    step: &Step<'_>,
    run: &RolloutStatus,
    batch: &BatchStatus,
    grant: &Grant,
) -> Action {
    let slow = if run.slowed && !batch.forced { limits::SLOWED_BY } else { 1 };
    let rate = i64::from(step.spec.drain.max_per_second) / slow;
    let all = batch.grants.iter().map(|grant| grant.connections).sum();
    Action::Grant(BatchGrant {
        pod: grant.pod.clone(),
        rollout: run.id.clone(),
        batch: batch.number,
        connections: grant.connections,
        rate: share(rate, grant.connections, all),
        jitter: step.spec.drain.jitter,
        target: Revision::new(run.to.as_str()),
        generation: generation(run),
    })
}

/// A node's part of the rate of a batch: as large as its part of the clients, so that all nodes end at the same time.
fn share(rate: i64, connections: i64, all: i64) -> i64 {
    (rate.saturating_mul(connections) / all.max(1)).max(1)
}

/// Whether enough of the last batch came back, or why not yet.
enum Return {
    Enough,
    Wait(String),
    Low(String),
}

fn judge(step: &Step<'_>, run: &RolloutStatus, batch: &BatchStatus) -> Return {
    let spec = &step.spec.drain;
    let Counts { counted, resumed, .. } = counts(step.world, run, batch);
    let needed = i64::from(spec.min_resume_percent);
    if batch.accepted || counted < i64::from(spec.min_counted) || resumed * 100 >= counted * needed
    {
        return Return::Enough;
    }
    let text = format!(
        "{resumed} of {counted} clients of batch {} are back; {needed} % are needed",
        batch.number
    );
    let ended = batch.ended_at.unwrap_or(step.world.now);
    match after(ended, spec.resume_window_seconds) <= step.world.now {
        true => Return::Low(text),
        false => Return::Wait(text),
    }
}

/// Grants the next batch, if everything allows it.
fn next(step: &mut Step<'_>, target: &Revision) {
    let Some(run) = step.status.rollout.clone() else { return };
    if let Some(batch) = &run.batch {
        match judge(step, &run, batch) {
            Return::Enough => {}
            Return::Wait(text) => return step.say(format!("Waits for clients: {text}.")),
            Return::Low(text) if !goes_on_slowly(step, &run, target, &text) => return,
            Return::Low(_) => {}
        }
        let ended = batch.ended_at.unwrap_or(step.world.now);
        let earliest = after(ended, step.spec.drain.batch_interval_seconds);
        if step.world.now < earliest && clients(step.world, &run) > 0 {
            return step.say(format!("The next batch goes at {earliest}."));
        }
    }
    if clients(step.world, &run) == 0 {
        return without_clients(step, &run);
    }
    if step.is_paused() {
        return step.say("Paused between two batches.");
    }
    if let Some(obstacle) = step.world.obstacles.first() {
        return step.say(format!("No further batch: {obstacle}"));
    }
    let owners: Vec<_> = step.world.pods(target).iter().filter_map(Pod::node).collect();
    if owners.iter().all(|node| node.owner_revision.as_ref() != Some(target)) {
        return step.say(format!(
            "Waits until nodes of revision {target} know that they own the partitions."
        ));
    }
    // What was decided above may have slowed it.
    let Some(run) = step.status.rollout.clone() else { return };
    let size = batch_size(step, &run);
    grant(step, size, false);
}

/// How the message ends while a drain stands still: it is told once as an event.
const NEW_CLIENTS_FAIL: &str = ", and new clients fail.";

/// Few clients came back. True if the drain goes on all the same, at a quarter of the rate.
fn goes_on_slowly(step: &mut Step<'_>, run: &RolloutStatus, target: &Revision, text: &str) -> bool {
    let first_time = !run.message.contains(NEW_CLIENTS_FAIL);
    if step.spec.drain.on_low_resume == OnLowResume::RollBack && may_go_back(run) {
        step.abort(&format!("only {text}"), Verdict::Rejected);
        return false;
    }
    let mut nodes = step.world.pods(target).iter().filter(|pod| pod.ready && !pod.ending);
    let healthy = nodes.all(|pod| pod.node().is_some_and(|node| node.accepts));
    if healthy && step.world.ready(target) >= step.world.replicas {
        if let Some(run) = &mut step.status.rollout
            && !run.slowed
        {
            run.slowed = true;
            let text = format!(
                "{text}. New clients are well, so the drain goes on at a quarter of its rate."
            );
            step.events.push(Event::warning("ResumeRatioLow", text));
        }
        return true;
    }
    let text = format!("No further batch: {text}{NEW_CLIENTS_FAIL}");
    if first_time {
        step.events.push(Event::warning("ResumeRatioLow", text.as_str()));
    }
    step.say(text);
    false
}

/// Clients that are to move and were not asked yet.
fn clients(world: &World, run: &RolloutStatus) -> i64 {
    drainable(world, run).iter().map(|(_, connections)| connections).sum()
}

fn drainable<'a>(world: &'a World, run: &RolloutStatus) -> Vec<(&'a Pod, i64)> {
    let clients = world.givers(run).into_iter().filter_map(|pod| {
        let node = pod.node()?;
        (pod.running && !pod.ending && node.unasked > 0).then_some((pod, node.unasked))
    });
    clients.collect()
}

/// Whether there is a revision to go back to.
fn may_go_back(run: &RolloutStatus) -> bool {
    !run.rollback && run.pods.is_empty()
}

/// Nobody is known to be left: either all pods are empty, or some do not answer.
fn without_clients(step: &mut Step<'_>, run: &RolloutStatus) {
    let mut pods = step.world.givers(run);
    pods.retain(|pod| !pod.ending);
    let silent = pods.iter().filter(|pod| pod.running && pod.node().is_none()).count();
    if silent > 0 {
        return step.say(format!("{silent} nodes do not answer: waits for them."));
    }
    let nodes = pods.iter().filter_map(|pod| pod.node());
    let leaving: i64 = nodes.map(|node| node.connections).sum();
    if leaving > 0 {
        return step.say(format!("Waits for {leaving} clients that were asked to move."));
    }
    // Those of older revisions get no traffic, ready or not.
    let open = pods.iter().filter(|pod| pod.running && pod.ready).count();
    if open > 0 && !run.pods.is_empty() {
        return step.say(format!("Waits until {open} nodes get no new clients."));
    }
    retire(step, "No client is left where clients moved from.");
}

fn retire(step: &mut Step<'_>, text: &str) {
    let Some(run) = step.status.rollout.clone() else { return };
    let sum = total(step.world, &run);
    step.enter(Phase::Retiring);
    if let Some(run) = &mut step.status.rollout {
        (run.told, run.counted, run.resumed) = (sum.told, sum.counted, sum.resumed);
        run.batch = None;
    }
    step.say(text);
}

/// Counts of all batches.
fn total(world: &World, run: &RolloutStatus) -> Counts {
    let last = run.batch.as_ref().map(|batch| counts(world, run, batch)).unwrap_or_default();
    Counts {
        told: run.told + last.told,
        counted: run.counted + last.counted,
        resumed: run.resumed + last.resumed,
    }
}

fn batch_size(step: &Step<'_>, run: &RolloutStatus) -> i64 {
    let all = run.connections.max(clients(step.world, run));
    let percent = match (&run.batch, run.slowed) {
        (None, _) => return (all * limits::FIRST_BATCH_PERCENT / 100).max(1),
        (Some(_), false) => i64::from(step.spec.drain.batch_percent),
        (Some(_), true) => i64::from(step.spec.drain.batch_percent) / limits::SLOWED_BY,
    };
    (all * percent.max(1) / 100).max(1)
}

/// Grants a batch of at most `size` clients: the first nodes by name give as many as they have, so that nodes become
/// empty one after the other.
fn grant(step: &mut Step<'_>, size: i64, forced: bool) {
    let Some(run) = step.status.rollout.clone() else { return };
    let mut pods = drainable(step.world, &run);
    pods.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let mut rest = size;
    let mut grants = Vec::new();
    for (pod, connections) in pods {
        let count = connections.min(rest);
        if count > 0 {
            grants.push(Grant { pod: pod.name.clone(), connections: count });
            rest -= count;
        }
    }
    let sum = total(step.world, &run);
    let number = run.batch.as_ref().map_or(0, |batch| batch.number) + 1;
    let batch = BatchStatus {
        number,
        grants,
        granted_at: step.world.now,
        forced,
        accepted: false,
        ended_at: None,
    };
    let clients = size - rest;
    let nodes = batch.grants.len();
    for grant in &batch.grants {
        step.actions.push(grant_action(step, &run, &batch, grant));
    }
    step.events.push(Event::normal(
        "DrainBatchStarted",
        format!("Batch {number}: {clients} clients of {nodes} nodes are asked to move."),
    ));
    if let Some(run) = &mut step.status.rollout {
        (run.told, run.counted, run.resumed) = (sum.told, sum.counted, sum.resumed);
        run.batch = Some(batch);
    }
    step.say(format!("Batch {number} asks {clients} clients to move."));
}

/// The time for all batches is over.
fn at_deadline(step: &mut Step<'_>, run: &RolloutStatus) {
    if step.spec.drain.on_deadline == OnDeadline::RollBack && may_go_back(run) {
        step.abort("clients did not move before the deadline", Verdict::Rejected);
        return;
    }
    let left = clients(step.world, run);
    let forced =
        step.status.rollout.as_ref().and_then(|run| run.batch.as_ref()).is_some_and(|b| b.forced);
    let under_way = forced
        && step.status.rollout.as_ref().and_then(|run| run.batch.as_ref()).is_some_and(|batch| {
            after(batch.granted_at, step.spec.drain.resume_window_seconds) > step.world.now
                && batch.ended_at.is_none()
        });
    if under_way {
        return;
    }
    if left > 0 && !forced {
        step.events.push(Event::warning(
            "StragglersForced",
            format!("The deadline has passed: the last {left} clients are asked to move at once."),
        ));
        return grant(step, left, true);
    }
    retire(step, "The deadline has passed; pods end.");
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn nodes_share_the_rate_as_they_share_the_clients() {
        assert_eq!(share(20, 95, 95), 20, "one node alone");
        assert_eq!((share(20, 90, 100), share(20, 10, 100)), (18, 2), "both take five seconds");
        assert_eq!(share(20, 1, 1_000), 1, "none stands still");
        assert_eq!(share(5, 0, 0), 1);
    }
}
