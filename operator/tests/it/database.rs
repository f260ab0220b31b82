//! Members of the database come, leave, start again and are replaced, in passes against an API server in memory.

use crate::bench::{Bench, new_pod};
use serde_json::{Value, json};

const SET: &str = "chat-scylla-a";

/// The example with so many members of one rack.
async fn with_members(wanted: i64) -> Bench {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["scylla"]["managed"]["racks"][0]["members"] = wanted.into();
        cluster["spec"]["scylla"]["replicationFactor"] = 1.into();
    });
    run(&bench, 12 * usize::try_from(wanted).unwrap()).await;
    bench
}

async fn run(bench: &Bench, passes: usize) {
    for _ in 0..passes {
        bench.run(1).await;
        members(bench);
    }
}

/// What Kubernetes' controllers and the members do: sets get pods and claims, and members join if they are told how.
fn members(bench: &Bench) {
    let Some(set) = bench.server.get("statefulsets", SET) else { return };
    let replicas = set["spec"]["replicas"].as_u64().unwrap();
    let told = bench.server.get("configmaps", SET).unwrap()["data"].clone();
    let mut hosts = bench.ring.hosts.lock().unwrap();
    for name in bench.server.names("pods").iter().filter(|name| name.starts_with(SET)) {
        let ordinal: u64 = name.rsplit('-').next().unwrap().parse().unwrap();
        if ordinal >= replicas {
            assert!(!hosts.contains_key(name), "{name} ends and is still in the ring");
            bench.server.remove("pods", name);
        }
    }
    for ordinal in 0..replicas {
        let name = format!("{SET}-{ordinal}");
        let claim = format!("data-{name}");
        let labels = json!({
            "chatcluster.dev/cluster": "chat", "app.kubernetes.io/component": "scylla",
            "controller-revision-hash": "new",
        });
        if bench.server.get("persistentvolumeclaims", &claim).is_none() {
            bench.server.put("persistentvolumeclaims", new_claim(&claim, &labels));
            let start = told[&name].as_str().unwrap_or_default().to_owned();
            assert!(start.starts_with("--seeds="), "{name} is not told how to join");
            if let Some((_, lost)) = start.trim().split_once("--replace-node-first-boot=") {
                hosts.retain(|_, host| host != lost);
            }
            let number = bench.server.get("persistentvolumeclaims", &claim).unwrap();
            let number = number["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
            hosts.insert(name.clone(), format!("host-{number}"));
        }
        if bench.server.get("pods", &name).is_none() {
            bench.server.put("pods", new_pod(&name, &labels));
        }
    }
    let ready = hosts.len();
    bench.server.change("statefulsets", SET, |set| {
        set["status"] = json!({
            "replicas": replicas, "readyReplicas": ready, "updatedReplicas": replicas,
            "currentRevision": "new", "updateRevision": "new",
        });
    });
}

fn new_claim(name: &str, labels: &Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    })
}

fn replicas(bench: &Bench) -> Value {
    bench.server.get("statefulsets", SET).unwrap()["spec"]["replicas"].clone()
}

fn want(bench: &Bench, members: i64) {
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["scylla"]["managed"]["racks"][0]["members"] = members.into();
    });
}

#[tokio::test]
async fn members_join_and_a_pass_at_rest_writes_nothing() {
    let bench = with_members(3).await;
    assert_eq!(replicas(&bench), 3);
    assert_eq!(
        bench.condition("ScyllaReady")["status"],
        "True",
        "{}",
        bench.condition("ScyllaReady")
    );
    let told = bench.server.get("configmaps", SET).unwrap()["data"].clone();
    assert_eq!(told["joined"].as_str().unwrap().lines().count(), 3);
    bench.server.take_writes();
    bench.pass().await;
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_member_leaves_the_ring_and_then_its_pod_and_volume_go() {
    let bench = with_members(3).await;
    want(&bench, 2);
    bench.pass().await;
    let leaving = bench.cluster()["status"]["leavingMember"].clone();
    assert_eq!(leaving["pod"], "chat-scylla-a-2");
    let uid = bench.server.get("pods", "chat-scylla-a-2").unwrap()["metadata"]["uid"].clone();
    let told = bench.server.get("configmaps", SET).unwrap()["data"]["leaving"].clone();
    assert_eq!(told.as_str().unwrap().trim(), uid);
    run(&bench, 4).await;
    assert_eq!(replicas(&bench), 3, "the others have it in their ring");
    let condition = bench.condition("ScyllaReady");
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("MemberLeaves"))
    );
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("chat-scylla-a-2 leaves the ring"), "{message}");

    bench.ring.hosts.lock().unwrap().remove("chat-scylla-a-2");
    run(&bench, 6).await;
    assert_eq!(replicas(&bench), 2);
    for (plural, name) in [
        ("pods", "chat-scylla-a-2"),
        ("persistentvolumeclaims", "data-chat-scylla-a-2"),
        ("services", "chat-scylla-a-2"),
    ] {
        assert!(bench.server.get(plural, name).is_none(), "{plural} {name} is left over");
    }
    assert!(bench.cluster()["status"]["leavingMember"].is_null());
    assert_eq!(bench.condition("ScyllaReady")["status"], "True");
}

#[tokio::test]
async fn nothing_is_told_to_a_member_that_the_status_cannot_remember() {
    let bench = with_members(3).await;
    bench.server.forget("leavingMember");
    want(&bench, 2);
    let error = operator::reconcile::pass(&bench.context, "chat", "demo").await.unwrap_err();
    assert!(error.to_string().contains("apply crds/chatcluster.yaml"), "{error}");
    let told = bench.server.get("configmaps", SET).unwrap()["data"].clone();
    assert!(told["leaving"].is_null());
}

#[tokio::test]
async fn a_member_that_somebody_calls_lost_takes_its_place_with_an_empty_volume() {
    let bench = with_members(3).await;
    let lost = "chat-scylla-a-1";
    let host = bench.ring.hosts.lock().unwrap()[lost].clone();
    bench.server.change("pods", lost, |pod| {
        pod["metadata"]["annotations"] = json!({"chatcluster.dev/replace": ""});
    });
    bench.server.take_writes();
    bench.pass().await;
    let message = bench.condition("ScyllaReady")["message"].clone();
    assert!(message.as_str().unwrap().contains("its rows have no other copy"), "{message}");
    let deleted = |writes: Vec<String>| -> Vec<String> {
        writes.into_iter().filter(|write| write.starts_with("DELETE")).collect()
    };
    assert_eq!(deleted(bench.server.take_writes()), Vec::<String>::new());

    *bench.ring.copies.lock().unwrap() = 2;
    bench.pass().await;
    assert_eq!(
        deleted(bench.server.take_writes()),
        [format!("DELETE persistentvolumeclaims data-{lost}"), format!("DELETE pods {lost}")]
    );
    // What it was is still in the ring, and its next pod reads so.
    bench.server.change("statefulsets", SET, |set| set["status"]["readyReplicas"] = 2.into());
    bench.pass().await;
    let told = bench.server.get("configmaps", SET).unwrap()["data"][lost].clone();
    assert!(
        told.as_str().unwrap().contains(&format!("--replace-node-first-boot={host}")),
        "{told}"
    );
    members(&bench);
    run(&bench, 3).await;
    let hosts = bench.ring.hosts.lock().unwrap().clone();
    assert!(hosts.len() == 3 && hosts[lost] != host, "{hosts:?}");
    assert_eq!(bench.condition("ScyllaReady")["status"], "True");
    let status = bench.cluster()["status"]["members"].clone();
    assert_eq!(status[1], json!({"pod": lost, "host": hosts[lost]}));
}

#[tokio::test]
async fn members_start_again_one_at_a_time() {
    let bench = with_members(3).await;
    for ordinal in 0..3 {
        bench.server.change("pods", &format!("{SET}-{ordinal}"), |pod| {
            pod["metadata"]["labels"]["controller-revision-hash"] = "old".into();
            let since = "2026-11-28T08:00:00Z";
            pod["status"]["conditions"][0]["lastTransitionTime"] = since.into();
        });
    }
    bench.server.take_writes();
    bench.pass().await;
    bench.pass().await;
    let writes = bench.server.take_writes();
    let deleted: Vec<_> = writes.iter().filter(|write| write.starts_with("DELETE")).collect();
    assert_eq!(deleted, ["DELETE pods chat-scylla-a-2"]);
    assert_eq!(bench.condition("ScyllaReady")["status"], "False");
}
