//! What changes the course of a rollout: commands, and edits of the resource.

use crds::{HandledCommand, Outcome, Phase, RolloutStatus};

use super::step::{Step, before_switch};
use super::{Command, Event};
use crate::build::Revision;
use crate::limits;

/// What becomes of the revision that a rollout goes back from.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It does not start again by itself.
    Rejected,
    /// The resource asks for another one; nothing is wrong with it.
    Unwanted,
}

impl Step<'_> {
    pub(super) fn obey(&mut self) {
        let Some(order) = self.world.order.clone() else { return };
        let current = self.status.rollout.as_ref().is_some_and(|run| run.id == order.target);
        let result = match order.command {
            Command::Retry => self.retry(&order.target),
            _ if !current => format!("There is no rollout {} to {}.", order.target, order.name()),
            Command::Promote => self.promote(),
            Command::Pause => self.pause(true),
            Command::Resume => self.pause(false),
            Command::Abort => self.abort("somebody aborted it", Verdict::Rejected),
        };
        // A command whose annotation could not be removed is read again; what came of it the first time counts.
        let again = self
            .status
            .last_command
            .as_ref()
            .is_some_and(|last| last.command == order.name() && last.target == order.target);
        if current || !again {
            self.status.last_command = Some(HandledCommand {
                command: order.name().to_owned(),
                target: order.target,
                at: self.world.now,
                result,
            });
        }
    }

    fn retry(&mut self, revision: &str) -> String {
        if self.status.rejected_revision.as_deref() != Some(revision) {
            return format!("Revision {revision} is not rejected.");
        }
        self.status.rejected_revision = None;
        format!("Revision {revision} is tried again.")
    }

    fn promote(&mut self) -> String {
        let Some(run) = &mut self.status.rollout else { return String::new() };
        if !run.pods.is_empty() {
            return "There is nothing to promote: pods of one revision are emptied.".to_owned();
        }
        if !before_switch(run.phase) {
            return "It is promoted already.".to_owned();
        }
        run.promoted = true;
        "It is switched to as soon as it is verified.".to_owned()
    }

    fn pause(&mut self, paused: bool) -> String {
        let Some(run) = &mut self.status.rollout else { return String::new() };
        if run.paused != paused {
            let (reason, text) = match paused {
                true => ("RolloutPaused", "stands still"),
                false => ("RolloutResumed", "goes on"),
            };
            self.events.push(Event::normal(reason, format!("Rollout {} {text}.", run.id)));
        }
        run.paused = paused;
        match (paused, &mut run.batch) {
            (true, _) => "It stands still; what was granted ends.".to_owned(),
            (false, batch) => {
                // Whoever resumes has seen how many came back.
                if let Some(batch) = batch {
                    batch.accepted = true;
                }
                "It goes on.".to_owned()
            }
        }
    }

    /// Ends the rollout: before the switch the new revision goes, after it new clients go back to the old one.
    pub(super) fn abort(&mut self, why: &str, verdict: Verdict) -> String {
        let Some(run) = self.status.rollout.clone() else { return String::new() };
        let target = Revision::new(run.to.as_str());
        if !run.pods.is_empty() {
            return "It goes on as long as its reason is there: uncordon the machine, take the annotation \
                    chatcluster.dev/drain off the pod, or ask for more nodes."
                .to_owned();
        }
        if before_switch(run.phase) {
            let Some(active) = self.active() else {
                return "Nothing serves yet that could stay: change the spec instead.".to_owned();
            };
            self.reject(&target, verdict);
            let outcome = match verdict {
                Verdict::Rejected => Outcome::Aborted,
                Verdict::Unwanted => Outcome::Superseded,
            };
            self.record(&run, outcome, why);
            self.begin(&target, &active, Phase::Draining, true);
            self.events.push(Event::warning(
                "RolloutAborted",
                format!("Rollout {} ends, because {why}. No client was moved.", run.id),
            ));
            return "It is aborted; no client was moved.".to_owned();
        }
        let Some(back) = self.way_back(&run) else {
            return "The revision before has no pods any more: change the spec instead.".to_owned();
        };
        self.reject(&target, verdict);
        self.record(&run, Outcome::RolledBack, why);
        self.begin(&target, &back, Phase::Provisioning, true);
        self.events.push(Event::warning(
            "RolledBack",
            format!("Clients go back to revision {back}, because {why}."),
        ));
        format!("New clients go back to revision {back}.")
    }

    fn reject(&mut self, revision: &Revision, verdict: Verdict) {
        if verdict == Verdict::Rejected {
            self.status.rejected_revision = Some(revision.to_string());
        }
    }

    /// The revision to go back to: where the rollout came from, else the fullest of the others.
    fn way_back(&self, run: &RolloutStatus) -> Option<Revision> {
        let target = Revision::new(run.to.as_str());
        let from = Revision::new(run.from.as_str());
        let alive = |revision: &Revision| {
            self.world.pods(revision).iter().any(|pod| pod.running && !pod.ending)
        };
        if run.phase == Phase::Retiring {
            return None;
        }
        if alive(&from) {
            return Some(from);
        }
        let others = self.world.sources(&target).map(|(revision, _)| revision);
        others.filter(|revision| alive(revision)).max_by_key(|r| self.world.ready(r)).cloned()
    }

    /// What the resource asks for now decides what happens next.
    pub(super) fn follow_wanted(&mut self) {
        let wanted = &self.world.wanted;
        if self.status.rejected_revision.as_deref().is_some_and(|name| name != wanted.as_str()) {
            self.status.rejected_revision = None;
        }
        match self.status.rollout.clone() {
            None => self.start_if_needed(),
            Some(run) if run.to != wanted.as_str() => self.follow_edit(&run),
            Some(_) => {}
        }
        match self.status.rollout.clone() {
            Some(run) if !run.pods.is_empty() => self.follow_move(&run),
            _ => {}
        }
    }

    fn is_rejected(&self, revision: &Revision) -> bool {
        self.status.rejected_revision.as_deref() == Some(revision.as_str())
    }

    fn start_if_needed(&mut self) {
        let wanted = &self.world.wanted;
        let Some(active) = self.active() else {
            if self.world.obstacles.is_empty() {
                self.begin(&Revision::default(), wanted, Phase::Provisioning, false);
            }
            return;
        };
        let left_over = self.world.source_pods(&active).any(|pod| !pod.ending);
        if active == *wanted || self.is_rejected(wanted) {
            if left_over {
                self.begin(&active, &active, Phase::Draining, true);
            }
        } else if self.world.obstacles.is_empty() {
            self.begin(&active, wanted, Phase::Provisioning, false);
        }
        if self.status.rollout.is_none() {
            self.move_if_needed(&active);
        }
    }

    fn follow_edit(&mut self, run: &RolloutStatus) {
        let wanted = &self.world.wanted;
        // A rollout back goes to another revision than the rejected one on purpose.
        if self.is_rejected(wanted) {
            return;
        }
        let active = self.active();
        if before_switch(run.phase) && active.as_ref() == Some(wanted) {
            self.abort("the spec asks for the active revision again", Verdict::Unwanted);
            return;
        }
        let goes_back = run.from == wanted.as_str() && !run.rollback && self.lives(wanted);
        if goes_back && !before_switch(run.phase) && run.phase != Phase::Retiring {
            self.record(run, Outcome::RolledBack, "the spec asks for an older revision again");
            self.begin(&Revision::new(run.to.as_str()), wanted, Phase::Provisioning, true);
            return;
        }
        let kept = self.world.revisions.values().filter(|seen| !seen.pods.is_empty()).count();
        let replaces = before_switch(run.phase) && self.is_idle(&Revision::new(run.to.as_str()));
        if kept >= limits::REVISIONS_MAX && !replaces && !self.lives(wanted) {
            return;
        }
        if !self.world.obstacles.is_empty() {
            return;
        }
        self.record(run, Outcome::Superseded, "the spec asks for another revision");
        let from = active.unwrap_or_default();
        self.begin(&from, wanted, Phase::Provisioning, false);
    }

    fn lives(&self, revision: &Revision) -> bool {
        self.world.pods(revision).iter().any(|pod| pod.running && !pod.ending)
    }
}
