//! What becomes of single pods that are to go, one thing at a time.

use crds::Phase;

use super::sim::{Sim, SimPod, revision};
use crate::rollout::{Command, NodeMode};

fn pods(sim: &Sim) -> &[SimPod] {
    &sim.sets[&revision(0)].pods
}

fn pod<'a>(sim: &'a mut Sim, name: &str) -> &'a mut SimPod {
    let pods = &mut sim.sets.get_mut(&revision(0)).unwrap().pods;
    pods.iter_mut().find(|pod| pod.name == name).unwrap()
}

fn names(sim: &Sim) -> Vec<String> {
    pods(sim).iter().map(|pod| pod.name.clone()).collect()
}

#[test]
fn a_smaller_fleet_moves_the_clients_of_those_with_fewest_batch_by_batch() {
    let mut sim = Sim::steady(0);
    sim.replicas = 4;
    assert!(sim.run_until(|sim| pods(sim).iter().filter(|pod| pod.age > 3).count() == 4, 50));
    for (index, clients) in [400, 100, 300, 200].into_iter().enumerate() {
        sim.sets.get_mut(&revision(0)).unwrap().pods[index].connections = clients;
    }
    let kept = [names(&sim)[0].clone(), names(&sim)[2].clone()];
    sim.replicas = 2;
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    assert_eq!(sim.granted, 3, "the first batch is one in a hundred of 300");
    assert_eq!(pods(&sim).len(), 4, "nobody goes before the clients have");
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 300));
    assert_eq!(names(&sim), kept);
    assert_eq!((sim.granted, sim.cut, sim.clients(0)), (300, 0, 1000));
    for reason in ["PodsLeaving", "DrainBatchStarted", "PodsEmptied"] {
        assert!(sim.reasons().contains(&reason), "{reason} is missing in {:?}", sim.reasons());
    }
    assert!(!sim.reasons()[4..].contains(&"RolloutStarted"));
    assert_eq!(sim.status.history.len(), 1, "the history is of revisions");
}

#[test]
fn a_machine_that_is_emptied_gives_its_clients_to_a_new_pod_first() {
    let mut sim = Sim::steady(1000);
    let leaving = names(&sim)[0].clone();
    pod(&mut sim, &leaving).cordoned = true;
    sim.pass(false);
    assert_eq!(pods(&sim).len(), 3, "a successor starts");
    for _ in 0..200 {
        // Somebody waits to evict it, again and again.
        sim.evict();
        sim.pass(false);
        sim.tick(2);
    }
    assert_eq!((sim.status.phase, sim.cut), (Phase::Steady, 0));
    assert_eq!((pods(&sim).len(), sim.clients(0)), (2, 1000));
    assert!(!names(&sim).contains(&leaving));
    assert_eq!(sim.granted, 500);
}

#[test]
fn without_room_for_a_successor_it_goes_on_at_the_deadline() {
    let mut sim = Sim::steady(100);
    let (leaving, stays) = (names(&sim)[0].clone(), names(&sim)[1].clone());
    pod(&mut sim, &leaving).cordoned = true;
    for pass in 0..300 {
        sim.pass(false);
        // No machine takes the new pod.
        for pod in &mut sim.sets.get_mut(&revision(0)).unwrap().pods {
            if pod.name != leaving && pod.name != stays {
                (pod.age, pod.running) = (0, false);
            }
        }
        assert!(pass > 50 || sim.granted == 0, "it waits for the successor");
        sim.tick(2);
        if !names(&sim).contains(&leaving) {
            break;
        }
    }
    assert!(!names(&sim).contains(&leaving), "{:?}", sim.status.rollout);
    assert_eq!((sim.cut, sim.granted), (0, 50));
}

#[test]
fn what_is_taken_back_ends_it_and_the_pod_serves_on() {
    let mut sim = Sim::steady(1000);
    let leaving = names(&sim)[0].clone();
    pod(&mut sim, &leaving).asked = true;
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    assert_eq!(pod(&mut sim, &leaving).mode, NodeMode::Prepared);
    pod(&mut sim, &leaving).asked = false;
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 300));
    // The successor is there by now: one of the three is too many, and it is the one with the fewest clients.
    assert_eq!((pods(&sim).len(), sim.cut, sim.clients(0)), (2, 0, 1000));
    assert!(pods(&sim).iter().all(|pod| pod.mode == NodeMode::Serving));
}

#[test]
fn a_fleet_that_grows_again_keeps_its_pods() {
    let mut sim = Sim::steady(1000);
    sim.replicas = 1;
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    let before = names(&sim);
    sim.replicas = 2;
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 10));
    assert_eq!(names(&sim), before);
    assert!(pods(&sim).iter().all(|pod| pod.mode == NodeMode::Serving));
    assert!(sim.reasons().contains(&"PodsStay"));
}

#[test]
fn a_pod_that_is_not_to_go_any_more_stays_while_its_successor_is_not_ready() {
    let mut sim = Sim::steady(1000);
    let before = names(&sim);
    pod(&mut sim, &before[0]).cordoned = true;
    sim.pass(false);
    assert_eq!(pods(&sim).len(), 3, "a successor starts");
    pod(&mut sim, &before[0]).cordoned = false;
    let rests = |sim: &Sim| sim.status.phase == Phase::Steady && pods(sim).len() == 2;
    assert!(sim.run_until(rests, 100));
    assert_eq!((names(&sim), sim.granted), (before, 0), "the successor goes, which has no clients");
}

#[test]
fn commands_pause_it_and_cannot_abort_what_is_still_wanted() {
    let mut sim = Sim::steady(1000);
    sim.replicas = 1;
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    sim.command(Command::Abort, "chatcluster.dev/abort");
    sim.pass(false);
    assert!(sim.status.last_command.as_ref().unwrap().result.contains("uncordon the machine"));
    sim.command(Command::Promote, "chatcluster.dev/promote");
    sim.pass(false);
    assert!(sim.status.last_command.as_ref().unwrap().result.contains("nothing to promote"));
    sim.command(Command::Pause, "chatcluster.dev/pause");
    sim.pass(false);
    let granted = sim.granted;
    assert!(!sim.run_until(|sim| sim.granted > granted, 50));
    sim.command(Command::Resume, "chatcluster.dev/resume");
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 300));
    assert_eq!((pods(&sim).len(), sim.cut), (1, 0));
}

#[test]
fn a_new_revision_takes_the_place_of_a_move() {
    let mut sim = Sim::steady(1000);
    let leaving = names(&sim)[0].clone();
    pod(&mut sim, &leaving).cordoned = true;
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    sim.wanted = revision(1);
    assert!(sim.run_until(|sim| sim.status.active_revision.as_deref() == Some("r1"), 50));
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 500));
    assert_eq!((sim.cut, sim.clients(1), sim.sets.len()), (0, 1000, 1));
}

#[test]
fn a_rollout_that_waits_for_people_lets_machines_go() {
    let mut sim = Sim::steady(100);
    sim.spec.auto_promote = false;
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::AwaitingPromotion), 50));
    assert_eq!(sim.budgets[&revision(0)].max_unavailable, 1);
    sim.command(Command::Promote, "chatcluster.dev/promote");
    assert!(sim.run_until(Sim::phase_is(Phase::Draining), 50));
    let budget = sim.budgets[&revision(0)];
    assert_eq!(
        (budget.max_unavailable, budget.unready_go),
        (0, false),
        "blue is not ready, and has clients"
    );
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 500));
    let budget = sim.budgets[&revision(1)];
    assert_eq!((budget.max_unavailable, budget.unready_go), (0, true));
}

#[test]
fn who_may_not_see_machines_lets_pods_be_evicted() {
    let mut sim = Sim::steady(100);
    sim.holds = false;
    let leaving = names(&sim)[0].clone();
    pod(&mut sim, &leaving).cordoned = true;
    assert!(!sim.run_until(|sim| sim.status.rollout.is_some(), 20));
    assert_eq!(sim.budgets[&revision(0)].max_unavailable, 1);
}

#[test]
fn a_node_that_does_not_hear_of_an_abort_keeps_its_clients() {
    let mut sim = Sim::steady(100);
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::Soaking), 50));
    let silent = sim.sets[&revision(0)].pods[0].name.clone();
    pod(&mut sim, &silent).reachable = false;
    sim.command(Command::Abort, "chatcluster.dev/abort");
    assert!(sim.run_until(|sim| sim.status.rollout.is_none(), 500));
    assert_eq!(pod(&mut sim, &silent).mode, NodeMode::Prepared);
    let budget = sim.budgets[&revision(0)];
    assert_eq!((budget.max_unavailable, budget.unready_go), (0, false), "nobody knows its mode");
    pod(&mut sim, &silent).reachable = true;
    sim.pass(false);
    assert_eq!(pod(&mut sim, &silent).mode, NodeMode::Serving);
    sim.pass(false);
    assert!(sim.budgets[&revision(0)].unready_go);
}

#[test]
fn a_batch_ends_for_a_pod_that_stays_after_all() {
    let mut sim = Sim::steady(0);
    sim.replicas = 3;
    assert!(sim.run_until(|sim| pods(sim).iter().filter(|pod| pod.age > 3).count() == 3, 50));
    let [first, second, third] = names(&sim).try_into().unwrap();
    for (name, connections) in [(&first, 10), (&second, 5), (&third, 500)] {
        pod(&mut sim, name).connections = connections;
    }
    sim.replicas = 1;
    assert!(sim.run_until(Sim::phase_is(Phase::Draining), 50));
    // The operator dies each time before it tells the nodes.
    while sim.status.rollout.as_ref().unwrap().batch.is_none() {
        sim.pass(true);
    }
    let run = sim.status.rollout.clone().unwrap();
    let granted: Vec<_> = run.batch.unwrap().grants.into_iter().map(|grant| grant.pod).collect();
    assert_eq!((run.pods.len(), granted), (2, vec![first.clone()]));
    sim.replicas = 2;
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 500));
    assert_eq!((names(&sim), sim.cut), (vec![first, third], 0));
}
