//! Rollouts while people chat, and what befalls them.

use cluster::crowd::CrowdOptions;
use crds::{ChatClusterSpec, Jitter, Outcome, Phase};
use kind::platform::{Edit, NEXT_IMAGE, next_image, small, three_servers};
use kind::roll::SOME;
use kind::{Roll, Space, in_space};

/// As many as one machine carries beside the cluster.
const MANY: CrowdOptions =
    CrowdOptions { users: 100, devices: 10, groups: 25, pause_ms: 2500, polls_every: 20 };

/// Kills the operator's processes. The next one takes the lease when it has run out.
async fn kill_operator(space: &Space) {
    for pod in space.pods("app.kubernetes.io/name=chat-operator").await {
        space.kill_pod(&pod).await;
    }
}

/// One of the two that CI runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn an_image_is_replaced_under_load_though_the_operator_dies() {
    in_space("rollout", async |space: Space| {
        let roll = Roll::start(&space, "kind-rollout", small(), SOME).await;
        roll.note("another image");
        roll.platform.edit(next_image).await;
        roll.platform.until_half_drained().await;
        roll.note("the operator dies");
        kill_operator(&space).await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_thousand_clients_are_moved_at_the_configured_pace() {
    in_space("thousand", async |space: Space| {
        let mut spec = small();
        spec.rollout.drain.batch_percent = 10;
        // Without a delay of their own, clients come when they are asked.
        spec.rollout.drain.jitter = Jitter { min_ms: 0, max_ms: 0 };
        let pace = usize::try_from(spec.rollout.drain.max_per_second).unwrap();
        let roll = Roll::start(&space, "kind-thousand", spec, MANY).await;
        roll.note("another image");
        roll.platform.edit(next_image).await;
        roll.platform.until_phase(&[Phase::Draining]).await;
        let before_ms = roll.crowd.now_ms();
        let began = std::time::Instant::now();
        roll.until_ended(1).await;
        let drained = began.elapsed();
        let service = roll.crowd.service(before_ms);
        println!("drained in {drained:?}: {service:?}, pace {pace} in a second");
        // They are asked at this pace; how long each takes to connect differs on a busy machine.
        assert!(service.peak_per_second <= 2 * pace, "{service:?}");
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

/// The operator is killed in each phase of a rollout, and the next process goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_rollout_goes_on_when_the_operator_dies() {
    in_space("operator", async |space: Space| {
        let roll = Roll::start(&space, "kind-operator", small(), SOME).await;
        let phases = [
            Phase::Provisioning,
            Phase::Verifying,
            Phase::Switching,
            Phase::Soaking,
            Phase::Draining,
            Phase::Retiring,
        ];
        for (number, phase) in phases.into_iter().enumerate() {
            let image = if number % 2 == 0 { NEXT_IMAGE } else { "chatcluster/chat-node:dev" };
            roll.platform.edit(|spec| spec.chat.image = image.to_owned()).await;
            // A short phase may be over before it is seen.
            roll.platform.until_phase(&phases[number..]).await;
            roll.note(&format!("the operator dies in {phase:?}"));
            kill_operator(&space).await;
            let history = roll.until_ended(number + 1).await;
            assert_eq!(history[0].outcome, Outcome::Completed, "killed in {phase:?}");
        }
        roll.finish(phases.len()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn an_abort_goes_back_without_loss() {
    in_space("abort", async |space: Space| {
        let roll = Roll::start(&space, "kind-abort", small(), SOME).await;
        let blue = roll.platform.status().await.active_revision;
        let cases = [
            (Phase::Provisioning, "abort", Outcome::Aborted),
            (Phase::Soaking, "rollback", Outcome::RolledBack),
            (Phase::Draining, "abort", Outcome::RolledBack),
        ];
        for (phase, command, outcome) in cases {
            roll.platform.edit(next_image).await;
            roll.platform.until_phase(&[phase]).await;
            if phase == Phase::Draining {
                roll.platform.until_half_drained().await;
            }
            roll.note(&format!("{command} in {phase:?}"));
            roll.platform.command(command).await;
            roll.platform.until_phase(&[Phase::Held]).await;
            let status = roll.platform.status().await;
            assert_eq!(status.active_revision, blue, "it goes back from {phase:?}");
            assert!(status.history.iter().any(|entry| entry.outcome == outcome), "{status:?}");
            // The revision that was asked for before is wanted again, which forgets the rejected one.
            roll.platform.edit(|spec| spec.chat.image = small().chat.image).await;
            roll.platform.until_ready().await;
        }
        roll.finish(0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_revision_that_never_becomes_ready_moves_nobody() {
    in_space("never", async |space: Space| {
        let mut spec = small();
        spec.rollout.progress_deadline_seconds = 20;
        let roll = Roll::start(&space, "kind-never", spec, SOME).await;
        let no_image = |spec: &mut ChatClusterSpec| {
            spec.chat.image = "chatcluster/chat-node:never-built".to_owned();
        };
        let no_setting = |spec: &mut ChatClusterSpec| {
            spec.chat.image = small().chat.image;
            let setting = crds::Setting { name: "no_such".to_owned(), value: "1".to_owned() };
            spec.chat.config.push(setting);
        };
        let edits: [(&str, Edit); 2] =
            [("no such image", &no_image), ("no such setting", &no_setting)];
        for (what, edit) in edits {
            roll.note(what);
            roll.platform.edit(edit).await;
            roll.platform.until_phase(&[Phase::Held]).await;
            // The newest entry is about the way back, on which nobody had to be moved either.
            let history = roll.platform.status().await.history;
            let outcomes = [history[0].outcome, history[1].outcome];
            assert_eq!(outcomes, [Outcome::Completed, Outcome::Aborted], "{what}: {history:?}");
            assert_eq!(history[0].told + history[1].told, 0, "{what}: {history:?}");
        }
        assert_eq!(roll.crowd.service(roll.since_ms).reconnections, 0, "nobody was moved");
        roll.note("a good image");
        roll.platform
            .edit(|spec| {
                spec.chat.config = small().chat.config;
                next_image(spec);
            })
            .await;
        let history = roll.finish(5).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_blue_node_dies_in_a_drain() {
    in_space("blue", async |space: Space| {
        let roll = Roll::start(&space, "kind-blue", small(), SOME).await;
        roll.platform.edit(next_image).await;
        roll.platform.until_half_drained().await;
        let blue = roll.platform.chat_pods(false).await;
        roll.note("a blue node dies");
        space.kill_pod(&blue[0]).await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_nats_server_goes_in_a_drain() {
    in_space("nats", async |space: Space| {
        let roll = Roll::start(&space, "kind-nats", three_servers(), SOME).await;
        roll.platform.edit(next_image).await;
        roll.platform.until_half_drained().await;
        roll.note("a NATS server goes");
        let servers = roll.platform.pods("nats").await;
        space.delete_pod(&servers[0]).await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn the_spec_changes_in_the_middle() {
    in_space("edit", async |space: Space| {
        let roll = Roll::start(&space, "kind-edit", small(), SOME).await;
        let capacity = |connections: i32| {
            move |spec: &mut ChatClusterSpec| spec.chat.connections_max = connections
        };
        roll.note("one");
        roll.platform.edit(capacity(4001)).await;
        roll.platform.until_phase(&[Phase::Provisioning, Phase::Verifying]).await;
        roll.note("another one before the switch");
        roll.platform.edit(capacity(4002)).await;
        roll.platform.until_half_drained().await;
        roll.note("a third one in the drain");
        roll.platform.edit(capacity(4003)).await;
        let history = roll.finish(3).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
        assert!(history[1..].iter().all(|entry| entry.outcome == Outcome::Superseded));
    })
    .await;
}
