//! Passes against an API server in memory.

use std::collections::BTreeSet;

use crate::bench::{Bench, new_pod, prepared};
use operator::build::Revision;
use operator::reconcile::pass;
use operator::rollout::Action;
use serde_json::json;

#[tokio::test]
async fn a_chatcluster_becomes_a_platform_and_a_pass_at_rest_writes_nothing() {
    let bench = Bench::new();
    bench.apply_example();
    bench.pass().await;
    assert_eq!(bench.cluster()["status"]["phase"], "Starting");
    assert_eq!(bench.server.names("statefulsets"), ["chat-nats", "chat-scylla-a"]);
    assert!(bench.server.names("replicasets").is_empty(), "chat nodes wait for what they stand on");
    assert_eq!(bench.server.names("secrets").len(), 3);

    bench.kubernetes();
    bench.run(10).await;
    assert_eq!(bench.cluster()["status"]["phase"], "Steady");
    assert_eq!(bench.condition("Ready")["status"], "True", "{}", bench.condition("Ready"));
    assert_eq!(bench.cluster()["status"]["replicas"], 2);
    assert_eq!(bench.server.names("pods").len(), 2);

    bench.server.take_writes();
    for _ in 0..3 {
        bench.pass().await;
    }
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_deleted_comes_back_and_what_is_changed_is_changed_back() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    for (plural, name) in [
        ("services", "chat-chat"),
        ("configmaps", "chat-nats"),
        ("networkpolicies", "chat-chat"),
        ("poddisruptionbudgets", "chat-nats"),
        ("statefulsets", "chat-nats"),
        ("replicasets", set.as_str()),
    ] {
        bench.server.remove(plural, name);
        bench.pass().await;
        assert!(bench.server.get(plural, name).is_some(), "{plural} {name} did not come back");
    }
    bench.run(3).await;
    bench.server.change("services", "chat-chat", |service| {
        service["spec"]["selector"]["chatcluster.dev/revision"] = "nonsense".into();
    });
    bench.server.change("replicasets", &set, |set| set["spec"]["replicas"] = 9.into());
    bench.pass().await;
    let service = bench.server.get("services", "chat-chat").unwrap();
    assert_ne!(service["spec"]["selector"]["chatcluster.dev/revision"], "nonsense");
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_invalid_spec_is_told_in_its_sentence_and_changes_nothing() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["nats"]["managed"]["replicas"] = 2.into();
    });
    bench.pass().await;
    let accepted = bench.condition("Accepted");
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(
        accepted["message"].as_str().unwrap().starts_with("Set nats.managed.replicas to 1, 3 or 5")
    );
    assert!(bench.server.names("statefulsets").is_empty());
}

#[tokio::test]
async fn a_new_image_is_rolled_out_and_the_old_revision_goes() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let before = bench.server.names("replicasets");
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["chat"]["image"] = "chat-node:2".into();
    });
    bench.run(1).await;
    assert_eq!(bench.server.names("replicasets").len(), 2);
    assert!(
        bench.server.get("configmaps", &before[0]).is_some(),
        "the old revision keeps what its pods mount"
    );
    bench.run(30).await;
    let status = bench.cluster()["status"].clone();
    assert_eq!(status["phase"], "Steady", "{status}");
    let after = bench.server.names("replicasets");
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert!(bench.server.get("configmaps", &before[0]).is_none());
    assert_eq!(status["history"][0]["outcome"], "Completed");
    let actions = bench.nodes.0.lock().unwrap().clone();
    let new = Revision::new(status["activeRevision"].as_str().unwrap());
    assert!(actions.iter().any(
        |action| matches!(action, Action::Prepare { pod, .. } if pod.starts_with(&before[0]))
    ));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Own { revision, .. } if *revision == new))
    );
}

#[tokio::test]
async fn a_commands_annotation_is_removed_and_what_came_of_it_is_told() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["metadata"]["annotations"] = json!({"chatcluster.dev/abort": "old-1"});
    });
    bench.pass().await;
    let cluster = bench.cluster();
    assert!(cluster["metadata"]["annotations"]["chatcluster.dev/abort"].is_null());
    let result = cluster["status"]["lastCommand"]["result"].as_str().unwrap();
    assert_eq!(result, "There is no rollout old-1 to abort.");
}

#[tokio::test]
async fn objects_of_others_are_left_alone() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.put(
        "services",
        json!({"metadata": {"name": "chat-nats"}, "spec": {"selector": {"a": "b"}}}),
    );
    let error = pass(&bench.context, "chat", "demo").await.unwrap_err();
    assert!(error.to_string().contains("Service chat-nats exists"), "{error}");
    let ready = bench.condition("Ready");
    assert!(ready["message"].as_str().unwrap().contains("does not belong to this ChatCluster"));
    assert!(
        bench.server.get("services", "chat-nats").unwrap()["metadata"]["annotations"].is_null()
    );
}

#[tokio::test]
async fn another_version_of_the_operator_restarts_nobody() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    // As another version would have rendered it: other digest, other probe, the same inputs.
    bench.server.change("statefulsets", "chat-nats", |set| {
        set["metadata"]["annotations"]["chatcluster.dev/applied"] = "older".into();
        set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSeconds"] =
            77.into();
    });
    bench.server.take_writes();
    bench.pass().await;
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn deletion_keeps_or_deletes_secrets_by_the_policy() {
    for (policy, left) in [("Retain", 3), ("Delete", 0)] {
        let bench = Bench::new();
        bench.apply_example();
        bench.run(3).await;
        bench.server.change("chatclusters", "chat", |cluster| {
            cluster["spec"]["deletionPolicy"] = policy.into();
            cluster["metadata"]["deletionTimestamp"] = "2026-11-28T10:00:00Z".into();
        });
        bench.pass().await;
        assert_eq!(bench.server.names("secrets").len(), left, "{policy}");
        assert_eq!(bench.cluster()["metadata"]["finalizers"], json!([]));
    }
}

#[tokio::test]
async fn a_paused_chatcluster_is_only_watched() {
    let bench = Bench::new();
    bench.apply_example();
    bench.server.change("chatclusters", "chat", |cluster| cluster["spec"]["paused"] = true.into());
    bench.pass().await;
    assert!(bench.server.names("statefulsets").is_empty());
    assert_eq!(bench.condition("Paused")["status"], "True");
}

#[tokio::test]
async fn pods_with_clients_are_held_when_machines_can_be_seen() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    assert_eq!(bench.budget(), (1, "AlwaysAllow".to_owned()), "nobody sees who has to go");
    bench.context.machines.set(Some(BTreeSet::new()));
    bench.pass().await;
    assert_eq!(bench.budget(), (0, "AlwaysAllow".to_owned()));
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["disruption"] = json!({"evictions": "Terminate", "maxUnavailable": 2});
    });
    bench.pass().await;
    assert_eq!(bench.budget(), (2, "AlwaysAllow".to_owned()));
}

#[tokio::test]
async fn a_cordoned_machine_loses_its_pod_after_another_one_is_ready() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    let leaving = format!("{set}-0");
    bench.server.change("pods", &leaving, |pod| pod["spec"] = json!({"nodeName": "worker-7"}));
    bench.context.machines.set(Some(BTreeSet::from(["worker-7".to_owned()])));
    bench.server.take_writes();
    bench.run(1).await;
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 3);
    assert_eq!(bench.condition("Progressing")["reason"], "PodsLeave");
    bench.run(2).await;
    assert_eq!(
        bench.budget(),
        (0, "IfHealthyBudget".to_owned()),
        "it is not ready, and may have clients"
    );
    bench.run(5).await;
    let writes = bench.server.take_writes();
    let deleted: Vec<_> = writes.iter().filter(|write| write.starts_with("DELETE pods")).collect();
    assert_eq!(deleted, [&format!("DELETE pods {leaving}")]);
    assert_eq!(bench.cluster()["status"]["phase"], "Steady", "{}", bench.cluster()["status"]);
    assert_eq!(bench.server.get("replicasets", &set).unwrap()["spec"]["replicas"], 2);
    let told = bench.nodes.0.lock().unwrap().clone();
    let mut prepared = told.iter().filter_map(|action| match action {
        Action::Prepare { pod, .. } => Some(pod),
        _ => None,
    });
    assert!(prepared.all(|pod| *pod == leaving), "{told:?}");
    bench.server.take_writes();
    bench.pass().await;
    assert_eq!(bench.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_somebody_wants_to_be_gone_is_replaced() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let set = bench.server.names("replicasets")[0].clone();
    let leaving = format!("{set}-1");
    bench.server.change("pods", &leaving, |pod| {
        pod["metadata"]["annotations"] = json!({"chatcluster.dev/drain": "please"});
    });
    bench.run(8).await;
    let status = bench.cluster()["status"].clone();
    assert_eq!((&status["phase"], &status["moves"]), (&json!("Steady"), &json!(1)), "{status}");
    assert_eq!(bench.server.names("pods"), [format!("{set}-0"), format!("{set}-2")]);
}

#[tokio::test]
async fn a_node_that_a_rollout_left_prepared_serves_again() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let left = bench.server.names("pods")[0].clone();
    // It did not hear of the end, and is not ready until it does.
    let rollout = "an-earlier-one".to_owned();
    bench.nodes.0.lock().unwrap().push(Action::Prepare { pod: left.clone(), rollout });
    bench.kubernetes();
    bench.run(2).await;
    let told = bench.nodes.0.lock().unwrap().clone();
    assert_eq!(prepared(&told, &left), None, "{told:?}");
}

#[tokio::test]
async fn nats_servers_start_again_one_at_a_time_and_the_leader_last() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let put = |ordinal: i64, hash: &str| {
        let name = format!("chat-nats-{ordinal}");
        let labels = json!({
            "chatcluster.dev/cluster": "chat", "app.kubernetes.io/component": "nats",
            "controller-revision-hash": hash,
        });
        bench.server.put("pods", new_pod(&name, &labels));
    };
    (0..3).for_each(|ordinal| put(ordinal, "old"));
    let set = |ready: i64, updated: i64| {
        bench.server.change("statefulsets", "chat-nats", |set| {
            set["status"] = json!({
                "replicas": 3, "readyReplicas": ready, "updatedReplicas": updated,
                "currentRevision": "old", "updateRevision": "new",
            });
        });
    };
    bench.server.take_writes();
    for (updated, ordinal) in [2, 1, 0].into_iter().enumerate() {
        set(3, i64::try_from(updated).unwrap());
        bench.pass().await;
        let writes = bench.server.take_writes();
        let deleted: Vec<_> = writes.iter().filter(|write| write.starts_with("DELETE")).collect();
        assert_eq!(deleted, [&format!("DELETE pods chat-nats-{ordinal}")]);
        let message = bench.condition("NatsReady")["message"].clone();
        assert!(message.as_str().unwrap().contains("starts again"), "{message}");
        set(2, 0);
        bench.pass().await;
        assert!(bench.server.get("pods", &format!("chat-nats-{ordinal}")).is_none());
        let more = bench.server.take_writes();
        assert!(!more.iter().any(|write| write.starts_with("DELETE")), "one is away: {more:?}");
        put(ordinal, "new");
    }
    set(3, 3);
    bench.pass().await;
    assert_eq!(bench.condition("NatsReady")["status"], "True");
}

#[tokio::test]
async fn volumes_grow_and_templates_of_claims_stay() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let name = "data-chat-nats-0";
    bench.server.put(
        "persistentvolumeclaims",
        json!({
            "metadata": {"name": name, "labels": {
                "chatcluster.dev/cluster": "chat", "app.kubernetes.io/component": "nats",
            }},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        }),
    );
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["nats"]["managed"]["storage"]["size"] = "2Gi".into();
    });
    bench.pass().await;
    let claim = bench.server.get("persistentvolumeclaims", name).unwrap();
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "2Gi");
    let set = bench.server.get("statefulsets", "chat-nats").unwrap();
    let template = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"];
    assert_eq!(template["storage"], "1Gi", "Kubernetes refuses another template");
    bench.pass().await;
    let message = bench.condition("VolumesReady")["message"].clone();
    assert_eq!(message, "Volume data-chat-nats-0 is being made larger.");
    bench.server.change("persistentvolumeclaims", name, |claim| {
        claim["status"]["capacity"]["storage"] = "2Gi".into();
    });
    bench.pass().await;
    assert_eq!(bench.condition("VolumesReady")["status"], "True");
}

#[tokio::test]
async fn an_older_definition_is_told_and_nothing_is_done_that_would_be_forgotten() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    bench.server.forget("rollout");
    bench.server.change("chatclusters", "chat", |cluster| {
        cluster["spec"]["chat"]["image"] = "chat-node:2".into();
    });
    let error = pass(&bench.context, "chat", "demo").await.unwrap_err();
    assert!(error.to_string().contains("apply crds/chatcluster.yaml"), "{error}");
    assert_eq!(bench.server.names("replicasets").len(), 1, "no rollout begins");
}
