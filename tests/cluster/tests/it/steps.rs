//! Owners that die at a step between a command and the checkpoint, or of taking and leaving a partition.

use std::time::Duration;

use chat_protocol::id::PARTITIONS;
use cluster::step::{Cause, Death, Step};
use cluster::{Platform, Program, Run, RunOptions, Surroundings};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// A node that has just read an order has carried it out after this time.
const LAST_ORDER: Duration = Duration::from_secs(1);

/// Each of three nodes owns about a third of the partitions; one that has joined gets them one after the other.
const OWNED_MIN: f64 = PARTITIONS as f64 / 6.0;

/// Each node owns some conversations, and no node is busy with them.
fn options() -> RunOptions {
    RunOptions { users: 48, devices: 1, groups: 24, pause_ms: 300, ..RunOptions::default() }
}

async fn start(scenario: &str) -> Run {
    let surroundings = Surroundings { program: Program::MortalNode, ..Surroundings::default() };
    Run::start_in(scenario, options(), surroundings).await
}

/// Until every node owns its part.
fn wait_until_spread(platform: &Platform) {
    let began = std::time::Instant::now();
    loop {
        let owned = |node: &cluster::node::ChatNode| node.metric("chat_partitions_owned");
        let owned: Vec<f64> = platform.nodes.iter().filter_map(owned).collect();
        let is_all = owned.iter().sum::<f64>() == f64::from(PARTITIONS);
        if is_all && owned.iter().all(|owned| *owned >= OWNED_MIN) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the nodes own {owned:?}");
        std::thread::sleep(POLL);
    }
}

/// Waits until one of the nodes has died as it was told. Then the others are told to live; one may have died meanwhile.
/// Returns the dead.
fn wait_for_death(platform: &Platform, told: &[usize], death: Death) -> Vec<usize> {
    let began = std::time::Instant::now();
    let mut dead: Vec<usize> = Vec::new();
    let look = |dead: &mut Vec<usize>| {
        for node in told {
            if !dead.contains(node)
                && let Some(died) = platform.nodes[*node].death()
            {
                assert_eq!(died, death, "node {node} died another death");
                dead.push(*node);
            }
        }
    };
    while dead.is_empty() {
        assert!(began.elapsed() < PATIENCE, "no node has died: {death}");
        std::thread::sleep(POLL);
        look(&mut dead);
    }
    told.iter().for_each(|node| platform.nodes[*node].order_death(None));
    std::thread::sleep(LAST_ORDER);
    look(&mut dead);
    dead
}

/// An owner dies at this step, another one takes over, and the dead one comes back.
async fn die_at(run: &mut Run, step: Step) {
    run.fault(&format!("wait for owners before {step}"), wait_until_spread).await;
    let more = run.random.random_range(20..80);
    run.until_more(more, PATIENCE).await;
    let mut nodes = [0, 1, 2];
    nodes.shuffle(&mut run.random);
    let [first, second, other] = nodes;
    let pass = match step {
        // Not every record has to be written again.
        Step::ReplayHalfWritten => 1,
        _ => run.random.random_range(1..=20),
    };
    let death = Death { step, pass };
    let told = match step.cause() {
        Cause::Load => vec![first],
        // Whoever takes the partitions of the other one, or gives it some.
        Cause::TakeOver | Cause::HandOver => vec![first, second],
    };
    let mut dead = Vec::new();
    if step.cause() != Cause::Load {
        dead.push(other);
    }
    if step.cause() == Cause::HandOver {
        run.fault(&format!("kill {other}"), move |platform| platform.nodes[other].kill()).await;
        run.until_each_goes_on(PATIENCE).await;
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    run.fault(&format!("{told:?} die: {death}"), move |platform| {
        told.iter().for_each(|node| platform.nodes[*node].order_death(Some(death)));
        match step.cause() {
            Cause::Load => {}
            Cause::TakeOver => platform.nodes[other].kill(),
            Cause::HandOver => platform.nodes[other].restart(),
        }
        sender.send(wait_for_death(platform, &told, death)).expect("the run waits");
    })
    .await;
    dead.extend(receiver.await.expect("it was sent"));
    if dead.len() < 3 {
        run.until_each_goes_on(PATIENCE).await;
    }
    run.fault(&format!("restart {dead:?}"), move |platform| {
        dead.iter().for_each(|node| platform.nodes[*node].restart());
        dead.iter().for_each(|node| platform.nodes[*node].wait_until_ready());
    })
    .await;
    run.until_each_goes_on(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_die_at_some_steps() {
    let mut run = start("some_steps").await;
    let (of_send, of_owning): (Vec<Step>, Vec<Step>) =
        Step::ALL.iter().partition(|step| step.cause() == Cause::Load);
    for steps in [of_send, of_owning] {
        let step = *steps.choose(&mut run.random).expect("there are some");
        die_at(&mut run, step).await;
    }
    run.finish().await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn owners_die_at_every_step() {
        let mut run = start("every_step").await;
        let mut steps = Step::ALL.to_vec();
        steps.shuffle(&mut run.random);
        for step in steps {
            die_at(&mut run, step).await;
        }
        run.finish().await;
    }
}
