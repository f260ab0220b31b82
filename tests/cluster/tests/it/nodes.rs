//! Deaths of nodes, short enough for every run of the tests.

use std::time::Duration;

use cluster::{PlatformOptions, Run, RunOptions};
use rand::RngExt;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_start_at_once_on_an_empty_cluster_and_one_dies() {
    let platform = PlatformOptions { nats: 1, nodes: 2 };
    let options = RunOptions { platform, users: 6, groups: 3, ..RunOptions::default() };
    let mut run = Run::start("two_nodes", options).await;
    run.until_more(100, PATIENCE).await;
    let victim = run.random.random_range(0..2);
    run.fault(&format!("kill {victim}"), move |platform| platform.nodes[victim].kill()).await;
    run.until_more(100, PATIENCE).await;
    run.fault(&format!("restart {victim}"), move |platform| {
        platform.nodes[victim].restart();
        platform.nodes[victim].wait_until_ready();
    })
    .await;
    run.until_more(100, PATIENCE).await;
    run.finish().await;
}
