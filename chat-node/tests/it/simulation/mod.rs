//! Several owners and clients over one broker and one store, with faults at every step, replayable from a seed.
//!
//! Nodes are the real owners and routers; the broker and the store are the real embedded ones in memory behind
//! fault-injecting wrappers; time is paused, so a run of minutes takes a moment and a seed always gives the same run.
//! A crash between any two steps is a node that is cut off for good; a paused one is cut off for a while and comes back
//! believing that it still owns.

mod bodies;
mod checker;
mod client;
mod device;
mod node;
mod outage;
mod serving;
mod take_over;
mod world;

use world::{Plan, World};

/// Runs of one ordinary test run; `CHAT_TEST_SEEDS` asks for more, `CHAT_TEST_SEED` for one.
const SEEDS: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn run(plan: Plan, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(World::new(plan, seed).run());
    if let Err(problem) = outcome {
        panic!("seed {seed} of {plan:?}: {problem}\nreplay: CHAT_TEST_SEED={seed}");
    }
}

fn seeds(plan: Plan) {
    if let Some(seed) = number("CHAT_TEST_SEED") {
        return run(plan, seed);
    }
    let count = number("CHAT_TEST_SEEDS").unwrap_or(SEEDS);
    println!("seeds 0 to {} of {plan:?}", count - 1);
    (0..count).for_each(|seed| run(plan, seed));
}

#[test]
fn nothing_is_lost_without_faults() {
    run(Plan::Calm, 0);
}

#[test]
fn nothing_is_lost_while_appends_get_lost_late_or_doubled() {
    seeds(Plan::Appends);
}

#[test]
fn nothing_is_lost_while_owners_change_crash_and_come_back() {
    seeds(Plan::Owners);
}

#[test]
fn nothing_is_lost_while_the_store_fails_and_lags() {
    seeds(Plan::Store);
}

#[test]
fn nothing_is_lost_or_stands_still_while_clocks_are_an_hour_wrong() {
    seeds(Plan::Clocks);
}

#[test]
fn nothing_is_lost_while_everything_goes_wrong_at_once() {
    seeds(Plan::Everything);
}
