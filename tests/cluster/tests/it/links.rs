//! What is between a node and its servers goes wrong.

mod long {
    use std::time::Duration;

    use cluster::link::Answers;
    use cluster::{PlatformOptions, Run, RunOptions, Surroundings};
    use rand::RngExt;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// What an owner says of an append in doubt.
    const IN_DOUBT: &str = "append in doubt, sending it again";
    const LANDED: &str = "the append in doubt is in the log";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn appends_land_whose_answers_are_lost() {
        let surroundings = Surroundings {
            has_nats_link: true,
            flags: vec!["--log-filter=info,chat_node::partition=debug".to_owned()],
            ..Surroundings::default()
        };
        let options = RunOptions {
            platform: PlatformOptions { nats: 1, nodes: 3 },
            groups: 12,
            users: 24,
            devices: 1,
            pause_ms: 100,
        };
        let mut run = Run::start_in("answers_lost", options, surroundings).await;
        // An append is in doubt after 2 s; a lease is over after 3 s, and taken after 4.5 s.
        for times in [2_200..2_900, 2_200..2_900, 6_000..10_000, 6_000..10_000] {
            run.until_more(200, PATIENCE).await;
            let ms = run.random.random_range(times);
            run.fault(
                &format!("lose the answers of NATS to node 0 for {ms} ms"),
                move |platform| {
                    platform.nats_link().set(Answers::Lost);
                    std::thread::sleep(Duration::from_millis(ms));
                    platform.nats_link().cut();
                },
            )
            .await;
            run.until_each_goes_on(PATIENCE).await;
            // It gets its partitions back.
            run.wait(10).await;
        }
        let log = run.platform.nodes[0].whole_log();
        let (in_doubt, landed) = (log.matches(IN_DOUBT).count(), log.matches(LANDED).count());
        println!("{in_doubt} appends in doubt, {landed} of them had landed");
        assert!(landed > 0, "no append landed whose answer was lost ({in_doubt} in doubt)");
        run.finish().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: `cargo xtask test --long` runs it"]
    async fn a_slow_store_holds_up_no_message() {
        let surroundings = Surroundings { has_store_link: true, ..Surroundings::default() };
        let run = Run::start_in("store_slow", RunOptions::default(), surroundings).await;
        run.until_more(200, PATIENCE).await;
        for ms in [50, 250, 1_000] {
            run.fault(&format!("each answer of the store takes {ms} ms"), move |platform| {
                platform.store_link().set(Answers::Late(Duration::from_millis(ms)));
            })
            .await;
            let spoilt = run.platform.store_link().spoilt_bytes();
            let (acknowledged, received) = run.progress();
            run.wait(20).await;
            let (later, live) = run.progress();
            assert!(run.platform.store_link().spoilt_bytes() > spoilt, "nodes go round the link");
            assert!(later > acknowledged + 200, "{} acknowledged in 20 s", later - acknowledged);
            assert!(live > received + 200, "{} received live in 20 s", live - received);
        }
        run.fault("the store is fast", |platform| platform.store_link().set(Answers::Pass)).await;
        run.until_each_goes_on(PATIENCE).await;
        run.finish().await;
    }
}
