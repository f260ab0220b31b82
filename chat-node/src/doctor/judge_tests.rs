use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chat_broker::nats::ServerTime;
use chat_store::cql::{Inspection, KeyspaceState};

use super::super::evidence::{
    Address, Directory, DirectoryState, Evidence, KeyFile, Keys, Nats, Store,
};
use super::super::finding::{Level, Report};
use super::*;
use crate::config::Sources;

const PLATFORM: &str = "
    broker = \"nats://a:1\"
    store = \"scylla://b:2/chat\"
    [token]
    key_file = \"keys.json\"
    [scylla]
    datacenter = \"dc1\"";

fn config(toml: &str) -> Config {
    let mut sources = Sources::default();
    sources.add_toml(toml, Path::new("test.toml")).unwrap();
    Config::load(&sources).unwrap()
}

fn server() -> Server {
    Server {
        name: "n0".to_owned(),
        version: "2.12.3".to_owned(),
        is_new_enough: true,
        has_jetstream: true,
        cluster: Some("c".to_owned()),
        payload_bytes_max: 1 << 20,
        payload_bytes_needed: 600_000,
        time: Some(ServerTime { ahead_ms: 20, round_trip: Duration::from_millis(2) }),
        sync: Some(SyncPolicy::Always),
    }
}

fn stream(name: &str) -> StreamState {
    StreamState {
        name: name.to_owned(),
        found: Some(found()),
        replicas_wanted: 3,
        bytes_max_wanted: 1_000,
    }
}

fn found() -> FoundStream {
    FoundStream {
        replicas: 3,
        replicas_current: 2,
        has_leader: true,
        bytes_max: Some(1_000),
        bytes: 100,
        difference: None,
    }
}

fn cql() -> Inspection {
    Inspection {
        release: "ScyllaDB 6".to_owned(),
        datacenters: BTreeMap::from([("dc1".to_owned(), 3)]),
        keyspace: Some(KeyspaceState {
            replication: BTreeMap::from([("dc1".to_owned(), 3)]),
            is_network_topology: true,
            schema: 1,
            schema_known: 1,
            epoch: Some(7),
        }),
    }
}

fn nats() -> Nats {
    let nodes = BTreeMap::from([("node-1".to_owned(), Duration::from_secs(1))]);
    Nats {
        servers: vec![("nats://a:1".to_owned(), Ok(server()))],
        monitored_sync: vec![],
        streams: Ok(vec![stream("chat-log-0"), stream("KV_chat")]),
        keys: Some(Ok(Keys { store_epoch: Some(7), nodes })),
    }
}

fn evidence(broker: Broker, store: Store) -> Evidence {
    Evidence {
        broker,
        store,
        directory: None,
        keys: KeyFile { path: "keys.json".into(), state: Ok(Some(0o600)) },
        addresses: vec![("listen", "127.0.0.1:1".parse().unwrap(), Address::Free)],
        files_max: Some(1 << 20),
    }
}

/// What is not as it should be: its level and check.
fn wrong(config: &Config, evidence: &Evidence) -> Vec<(Level, String)> {
    let findings = judge(config, evidence);
    for finding in &findings {
        assert!(finding.found.ends_with(['.', '!', '?']), "a sentence: {finding:?}");
        assert_eq!(finding.advice.is_some(), finding.level != Level::Ok, "{finding:?}");
        let advice = finding.advice.as_deref().unwrap_or(".");
        assert!(advice.ends_with('.'), "a sentence: {finding:?}");
    }
    let wrong = findings.into_iter().filter(|finding| finding.level != Level::Ok);
    wrong.map(|finding| (finding.level, finding.check)).collect()
}

fn wrong_with(change: impl FnOnce(&mut Nats, &mut Inspection)) -> Vec<(Level, String)> {
    let (mut nats, mut cql) = (nats(), cql());
    change(&mut nats, &mut cql);
    wrong(&config(PLATFORM), &evidence(Broker::Nats(nats), Store::Cql(Ok(cql))))
}

fn one(level: Level, check: &str) -> Vec<(Level, String)> {
    vec![(level, check.to_owned())]
}

#[test]
fn a_platform_as_it_should_be_has_nothing_to_tell() {
    assert_eq!(wrong_with(|_, _| {}), vec![]);
}

#[test]
fn a_broker_that_is_away_fails_once_for_each_server_and_not_again_for_what_is_on_it() {
    let away = |nats: &mut Nats| {
        nats.servers = vec![("nats://a:1".to_owned(), Err("nobody answers".to_owned()))];
        nats.streams = Err("nobody answers".to_owned());
        nats.keys = None;
    };
    assert_eq!(wrong_with(|nats, _| away(nats)), one(Level::Fail, "broker nats://a:1"));
    let some = wrong_with(|nats, _| {
        nats.servers.push(("nats://b:1".to_owned(), Err("nobody answers".to_owned())));
    });
    assert_eq!(some, one(Level::Warn, "broker nats://b:1"));
}

#[test]
fn servers_that_cannot_do_fail() {
    type Change = fn(&mut Server);
    let changes: [Change; 3] = [
        |server| server.is_new_enough = false,
        |server| server.has_jetstream = false,
        |server| server.payload_bytes_max = 64 * 1024,
    ];
    for change in changes {
        let mut server = server();
        change(&mut server);
        let found = wrong_with(|nats, _| nats.servers[0].1 = Ok(server));
        assert_eq!(found, one(Level::Fail, "broker nats://a:1"));
    }
}

#[test]
fn clocks_more_than_two_seconds_apart_fail_either_way() {
    for (ahead_ms, level) in [
        (499, None),
        (-600, Some(Level::Warn)),
        (1_999, Some(Level::Warn)),
        (2_100, Some(Level::Fail)),
        (-3_600_000, Some(Level::Fail)),
    ] {
        let time = ServerTime { ahead_ms, round_trip: Duration::from_millis(10) };
        let server = Server { time: Some(time), ..server() };
        let found = wrong_with(|nats, _| nats.servers[0].1 = Ok(server));
        let wanted = level.map(|level| (level, "clock nats://a:1".to_owned()));
        assert_eq!(found, wanted.into_iter().collect::<Vec<_>>(), "{ahead_ms}");
    }
}

#[test]
fn a_slow_answer_is_no_proof_of_a_wrong_clock() {
    let time = ServerTime { ahead_ms: 2_100, round_trip: Duration::from_secs(4) };
    let server = Server { time: Some(time), ..server() };
    assert_eq!(wrong_with(|nats, _| nats.servers[0].1 = Ok(server)), vec![]);
}

#[test]
fn periodic_syncing_and_not_knowing_are_worth_a_look() {
    let sync = |sync| Server { sync, ..server() };
    let unknown = wrong_with(|nats, _| nats.servers[0].1 = Ok(sync(None)));
    assert_eq!(unknown, one(Level::Warn, "sync policy"));
    let every = Some(SyncPolicy::Every(Duration::from_secs(120)));
    let periodic = wrong_with(|nats, _| nats.servers[0].1 = Ok(sync(every)));
    assert_eq!(periodic, one(Level::Warn, "sync policy nats://a:1"));
    let monitored = wrong_with(|nats, _| {
        nats.servers[0].1 = Ok(sync(None));
        nats.monitored_sync = vec![("a:8222".to_owned(), Ok(SyncPolicy::Always))];
    });
    assert_eq!(monitored, vec![]);
}

#[test]
fn streams_are_compared_with_the_configuration() {
    type Change = fn(&mut FoundStream);
    let changes: [(Change, Level); 8] = [
        (|found| found.difference = Some("created with 4 streams".to_owned()), Level::Fail),
        (|found| found.has_leader = false, Level::Fail),
        (|found| found.replicas_current = 1, Level::Warn),
        (|found| (found.replicas, found.replicas_current) = (1, 0), Level::Warn),
        (|found| found.bytes_max = None, Level::Warn),
        (|found| found.bytes = 799, Level::Ok),
        (|found| found.bytes = 800, Level::Warn),
        (|found| found.bytes = 1_000, Level::Fail),
    ];
    for (number, (change, level)) in changes.into_iter().enumerate() {
        let mut changed = stream("chat-log-0");
        change(changed.found.as_mut().unwrap());
        let found = wrong_with(|nats, _| nats.streams.as_mut().unwrap()[0] = changed);
        let wanted = if level == Level::Ok { vec![] } else { one(level, "stream chat-log-0") };
        assert_eq!(found, wanted, "change {number}");
    }
    let alone = StreamState { replicas_wanted: 1, ..stream("chat-log-0") };
    let alone = StreamState {
        found: Some(FoundStream { replicas: 1, replicas_current: 0, ..found() }),
        ..alone
    };
    let single = wrong_with(|nats, _| nats.streams.as_mut().unwrap()[0] = alone);
    assert_eq!(single, one(Level::Warn, "stream chat-log-0"));
}

#[test]
fn one_missing_stream_fails_and_none_at_all_is_a_new_platform() {
    let gone = |stream: &mut StreamState| stream.found = None;
    let found = wrong_with(|nats, _| gone(&mut nats.streams.as_mut().unwrap()[0]));
    assert_eq!(found, one(Level::Fail, "stream chat-log-0"));
    let new = wrong_with(|nats, cql| {
        nats.streams.as_mut().unwrap().iter_mut().for_each(gone);
        nats.keys = Some(Ok(Keys::default()));
        cql.keyspace = None;
    });
    assert_eq!(new, vec![]);
}

#[test]
fn silent_nodes_are_named() {
    let found = wrong_with(|nats, _| {
        let Some(Ok(keys)) = &mut nats.keys else { panic!("there are keys") };
        keys.nodes.insert("node-2".to_owned(), Duration::from_secs(31));
    });
    assert_eq!(found, one(Level::Warn, "nodes"));
}

#[test]
fn the_store_is_compared_with_the_configuration_and_the_program() {
    let keyspace = |change: fn(&mut KeyspaceState)| {
        wrong_with(|_, cql| change(cql.keyspace.as_mut().unwrap()))
    };
    assert_eq!(keyspace(|k| k.schema = 0), one(Level::Warn, "store schema"));
    assert_eq!(keyspace(|k| k.schema = 2), one(Level::Fail, "store schema"));
    let copies = |copies: u32, nodes: u32| {
        wrong_with(|_, cql| {
            cql.datacenters.insert("dc1".to_owned(), nodes);
            let keyspace = cql.keyspace.as_mut().unwrap();
            keyspace.replication = BTreeMap::from([("dc1".to_owned(), copies)]);
        })
    };
    assert_eq!(copies(0, 3), one(Level::Fail, "store replication"));
    assert_eq!(copies(1, 3), one(Level::Warn, "store replication"));
    assert_eq!(copies(3, 2), one(Level::Fail, "store replication"));
    let simple = keyspace(|k| k.is_network_topology = false);
    assert_eq!(simple, one(Level::Warn, "store replication"));
    let elsewhere = wrong_with(|_, cql| {
        cql.datacenters = BTreeMap::from([("dc2".to_owned(), 3)]);
    });
    assert_eq!(elsewhere, one(Level::Fail, "store data centre"));
    let small = wrong_with(|_, cql| {
        cql.datacenters.insert("dc1".to_owned(), 1);
        cql.keyspace = None;
    });
    assert!(small.contains(&(Level::Fail, "store keyspace".to_owned())), "{small:?}");
}

#[test]
fn log_and_store_of_different_lives_fail() {
    let epochs = |log: Option<u64>, store: Option<u64>| {
        wrong_with(|nats, cql| {
            let Some(Ok(keys)) = &mut nats.keys else { panic!("there are keys") };
            keys.store_epoch = log;
            cql.keyspace.as_mut().unwrap().epoch = store;
        })
    };
    assert_eq!(epochs(Some(7), Some(8)), one(Level::Fail, "store epoch"));
    assert_eq!(epochs(Some(7), None), one(Level::Fail, "store epoch"));
    assert_eq!(epochs(None, Some(7)), one(Level::Warn, "store epoch"));
    assert_eq!(epochs(None, None), vec![]);
    let without_bucket = wrong_with(|nats, _| nats.keys = None);
    assert_eq!(without_bucket, one(Level::Warn, "store epoch"));
}

fn embedded(change: impl FnOnce(&mut Evidence)) -> Vec<(Level, String)> {
    let store = chat_store::embedded::Inspection { epoch: Some(7), schema: 1, schema_known: 1 };
    let state = DirectoryState { mode: 0o700, is_writable: true, is_in_use: false, used_bytes: 0 };
    let mut evidence = evidence(Broker::Embedded(Ok(Some(7))), Store::Embedded(Ok(Some(store))));
    evidence.directory = Some(Directory {
        path: "data".into(),
        state: Ok(Some(state)),
        free_bytes: Some(100 << 30),
    });
    change(&mut evidence);
    wrong(&config(""), &evidence)
}

fn in_directory(change: fn(&mut Directory)) -> Vec<(Level, String)> {
    embedded(|evidence| change(evidence.directory.as_mut().unwrap()))
}

#[test]
fn an_embedded_node_is_judged_by_its_directory_and_its_files() {
    assert_eq!(embedded(|_| {}), vec![]);
    assert_eq!(in_directory(|d| d.free_bytes = Some(1 << 20)), one(Level::Fail, "disk"));
    assert_eq!(in_directory(|d| d.free_bytes = Some(1 << 30)), one(Level::Warn, "disk"));
    assert_eq!(in_directory(|d| d.free_bytes = None), one(Level::Warn, "disk"));
    let broken = in_directory(|d| d.state = Err("permission denied".to_owned()));
    assert_eq!(broken, one(Level::Fail, "data directory data"));
    let open = in_directory(|d| d.state.as_mut().unwrap().as_mut().unwrap().mode = 0o755);
    assert_eq!(open, one(Level::Warn, "data directory data"));
    let foreign = in_directory(|d| d.state.as_mut().unwrap().as_mut().unwrap().is_writable = false);
    assert_eq!(foreign, one(Level::Fail, "data directory data"));
    let log = embedded(|evidence| evidence.broker = Broker::Embedded(Err("not a log".into())));
    assert_eq!(log, one(Level::Fail, "log"));
    let other = embedded(|evidence| evidence.broker = Broker::Embedded(Ok(Some(8))));
    assert_eq!(other, one(Level::Fail, "store epoch"));
}

#[test]
fn addresses_keys_and_open_files_are_judged() {
    let state = |state: Address| embedded(|evidence| evidence.addresses[0].2 = state);
    assert_eq!(state(Address::ChatNode), vec![]);
    assert_eq!(state(Address::Taken), one(Level::Fail, "listen 127.0.0.1:1"));
    let unusable = state(Address::Unusable("cannot assign requested address".to_owned()));
    assert_eq!(unusable, one(Level::Fail, "listen 127.0.0.1:1"));
    let readable = embedded(|evidence| evidence.keys.state = Ok(Some(0o644)));
    assert_eq!(readable, one(Level::Warn, "signing keys keys.json"));
    let broken = embedded(|evidence| evidence.keys.state = Err("it is empty".to_owned()));
    assert_eq!(broken, one(Level::Fail, "signing keys keys.json"));
    assert_eq!(embedded(|evidence| evidence.keys.state = Ok(None)), vec![]);
    let few = embedded(|evidence| evidence.files_max = Some(1_024));
    assert_eq!(few, one(Level::Warn, "open files"));
    let missing = wrong(&config(PLATFORM), &{
        let mut evidence = evidence(Broker::Nats(nats()), Store::Cql(Ok(cql())));
        evidence.keys.state = Ok(None);
        evidence
    });
    assert_eq!(missing, one(Level::Warn, "signing keys keys.json"));
}

#[test]
fn a_report_has_one_line_for_each_check_and_is_healthy_unless_one_failed() {
    let warned = Report::new(vec![
        Finding::ok("a", "It is\nfine."),
        Finding::warn("b", "It is not.", "Look."),
    ]);
    assert!(warned.healthy);
    let text = warned.to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "ok    a: It is fine.",
            "warn  b: It is not. Look.",
            "",
            "2 checks: 0 failed, 1 to look at."
        ]
    );
    let failed = Report::new(vec![Finding::fail("c", "Broken.", "Mend it.")]);
    assert!(!failed.healthy && failed.to_text().starts_with("FAIL  c: Broken. Mend it."));
    let json: serde_json::Value = serde_json::from_str(&failed.to_json()).unwrap();
    assert_eq!((&json["healthy"], &json["findings"][0]["level"]), (&false.into(), &"fail".into()));
}
