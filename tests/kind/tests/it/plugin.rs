//! `kubectl chat`, as a person types it, while people chat.

use std::time::Duration;

use crds::{Outcome, Phase};
use kind::kubectl::Said;
use kind::platform::{next_image, small};
use kind::roll::SOME;
use kind::{Roll, Space, in_space, until};
use kube::ResourceExt;

/// Exit codes of the plugin.
const DONE: i32 = 0;
const REFUSED: i32 = 3;
const SICK: i32 = 4;

async fn chat(roll: &Roll, arguments: &[&str], code: i32) -> Said {
    let said = roll.platform.space.kubectl(&[&["chat"], arguments].concat()).await;
    assert_eq!(said.code, code, "kubectl chat {}: {}", arguments.join(" "), said.text);
    roll.note(&format!("kubectl chat {}", arguments.join(" ")));
    said
}

/// No batch is granted for a while.
async fn stands_still(roll: &Roll) {
    let number = async || roll.platform.status().await.rollout.unwrap().batch.map(|b| b.number);
    let before = number().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(number().await, before, "a batch was granted though the rollout is paused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_person_leads_rollouts_with_the_plugin() {
    in_space("plugin", async |space: Space| {
        let mut spec = small();
        spec.rollout.auto_promote = false;
        spec.rollout.drain.batch_percent = 5;
        let roll = Roll::start(&space, "kind-plugin", spec, SOME).await;
        let said = chat(&roll, &["doctor"], DONE).await;
        assert!(said.text.contains("No fault was found."));
        chat(&roll, &["promote"], REFUSED).await;

        roll.platform.edit(next_image).await;
        roll.platform.until_phase(&[Phase::AwaitingPromotion]).await;
        let said = chat(&roll, &["status", "chat"], DONE).await;
        assert!(said.text.contains("> AwaitingPromotion"));
        chat(&roll, &["promote"], DONE).await;
        roll.platform.until_half_drained().await;
        let said = chat(&roll, &["status"], DONE).await;
        assert!(said.text.contains("> Draining") && said.text.contains("asked to move"));
        chat(&roll, &["pause"], DONE).await;
        stands_still(&roll).await;
        let said = chat(&roll, &["status"], DONE).await;
        assert!(said.text.contains("Paused; kubectl chat resume lets it go on."));
        chat(&roll, &["pause"], REFUSED).await;
        chat(&roll, &["resume"], DONE).await;
        let history = roll.until_ended(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);

        roll.platform.edit(|spec| spec.chat.image = small().chat.image).await;
        roll.platform.until_phase(&[Phase::AwaitingPromotion]).await;
        chat(&roll, &["abort"], DONE).await;
        roll.platform.until_phase(&[Phase::Held]).await;
        let said = chat(&roll, &["doctor"], SICK).await;
        assert!(said.text.contains("was rejected"));
        chat(&roll, &["retry"], DONE).await;
        roll.platform.until_phase(&[Phase::AwaitingPromotion]).await;
        chat(&roll, &["promote"], DONE).await;
        // The way back has an entry of its own.
        let history = roll.finish(4).await;
        let outcomes: Vec<_> = history.iter().map(|entry| entry.outcome).collect();
        let expected =
            [Outcome::Completed, Outcome::Completed, Outcome::Aborted, Outcome::Completed];
        assert_eq!(outcomes, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_person_empties_a_pod_with_the_plugin() {
    in_space("empties", async |space: Space| {
        let roll = Roll::start(&space, "kind-empties", small(), SOME).await;
        chat(&roll, &["drain", "chat-nats-0"], REFUSED).await;
        let pods = roll.platform.chat_pods(true).await;
        let (name, uid) = (pods[0].name_any(), pods[0].uid());
        chat(&roll, &["drain", &name, "--undo"], REFUSED).await;

        // The pod that takes over finds no machine, so that there is time to think again.
        let machines = space.workers().await;
        for machine in &machines {
            space.cordon(machine).await;
        }
        chat(&roll, &["drain", &name], DONE).await;
        until("its clients are to move", async || {
            let rollout = roll.platform.status().await.rollout?;
            rollout.pods.contains(&name).then_some(())
        })
        .await;
        chat(&roll, &["drain", &name, "--undo"], DONE).await;
        for machine in &machines {
            space.uncordon(machine).await;
        }
        roll.platform.until_ready().await;
        let pods = roll.platform.chat_pods(true).await;
        assert!(pods.iter().any(|pod| pod.uid() == uid), "the pod stays when it is taken back");
        assert_eq!(roll.crowd.service(roll.since_ms).reconnections, 0, "nobody was moved");

        chat(&roll, &["drain", &name], DONE).await;
        until("another pod took its place", async || {
            let pods = roll.platform.chat_pods(true).await;
            (!pods.iter().any(|pod| pod.uid() == uid)).then_some(())
        })
        .await;
        let platform = roll.platform.clone();
        roll.finish(0).await;
        let events = platform.events().await;
        let emptied = format!("PodsEmptied: {name}: ");
        assert!(events.iter().any(|event| event.starts_with(&emptied)), "{events:?}");
    })
    .await;
}
