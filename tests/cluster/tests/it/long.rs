//! What takes minutes: `cargo xtask test --long` runs it.

use std::time::Duration;

use cluster::{Platform, PlatformOptions, Run, RunOptions};
use rand::RngExt;

use crate::clocks::{AHEAD_MAX, CAUGHT_UP, HOUR_MS, set_clock_and_kill};

const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than a lease and the silence of a watch.
const BEYOND_THE_LEASE: u64 = 20;

fn wait_until_ready(platform: &Platform) {
    platform.nodes.iter().for_each(|node| node.wait_until_ready());
}

fn restart_store(platform: &Platform) {
    platform.cassandra.restart(0);
    platform.cassandra.wait_until_up(0);
}

fn with_three_nats() -> RunOptions {
    RunOptions { platform: PlatformOptions { nats: 3, nodes: 3 }, ..RunOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn owners_are_killed_again_and_again_under_load() {
    let mut run = Run::start("kill_owner", RunOptions::default()).await;
    for _ in 0..6 {
        let more = run.random.random_range(50..300);
        run.until_more(more, PATIENCE).await;
        let victim = run.random.random_range(0..3);
        run.fault(&format!("kill {victim}"), move |platform| platform.nodes[victim].kill()).await;
        let more = run.random.random_range(0..150);
        run.until_more(more, PATIENCE).await;
        run.fault(&format!("restart {victim}"), move |platform| {
            platform.nodes[victim].restart();
            platform.nodes[victim].wait_until_ready();
        })
        .await;
    }
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn an_owner_that_hung_beyond_its_lease_is_refused_by_the_log() {
    let mut run = Run::start("hang_owner", RunOptions::default()).await;
    for _ in 0..2 {
        run.until_more(100, PATIENCE).await;
        let victim = run.random.random_range(0..3);
        run.fault(&format!("stop {victim}"), move |platform| platform.nodes[victim].stop()).await;
        run.wait(BEYOND_THE_LEASE).await;
        run.until_more(50, PATIENCE).await;
        run.fault(&format!("resume {victim}"), move |platform| platform.nodes[victim].resume())
            .await;
        run.until_more(100, PATIENCE).await;
    }
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn the_leader_of_a_log_is_killed_and_then_all_nats_restarts() {
    let mut run = Run::start("nats", with_three_nats()).await;
    for _ in 0..2 {
        run.until_more(100, PATIENCE).await;
        let stream = run.random.random_range(0..4);
        run.fault(&format!("kill the leader of log {stream}"), move |platform| {
            let leader = platform.nats.leader(&format!("chat-log-{stream}")).unwrap_or(0);
            platform.nats.kill(leader);
            std::thread::sleep(Duration::from_secs(8));
            platform.nats.restart(leader);
            platform.nats.wait_until_healthy();
        })
        .await;
    }
    run.until_more(100, PATIENCE).await;
    run.fault("restart all of NATS", |platform| {
        (0..3).for_each(|server| platform.nats.kill(server));
        (0..3).for_each(|server| platform.nats.restart(server));
        platform.nats.wait_until_healthy();
        wait_until_ready(platform);
    })
    .await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn sends_go_on_while_the_store_is_down_for_a_minute() {
    let run = Run::start("store_down", RunOptions::default()).await;
    run.until_more(200, PATIENCE).await;
    run.fault("kill the store", |platform| platform.cassandra.kill(0)).await;
    let (acknowledged, received) = run.progress();
    run.wait(60).await;
    let (later, live) = run.progress();
    assert!(later > acknowledged + 200, "{} acknowledged in a minute", later - acknowledged);
    assert!(live > received + 200, "{} received live in a minute", live - received);
    run.fault("restart the store", restart_store).await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn a_gateway_dies_with_a_thousand_sessions() {
    let platform = PlatformOptions { nats: 1, nodes: 2 };
    // Two nodes and a balancer that takes turns: a thousand of two thousand are at each.
    let options = RunOptions { platform, users: 200, devices: 10, groups: 40, pause_ms: 1_000 };
    let mut run = Run::start("gateway", options).await;
    run.until_more(200, PATIENCE).await;
    let victim = run.random.random_range(0..2);
    run.fault(&format!("kill {victim}"), move |platform| platform.nodes[victim].kill()).await;
    run.until_more(200, PATIENCE).await;
    run.fault(&format!("restart {victim}"), move |platform| platform.nodes[victim].restart()).await;
    run.until_more(200, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn everything_is_restarted_one_after_the_other_under_load() {
    let run = Run::start("rolling", with_three_nats()).await;
    for node in 0..3 {
        run.until_more(100, PATIENCE).await;
        run.fault(&format!("restart node {node}"), move |platform| {
            platform.nodes[node].terminate();
            platform.nodes[node].restart();
            platform.nodes[node].wait_until_ready();
        })
        .await;
        run.until_more(100, PATIENCE).await;
        run.fault(&format!("restart NATS server {node}"), move |platform| {
            platform.nats.restart(node);
            platform.nats.wait_until_healthy();
        })
        .await;
    }
    run.fault("restart the store", restart_store).await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn one_server_of_nats_after_the_other_hangs() {
    let run = Run::start("nats_hangs", with_three_nats()).await;
    for server in 0..3 {
        run.until_more(100, PATIENCE).await;
        run.fault(&format!("stop NATS server {server}"), move |platform| {
            platform.nats.stop(server);
        })
        .await;
        run.wait(BEYOND_THE_LEASE).await;
        run.until_more(100, PATIENCE).await;
        run.fault(&format!("resume NATS server {server}"), move |platform| {
            platform.nats.resume(server);
            platform.nats.wait_until_healthy();
        })
        .await;
    }
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn a_store_that_stutters_holds_up_no_message() {
    let mut run = Run::start("store_stutters", RunOptions::default()).await;
    run.until_more(100, PATIENCE).await;
    for _ in 0..15 {
        run.fault("stop the store", |platform| platform.cassandra.stop(0)).await;
        let (before, _) = run.progress();
        run.wait(2).await;
        let (after, _) = run.progress();
        assert!(after > before, "nothing is acknowledged while the store hangs");
        run.fault("resume the store", |platform| platform.cassandra.resume(0)).await;
        let pause_ms = run.random.random_range(200..1_500);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn an_owner_dies_while_the_store_is_down() {
    let mut run = Run::start("store_down_kill_owner", RunOptions::default()).await;
    run.until_more(200, PATIENCE).await;
    run.fault("kill the store", |platform| platform.cassandra.kill(0)).await;
    run.wait(10).await;
    let victim = run.random.random_range(0..3);
    run.fault(&format!("kill {victim}"), move |platform| platform.nodes[victim].kill()).await;
    run.wait(10).await;
    run.fault("restart the store and the node", move |platform| {
        restart_store(platform);
        platform.nodes[victim].restart();
        platform.nodes[victim].wait_until_ready();
    })
    .await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn clocks_are_set_ahead_and_back() {
    let mut run = Run::start("clocks", RunOptions::default()).await;
    for offset_ms in [1_500, 5_000, HOUR_MS, -1_500, -5_000, -HOUR_MS] {
        let node = run.random.random_range(0..3);
        set_clock_and_kill(&run, node, offset_ms).await;
    }
    run.fault("wait for all", wait_until_ready).await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `cargo xtask test --long` runs it"]
async fn a_clock_that_was_an_hour_wrong_is_followed_once_it_is_right() {
    let mut run = Run::start("clock_back", RunOptions::default()).await;
    for offset_ms in [HOUR_MS, -HOUR_MS] {
        run.until_more(100, PATIENCE).await;
        let node = run.random.random_range(0..3);
        run.fault(&format!("set the clock of {node} to {offset_ms} ms"), move |platform| {
            platform.nodes[node].set_clock(offset_ms);
            platform.nodes[node].wait_until_not_ready();
        })
        .await;
        run.until_more(200, PATIENCE).await;
        run.until_caught_up(CAUGHT_UP).await;
        run.fault(&format!("set the clock of {node} right"), move |platform| {
            platform.nodes[node].set_clock(0);
            platform.nodes[node].wait_until_ready();
        })
        .await;
        run.until_more(200, PATIENCE).await;
        run.until_caught_up(CAUGHT_UP).await;
        assert!(run.furthest_ahead() < AHEAD_MAX, "{:?}", run.furthest_ahead());
    }
    run.finish().await;
}
