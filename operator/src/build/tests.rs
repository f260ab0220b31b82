use std::collections::BTreeMap;
use std::path::Path;

use crds::ChatCluster;

use super::*;

/// The example of the repository, as the API server would hold it.
fn example() -> ChatCluster {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/chatcluster.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut cluster: ChatCluster = serde_saphyr::from_str(&text).unwrap();
    cluster.metadata.namespace = Some("demo".to_owned());
    cluster.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
    cluster
}

fn facts(cluster: &ChatCluster) -> Facts {
    let used = secrets(cluster).used();
    Facts {
        secrets: used.into_iter().map(|name| (name, "0123456789".to_owned())).collect(),
        operator_namespace: "chat-system".to_owned(),
        members: members(cluster),
        ..Facts::default()
    }
}

/// As many members as are wanted, all of which have joined.
fn members(cluster: &ChatCluster) -> Members {
    let managed = cluster.spec.scylla.managed.as_ref().unwrap();
    let replicas = managed.racks.iter().map(|rack| (rack.name.clone(), rack.members));
    let joined = [("chat-scylla-a-0".to_owned(), "22222222-0000".to_owned())];
    Members { replicas: replicas.collect(), joined: joined.into(), ..Members::default() }
}

fn everything(cluster: &ChatCluster) -> Vec<Intent> {
    let facts = facts(cluster);
    let wanted = wanted_revision(cluster, &facts.secrets);
    let plan = Fleet {
        active: Some(wanted.clone()),
        preview: None,
        replicas: BTreeMap::from([(wanted.clone(), cluster.spec.chat.replicas)]),
        wanted,
        budgets: BTreeMap::new(),
    };
    let mut intents = foundation(cluster, &facts);
    intents.extend(fleet(cluster, &facts, &plan));
    intents
}

fn setting(name: &str, value: &str) -> crds::Setting {
    crds::Setting { name: name.to_owned(), value: value.to_owned() }
}

/// All objects of the example, as they are applied. `UPDATE_GOLDEN=1 cargo test -p operator golden` writes them again.
#[test]
fn the_example_becomes_the_golden_objects() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/example.yaml");
    let objects: Vec<String> = everything(&example())
        .iter()
        .map(|intent| {
            let text = serde_saphyr::to_string(&intent.value).unwrap();
            format!("--- # {}\n{text}", intent.concern.manager())
        })
        .collect();
    let text = objects.concat();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "the objects differ from {}: see the test's comment", path.display());
}

#[test]
fn only_what_pods_are_made_of_makes_a_new_revision() {
    let cluster = example();
    let digests = facts(&cluster).secrets;
    let before = wanted_revision(&cluster, &digests);
    let mut same = cluster.clone();
    same.spec.chat.replicas = 7;
    same.spec.rollout.soak_seconds = 1;
    same.spec.nats.managed.as_mut().unwrap().replicas = 5;
    same.spec.chat.service_type = crds::ServiceType::NodePort;
    assert_eq!(wanted_revision(&same, &digests), before);
    let mut other = cluster.clone();
    other.spec.chat.image = "chat-node:2".to_owned();
    assert_ne!(wanted_revision(&other, &digests), before);
    let mut other = cluster.clone();
    other.spec.chat.config.push(setting("poll_wait_ms_max", "1"));
    assert_ne!(wanted_revision(&other, &digests), before);
    let mut rotated = digests.clone();
    rotated.insert("chat-token-keys".to_owned(), "changed".to_owned());
    assert_ne!(wanted_revision(&cluster, &rotated), before);
}

/// The revision of the example is part of the contract: an operator that renders another name for the same resource
/// would roll every platform when it is upgraded.
#[test]
fn an_upgraded_operator_asks_for_the_same_revision() {
    let cluster = example();
    let revision = wanted_revision(&cluster, &facts(&cluster).secrets);
    assert_eq!(revision.as_str(), "16982c904f");
}

/// The data of the rack's ConfigMap.
fn told(cluster: &ChatCluster, members: Members) -> serde_json::Value {
    let facts = Facts { members, ..facts(cluster) };
    let intents = foundation(cluster, &facts);
    let is_rack =
        |intent: &&Intent| intent.resource.kind == "ConfigMap" && intent.name == "chat-scylla-a";
    intents.iter().find(is_rack).unwrap().value["data"].clone()
}

#[test]
fn members_are_told_by_a_file_how_to_join_and_when_to_leave() {
    let mut cluster = example();
    let lost = LostMember { host: "33333333-0000".to_owned(), address: "10.0.0.3".to_owned() };
    let start = Start {
        seeds: vec!["chat-scylla-a-0".to_owned(), "chat-scylla-a-1".to_owned()],
        replaces: Some(lost),
    };
    let uid = "44444444-0000".to_owned();
    let members = Members {
        starts: BTreeMap::from([("chat-scylla-a-2".to_owned(), start)]),
        leaving: Some(("chat-scylla-a-3".to_owned(), uid.clone())),
        ..members(&cluster)
    };
    let data = told(&cluster, members.clone());
    assert_eq!(data["leaving"], format!("{uid}\n"));
    assert_eq!(data["joined"], "22222222-0000\n");
    let seeds = "--seeds=chat-scylla-a-0.demo.svc,chat-scylla-a-1.demo.svc";
    let expected = format!("{seeds} --replace-node-first-boot=33333333-0000\n");
    assert_eq!(data["chat-scylla-a-2"], expected);
    cluster.spec.scylla.managed.as_mut().unwrap().engine = crds::Engine::Cassandra;
    let expected = format!("{seeds} --replace-address-first-boot=10.0.0.3\n");
    assert_eq!(told(&cluster, members)["chat-scylla-a-2"], expected);
}

#[test]
fn a_rack_has_members_when_the_plan_says_so() {
    let cluster = example();
    let facts = Facts { members: Members::default(), ..facts(&cluster) };
    let intents = foundation(&cluster, &facts);
    assert!(!intents.iter().any(|intent| intent.name == "chat-scylla-a"));
}

/// On a machine that lacks the label of one constraint, such as that of a zone, the scheduler heeds none of a pod's.
#[test]
fn pods_are_spread_where_there_are_no_zones() {
    let mut seen = 0;
    for intent in everything(&example()) {
        let pod = &intent.value["spec"]["template"]["spec"];
        if !pod.is_object() {
            continue;
        }
        let constraints = pod["topologySpreadConstraints"].as_array().unwrap();
        let keys: Vec<_> = constraints.iter().map(|one| &one["topologyKey"]).collect();
        assert_eq!(keys, ["kubernetes.io/hostname"], "{}", intent.name);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn pods_pass_the_restricted_profile() {
    for intent in everything(&example()) {
        let pod = &intent.value["spec"]["template"]["spec"];
        if !pod.is_object() || intent.name.contains("scylla") {
            continue;
        }
        let name = &intent.name;
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
        }
    }
}
