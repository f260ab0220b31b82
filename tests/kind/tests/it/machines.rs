//! Machines that are emptied while people chat, and fleets that become smaller.

use crds::{AutoscalingSpec, ChatClusterSpec, Outcome, Phase};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kind::machines::on_machine;
use kind::platform::{Platform, define, next_image, small};
use kind::roll::SOME;
use kind::{Roll, Space, in_space, until};

/// A platform whose servers are on one machine, so that the other can be emptied: a volume of this cluster stays where it
/// is, and a server waits for it. The operator sees which machines are being emptied.
async fn platform_beside(space: &Space, spec: ChatClusterSpec, emptied: &str) -> Platform {
    define(&space.client).await;
    let namespace = format!("namespace={}", space.name);
    space.helm(&[&namespace, "crds.install=false", "replicas=1", "watchNodes=true"]).await;
    space.cordon(emptied).await;
    let platform = Platform::create(space, spec).await;
    until("the servers have a machine", async || {
        let servers = [platform.pods("nats").await, platform.pods("scylla").await].concat();
        let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        (servers.len() == 2 && servers.iter().all(placed)).then_some(())
    })
    .await;
    // Chat nodes start when the servers are ready, and are spread over both.
    space.uncordon(emptied).await;
    platform.until_ready().await;
    platform
}

/// `kubectl drain`, as a person types it. Its evictions go on until the machine is empty.
async fn drain(roll: &Roll, machine: &str) {
    let space = &roll.platform.space;
    let there = on_machine(&roll.platform.pods("chat").await, machine);
    roll.note(&format!("{machine} is drained of {}", there.join(", ")));
    assert!(!there.is_empty(), "no chat node is on {machine}");
    let arguments =
        ["drain", machine, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=400s"];
    let said = space.kubectl(&arguments).await;
    assert_eq!(said.code, 0, "{}", said.text);
    let left = on_machine(&roll.platform.pods("chat").await, machine);
    assert!(left.is_empty(), "{left:?} are left on {machine}");
    roll.note(&format!("{machine} is empty"));
}

/// Checks that clients moved before their pods ended.
async fn check_moved(platform: &Platform) {
    let moved = moved(platform).await;
    assert!(moved.iter().sum::<usize>() > 0, "clients moved before pods went: {moved:?}");
}

/// How many clients moved away from pods before these ended, by each event that tells it.
async fn moved(platform: &Platform) -> Vec<usize> {
    let events = platform.events().await;
    let emptied = events.iter().filter_map(|event| {
        let (_, rest) = event.strip_prefix("PodsEmptied: ")?.split_once(": ")?;
        rest.split(' ').next()?.parse().ok()
    });
    emptied.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_machine_is_drained_at_rest() {
    in_space("rest", async |space: Space| {
        let [_, emptied] = space.workers().await;
        let platform = platform_beside(&space, small(), &emptied).await;
        let roll = Roll::on(platform, "kind-rest", SOME).await;
        drain(&roll, &emptied).await;
        let platform = roll.platform.clone();
        roll.finish(0).await;
        check_moved(&platform).await;
        assert_eq!(platform.chat_pods(true).await.len(), 2, "another pod took its place");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_machine_is_drained_in_the_drain_of_a_rollout() {
    in_space("machine", async |space: Space| {
        let [_, emptied] = space.workers().await;
        let platform = platform_beside(&space, small(), &emptied).await;
        let roll = Roll::on(platform, "kind-machine", SOME).await;
        roll.note("another image");
        roll.platform.edit(next_image).await;
        roll.platform.until_half_drained().await;
        drain(&roll, &emptied).await;
        let platform = roll.platform.clone();
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
        assert_eq!(history[0].lost, 0, "no pod went with its clients");
        // Those of green that were there had to go, too: after the rollout, and after their clients.
        assert!(!moved(&platform).await.is_empty(), "{:?}", platform.events().await);
    })
    .await;
}

/// Before the switch evictions are granted, so that no machine waits for a person, and pods move their clients while they
/// end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_machine_is_drained_while_a_rollout_waits_for_a_person() {
    in_space("waits", async |space: Space| {
        let [_, emptied] = space.workers().await;
        let mut spec = small();
        spec.rollout.auto_promote = false;
        let platform = platform_beside(&space, spec, &emptied).await;
        let roll = Roll::on(platform, "kind-waits", SOME).await;
        roll.note("another image");
        roll.platform.edit(next_image).await;
        roll.platform.until_phase(&[Phase::AwaitingPromotion]).await;
        drain(&roll, &emptied).await;
        roll.platform.until_phase(&[Phase::AwaitingPromotion]).await;
        roll.note("promote");
        roll.platform.command("promote").await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_smaller_fleet_moves_its_clients_first() {
    in_space("smaller", async |space: Space| {
        let roll = Roll::start(&space, "kind-smaller", small(), SOME).await;
        roll.note("three nodes");
        roll.platform.edit(|spec| spec.chat.replicas = 3).await;
        roll.platform.until_ready().await;
        assert_eq!(roll.platform.chat_pods(true).await.len(), 3);
        roll.note("one node");
        roll.platform.edit(|spec| spec.chat.replicas = 1).await;
        until("one node is left", async || {
            (roll.platform.pods("chat").await.len() == 1).then_some(())
        })
        .await;
        let platform = roll.platform.clone();
        roll.finish(0).await;
        check_moved(&platform).await;
    })
    .await;
}

/// Without a metrics server it decides by its bounds alone, which takes the same way: it scales the ChatCluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn an_autoscaler_makes_the_fleet_larger_and_smaller() {
    in_space("scaler", async |space: Space| {
        let roll = Roll::start(&space, "kind-scaler", small(), SOME).await;
        let platform = roll.platform.clone();
        for (min_replicas, max_replicas, wanted) in [(3, 4, 3), (1, 1, 1)] {
            roll.note(&format!("between {min_replicas} and {max_replicas} nodes"));
            let scaler = AutoscalingSpec {
                min_replicas,
                max_replicas,
                target_cpu_percent: Some(60),
                target_connections: None,
            };
            platform.edit(|spec| spec.autoscaling = Some(scaler.clone())).await;
            until(&format!("there are {wanted} nodes"), async || {
                let there = platform.pods("chat").await.len();
                (there == wanted && platform.get().await.spec.chat.replicas == wanted as i32)
                    .then_some(())
            })
            .await;
            platform.until_ready().await;
        }
        roll.finish(0).await;
        check_moved(&platform).await;
        platform.edit(|spec| spec.autoscaling = None).await;
        let scalers = space.api::<HorizontalPodAutoscaler>();
        until("the autoscaler is gone", async || {
            scalers.get_opt("chat-chat").await.unwrap().is_none().then_some(())
        })
        .await;
    })
    .await;
}
