//! NATS and database servers that start again, or come back, while people chat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crds::{ChatClusterSpec, Rack};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kind::platform::{Platform, small, three_servers};
use kind::pod::is_ready;
use kind::roll::SOME;
use kind::{PATIENCE, Roll, Space, in_space, until};
use kube::ResourceExt;

pub(crate) async fn uids(platform: &Platform, component: &str) -> BTreeSet<String> {
    platform.pods(component).await.iter().filter_map(ResourceExt::uid).collect()
}

fn ready(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| is_ready(pod)).count()
}

/// Looks again and again how many servers are ready, and keeps the least.
pub(crate) struct Least {
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Least {
    pub(crate) fn watch(platform: &Platform, component: &'static str) -> Least {
        let (platform, count) = (platform.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
        let least = count.clone();
        let task = tokio::spawn(async move {
            loop {
                let now = ready(&platform.pods(component).await);
                least.fetch_min(now, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Least { count, task }
    }

    pub(crate) fn end(self) -> usize {
        self.task.abort();
        self.count.load(Ordering::Relaxed)
    }
}

/// Waits until there are so many servers, all of them others than before, and the platform is at rest.
pub(crate) async fn until_replaced(
    platform: &Platform,
    component: &str,
    before: &BTreeSet<String>,
) {
    until(&format!("all servers of {component} are others"), async || {
        let pods = platform.pods(component).await;
        let are_others = pods.iter().all(|pod| !before.contains(&pod.uid().unwrap_or_default()));
        (are_others && ready(&pods) == before.len()).then_some(())
    })
    .await;
    platform.until_ready().await;
}

/// An edit that makes all three servers of a component start again.
async fn restart(roll: &Roll, component: &'static str, edit: impl Fn(&mut ChatClusterSpec)) {
    let platform = &roll.platform;
    let (chat, servers) = (uids(platform, "chat").await, uids(platform, component).await);
    let least = Least::watch(platform, component);
    roll.note(&format!("other resources for {component}"));
    platform.edit(edit).await;
    until_replaced(platform, component, &servers).await;
    assert_eq!(least.end(), 2, "one server at a time");
    assert_eq!(uids(platform, "chat").await, chat, "no chat node was replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn nats_servers_start_again_one_by_one() {
    in_space("restart", async |space: Space| {
        let roll = Roll::start(&space, "kind-restart", three_servers(), SOME).await;
        let platform = roll.platform.clone();
        let more = |spec: &mut ChatClusterSpec| {
            let resources = &mut spec.nats.managed.as_mut().unwrap().resources;
            resources.requests.insert("memory".to_owned(), "96Mi".to_owned());
        };
        restart(&roll, "nats", more).await;
        roll.finish(0).await;
        let events = platform.events().await;
        let restarted: Vec<_> =
            events.iter().filter(|event| event.starts_with("NatsServerRestarted")).collect();
        let names: BTreeSet<_> = restarted.iter().collect();
        assert_eq!((restarted.len(), names.len()), (3, 3), "each once: {restarted:?}");
    })
    .await;
}

/// Two racks, three members, three copies.
fn racks() -> ChatClusterSpec {
    let mut spec = small();
    let managed = spec.scylla.managed.as_mut().unwrap();
    managed.racks = [("a", 2), ("b", 1)]
        .map(|(name, members)| Rack {
            name: name.to_owned(),
            members,
            node_selector: Default::default(),
        })
        .into();
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_member_of_the_database_goes_and_comes_back() {
    in_space("member", async |space: Space| {
        let roll = Roll::start(&space, "kind-member", racks(), SOME).await;
        let platform = roll.platform.clone();
        let chat = uids(&platform, "chat").await;
        // Its process is killed; the second one, which is everybody's seed, may write what it has.
        for (member, is_killed) in [("chat-scylla-a-1", true), ("chat-scylla-a-0", false)] {
            let pods = platform.pods("scylla").await;
            let pod = pods.iter().find(|pod| pod.name_any() == member).unwrap();
            roll.note(&format!("{member} goes"));
            if is_killed {
                space.kill_pod(pod).await
            } else {
                space.delete_pod(pod).await
            }
            roll.crowd.until_more(20, PATIENCE).await;
            let there = ready(&platform.pods("scylla").await);
            assert!(there < 3, "messages were acknowledged while {member} was away");
            roll.note(&format!("20 messages are acknowledged; {there} of 3 members are ready"));
            until("all members are ready", async || {
                (ready(&platform.pods("scylla").await) == 3).then_some(())
            })
            .await;
            platform.until_ready().await;
        }
        assert_eq!(uids(&platform, "chat").await, chat, "no chat node was replaced");
        roll.finish(0).await;
    })
    .await;
}

/// Ids in the ring of the members, by their pods.
async fn hosts(platform: &Platform) -> BTreeMap<String, String> {
    let members = platform.status().await.members.into_iter();
    members.map(|member| (member.pod, member.host)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_member_whose_volume_is_lost_is_replaced() {
    in_space("volume", async |space: Space| {
        let roll = Roll::start(&space, "kind-volume", racks(), SOME).await;
        let platform = roll.platform.clone();
        let (chat, before) = (uids(&platform, "chat").await, hosts(&platform).await);
        assert_eq!(before.len(), 3, "{before:?}");
        // The first one, which is everybody's seed.
        let member = "chat-scylla-a-0";
        let claims = space.api::<PersistentVolumeClaim>();
        let claim = format!("data-{member}");
        let lost = claims.get(&claim).await.unwrap().uid();
        roll.note(&format!("{member} is said to be lost"));
        let said = space.kubectl(&["annotate", "pod", member, "chatcluster.dev/replace="]).await;
        assert_eq!(said.code, 0, "{}", said.text);
        until("there is another volume", async || {
            let found = claims.get_opt(&claim).await.unwrap();
            found.filter(|found| found.uid() != lost).map(drop)
        })
        .await;
        roll.crowd.until_more(20, PATIENCE).await;
        let after = until("another one has its place", async || {
            let hosts = hosts(&platform).await;
            (hosts.len() == 3 && hosts.get(member) != before.get(member)).then_some(hosts)
        })
        .await;
        roll.note("it has joined");
        platform.until_ready().await;
        for other in ["chat-scylla-a-1", "chat-scylla-b-0"] {
            assert_eq!(after.get(other), before.get(other), "{other} stays who it is");
        }
        assert_eq!(uids(&platform, "chat").await, chat, "no chat node was replaced");
        roll.finish(0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_member_joins_and_leaves_the_ring() {
    in_space("ring", async |space: Space| {
        let mut spec = racks();
        spec.scylla.replication_factor = Some(2);
        let members = |count: i32| {
            move |spec: &mut ChatClusterSpec| {
                spec.scylla.managed.as_mut().unwrap().racks[0].members = count;
            }
        };
        members(1)(&mut spec);
        let roll = Roll::start(&space, "kind-ring", spec, SOME).await;
        let platform = roll.platform.clone();
        let chat = uids(&platform, "chat").await;
        roll.note("one more member");
        platform.edit(members(2)).await;
        until("it has joined", async || (hosts(&platform).await.len() == 3).then_some(())).await;
        platform.until_ready().await;
        roll.crowd.until_more(20, PATIENCE).await;
        roll.note("one less");
        platform.edit(members(1)).await;
        until("it has left", async || {
            let status = platform.status().await;
            (status.members.len() == 2 && status.leaving_member.is_none()).then_some(())
        })
        .await;
        platform.until_ready().await;
        let claim = space.api::<PersistentVolumeClaim>().get_opt("data-chat-scylla-a-1").await;
        assert!(claim.unwrap().is_none(), "its volume goes with it");
        assert_eq!(uids(&platform, "scylla").await.len(), 2);
        assert_eq!(uids(&platform, "chat").await, chat, "no chat node was replaced");
        roll.finish(0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn members_of_the_database_start_again_one_by_one() {
    in_space("members", async |space: Space| {
        let roll = Roll::start(&space, "kind-members", racks(), SOME).await;
        let more = |spec: &mut ChatClusterSpec| {
            let resources = &mut spec.scylla.managed.as_mut().unwrap().resources;
            resources.requests.insert("memory".to_owned(), "600Mi".to_owned());
        };
        restart(&roll, "scylla", more).await;
        roll.finish(0).await;
    })
    .await;
}
