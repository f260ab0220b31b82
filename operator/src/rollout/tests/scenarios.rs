//! What a rollout does, one thing at a time.

use crds::{OnDeadline, OnLowResume, Outcome, Phase};

use super::sim::{Sim, revision};
use crate::rollout::{Command, Order};

#[test]
fn a_new_revision_replaces_the_old_one_batch_by_batch() {
    let mut sim = Sim::steady(1000);
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::Soaking), 50));
    assert_eq!((sim.granted, sim.clients(0)), (0, 1000), "nobody moves before the soak ends");
    assert!(sim.run_until(Sim::phase_is(Phase::Draining), 50));
    assert!(sim.run_until(|sim| sim.granted > 0, 50));
    assert_eq!(sim.granted, 10, "the first batch is one in a hundred");
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 500));
    assert_eq!((sim.granted, sim.cut, sim.clients(1)), (1000, 0, 1000));
    assert_eq!(sim.sets.len(), 1);
    let entry = &sim.status.history[0];
    assert_eq!((entry.outcome, entry.told, entry.resumed), (Outcome::Completed, 1000, 1000));
    let reasons = sim.reasons();
    for reason in
        ["RolloutStarted", "GreenReady", "Promoted", "DrainBatchStarted", "RolloutCompleted"]
    {
        assert!(reasons.contains(&reason), "{reason} is missing in {reasons:?}");
    }
}

#[test]
fn batches_wait_for_clients_and_go_on_slowly_when_new_ones_are_well() {
    let mut sim = Sim::steady(10_000);
    sim.wanted = revision(1);
    sim.resume_percent = 50;
    assert!(sim.run_until(|sim| sim.granted == 100, 100));
    assert!(
        !sim.run_until(|sim| sim.granted > 100, 25),
        "the next batch waits a minute for clients"
    );
    assert!(sim.run_until(|sim| sim.granted > 100, 20));
    assert!(sim.status.rollout.as_ref().unwrap().slowed);
    assert_eq!(sim.granted, 200, "a quarter of 5 % is 1 %");
}

#[test]
fn batches_stop_while_new_clients_fail() {
    let mut sim = Sim::steady(10_000);
    sim.wanted = revision(1);
    assert!(sim.run_until(|sim| sim.granted >= 100, 100));
    (sim.resume_percent, sim.accepts) = (0, false);
    let before = sim.granted;
    assert!(sim.run_until(|sim| sim.granted > before, 50));
    let stopped = sim.granted;
    assert!(!sim.run_until(|sim| sim.granted > stopped, 100));
    assert!(sim.reasons().contains(&"ResumeRatioLow"));
    sim.command(Command::Resume, "chatcluster.dev/resume");
    sim.pass(false);
    assert!(sim.run_until(|sim| sim.granted > stopped, 10), "somebody who resumes decides");
    sim.tick(900);
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 100), "the deadline ends it");
    assert!(sim.reasons().contains(&"StragglersForced"));
}

#[test]
fn low_resume_and_the_deadline_can_lead_back() {
    for by_deadline in [false, true] {
        let mut sim = Sim::steady(10_000);
        sim.wanted = revision(1);
        match by_deadline {
            true => sim.spec.drain.on_deadline = OnDeadline::RollBack,
            false => sim.spec.drain.on_low_resume = OnLowResume::RollBack,
        }
        assert!(sim.run_until(|sim| sim.granted > 0, 100));
        match by_deadline {
            true => sim.tick(1000),
            false => sim.resume_percent = 0,
        }
        assert!(sim.run_until(Sim::phase_is(Phase::Held), 800), "{:?}", sim.status);
        assert_eq!(sim.status.rejected_revision.as_deref(), Some("r1"));
        assert_eq!(sim.status.active_revision.as_deref(), Some("r0"));
        assert_eq!(sim.cut, 0);
    }
}

#[test]
fn a_revision_that_is_never_ready_goes_and_nobody_was_moved() {
    let mut sim = Sim::steady(100);
    sim.broken.insert(revision(1));
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::Held), 100));
    assert_eq!((sim.granted, sim.clients(0), sim.sets.len()), (0, 100, 1));
    assert_eq!(sim.status.history[0].outcome, Outcome::Completed);
    assert_eq!(sim.status.history[1].outcome, Outcome::Aborted);
    sim.broken.clear();
    sim.command(Command::Retry, "chatcluster.dev/retry");
    assert!(sim.run_until(|sim| sim.status.active_revision.as_deref() == Some("r1"), 100));
}

#[test]
fn a_corrected_spec_replaces_a_bad_one_at_once() {
    let mut sim = Sim::steady(100);
    sim.broken.insert(revision(1));
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::Provisioning), 10));
    sim.wanted = revision(2);
    assert!(sim.run_until(|sim| sim.status.phase == Phase::Steady, 400));
    assert_eq!(sim.status.active_revision.as_deref(), Some("r2"));
    assert_eq!((sim.cut, sim.clients(2)), (0, 100));
}

#[test]
fn an_abort_in_the_drain_brings_clients_back_in_batches() {
    let mut sim = Sim::steady(1000);
    sim.wanted = revision(1);
    assert!(sim.run_until(|sim| sim.granted > 100, 200));
    let moved = sim.granted;
    sim.command(Command::Abort, "chatcluster.dev/abort");
    assert!(sim.run_until(Sim::phase_is(Phase::Held), 400));
    assert_eq!((sim.granted, sim.cut), (2 * moved, 0), "only those who had moved move again");
    assert_eq!(sim.clients(0), 1000);
    assert!(sim.reasons().contains(&"RolledBack"));
}

#[test]
fn a_new_revision_that_breaks_after_the_switch_is_left_again() {
    let mut sim = Sim::steady(1000);
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::Soaking), 100));
    sim.broken.insert(revision(1));
    assert!(sim.run_until(Sim::phase_is(Phase::Held), 400));
    assert_eq!((sim.status.active_revision.as_deref(), sim.clients(0)), (Some("r0"), 1000));
}

#[test]
fn a_promotion_by_hand_is_waited_for_and_a_stale_one_does_nothing() {
    let mut sim = Sim::steady(100);
    sim.spec.auto_promote = false;
    sim.wanted = revision(1);
    assert!(sim.run_until(Sim::phase_is(Phase::AwaitingPromotion), 50));
    sim.order = Some(Order {
        command: Command::Promote,
        annotation: "chatcluster.dev/promote",
        target: "r1-0".to_owned(),
    });
    assert!(!sim.run_until(|sim| sim.status.phase != Phase::AwaitingPromotion, 50));
    assert!(sim.status.last_command.as_ref().unwrap().result.contains("no rollout r1-0"));
    sim.command(Command::Promote, "chatcluster.dev/promote");
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 400));
}

#[test]
fn a_pause_holds_batches_and_obstacles_too() {
    let mut sim = Sim::steady(1000);
    sim.wanted = revision(1);
    assert!(sim.run_until(|sim| sim.granted > 0, 100));
    sim.command(Command::Pause, "chatcluster.dev/pause");
    sim.pass(false);
    let granted = sim.granted;
    assert!(!sim.run_until(|sim| sim.granted > granted, 50));
    sim.obstacles = vec!["2 of 3 members of NATS are ready.".to_owned()];
    sim.command(Command::Resume, "chatcluster.dev/resume");
    sim.pass(false);
    assert!(!sim.run_until(|sim| sim.granted > granted, 50));
    assert!(sim.status.rollout.as_ref().unwrap().message.contains("members of NATS"));
    sim.obstacles.clear();
    assert!(sim.run_until(Sim::phase_is(Phase::Steady), 500));
}

#[test]
fn an_operator_that_dies_in_every_step_changes_nothing() {
    let mut plain = Sim::steady(1000);
    plain.wanted = revision(1);
    assert!(plain.run_until(Sim::phase_is(Phase::Steady), 500));
    let mut dying = Sim::steady(1000);
    dying.wanted = revision(1);
    for _ in 0..1000 {
        dying.pass(true);
        dying.pass(false);
        dying.tick(2);
    }
    assert_eq!(dying.status.phase, Phase::Steady);
    assert_eq!((dying.granted, dying.cut), (plain.granted, 0));
    assert_eq!(dying.status.active_revision, plain.status.active_revision);
}
