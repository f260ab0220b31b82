//! Wrong clocks, and ids of a wrong time: what is short enough for every run of the tests, and what longer ones share.

use std::time::Duration;

use chat_protocol::Partition;
use cluster::ahead::put_ahead;
use cluster::{PlatformOptions, Run, RunOptions};

const PATIENCE: Duration = Duration::from_secs(60);

/// A new device catches up within this time, while owners change and processors are busy.
pub(crate) const CAUGHT_UP: Duration = Duration::from_secs(30);

pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Ids may be ahead by what an owner that died had reserved, and a little for each that died before.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(20);

/// A node's clock is set, the node dies with it, and comes back with the right one; people go on. Only one at a time:
/// beyond two seconds it costs a node its partitions, and somebody has to own them.
pub(crate) async fn set_clock_and_kill(run: &Run, node: usize, offset_ms: i64) {
    run.until_more(100, PATIENCE).await;
    let what = format!("set the clock of {node} to {offset_ms} ms from the right time");
    run.fault(&what, move |platform| {
        platform.nodes[node].set_clock(offset_ms);
        if i64::abs(offset_ms) > 2_000 {
            platform.nodes[node].wait_until_not_ready();
        }
    })
    .await;
    run.wait(3).await;
    // Its connections stand: what it says to people is right all the same.
    run.until_more(100, PATIENCE).await;
    // An owner with such a clock dies, and leaves its reservations.
    run.fault(&format!("kill {node}"), move |platform| platform.nodes[node].kill()).await;
    run.until_more(100, PATIENCE).await;
    run.until_caught_up(CAUGHT_UP).await;
    run.fault(&format!("restart {node}, and set its clock right"), move |platform| {
        platform.nodes[node].set_clock(0);
        platform.nodes[node].restart();
    })
    .await;
    assert!(run.furthest_ahead() < AHEAD_MAX, "ids are {:?} ahead", run.furthest_ahead());
}

fn two_nodes() -> RunOptions {
    let platform = PlatformOptions { nats: 1, nodes: 2 };
    RunOptions { platform, users: 6, groups: 3, ..RunOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_is_set_an_hour_ahead_and_brings_no_ids_of_that_time() {
    let run = Run::start("hour_ahead", two_nodes()).await;
    set_clock_and_kill(&run, 0, HOUR_MS).await;
    run.until_more(50, PATIENCE).await;
    run.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_an_hour_ahead_in_some_logs_hold_nobody_up() {
    let run = Run::start("ids_ahead", two_nodes()).await;
    run.until_more(50, PATIENCE).await;
    run.fault("kill all", |platform| platform.nodes.iter().for_each(|node| node.kill())).await;
    let hour = Duration::from_millis(HOUR_MS as u64);
    // Some of them: the others' owners have to follow what they only hear of.
    put_ahead(&run.platform.nats, hour, Partition::all().filter(|p| p.0 % 2 == 0)).await;
    run.fault("restart all", |platform| {
        platform.nodes.iter().for_each(|node| node.restart());
        platform.nodes.iter().for_each(|node| node.wait_until_ready());
    })
    .await;
    for _ in 0..3 {
        run.until_more(100, PATIENCE).await;
        run.until_caught_up(CAUGHT_UP).await;
    }
    let ahead = run.furthest_ahead();
    assert!(ahead > hour / 2 && ahead < hour, "ids are {ahead:?} ahead");
    run.finish().await;
}
