//! `chat-node doctor` on real files and servers.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use servers::cassandra::{Cassandra, DATACENTER};
use servers::nats::{Nats, NatsOptions};

use crate::process::{NodeProcess, program};

/// Addresses on which nobody listens.
const FREE: &[&str] =
    &["doctor", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--connections-max=100"];

fn doctor(flags: &[String], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = program();
    command.args(FREE).args(flags).envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

#[track_caller]
fn line<'a>(text: &'a str, check: &str) -> &'a str {
    let begins = |line: &&str| line.get(6..).is_some_and(|rest| rest.starts_with(check));
    text.lines().find(begins).unwrap_or_else(|| panic!("no line on {check}:\n{text}"))
}

fn data(path: &Path) -> Vec<String> {
    vec![format!("--data-dir={}", path.display())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_by_itself_is_examined_before_during_and_after_it_ran() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let (code, text) = doctor(&data(&path), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "data directory").contains("does not exist yet"), "{text}");
    assert!(!path.exists(), "it changes nothing");
    let mut node = NodeProcess::stopped(&path, &[]);
    node.restart().await;
    let mut flags = data(&path);
    flags.push(format!("--listen={}", node.address()));
    let mut command = program();
    command.arg("doctor").args(&flags).arg("--admin-listen=127.0.0.1:0");
    let during = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(line(&during, "data directory").contains("A node uses it."), "{during}");
    assert!(line(&during, "listen").contains("A chat node answers there."), "{during}");
    assert!(line(&during, "store epoch").starts_with("ok"), "{during}");
    node.stop().await;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let (code, text) = doctor(&data(&path), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "data directory").starts_with("warn"), "{text}");
    std::fs::write(path.join("log.db"), "this is no log").unwrap();
    let (code, text) = doctor(&data(&path), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "log:").starts_with("FAIL"), "{text}");
}

/// What a platform's nodes are told.
fn platform(nats: &Nats, hosts: &str, name: &str, keys: &Path) -> Vec<String> {
    vec![
        format!("--broker={}", nats.url()),
        format!("--nats-prefix={name}"),
        "--nats-replicas=1".to_owned(),
        "--nats-stream-bytes-max=67108864".to_owned(),
        format!("--store=scylla://{hosts}/{name}"),
        format!("--scylla-datacenter={DATACENTER}"),
        "--scylla-replication-factor=1".to_owned(),
        format!("--token-key-file={}", keys.display()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_is_examined_and_what_is_wrong_with_it_is_told() {
    let start = || (Nats::single(&NatsOptions::default()), Cassandra::shared());
    let (nats, cassandra) = tokio::task::spawn_blocking(start).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let name = format!("test_{:016x}", rand::random::<u64>());
    let hosts = cassandra.addresses().join(",");
    let flags = platform(&nats, &hosts, &name, &directory.path().join("keys.json"));

    let (code, text) = doctor(&flags, &[]);
    assert_eq!(code, Some(0), "an empty platform:\n{text}");
    assert!(line(&text, "streams").contains("none yet"), "{text}");
    assert!(nats.streams().is_empty(), "it changes nothing");

    let shown: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut node = NodeProcess::stopped(&directory.path().join("unused"), &shown);
    node.restart().await;
    let (code, text) = doctor(&flags, &[]);
    assert_eq!(code, Some(0), "{text}");
    for check in ["broker", "clock", "store:", "store schema", "store epoch", "signing keys"] {
        assert!(line(&text, check).starts_with("ok"), "{check}:\n{text}");
    }
    assert!(line(&text, "sync policy").starts_with("warn"), "{text}");
    let mut json = flags.clone();
    json.push("--json".to_owned());
    let report: serde_json::Value = serde_json::from_str(&doctor(&json, &[]).1).unwrap();
    assert_eq!(report["healthy"], true);

    let with = |extra: &str| {
        let mut flags = flags.clone();
        flags.retain(|flag| flag.split('=').next() != extra.split('=').next());
        flags.push(extra.to_owned());
        doctor(&flags, &[])
    };
    let (code, text) = with("--nats-streams=3");
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "stream ").contains("created with 4 streams"), "{text}");
    let (code, text) = with("--scylla-datacenter=elsewhere");
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "store data centre").contains(DATACENTER), "{text}");
    let (code, text) = with("--nats-prefix=other");
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "store epoch").starts_with("warn"), "a store without its log:\n{text}");
    node.stop().await;
    nats.kill(0);
    let (code, text) = doctor(&flags, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "broker").starts_with("FAIL"), "{text}");
    assert!(line(&text, "store schema").starts_with("ok"), "the rest is examined all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_shown() {
    let user = Some(("node".to_owned(), "right-password".to_owned()));
    let nats = Nats::single(&NatsOptions { user, ..NatsOptions::default() });
    let directory = tempfile::tempdir().unwrap();
    let mut flags = platform(&nats, "127.0.0.1:1", "chat", &directory.path().join("keys.json"));
    flags.push("--nats-user=node".to_owned());
    let (code, text) = doctor(&flags, &[("CHAT_NATS_PASSWORD", "wrong-password")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(line(&text, "broker").contains("refuse these credentials"), "{text}");
    assert!(line(&text, "store").starts_with("FAIL"), "{text}");
    assert!(!text.contains("wrong-password"), "{text}");
    let (_, text) = doctor(&flags, &[("CHAT_NATS_PASSWORD", "right-password")]);
    assert!(line(&text, "broker").starts_with("ok"), "{text}");
}
