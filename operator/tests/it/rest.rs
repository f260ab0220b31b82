//! Many ChatClusters at rest.

use std::time::Duration;

use crate::bench::Bench;

const CLUSTERS: usize = 8;

#[tokio::test]
async fn many_chatclusters_at_rest_are_not_written_to() {
    let bench = Bench::new();
    let names: Vec<String> = (0..CLUSTERS).map(|number| format!("chat-{number:03}")).collect();
    for name in &names {
        bench.apply_example_as(name);
    }
    for _ in 0..12 {
        for name in &names {
            bench.pass_of(name).await;
        }
        bench.go_on();
    }
    for name in &names {
        let cluster = bench.server.get("chatclusters", name).unwrap();
        assert_eq!(cluster["status"]["phase"], "Steady", "{name}: {}", cluster["status"]);
    }
    bench.server.take_writes();
    for _ in 0..3 {
        for name in &names {
            let again = bench.pass_of(name).await;
            assert!(again >= Duration::from_secs(600), "{name} is looked at again in {again:?}");
        }
        bench.go_on();
    }
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}
