//! What holds whatever happens.

use crds::Phase;
use proptest::prelude::*;

use super::sim::{Sim, SimPod, revision};
use crate::rollout::{Command, NodeMode};

/// What may happen at any time.
#[derive(Clone, Debug)]
enum Happening {
    Wait(i64),
    Edit(u8),
    Scale(i32),
    Pause(bool),
    Order(u8),
    Kill(usize),
    Reachable(usize, bool),
    Cordon(usize, bool),
    Ask(usize, bool),
    Evict,
    Obstacle(bool),
    Break(u8, bool),
    Clients(i64),
    Resume(i64, bool),
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1..40_i64).prop_map(Happening::Wait),
        2 => (0..4_u8).prop_map(Happening::Edit),
        1 => (1..4_i32).prop_map(Happening::Scale),
        1 => any::<bool>().prop_map(Happening::Pause),
        2 => (0..5_u8).prop_map(Happening::Order),
        1 => (0..8_usize).prop_map(Happening::Kill),
        1 => (0..8_usize, any::<bool>()).prop_map(|(pod, is)| Happening::Reachable(pod, is)),
        1 => (0..8_usize, any::<bool>()).prop_map(|(pod, is)| Happening::Cordon(pod, is)),
        1 => (0..8_usize, any::<bool>()).prop_map(|(pod, is)| Happening::Ask(pod, is)),
        1 => Just(Happening::Evict),
        1 => any::<bool>().prop_map(Happening::Obstacle),
        1 => (0..4_u8, any::<bool>()).prop_map(|(revision, is)| Happening::Break(revision, is)),
        1 => (1..300_i64).prop_map(Happening::Clients),
        1 => (0..100_i64, any::<bool>()).prop_map(|(percent, is)| Happening::Resume(percent, is)),
        3 => Just(Happening::Crash),
    ]
}

impl Sim {
    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Wait(seconds) => self.tick(*seconds),
            Happening::Edit(number) => self.wanted = revision(*number),
            Happening::Scale(replicas) => self.replicas = *replicas,
            Happening::Pause(is) => self.spec.paused = *is,
            Happening::Order(number) => {
                let orders = [
                    (Command::Promote, "chatcluster.dev/promote"),
                    (Command::Abort, "chatcluster.dev/abort"),
                    (Command::Pause, "chatcluster.dev/pause"),
                    (Command::Resume, "chatcluster.dev/resume"),
                    (Command::Retry, "chatcluster.dev/retry"),
                ];
                let (command, annotation) = orders[usize::from(*number)];
                self.command(command, annotation);
            }
            // Its set makes another one in the next pass.
            Happening::Kill(index) => {
                let mut left = *index;
                for set in self.sets.values_mut() {
                    if left < set.pods.len() {
                        set.pods.remove(left);
                        return;
                    }
                    left -= set.pods.len();
                }
            }
            Happening::Reachable(index, is) => self.at(*index, |pod| pod.reachable = *is),
            Happening::Cordon(index, is) => self.at(*index, |pod| pod.cordoned = *is),
            Happening::Ask(index, is) => self.at(*index, |pod| pod.asked = *is),
            Happening::Evict => self.evict(),
            Happening::Obstacle(is) => {
                self.obstacles = if *is { vec!["NATS is not whole.".to_owned()] } else { vec![] };
            }
            Happening::Break(number, is) => {
                match is {
                    true => self.broken.insert(revision(*number)),
                    false => self.broken.remove(&revision(*number)),
                };
            }
            Happening::Clients(count) => self.connect(*count),
            Happening::Resume(percent, accepts) => {
                (self.resume_percent, self.accepts) = (*percent, *accepts);
            }
            Happening::Crash => self.pass(true),
        }
    }

    /// Changes the pod at this place, if there are so many.
    fn at(&mut self, index: usize, change: impl FnOnce(&mut SimPod)) {
        let mut pods = self.sets.values_mut().flat_map(|set| &mut set.pods);
        if let Some(pod) = pods.nth(index) {
            change(pod);
        }
    }

    /// One revision serves, with as many pods as are wanted, and nobody who was to go is there.
    fn is_done(&self) -> bool {
        let mut pods = self.sets.values().flat_map(|set| &set.pods);
        matches!(self.status.phase, Phase::Steady | Phase::Held)
            && self.sets.len() == 1
            && pods.clone().count() == usize::try_from(self.replicas).unwrap()
            && pods.all(|pod| !pod.cordoned && !pod.asked && pod.mode == NodeMode::Serving)
    }

    /// Everything is well again; somebody lets go on what was paused by hand.
    fn calm(&mut self) {
        self.obstacles.clear();
        self.broken.clear();
        self.spec.paused = false;
        (self.resume_percent, self.accepts) = (100, true);
        for pod in self.sets.values_mut().flat_map(|set| &mut set.pods) {
            pod.reachable = true;
        }
        if self.status.rollout.as_ref().is_some_and(|run| run.paused) {
            self.command(Command::Resume, "chatcluster.dev/resume");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever happens, no pod goes with clients that nobody told, and in the end one revision serves, on machines that
    /// nobody empties.
    #[test]
    fn nothing_is_cut_off_and_everything_ends(
        happenings in proptest::collection::vec(happening(), 1..80),
        clients in 0..2000_i64,
    ) {
        let mut sim = Sim::steady(clients);
        for happening in &happenings {
            sim.happen(happening);
            sim.pass(false);
            prop_assert_eq!(sim.cut, 0, "sockets were cut in {:?}", sim.status.rollout);
        }
        let mut ended = false;
        for _ in 0..40 {
            sim.calm();
            ended = sim.run_until(Sim::is_done, 100);
            if ended {
                break;
            }
        }
        prop_assert!(ended, "it does not end: {:?}", sim.status);
        prop_assert_eq!(sim.cut, 0);
        let active = sim.status.active_revision.clone().unwrap();
        let rejected = sim.status.rejected_revision.clone();
        prop_assert!(active == sim.wanted.as_str() || rejected.as_deref() == Some(sim.wanted.as_str()));
    }
}
