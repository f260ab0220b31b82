//! Pods of the active revision that are to go, while the revision stays: a smaller fleet, a machine that is being
//! emptied, a person who asks. Their clients move to the other pods by the same drain as in a rollout.
//!
//! What is wanted is read from the cluster in each pass and never remembered: an annotation that is taken back, a machine
//! that is uncordoned, a fleet that grows again end it.
//!
//! A ReplicaSet that gets smaller picks its pods by itself: first those without a machine, then those not ready. So a
//! pod goes only when it gets no traffic any more, and it is deleted by name in the pass in which the set gets smaller.

use std::cmp::Reverse;

use crds::{Phase, RolloutStatus};

use super::step::Step;
use super::{Event, Pod, drain};
use crate::build::Revision;

impl Step<'_> {
    /// Begins to empty pods, if some are to go.
    pub(super) fn move_if_needed(&mut self, active: &Revision) {
        let chosen = self.choose(active);
        if chosen.is_empty() {
            return;
        }
        let why = self.reasons(active, &chosen);
        self.begin_moving(active, chosen);
        self.events.push(Event::normal("PodsLeaving", why.as_str()));
        self.say(why);
    }

    /// The pods that are to go next: those that are too many, and some of those that others want to be gone.
    fn choose(&self, active: &Revision) -> Vec<String> {
        let mut pods: Vec<&Pod> =
            self.world.pods(active).iter().filter(|pod| !pod.ending).collect();
        pods.sort_by_key(|pod| cost(pod));
        let kept = usize::try_from(self.world.replicas).unwrap_or(0);
        let surplus = pods.len().saturating_sub(kept);
        let (gone, rest) = pods.split_at(surplus);
        // Each of these gets a successor first, so there are never fewer than the resource asks for.
        let at_once = usize::try_from(self.world.disruption.max_unavailable).unwrap_or(1);
        let unwanted = rest.iter().filter(|pod| pod.leaves.is_some()).take(at_once);
        gone.iter().chain(unwanted).map(|pod| pod.name.clone()).collect()
    }

    fn reasons(&self, active: &Revision, chosen: &[String]) -> String {
        let pods = self.world.pods(active).iter().filter(|pod| chosen.contains(&pod.name));
        let reasons = pods.map(|pod| match &pod.leaves {
            Some(why) => format!("{} goes: {why}.", pod.name),
            None => format!("{} goes: {} nodes are wanted.", pod.name, self.world.replicas),
        });
        reasons.collect::<Vec<String>>().join(" ")
    }

    /// Lets pods stay that are not to go any more, and ends the rollout if none is left.
    pub(super) fn follow_move(&mut self, run: &RolloutStatus) {
        let target = Revision::new(run.to.as_str());
        let present = self.world.pods(&target).iter().filter(|pod| !pod.ending);
        let (going, staying): (Vec<&Pod>, Vec<&Pod>) =
            present.partition(|pod| run.pods.contains(&pod.name));
        // Who takes over and has not come so far yet goes rather than a pod with clients.
        let counts = |pod: &&&Pod| match run.phase {
            Phase::Provisioning => pod.ready,
            _ => pod.running,
        };
        let there = staying.iter().filter(counts).count();
        // Who retires has no clients any more: somebody else may take the place.
        let missing = match run.phase {
            Phase::Retiring => 0,
            _ => usize::try_from(self.world.replicas).unwrap_or(0).saturating_sub(there),
        };
        let mut free: Vec<&Pod> =
            going.iter().copied().filter(|pod| pod.leaves.is_none()).collect();
        free.sort_by_key(|pod| Reverse(cost(pod)));
        let stays: Vec<String> = free.iter().take(missing).map(|pod| pod.name.clone()).collect();
        if going.len() == stays.len() {
            if !stays.is_empty() {
                let text = format!("{} stay: they are not to go any more.", stays.join(", "));
                self.events.push(Event::normal("PodsStay", text));
            }
            return self.end_move(run);
        }
        if let Some(run) = &mut self.status.rollout {
            run.pods.retain(|name| !stays.contains(name));
        }
    }

    fn end_move(&mut self, run: &RolloutStatus) {
        if run.phase == Phase::Retiring {
            let text =
                format!("{}: {} clients moved to other pods.", run.pods.join(", "), run.told);
            self.events.push(Event::normal("PodsEmptied", text));
        }
        self.status.rollout = None;
    }

    /// Waits for the pods that take over. Without them it goes on at the deadline, if enough others are ready.
    pub(super) fn provision_move(&mut self, run: &RolloutStatus) {
        let wanted = self.world.replicas;
        let ready = self.takers(run);
        let givers = self.world.givers(run);
        let late = run.deadline_at.is_some_and(|deadline| deadline <= self.world.now);
        let may_go = ready >= wanted || (late && ready >= self.least());
        // Who has no process has no clients that could move.
        if may_go || givers.iter().all(|pod| !pod.running) {
            self.enter(Phase::Draining);
            return self.say(format!("Clients of {} move to other pods.", run.pods.join(", ")));
        }
        let late = if late { " The deadline has passed." } else { "" };
        self.say(format!("Waits for pods that take over: {ready} of {wanted} are ready.{late}"));
    }

    /// Ready pods that clients can move to.
    pub(super) fn takers(&self, run: &RolloutStatus) -> i32 {
        let target = Revision::new(run.to.as_str());
        let pods = self.world.pods(&target).iter();
        let ready = pods.filter(|pod| pod.ready && !pod.ending && !run.pods.contains(&pod.name));
        i32::try_from(ready.count()).unwrap_or(i32::MAX)
    }

    /// Fewest ready pods while others are emptied.
    fn least(&self) -> i32 {
        (self.world.replicas - self.world.disruption.max_unavailable).max(1)
    }

    /// Goes on with the drain, while there are enough pods to move to.
    pub(super) fn drain_move(&mut self, run: &RolloutStatus, target: &Revision) {
        let (ready, least) = (self.takers(run), self.least());
        if ready < least {
            return self.say(format!(
                "No further batch: {ready} other nodes are ready, and {least} are needed."
            ));
        }
        drain::drain(self, run, target);
    }

    /// Pods that are empty and go now.
    pub(super) fn deletions(&self) -> Vec<String> {
        let run = self.status.rollout.as_ref();
        let run = run.filter(|run| run.phase == Phase::Retiring && !run.pods.is_empty());
        let pods = run.map(|run| self.world.givers(run)).unwrap_or_default();
        pods.iter().filter(|pod| !pod.ending).map(|pod| pod.name.clone()).collect()
    }

    /// How many pods the revision is to have while some of its pods are emptied; `live` is what its set says.
    pub(super) fn moving_replicas(&self, run: &RolloutStatus, live: i32) -> i32 {
        let target = Revision::new(run.to.as_str());
        let present = self.world.pods(&target).iter().filter(|pod| !pod.ending);
        let (going, staying): (Vec<&Pod>, Vec<&Pod>) =
            present.partition(|pod| run.pods.contains(&pod.name));
        let count = |pods: &[&Pod]| i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let wanted = self.world.replicas;
        if run.phase != Phase::Retiring {
            return live.max(wanted + count(&going));
        }
        // The set would rather take a pod that is not ready, and that one may have clients.
        let certain = going.iter().all(|pod| !pod.ready)
            && staying.iter().all(|pod| pod.ready || pod.is_empty());
        if certain { wanted.max(count(&staying)) } else { live.max(wanted) }
    }
}

/// Which pod is missed least comes first: without a process, unwanted where it is, not ready, with few clients, young.
fn cost(pod: &Pod) -> (u8, i64, Reverse<Option<jiff::Timestamp>>, String) {
    let rank = match (pod.running, &pod.leaves, pod.ready, pod.node()) {
        (false, ..) => 0,
        (_, Some(_), ..) => 1,
        (_, _, false, _) => 2,
        (.., Some(_)) => 3,
        // Nobody can ask the clients of a node that does not answer.
        (.., None) => 4,
    };
    let clients = pod.node().map_or(0, |node| node.connections);
    (rank, clients, Reverse(pod.created_at), pod.name.clone())
}
