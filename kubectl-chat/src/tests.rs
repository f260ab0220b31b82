//! Pages against golden files, commands and the doctor against made-up clusters.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::path::Path;

use crds::{ChatCluster, Command};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::doctor::{Facts, Level, diagnose, is_sick};
use crate::status::{Told, fit, render};
use crate::text::Style;
use crate::{command, doctor};

const WIDE: Style = Style { width: 100, rich: false };
const RICH: Style = Style { width: 100, rich: true };
const NARROW: Style = Style { width: 48, rich: false };

fn at(text: &str) -> Timestamp {
    format!("2026-11-28T{text}Z").parse().unwrap()
}

fn now() -> Timestamp {
    at("09:10:00")
}

fn condition(type_: &str, status: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": "Why", "message": message,
        "lastTransitionTime": at("09:00:00"), "observedGeneration": 3,
    })
}

/// A platform at rest.
fn steady() -> Value {
    json!({
        "apiVersion": "chatcluster.dev/v1alpha1",
        "kind": "ChatCluster",
        "metadata": {"name": "chat", "namespace": "demo", "generation": 3},
        "spec": {
            "chat": {"image": "registry.example.org/chat-node:1.4.2", "replicas": 3},
            "scylla": {"managed": {"image": "scylladb/scylla:2025.1"}},
        },
        "status": {
            "observedGeneration": 3, "phase": "Steady", "replicas": 3, "readyReplicas": 3,
            "activeRevision": "0a1b2c3d4e", "nats": "3/3", "scylla": "3/3",
            "conditions": [
                condition("Ready", "True", "Everything is as the spec says."),
                condition("Accepted", "True", "The spec is valid."),
                condition("Available", "True", "3 of 3 chat nodes are ready."),
                condition("Progressing", "False", "The wanted revision serves."),
                condition("Paused", "False", "The operator works."),
            ],
            "history": [{
                "id": "0a1b2c3d4e-1", "from": "ffffffffff", "to": "0a1b2c3d4e", "outcome": "Completed",
                "startedAt": at("08:00:00"), "endedAt": at("08:20:00"), "told": 1000, "counted": 950,
                "resumed": 931, "lost": 0, "message": "All clients are on the new revision.",
            }],
        },
    })
}

/// The same, in the middle of a drain that goes badly.
fn draining() -> Value {
    let mut cluster = steady();
    let status = &mut cluster["status"];
    status["phase"] = "Draining".into();
    status["activeRevision"] = "99aabbccdd".into();
    status["conditions"][0] = condition("Ready", "False", "2 of 3 members of NATS are ready.");
    status["nats"] = "2/3".into();
    status["rollout"] = json!({
        "id": "99aabbccdd-1764320400", "from": "0a1b2c3d4e", "to": "99aabbccdd", "phase": "Draining",
        "nodes": 3, "startedAt": at("09:00:00"), "phaseStartedAt": at("09:02:00"),
        "deadlineAt": at("10:02:00"), "connections": 1000, "told": 410, "counted": 400, "resumed": 371,
        "lost": 12, "slowed": true, "paused": true,
        "batch": {
            "number": 9, "grantedAt": at("09:09:50"),
            "grants": [{"pod": "a", "connections": 40}, {"pod": "b", "connections": 10}],
        },
        "message": "No further batch: 2 of 3 members of NATS are ready.",
    });
    status["lastCommand"] = json!({
        "command": "pause", "target": "99aabbccdd-1764320400", "at": at("09:09:55"),
        "result": "It stands still; what was granted ends.",
    });
    cluster
}

/// The same, while a pod is emptied.
fn moving() -> Value {
    let mut cluster = draining();
    cluster["status"]["activeRevision"] = "0a1b2c3d4e".into();
    let run = &mut cluster["status"]["rollout"];
    run["to"] = "0a1b2c3d4e".into();
    run["pods"] = json!(["chat-chat-0a1b2c3d4e-x7k2p"]);
    run["paused"] = false.into();
    cluster
}

fn cluster(value: Value) -> ChatCluster {
    serde_json::from_value(value).unwrap()
}

fn events() -> Vec<Told> {
    let told = |time, reason: &str, message: &str, warning| Told {
        at: at(time),
        reason: reason.to_owned(),
        message: message.to_owned(),
        warning,
    };
    vec![
        told(
            "09:09:50",
            "DrainBatchStarted",
            "Batch 9: 50 clients of 2 nodes are asked to move.",
            false,
        ),
        told(
            "09:00:00",
            "RolloutStarted",
            "Rollout 99aabbccdd-1764320400 from revision 0a1b2c3d4e to 99aabbccdd.",
            false,
        ),
        told(
            "09:08:00",
            "ResumeRatioLow",
            "31 of 50 clients of batch 8 are back; 80 % are needed. New clients are well, so the drain goes on at a quarter of its rate.",
            true,
        ),
    ]
}

/// Compares with a golden file. `UPDATE_GOLDEN=1` writes it again.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, known, "{name} differs; UPDATE_GOLDEN=1 writes it again");
}

#[test]
fn pages_are_as_they_were() {
    let (steady, draining) = (cluster(steady()), cluster(draining()));
    golden("steady.txt", &render(&steady, &[], now(), WIDE));
    golden("draining.txt", &render(&draining, &events(), now(), WIDE));
    golden("draining-narrow.txt", &render(&draining, &events(), now(), NARROW));
    golden("draining-rich.txt", &render(&draining, &events(), now(), RICH));
    golden("moving.txt", &render(&cluster(moving()), &[], now(), WIDE));
    let mut young = steady.clone();
    young.status = None;
    golden("young.txt", &render(&young, &[], now(), WIDE));
}

#[test]
fn no_line_is_wider_than_the_terminal_and_no_page_longer() {
    let draining = cluster(draining());
    for width in [20, 48, 72, 100, 200] {
        let page = render(&draining, &events(), now(), Style { width, rich: false });
        let widest = page.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{widest} characters of {width}:\n{page}");
        assert_eq!(fit(&page, 10).lines().count(), 9);
    }
}

#[test]
fn commands_name_what_they_are_about() {
    let run = Ok("99aabbccdd-1764320400".to_owned());
    let draining = cluster(draining());
    for command in [Command::Abort, Command::Resume] {
        assert_eq!(command::target(&draining, command), run);
    }
    let mut rejected = steady();
    rejected["status"]["rejectedRevision"] = "99aabbccdd".into();
    let found = command::target(&cluster(rejected), Command::Retry);
    assert_eq!(found, Ok("99aabbccdd".to_owned()));
}

#[test]
fn commands_about_nothing_are_refused_in_a_sentence() {
    let mut watched = draining();
    watched["spec"]["paused"] = true.into();
    let cases = [
        (
            steady(),
            Command::Promote,
            "No rollout of ChatCluster chat is under way: there is nothing to promote.",
        ),
        (
            steady(),
            Command::Retry,
            "No revision of ChatCluster chat was rejected: there is nothing to retry.",
        ),
        (
            draining(),
            Command::Promote,
            "Rollout 99aabbccdd-1764320400 is promoted already: it is in the phase Draining.",
        ),
        (draining(), Command::Pause, "Rollout 99aabbccdd-1764320400 is paused already."),
        (
            watched,
            Command::Abort,
            "The operator leaves ChatCluster chat alone: set spec.paused to false first.",
        ),
    ];
    for (value, order, sentence) in cases {
        assert_eq!(command::target(&cluster(value), order), Err(sentence.to_owned()));
    }
}

#[test]
fn a_command_is_heard_when_its_annotation_is_gone_and_its_result_written() {
    let id = "99aabbccdd-1764320400";
    let mut value = draining();
    value["metadata"]["annotations"] = json!({"chatcluster.dev/pause": id});
    assert_eq!(command::result(&cluster(value), Command::Pause, id), None);
    let cluster = cluster(draining());
    let heard = command::result(&cluster, Command::Pause, id);
    assert_eq!(heard, Some("It stands still; what was granted ends."));
    assert_eq!(command::result(&cluster, Command::Resume, id), None);
    assert_eq!(command::result(&cluster, Command::Pause, "other"), None);
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut value = json!({
        "metadata": {
            "name": "chat-1",
            "labels": {
                "app.kubernetes.io/component": "chat",
                "chatcluster.dev/cluster": "chat",
                "chatcluster.dev/revision": "0a1b2c3d4e",
            },
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_pod_is_drained_if_it_is_a_node_of_the_active_revision() {
    let cluster = cluster(steady());
    let good = pod(|_| {});
    assert_eq!(command::owner(&good), Ok("chat".to_owned()));
    assert_eq!(command::may_drain(&good, &cluster, false), Ok(()));
    assert!(command::may_drain(&good, &cluster, true).is_err(), "nobody asked");
    let nats = pod(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] = "nats".into());
    assert!(command::owner(&nats).is_err());
    let older = pod(|pod| pod["metadata"]["labels"]["chatcluster.dev/revision"] = "ff".into());
    let asked = pod(|pod| pod["metadata"]["annotations"] = json!({"chatcluster.dev/drain": "now"}));
    let ending = pod(|pod| pod["metadata"]["deletionTimestamp"] = json!(at("09:00:00")));
    for (pod, part) in
        [(&older, "not of the active"), (&asked, "already"), (&ending, "ends already")]
    {
        let why = command::may_drain(pod, &cluster, false).unwrap_err();
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(command::may_drain(&asked, &cluster, true), Ok(()));
}

fn lease(renewed: Timestamp, holder: &str) -> Lease {
    let value = json!({
        "metadata": {"name": "chat-operator"},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseTransitions": 4},
    });
    serde_json::from_value(value).unwrap()
}

fn claim(phase: &str) -> PersistentVolumeClaim {
    let value = json!({
        "metadata": {"name": "data-chat-nats-0", "creationTimestamp": at("09:00:00")},
        "spec": {"storageClassName": "fast"},
        "status": {"phase": phase},
    });
    serde_json::from_value(value).unwrap()
}

/// Everything is well.
fn well() -> Facts {
    Facts {
        definition: Ok(Some(serde_json::to_value(ChatCluster::crd()).unwrap())),
        leases: Ok(vec![lease(at("09:09:58"), "chat-operator-x")]),
        cluster: cluster(steady()),
        pods: Ok(vec![pod(|_| {})]),
        claims: Ok(vec![claim("Bound")]),
        nodes: vec![("chat-1".to_owned(), Ok(None))],
    }
}

#[test]
fn the_doctor_finds_nothing_where_nothing_is_wrong() {
    let findings = diagnose(&well(), now());
    assert!(findings.iter().all(|finding| finding.level == Level::Good), "{findings:?}");
    assert!(!is_sick(&findings));
    golden("doctor-well.txt", &doctor::render(&findings, WIDE));
}

/// Each illness, and what the doctor says.
#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let waiting = |reason: &str, message: &str| {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        pod(|pod| {
            pod["status"]["conditions"][0]["status"] = "False".into();
            pod["status"]["containerStatuses"] = json!([{
                "name": "chat-node", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": state,
            }]);
        })
    };
    let unplaced = pod(|pod| {
        pod["status"] = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }]});
    });
    let mut older = serde_json::to_value(ChatCluster::crd()).unwrap();
    let schema = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    schema["status"]["properties"].as_object_mut().unwrap().remove("rollout");
    schema["spec"]["properties"].as_object_mut().unwrap().remove("disruption");
    let mut held = steady();
    held["status"]["phase"] = "Held".into();
    held["status"]["rejectedRevision"] = "99aabbccdd".into();
    let cases: Vec<(&str, Facts)> = vec![
        ("not defined", Facts { definition: Ok(None), ..well() }),
        (
            "lacks 2 fields, such as spec.disruption, status.rollout",
            Facts { definition: Ok(Some(older)), ..well() },
        ),
        ("ever held a lease", Facts { leases: Ok(vec![]), ..well() }),
        ("was given back 10s ago", Facts { leases: Ok(vec![lease(at("09:09:50"), "")]), ..well() }),
        (
            "x renewed its lease 5m 0s ago",
            Facts { leases: Ok(vec![lease(at("09:05:00"), "x")]), ..well() },
        ),
        ("Ready", Facts { cluster: failed(), ..well() }),
        ("was rejected", Facts { cluster: cluster(held), ..well() }),
        (
            "ImagePullBackOff: no such image",
            Facts { pods: Ok(vec![waiting("ImagePullBackOff", "no such image")]), ..well() },
        ),
        (
            "CrashLoopBackOff",
            Facts { pods: Ok(vec![waiting("CrashLoopBackOff", "back-off")]), ..well() },
        ),
        ("has no machine: 0/3 nodes", Facts { pods: Ok(vec![unplaced]), ..well() }),
        ("of class fast is Pending", Facts { claims: Ok(vec![claim("Pending")]), ..well() }),
        ("has lost", Facts { claims: Ok(vec![claim("Lost")]), ..well() }),
    ];
    for (sentence, facts) in &cases {
        let findings = diagnose(facts, now());
        let bad: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Bad).collect();
        assert!(bad.len() == 1 && bad[0].what.contains(sentence), "{sentence}: {findings:?}");
        assert!(is_sick(&findings));
    }
}

#[test]
fn a_node_that_hands_its_clients_over_is_not_ill() {
    let unready = || Ok(vec![pod(|pod| pod["status"]["conditions"][0]["status"] = "False".into())]);
    let older = Facts { cluster: cluster(draining()), pods: unready(), ..well() };
    assert!(!is_sick(&diagnose(&older, now())));
    let mut one = moving();
    assert!(is_sick(&diagnose(
        &Facts { cluster: cluster(one.clone()), pods: unready(), ..well() },
        now()
    )));
    one["status"]["rollout"]["pods"] = json!(["chat-1"]);
    let emptied = Facts { cluster: cluster(one), pods: unready(), ..well() };
    assert!(!is_sick(&diagnose(&emptied, now())));
    assert!(is_sick(&diagnose(&Facts { pods: unready(), ..well() }, now())));
}

fn failed() -> ChatCluster {
    let mut value = steady();
    value["status"]["conditions"][0] = condition("Ready", "False", "apply Service chat: refused");
    value["status"]["conditions"][0]["reason"] = "Failed".into();
    cluster(value)
}

#[test]
fn what_may_not_be_read_is_told_and_is_no_illness() {
    let refused = || "forbidden".to_owned();
    let facts = Facts {
        definition: Err(refused()),
        leases: Err(refused()),
        cluster: cluster(draining()),
        pods: Err(refused()),
        claims: Err(refused()),
        nodes: vec![
            ("chat-1".to_owned(), Err(refused())),
            ("chat-2".to_owned(), Ok(Some("The node starts.".to_owned()))),
        ],
    };
    let findings = diagnose(&facts, now());
    assert!(!is_sick(&findings), "{findings:?}");
    golden("doctor-blind.txt", &doctor::render(&findings, NARROW));
}
