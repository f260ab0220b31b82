//! The small world.

use std::collections::{BTreeMap, BTreeSet};

use crds::{ChatClusterStatus, Phase, RolloutSpec};
use jiff::{SignedDuration, Timestamp};

use crate::build::{Budget, Revision};
use crate::rollout::*;

/// A node of the small world.
#[derive(Clone, Debug)]
pub(super) struct SimPod {
    pub(super) name: String,
    pub(super) age: i64,
    pub(super) running: bool,
    pub(super) reachable: bool,
    pub(super) connections: i64,
    pub(super) mode: NodeMode,
    pub(super) owner: Option<Revision>,
    pub(super) rollout: Option<String>,
    pub(super) batches: Vec<NodeBatch>,
    /// Rollouts that it will not hear of again.
    pub(super) cancelled: BTreeSet<String>,
    /// Whether its machine is being emptied.
    pub(super) cordoned: bool,
    /// Whether somebody wants it to go.
    pub(super) asked: bool,
}

impl SimPod {
    fn new(revision: &Revision, number: usize) -> SimPod {
        SimPod {
            name: format!("{revision}-{number}"),
            age: 0,
            running: true,
            reachable: true,
            connections: 0,
            mode: NodeMode::Serving,
            owner: None,
            rollout: None,
            batches: Vec::new(),
            cancelled: BTreeSet::new(),
            cordoned: false,
            asked: false,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    pub(super) replicas: i32,
    pub(super) pods: Vec<SimPod>,
}

pub(super) struct Sim {
    pub(super) spec: RolloutSpec,
    pub(super) status: ChatClusterStatus,
    pub(super) now: Timestamp,
    pub(super) wanted: Revision,
    pub(super) replicas: i32,
    pub(super) sets: BTreeMap<Revision, Set>,
    pub(super) selected: Option<Revision>,
    pub(super) obstacles: Vec<String>,
    pub(super) order: Option<Order>,
    /// Revisions whose pods are not ready.
    pub(super) broken: BTreeSet<Revision>,
    /// Clients of a hundred that come back.
    pub(super) resume_percent: i64,
    pub(super) accepts: bool,
    pub(super) created: usize,
    /// Sockets closed by grants.
    pub(super) granted: i64,
    /// Sockets that ended with a pod that nobody killed and that was to be empty.
    pub(super) cut: i64,
    pub(super) events: Vec<Event>,
    /// What evictions may take away, as last written.
    pub(super) budgets: BTreeMap<Revision, Budget>,
    /// Whether machines can be seen.
    pub(super) holds: bool,
    /// The rollout whose deadline has passed: its last clients were told to leave, and pods that did not answer end.
    pub(super) forced: Option<String>,
}

pub(super) fn revision(number: u8) -> Revision {
    Revision::new(format!("r{number}"))
}

impl Sim {
    pub(super) fn new() -> Sim {
        let spec = RolloutSpec {
            verify_seconds: 4,
            soak_seconds: 6,
            progress_deadline_seconds: 120,
            drain: crds::DrainSpec { deadline_seconds: 900, ..crds::DrainSpec::default() },
            ..RolloutSpec::default()
        };
        Sim {
            spec,
            status: ChatClusterStatus::default(),
            now: "2026-11-28T09:00:00Z".parse().unwrap(),
            wanted: revision(0),
            replicas: 2,
            sets: BTreeMap::new(),
            selected: None,
            obstacles: Vec::new(),
            order: None,
            broken: BTreeSet::new(),
            resume_percent: 100,
            accepts: true,
            created: 0,
            granted: 0,
            cut: 0,
            events: Vec::new(),
            budgets: BTreeMap::new(),
            holds: true,
            forced: None,
        }
    }

    /// A platform at rest, with this many clients.
    pub(super) fn steady(clients: i64) -> Sim {
        let mut sim = Sim::new();
        sim.run_until(|sim| sim.status.phase == Phase::Steady, 100);
        sim.connect(clients);
        sim
    }

    pub(super) fn world(&self) -> World {
        let mut revisions = BTreeMap::new();
        for (revision, set) in &self.sets {
            let pods = set.pods.iter().map(|pod| Pod {
                name: pod.name.clone(),
                ready: self.is_ready(revision, pod),
                running: pod.running,
                ending: false,
                created_at: Some(self.now - SignedDuration::from_secs(pod.age)),
                leaves: (pod.asked || (self.holds && pod.cordoned)).then(|| "so".to_owned()),
                view: match pod.reachable && pod.running {
                    false => View::Unknown,
                    true => View::Known(Node {
                        connections: pod.connections,
                        unasked: pod.connections,
                        rollout: pod.rollout.clone(),
                        mode: pod.mode,
                        is_caught_up: pod.age > 4,
                        accepts: self.accepts,
                        owner_revision: pod.owner.clone(),
                        batches: pod.batches.clone(),
                    }),
                },
            });
            let seen = Observed { replicas: set.replicas, pods: pods.collect() };
            revisions.insert(revision.clone(), seen);
        }
        World {
            now: self.now,
            wanted: self.wanted.clone(),
            replicas: self.replicas,
            revisions,
            selected: self.selected.clone(),
            obstacles: self.obstacles.clone(),
            order: self.order.clone(),
            disruption: Disruption { max_unavailable: 1, holds: self.holds },
        }
    }

    pub(super) fn is_ready(&self, revision: &Revision, pod: &SimPod) -> bool {
        let good = !self.broken.contains(revision);
        pod.running && pod.age >= 3 && good && pod.mode == NodeMode::Serving
    }

    /// One pass. With `crash`, the operator dies after it wrote the status.
    pub(super) fn pass(&mut self, crash: bool) {
        let was = self.status.clone();
        let plan = next_step(&self.spec, &self.status, &self.world());
        // A pass that is repeated at once, by another process, comes to the same: nothing is only in memory.
        let text = serde_json::to_string(&plan.status).unwrap();
        self.status = serde_json::from_str(&text).unwrap();
        if let Some(run) = &self.status.rollout {
            assert!(!run.message.is_empty(), "a rollout must say what it does: {run:?}");
        }
        if crash {
            return;
        }
        self.order = None;
        self.events.extend(plan.events.iter().cloned());
        self.check(&was, &plan);
        self.carry_out(&plan);
    }

    pub(super) fn check(&self, was: &ChatClusterStatus, plan: &Plan) {
        if let Some(active) = &plan.fleet.active {
            assert!(plan.fleet.replicas[active] >= 1, "the active revision keeps pods");
        }
        if let (Some(old), Some(new)) = (&was.active_revision, &plan.status.active_revision)
            && old != new
        {
            let target = Revision::new(new.as_str());
            assert!(
                self.world().ready(&target) > 0,
                "clients are sent to {new}, which is not ready"
            );
        }
        for action in &plan.actions {
            let Action::Grant(grant) = action else { continue };
            let run = plan.status.rollout.as_ref().expect("grants belong to a rollout");
            assert_eq!(run.phase, Phase::Draining);
            assert_eq!(run.id, grant.rollout);
            if run.pods.contains(&grant.pod) {
                continue;
            }
            let target = Revision::new(run.to.as_str());
            assert!(
                self.sets[&target].pods.iter().all(|pod| pod.name != grant.pod),
                "nobody is sent away from where clients go"
            );
        }
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) {
        let run = plan.status.rollout.as_ref();
        if run.map(|run| &run.id) != self.forced.as_ref() {
            self.forced = None;
        }
        if let Some(run) = run
            && (run.message.contains("The deadline has passed")
                || run.batch.as_ref().is_some_and(|batch| batch.forced))
        {
            self.forced = Some(run.id.clone());
        }
        let deadline = self.forced.is_some();
        self.selected = plan.fleet.active.clone().or(plan.fleet.preview.clone());
        for (revision, replicas) in &plan.fleet.replicas {
            self.sets.entry(revision.clone()).or_default().replicas = *replicas;
        }
        let gone: Vec<Revision> =
            self.sets.keys().filter(|r| !plan.fleet.replicas.contains_key(*r)).cloned().collect();
        for revision in gone {
            if let Some(set) = self.sets.get_mut(&revision) {
                set.replicas = 0;
            }
        }
        for revision in self.sets.keys().cloned().collect::<Vec<_>>() {
            self.resize(&revision, deadline);
        }
        for name in &plan.deletions {
            let run = plan.status.rollout.as_ref().expect("pods are deleted by a rollout");
            assert!(run.pods.contains(name), "{name} is deleted, and {run:?} does not name it");
            for set in self.sets.values_mut() {
                let Some(at) = set.pods.iter().position(|pod| pod.name == *name) else { continue };
                let pod = set.pods.remove(at);
                self.cut += if deadline { 0 } else { pod.connections };
            }
        }
        for revision in self.sets.keys().cloned().collect::<Vec<_>>() {
            self.resize(&revision, deadline);
        }
        self.budgets.clone_from(&plan.fleet.budgets);
        self.sets.retain(|_, set| set.replicas > 0 || !set.pods.is_empty());
        for action in &plan.actions {
            self.tell(action);
        }
    }

    /// What the controller of ReplicaSets does: it takes pods that are not ready first, then young ones.
    fn resize(&mut self, revision: &Revision, deadline: bool) {
        let broken = self.broken.contains(revision);
        let Some(set) = self.sets.get_mut(revision) else { return };
        let wanted = usize::try_from(set.replicas).unwrap();
        let is_ready =
            |pod: &SimPod| pod.running && pod.age >= 3 && !broken && pod.mode == NodeMode::Serving;
        while set.pods.len() > wanted {
            let victim = set
                .pods
                .iter()
                .enumerate()
                .min_by_key(|(_, pod)| (pod.running && pod.age > 0, is_ready(pod), pod.age));
            let Some((at, _)) = victim else { break };
            let pod = set.pods.remove(at);
            self.cut += if deadline { 0 } else { pod.connections };
        }
        while set.pods.len() < wanted {
            self.created += 1;
            set.pods.push(SimPod::new(revision, self.created));
        }
    }

    /// Somebody drains machines: each cordoned pod is evicted if the budget lets it go.
    pub(super) fn evict(&mut self) {
        for (revision, budget) in self.budgets.clone() {
            let Some(set) = self.sets.get(&revision) else { continue };
            let ready = |pod: &SimPod| self.is_ready(&revision, pod);
            let healthy = i32::try_from(set.pods.iter().filter(|pod| ready(pod)).count()).unwrap();
            let needed = set.replicas - budget.max_unavailable;
            let mut evictable =
                set.pods.iter().filter(|pod| pod.cordoned).filter(|pod| match ready(pod) {
                    true => healthy > needed,
                    false => budget.unready_go || (healthy >= needed && needed > 0),
                });
            let Some(pod) = evictable.next() else { continue };
            assert!(
                pod.mode == NodeMode::Serving || pod.connections == 0 || budget.max_unavailable > 0,
                "{pod:?} is evicted, and was to be emptied first: {budget:?}"
            );
            assert!(
                !ready(pod) || budget.max_unavailable > 0,
                "{pod:?} is evicted while clients are held: {budget:?}"
            );
            let name = pod.name.clone();
            if let Some(set) = self.sets.get_mut(&revision) {
                // It moves its clients while it ends.
                set.pods.retain(|pod| pod.name != name);
            }
        }
    }

    pub(super) fn tell(&mut self, action: &Action) {
        if let Action::Own { revision, .. } = action {
            for pod in self.sets.values_mut().flat_map(|set| &mut set.pods) {
                pod.owner = Some(revision.clone());
            }
            return;
        }
        let name = match action {
            Action::Prepare { pod, .. } | Action::Cancel { pod, .. } => pod,
            Action::Grant(grant) => &grant.pod,
            Action::Own { .. } => return,
        };
        let pods = self.sets.values_mut().flat_map(|set| &mut set.pods);
        let Some(pod) = pods.into_iter().find(|pod| pod.name == *name) else { return };
        if !pod.reachable || !pod.running {
            return;
        }
        match action {
            Action::Prepare { rollout, .. } => {
                assert!(pod.rollout.as_ref().is_none_or(|known| known == rollout));
                assert!(
                    !pod.cancelled.contains(rollout),
                    "{rollout} was cancelled on {}",
                    pod.name
                );
                (pod.mode, pod.rollout) = (NodeMode::Prepared, Some(rollout.clone()));
            }
            Action::Cancel { rollout, .. } => {
                assert_eq!(pod.rollout.as_deref(), Some(rollout.as_str()));
                (pod.mode, pod.rollout) = (NodeMode::Serving, None);
                pod.cancelled.insert(rollout.clone());
                pod.batches.clear();
            }
            Action::Grant(grant) => {
                // As a node does: a rollout that it is not part of has to wait.
                if pod.rollout.as_ref().is_some_and(|known| *known != grant.rollout)
                    || pod.batches.iter().any(|batch| batch.number >= grant.batch)
                {
                    return;
                }
                pod.rollout = Some(grant.rollout.clone());
                pod.mode = NodeMode::Prepared;
                let told = grant.connections.min(pod.connections);
                pod.connections -= told;
                self.granted += told;
                let resumed = told * self.resume_percent / 100;
                pod.batches.push(NodeBatch {
                    number: grant.batch,
                    is_ended: true,
                    told,
                    counted: told,
                    resumed,
                });
                self.connect(resumed);
            }
            Action::Own { .. } => {}
        }
    }

    /// Clients connect where the Service sends them.
    pub(super) fn connect(&mut self, clients: i64) {
        let Some(selected) = self.selected.clone() else { return };
        let broken = self.broken.contains(&selected);
        let Some(set) = self.sets.get_mut(&selected) else { return };
        let mut ready: Vec<&mut SimPod> = set
            .pods
            .iter_mut()
            .filter(|pod| pod.running && pod.age >= 3 && pod.mode == NodeMode::Serving && !broken)
            .collect();
        let count = i64::try_from(ready.len()).unwrap();
        for (index, pod) in ready.iter_mut().enumerate() {
            let index = i64::try_from(index).unwrap();
            pod.connections += clients / count + i64::from(index < clients % count);
        }
    }

    pub(super) fn tick(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        for pod in self.sets.values_mut().flat_map(|set| &mut set.pods) {
            pod.age += seconds;
        }
    }

    pub(super) fn run_until(&mut self, done: impl Fn(&Sim) -> bool, passes: usize) -> bool {
        for _ in 0..passes {
            self.pass(false);
            if done(self) {
                return true;
            }
            self.tick(2);
        }
        false
    }

    pub(super) fn command(&mut self, command: Command, annotation: &'static str) {
        let target = match (&self.status.rollout, command) {
            (_, Command::Retry) => self.status.rejected_revision.clone().unwrap_or_default(),
            (Some(run), _) => run.id.clone(),
            (None, _) => "r9-1".to_owned(),
        };
        self.order = Some(Order { command, annotation, target });
    }

    pub(super) fn clients(&self, number: u8) -> i64 {
        self.sets
            .get(&revision(number))
            .map_or(0, |set| set.pods.iter().map(|p| p.connections).sum())
    }

    pub(super) fn phase_is(phase: Phase) -> impl Fn(&Sim) -> bool {
        move |sim| sim.status.phase == phase
    }

    pub(super) fn reasons(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.reason).collect()
    }
}
