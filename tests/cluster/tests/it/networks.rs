//! NATS servers in networks of their own that are cut off.

mod long {
    use std::time::Duration;

    use cluster::{PlatformOptions, Run, RunOptions, Surroundings};
    use rand::RngExt;
    use servers::network::{Network, inside};

    const PATIENCE: Duration = Duration::from_secs(120);

    /// Longest time until a server that was cut off is healthy. It has deleted the consumers of watches meanwhile, and the
    /// others may not have heard of it. It counts as unhealthy until it has told them again: after 30 to 60 s, and then in
    /// twice that time (`deleteNotActive` in nats-server's `consumer.go`).
    const HEALED_MAX: Duration = Duration::from_secs(200);

    /// Longer than leases and elections.
    const BEYOND_THE_LEASE: u64 = 20;

    #[test]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    fn servers_of_nats_are_cut_off() {
        inside("networks::long::servers_of_nats_are_cut_off", || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(cut_off());
        });
    }

    async fn cut_off() {
        let platform = PlatformOptions { nats: 3, nodes: 3 };
        let options = RunOptions { platform, ..RunOptions::default() };
        let surroundings =
            Surroundings { network: Some(Network::new(3)), ..Surroundings::default() };
        let mut run = Run::start_in("nats_cut_off", options, surroundings).await;
        for is_leader in [false, true] {
            for is_heard in [false, true] {
                run.until_more(100, PATIENCE).await;
                let stream = run.random.random_range(0..4);
                let any = run.random.random_range(0..3);
                let leader = run.platform.nats.leader(&format!("chat-log-{stream}"));
                let server = leader.filter(|_| is_leader).unwrap_or(any);
                let what = if is_heard { "silence" } else { "cut off" };
                run.fault(
                    &format!("{what} NATS server {server}"),
                    move |platform| match is_heard {
                        false => platform.network().cut_off(server),
                        true => platform.network().silence(server),
                    },
                )
                .await;
                run.wait(BEYOND_THE_LEASE).await;
                run.until_each_goes_on(PATIENCE).await;
                run.fault(&format!("heal NATS server {server}"), move |platform| {
                    platform.network().heal(server);
                    platform.nats.wait_until_healthy_within(HEALED_MAX);
                })
                .await;
            }
        }
        run.until_each_goes_on(PATIENCE).await;
        run.finish().await;
    }
}
