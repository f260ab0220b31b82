//! The chat nodes' configuration file as the operator writes it, read by chat-node's own parser.

use std::collections::BTreeMap;
use std::path::Path;

use chat_node::auth::KeyRing;
use chat_node::config::{BrokerAddress, Config, Sources, StoreAddress};
use crds::{ChatCluster, Setting};
use operator::build::{self, Fleet, Intent, Revision};
use operator::names;
use serde_json::json;

/// The repository's example, as the API server would hold it.
fn example() -> ChatCluster {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/chatcluster.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut cluster: ChatCluster = serde_saphyr::from_str(&text).unwrap();
    cluster.metadata.namespace = Some("demo".to_owned());
    cluster
}

fn parse(cluster: &ChatCluster) -> Config {
    let text = build::configuration(cluster, &Revision::new("0a1b2c3d4e"));
    let mut sources = Sources::default();
    sources.add_toml(&text, Path::new("chat-node.toml")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Config::load(&sources).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn a_chat_node_understands_the_examples_configuration() {
    let config = parse(&example());
    assert_eq!(config.revision.as_deref(), Some("0a1b2c3d4e"));
    assert_eq!(config.connections_max, 5000);
    assert!(matches!(config.broker, BrokerAddress::Nats(_)), "{:?}", config.broker);
    assert!(matches!(config.store, StoreAddress::Scylla { .. }), "{:?}", config.store);
    assert_eq!((config.nats.replicas, config.scylla.replication_factor), (3, 1));
    assert_eq!(config.nats.stream_bytes_max, (1 << 30) / 5);
    assert_eq!(config.scylla.datacenter, "dc1");
    assert_eq!(config.shutdown.grace_ms, 55_000);
    assert!(config.token.key_file.is_some());
}

/// Everything that can be set, on servers that exist already.
fn full() -> ChatCluster {
    let mut cluster = example();
    let chat = &mut cluster.spec.chat;
    chat.public_url = Some("https://chat.example.org".to_owned());
    chat.discovery.region = Some("eu-central".to_owned());
    chat.discovery.host_template = Some("{node}.{region}.chat.example.org".to_owned());
    chat.discovery.networks = vec!["10.0.0.0/8=eu-central".to_owned()];
    let settings = [
        ("rate_limits.enabled", "false"),
        ("audit_interval_ms", "30000"),
        ("allowed_origins", "[\"https://app.example.org\"]"),
        ("log.filter", "info,chat_node=debug"),
    ];
    chat.config = settings
        .map(|(name, value)| Setting { name: name.to_owned(), value: value.to_owned() })
        .into();
    let nats = json!({
        "servers": ["nats://a:4222", "nats://b:4222"],
        "credentials": {"name": "login"},
        "certificateAuthority": {"name": "authority"},
    });
    cluster.spec.nats.managed = None;
    cluster.spec.nats.external = Some(serde_json::from_value(nats).unwrap());
    let scylla = json!({
        "contactPoints": ["a:9042", "b:9042"],
        "datacenter": "eu",
        "credentials": {"name": "login"},
        "certificateAuthority": {"name": "authority"},
    });
    cluster.spec.scylla.managed = None;
    cluster.spec.scylla.external = Some(serde_json::from_value(scylla).unwrap());
    cluster
}

#[test]
fn a_chat_node_understands_everything_that_can_be_set() {
    let cluster = full();
    assert_eq!(cluster.problems(), Vec::<String>::new());
    let config = parse(&cluster);
    assert!(!config.rate_limits.enabled);
    assert_eq!(config.audit_interval_ms, 30_000);
    assert!(config.nats.tls && config.nats.ca_file.is_some() && config.scylla.ca_file.is_some());
    assert_eq!(config.scylla.datacenter, "eu");
}

#[test]
fn passwords_of_external_servers_come_by_the_environment() {
    let cluster = full();
    let wanted = build::wanted_revision(&cluster, &BTreeMap::new());
    let replicas = BTreeMap::from([(wanted.clone(), 1)]);
    let plan = Fleet {
        active: None,
        preview: None,
        wanted: wanted.clone(),
        replicas,
        budgets: BTreeMap::new(),
    };
    let intents: Vec<Intent> = build::fleet(&cluster, &build::Facts::default(), &plan);
    let name = names::revision("chat", wanted.as_str());
    let set =
        intents.iter().find(|intent| intent.resource.kind == "ReplicaSet" && intent.name == name);
    let pod = &set.unwrap().value["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    for (variable, key) in [
        ("CHAT_NATS_USER", "user"),
        ("CHAT_NATS_PASSWORD", "password"),
        ("CHAT_SCYLLA_USER", "user"),
        ("CHAT_SCYLLA_PASSWORD", "password"),
        ("CHAT_ADMIN_TOKEN", "token"),
    ] {
        let found = variables.iter().find(|found| found["name"] == variable).unwrap();
        assert_eq!(found["valueFrom"]["secretKeyRef"]["key"], key, "{variable}");
    }
}

#[test]
fn generated_keys_are_keys_that_a_chat_node_reads() {
    let cluster = example();
    let wanted = build::secrets(&cluster).token_keys;
    let secret = build::generate(&cluster, &wanted);
    let text = secret.value["stringData"]["keys.json"].as_str().unwrap();
    assert!(KeyRing::from_json(text).is_ok());
    assert_ne!(build::generate(&cluster, &wanted).value, secret.value, "keys are random");
}
