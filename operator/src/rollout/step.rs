//! One step of the rollout.

use std::collections::BTreeMap;

use crds::{
    ChatClusterStatus, HistoryEntry, OnProgressDeadline, Outcome, Phase, RolloutSpec, RolloutStatus,
};
use jiff::{SignedDuration, Timestamp};

use super::edit::Verdict;
use super::{Action, Event, NodeMode, Plan, World, drain};
use crate::build::{Budget, Fleet, Revision};
use crate::limits;

/// Decides what to do. See the module's documentation.
pub fn next_step(spec: &RolloutSpec, status: &ChatClusterStatus, world: &World) -> Plan {
    let mut step = Step { spec, world, status: status.clone(), actions: vec![], events: vec![] };
    step.adopt();
    step.obey();
    step.follow_wanted();
    step.advance();
    step.tell_nodes();
    step.finish()
}

/// A step in the making.
pub(super) struct Step<'a> {
    pub(super) spec: &'a RolloutSpec,
    pub(super) world: &'a World,
    pub(super) status: ChatClusterStatus,
    pub(super) actions: Vec<Action>,
    pub(super) events: Vec<Event>,
}

impl Step<'_> {
    /// A status that was lost or never written: what the Service selects is what serves.
    fn adopt(&mut self) {
        if self.status.active_revision.is_none() {
            let live = |revision: &&Revision| self.world.revisions.contains_key(*revision);
            let selected = self.world.selected.as_ref().filter(live);
            if self.status.rollout.is_none() {
                self.status.active_revision = selected.map(ToString::to_string);
            }
        }
    }

    pub(super) fn active(&self) -> Option<Revision> {
        self.status.active_revision.as_deref().map(Revision::new)
    }

    /// Whether none of its pods has a client.
    pub(super) fn is_idle(&self, revision: &Revision) -> bool {
        self.world.pods(revision).iter().all(super::Pod::is_empty)
    }

    /// Begins a rollout.
    pub(super) fn begin(&mut self, from: &Revision, to: &Revision, phase: Phase, rollback: bool) {
        let now = self.world.now;
        let mut id = format!("{to}-{}", now.as_second());
        // Two rollouts to one revision within a second, one of them aborted.
        while self.status.history.iter().any(|entry| entry.id == id) {
            id.push('a');
        }
        if !rollback {
            self.events.push(Event::normal(
                "RolloutStarted",
                format!("Rollout {id} from revision {from} to {to}."),
            ));
        }
        self.start(id, from, to, phase, rollback, Vec::new());
    }

    /// Begins to empty pods of a revision.
    pub(super) fn begin_moving(&mut self, revision: &Revision, pods: Vec<String>) {
        // A node refuses a name that was cancelled on it, and these can follow each other within a second.
        self.status.moves += 1;
        let id = format!("{revision}-{}-{}", self.world.now.as_second(), self.status.moves);
        self.start(id, revision, revision, Phase::Provisioning, false, pods);
    }

    fn start(
        &mut self,
        id: String,
        from: &Revision,
        to: &Revision,
        phase: Phase,
        rollback: bool,
        pods: Vec<String>,
    ) {
        let now = self.world.now;
        self.status.rollout = Some(RolloutStatus {
            id,
            pods,
            from: from.to_string(),
            to: to.to_string(),
            rollback,
            paused: false,
            promoted: false,
            phase,
            nodes: self.world.replicas,
            started_at: now,
            phase_started_at: now,
            ready_since: None,
            deadline_at: None,
            connections: 0,
            batch: None,
            told: 0,
            counted: 0,
            resumed: 0,
            lost: 0,
            slowed: false,
            message: "It begins.".to_owned(),
        });
        self.enter(phase);
    }

    /// Enters a phase of the running rollout.
    pub(super) fn enter(&mut self, phase: Phase) {
        let (now, spec) = (self.world.now, self.spec);
        let Some(run) = &mut self.status.rollout else { return };
        run.phase = phase;
        run.phase_started_at = now;
        run.deadline_at = match phase {
            // It counts from the beginning, whatever happens in between.
            Phase::Provisioning => Some(after(run.started_at, spec.progress_deadline_seconds)),
            Phase::Soaking => Some(after(now, spec.soak_seconds)),
            Phase::Draining => Some(after(now, spec.drain.deadline_seconds)),
            _ => None,
        };
        if phase == Phase::Draining {
            let givers = self.world.givers(run);
            let nodes = givers.into_iter().filter_map(super::Pod::node);
            run.connections = nodes.map(|node| node.connections).sum();
        }
    }

    pub(super) fn say(&mut self, message: impl Into<String>) {
        if let Some(run) = &mut self.status.rollout {
            run.message = message.into().chars().take(limits::MESSAGE_CHARACTERS).collect();
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.spec.paused || self.status.rollout.as_ref().is_some_and(|run| run.paused)
    }

    /// Goes on as far as it can without waiting.
    fn advance(&mut self) {
        // Each phase is entered at most once in a step, so that every state is written before it is acted on.
        let Some(run) = self.status.rollout.clone() else { return };
        let target = Revision::new(run.to.as_str());
        match run.phase {
            Phase::Draining if !run.pods.is_empty() => self.drain_move(&run, &target),
            Phase::Retiring if !run.pods.is_empty() => self.say("Empty pods end."),
            _ if !run.pods.is_empty() => self.provision_move(&run),
            Phase::Provisioning => self.provision(&run, &target),
            Phase::Verifying => self.verify(&run, &target),
            Phase::AwaitingPromotion => self.await_promotion(&run, &target),
            Phase::Switching => self.switch(&run, &target),
            Phase::Soaking => self.soak(&run, &target),
            Phase::Draining => drain::drain(self, &run, &target),
            Phase::Retiring => self.retire(&run, &target),
            _ => self.enter(Phase::Provisioning),
        }
    }

    /// How many ready pods are enough. Going back, half of them serve better than none.
    fn enough(&self, run: &RolloutStatus) -> i32 {
        match run.rollback {
            true => (self.world.replicas + 1) / 2,
            false => self.world.replicas,
        }
    }

    fn provision(&mut self, run: &RolloutStatus, target: &Revision) {
        let (ready, enough) = (self.world.ready(target), self.enough(run));
        if ready >= enough {
            self.enter(Phase::Verifying);
            let now = self.world.now;
            if let Some(run) = &mut self.status.rollout {
                run.ready_since = Some(now);
            }
            let text = format!("All {ready} nodes of revision {target} are ready.");
            self.say(text.as_str());
            self.events.push(Event::normal("GreenReady", text));
            return;
        }
        let late = run.deadline_at.is_some_and(|deadline| deadline <= self.world.now);
        let may_abort = self.active().is_some() && !run.rollback;
        if late && may_abort && self.spec.on_progress_deadline == OnProgressDeadline::Abort {
            self.abort("the new revision was not ready in time", Verdict::Rejected);
            return;
        }
        let late = if late { " The deadline has passed." } else { "" };
        self.say(format!(
            "Waits for nodes of revision {target}: {ready} of {enough} are ready.{late}"
        ));
    }

    fn verify(&mut self, run: &RolloutStatus, target: &Revision) {
        if self.world.ready(target) < self.enough(run) {
            self.enter(Phase::Provisioning);
            if let Some(run) = &mut self.status.rollout {
                run.ready_since = None;
            }
            self.say(format!("A node of revision {target} is not ready any more."));
            return;
        }
        let pods = self.world.pods(target).iter().filter(|pod| pod.ready && !pod.ending);
        let behind = pods.filter(|pod| !pod.node().is_some_and(|node| node.is_caught_up)).count();
        if behind > 0 && !run.rollback {
            self.say(format!(
                "Waits for {behind} nodes of revision {target} to know all partitions."
            ));
            return;
        }
        let since = run.ready_since.unwrap_or(run.phase_started_at);
        let until = after(since, self.spec.verify_seconds);
        if self.world.now < until && !run.rollback {
            self.say(format!("Revision {target} has to stay ready until {until}."));
            return;
        }
        let asks =
            !self.spec.auto_promote && !run.promoted && !run.rollback && !run.from.is_empty();
        if asks {
            self.enter(Phase::AwaitingPromotion);
            let text = format!(
                "Waits to be promoted: annotate the ChatCluster with chatcluster.dev/promote={}.",
                run.id
            );
            self.say(text.as_str());
            self.events.push(Event::normal("PromotionPending", text));
            return;
        }
        self.begin_switch(run, target);
    }

    fn await_promotion(&mut self, run: &RolloutStatus, target: &Revision) {
        if self.world.ready(target) < self.enough(run) {
            self.enter(Phase::Provisioning);
        } else if run.promoted || self.spec.auto_promote {
            self.begin_switch(run, target);
        }
    }

    fn begin_switch(&mut self, run: &RolloutStatus, target: &Revision) {
        if self.is_paused() && !run.rollback {
            self.say("Paused before the switch.");
            return;
        }
        self.enter(Phase::Switching);
        self.status.active_revision = Some(target.to_string());
        self.say(format!("New clients go to revision {target}."));
    }

    fn switch(&mut self, run: &RolloutStatus, target: &Revision) {
        self.status.active_revision = Some(target.to_string());
        if self.world.selected.as_ref() != Some(target) {
            self.say(format!("Waits for the Service to select revision {target}."));
            return;
        }
        self.events
            .push(Event::normal("Promoted", format!("Revision {target} gets all new clients.")));
        let is_alone = self.world.source_pods(target).next().is_none();
        match (is_alone, run.rollback) {
            (true, _) => self.enter(Phase::Retiring),
            (false, true) => self.enter(Phase::Draining),
            (false, false) => self.enter(Phase::Soaking),
        }
        self.say(format!("New clients go to revision {target}; nobody was asked to move yet."));
    }

    /// Whether the new revision broke after the switch. True if the rollout went back.
    pub(super) fn goes_back_if_broken(&mut self, run: &RolloutStatus, target: &Revision) -> bool {
        let ready = self.world.ready(target);
        // A fleet that was made larger since is not broken because its new pods still start.
        let nodes = self.world.replicas.min(run.nodes);
        if ready * 2 >= nodes || run.rollback || self.is_paused() {
            return false;
        }
        if !self.spec.auto_rollback {
            self.say(format!("Only {ready} nodes of revision {target} are ready: waits for them."));
            return true;
        }
        let why = format!("only {ready} nodes of revision {target} are ready");
        let before = self.status.rollout.as_ref().map(|run| run.id.clone());
        self.abort(&why, Verdict::Rejected);
        if self.status.rollout.as_ref().map(|run| run.id.clone()) == before {
            self.say(format!("Waits for nodes of revision {target}: {why}."));
        }
        true
    }

    fn soak(&mut self, run: &RolloutStatus, target: &Revision) {
        if self.goes_back_if_broken(run, target) {
            return;
        }
        let until = run.deadline_at.unwrap_or(self.world.now);
        if self.world.now < until {
            self.say(format!("Revision {target} serves new clients; others move from {until}."));
            return;
        }
        if self.is_paused() {
            self.say("Paused before the first batch.");
            return;
        }
        self.enter(Phase::Draining);
        self.say("Clients of older revisions are asked to move.");
    }

    fn retire(&mut self, run: &RolloutStatus, target: &Revision) {
        let left = self.world.givers(run).len();
        if left > 0 {
            self.say(format!("Waits for {left} pods of older revisions to end."));
            return;
        }
        // Else the nodes of the next revision would own partitions as soon as they start.
        let late = after(run.phase_started_at, limits::OWNER_SECONDS_MAX) <= self.world.now;
        let mut nodes = self.world.pods(target).iter().filter_map(super::Pod::node);
        if !late && nodes.any(|node| node.owner_revision.as_ref() != Some(target)) {
            self.say("Waits until the nodes know that they own the partitions.");
            return;
        }
        let text = match run.rollback {
            true => "All clients are on the older revision again.",
            false => "All clients are on the new revision.",
        };
        self.complete(run, text);
    }

    fn complete(&mut self, run: &RolloutStatus, why: &str) {
        self.record(run, Outcome::Completed, why);
        self.events.push(Event::normal(
            "RolloutCompleted",
            format!("Revision {} serves alone: {} clients moved.", run.to, run.told),
        ));
        self.status.rollout = None;
    }

    pub(super) fn record(&mut self, run: &RolloutStatus, outcome: Outcome, why: &str) {
        let entry = HistoryEntry {
            id: run.id.clone(),
            from: run.from.clone(),
            to: run.to.clone(),
            outcome,
            started_at: run.started_at,
            ended_at: self.world.now,
            told: run.told,
            counted: run.counted,
            resumed: run.resumed,
            lost: run.lost,
            message: why.to_owned(),
        };
        self.status.history.insert(0, entry);
        self.status.history.truncate(usize::try_from(self.spec.history_limit).unwrap_or(0));
    }

    /// Tells nodes which side they are on. It depends on the status alone, so it is told again after a restart.
    fn tell_nodes(&mut self) {
        let run = self.status.rollout.as_ref();
        let target = run.map(|run| Revision::new(run.to.as_str())).or_else(|| self.active());
        let Some(target) = target else { return };
        let moves = |pod: &super::Pod| run.is_some_and(|run| run.pods.contains(&pod.name));
        let serving = self.world.pods(&target).iter().filter(|pod| !moves(pod));
        self.actions.extend(serving.filter_map(|pod| cancel(pod, |_| true)));
        let Some(run) = run else { return };
        // On the way back tokens that lead to the new revision have to lose their meaning before anyone moves.
        let owns = run.rollback || matches!(run.phase, Phase::Draining | Phase::Retiring);
        let mut nodes = self.world.pods(&target).iter().filter_map(super::Pod::node);
        if owns && nodes.any(|node| node.owner_revision.as_ref() != Some(&target)) {
            let rollout = run.id.clone();
            let generation = generation(run);
            self.actions.push(Action::Own { revision: target.clone(), rollout, generation });
        }
        if !matches!(run.phase, Phase::Soaking | Phase::Draining | Phase::Retiring) {
            return;
        }
        for pod in self.world.givers(run) {
            // What an earlier rollout told it ends first.
            let earlier = cancel(pod, |rollout| rollout != run.id);
            self.actions.extend(earlier.or_else(|| prepare(pod, &run.id)));
        }
    }

    fn finish(mut self) -> Plan {
        let fleet = self.fleet();
        let run = self.status.rollout.as_ref();
        self.status.preview_revision = run
            .filter(|run| before_switch(run.phase) && !run.rollback && !run.from.is_empty())
            .filter(|run| run.pods.is_empty())
            .map(|run| run.to.clone());
        self.status.phase = match run {
            Some(run) => run.phase,
            None if self.status.active_revision.is_none() => Phase::Starting,
            None if self.active().as_ref() == Some(&self.world.wanted) => Phase::Steady,
            None => Phase::Held,
        };
        if let Some(run) = run
            && (run.rollback || matches!(run.phase, Phase::Draining | Phase::Retiring))
        {
            self.status.owner_revision = Some(run.to.clone());
        }
        self.describe();
        let waits = self.status.rollout.is_some();
        let deletions = self.deletions();
        let Step { status, actions, events, .. } = self;
        Plan { status, fleet, actions, deletions, events, waits }
    }

    /// Counts that the status shows.
    fn describe(&mut self) {
        let shown = self
            .active()
            .or_else(|| self.status.rollout.as_ref().map(|run| Revision::new(run.to.as_str())));
        let Some(shown) = shown else { return };
        let pods = self.world.pods(&shown).iter().filter(|pod| !pod.ending).count();
        self.status.replicas = i32::try_from(pods).unwrap_or(i32::MAX);
        self.status.ready_replicas = self.world.ready(&shown);
    }

    /// How many pods of each revision. Made from the resource and from what lives, never from counts in the status.
    fn fleet(&self) -> Fleet {
        let mut replicas = BTreeMap::new();
        let world = self.world;
        let run = self.status.rollout.as_ref();
        let active = self.active();
        let target = run.map(|run| Revision::new(run.to.as_str())).or_else(|| active.clone());
        for (revision, seen) in &world.revisions {
            if Some(revision) == target.as_ref() || Some(revision) == active.as_ref() {
                continue;
            }
            let retires = run.is_some_and(|run| run.phase == Phase::Retiring);
            // Where the rollout came from stays whole until the end: it is the way back.
            let kept = run.is_some_and(|run| run.from == revision.as_str());
            let idle = !kept && self.is_idle(revision);
            let count = if retires || idle { 0 } else { seen.replicas };
            // What has no pods any more is not part of the fleet, and is removed.
            if count > 0 || !seen.pods.is_empty() {
                replicas.insert(revision.clone(), count);
            }
        }
        for revision in target.iter().chain(active.iter()) {
            let live = world.revisions.get(revision).map_or(0, |seen| seen.replicas);
            let count = match run {
                Some(run) if !run.pods.is_empty() => self.moving_replicas(run, live),
                // While clients move, nobody shrinks what they move to.
                Some(_) => world.replicas.max(live),
                None => world.replicas.max(live.min(self.present(revision))),
            };
            replicas.insert(revision.clone(), count);
        }
        let preview = run.filter(|run| before_switch(run.phase)).and(target);
        let preview = preview.filter(|revision| Some(revision) != active.as_ref());
        let budgets = replicas.keys().map(|name| (name.clone(), self.budget(name))).collect();
        Fleet { active, preview, wanted: world.wanted.clone(), replicas, budgets }
    }

    /// Pods of a revision that are not on their way out. A set at rest never gets smaller than that: pods go only after
    /// their clients.
    fn present(&self, revision: &Revision) -> i32 {
        let pods = self.world.pods(revision).iter().filter(|pod| !pod.ending);
        i32::try_from(pods.count()).unwrap_or(i32::MAX)
    }

    /// What evictions may take away of a revision.
    fn budget(&self, revision: &Revision) -> Budget {
        let disruption = self.world.disruption;
        let run = self.status.rollout.as_ref();
        // While clients wait for people, or for pods that may never start, machines must not wait for them.
        let waits = run.is_some_and(|run| {
            run.pods.is_empty() && (before_switch(run.phase) || self.is_paused())
        });
        let held = disruption.holds && !waits;
        // A node that is prepared is not ready, and may have all of its clients.
        let moves = |run: &RolloutStatus| {
            let gives = run.to != revision.as_str() || !run.pods.is_empty();
            gives && matches!(run.phase, Phase::Soaking | Phase::Draining | Phase::Retiring)
        };
        // One that does not answer may be prepared, too. A revision that never starts does not answer either, and has no
        // clients: machines do not wait for that.
        let may_be_prepared = |pod: &super::Pod| match pod.node() {
            Some(node) => node.mode == NodeMode::Prepared,
            None => !waits && pod.running && !pod.ready,
        };
        let prepared = self.world.pods(revision).iter().any(may_be_prepared);
        Budget {
            max_unavailable: if held { 0 } else { disruption.max_unavailable },
            unready_go: !(prepared || run.is_some_and(moves)),
        }
    }
}

/// Ends what a rollout told a node, if there is one for which `ends` holds.
fn cancel(pod: &super::Pod, ends: impl Fn(&str) -> bool) -> Option<Action> {
    let node = pod.node().filter(|node| !pod.ending && node.mode == NodeMode::Prepared)?;
    let rollout = node.rollout.as_deref().unwrap_or_default();
    ends(rollout).then(|| Action::Cancel { pod: pod.name.clone(), rollout: rollout.to_owned() })
}

fn prepare(pod: &super::Pod, rollout: &str) -> Option<Action> {
    pod.node().filter(|node| !pod.ending && node.mode == NodeMode::Serving)?;
    Some(Action::Prepare { pod: pod.name.clone(), rollout: rollout.to_owned() })
}

/// Number of a rollout that is higher than those of all before it.
pub(super) fn generation(run: &RolloutStatus) -> i64 {
    run.started_at.as_second()
}

pub(super) fn before_switch(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Verifying | Phase::AwaitingPromotion)
}

pub(super) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
