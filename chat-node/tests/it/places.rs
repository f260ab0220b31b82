//! Three nodes with addresses of their own, and the real clients: service discovery spreads them over the nodes, and they
//! go elsewhere when their node does.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use chat_client::{Client, Config, Credentials, Draft, Event, State};
use chat_protocol::ConversationId;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use crate::client::{PATIENCE, Person, api};
use crate::cluster::Platform;
use crate::process::NodeProcess;

const NODES: u8 = 3;
/// Number, name and last part of the address of the first one.
const FIRST: u8 = 2;
const DEVICES: usize = 24;

/// A node that dies is gone from discovery after its lease; clients that it had find no one there until then.
const MOVED: Duration = Duration::from_secs(45);

/// Larger than what nodes tell each other in full.
const LARGE_BYTES: usize = 60_000;

/// Nodes at `127.0.0.2`, `127.0.0.3`, …, all at one port, with these roles.
async fn nodes(platform: &Platform, roles: impl Fn(u8) -> &'static str) -> Vec<NodeProcess> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut nodes = Vec::new();
    for number in FIRST..FIRST + NODES {
        let mut flags = platform.flags();
        flags.extend([
            format!("--listen=127.0.0.{number}:{port}"),
            format!("--node-name={number}"),
            format!("--roles={}", roles(number)),
            // The page's origin, which all of them let in.
            format!("--public-url=http://127.0.0.{FIRST}:{port}"),
            format!("--advertise-host-template=127.0.0.{{node}}:{port}"),
        ]);
        let mut node = platform.stopped_with(&flags);
        node.expect("cannot");
        node.expect("could not");
        node.restart().await;
        nodes.push(node);
    }
    nodes
}

/// A device that asks service discovery where to connect to.
struct Device {
    client: Client,
    events: Receiver<Event>,
}

impl Device {
    async fn connect(front: &NodeProcess, person: &Person) -> Device {
        let own = person.other_device(front).await;
        let url = front.url().replacen("http", "ws", 1) + "/v1/socket";
        let config = Config { discover: true, ..Config::new(url) };
        let credentials = Credentials::new(api(front), own.tokens);
        let (client, events) = Client::start(config, credentials, State::default());
        let mut device = Device { client, events };
        device
            .until("it is connected", PATIENCE, |event| matches!(event, Event::Connected(_)))
            .await;
        device
    }

    async fn until(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Event) -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            let event = timeout_at(deadline, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("not in time: {what}"));
            if wanted(&event.expect("the client goes on")) {
                return;
            }
        }
    }

    /// Waits for a message whose text has this beginning.
    async fn hears(&mut self, beginning: &str) {
        let is_it = |event: &Event| {
            let Event::Message(message) = event else { return false };
            let text = message.body.as_ref().map(|body| body.to_value()["text"].clone());
            text.is_some_and(|text| text.as_str().is_some_and(|text| text.starts_with(beginning)))
        };
        self.until(beginning, MOVED, is_it).await;
    }
}

/// One device speaks, in a small and a large message, and all hear it.
async fn all_hear(devices: &mut [Device], group: ConversationId, word: &str) {
    let large = format!("{word} and more: {}", "x".repeat(LARGE_BYTES));
    for text in [format!("{word} only"), large] {
        let (speaker, others) = devices.split_first_mut().unwrap();
        speaker.client.send(Draft::text(group, &text)).await.unwrap();
        speaker.until("it is sent", MOVED, |event| matches!(event, Event::Sent { .. })).await;
        for device in others {
            device.hears(&text[..word.len() + 5]).await;
        }
    }
}

/// Waits until these nodes have all devices between them, and says how many each has.
async fn connected_to(nodes: &[&NodeProcess]) -> Vec<usize> {
    let deadline = Instant::now() + MOVED;
    loop {
        let mut counts = Vec::new();
        for node in nodes {
            let metrics = node.metrics().await.unwrap_or_default();
            let lines = metrics.lines().filter_map(|line| line.strip_prefix("chat_connections{"));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
            counts.push(values.sum());
        }
        if counts.iter().sum::<usize>() == DEVICES {
            return counts;
        }
        assert!(Instant::now() < deadline, "the nodes have {counts:?} connections");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_spread_over_nodes_and_go_elsewhere_when_their_node_does() {
    let platform = Platform::new().await;
    let nodes = nodes(&platform, |_| "api,gateway,partitions").await;
    let [one, mut two, mut three]: [NodeProcess; NODES as usize] = nodes.try_into().ok().unwrap();
    let ann = Person::new(&one, "ann").await;
    let group = ann.group(&one, &[]).await;
    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        devices.push(Device::connect(&one, &ann).await);
    }
    let counts = connected_to(&[&one, &two, &three]).await;
    println!("connections of each node: {counts:?}");
    // Of two nodes the emptier one is picked, with figures that are a second old.
    assert!(counts.iter().all(|count| (2..=16).contains(count)), "{counts:?}");
    all_hear(&mut devices, group, "spread").await;
    let mut fetched = 0.0;
    for node in [&one, &two, &three] {
        fetched += node.figure("chat_bodies_fetched_total").await.unwrap();
        assert_eq!(node.figure("chat_bodies_not_fetched_total").await, Some(0.0));
    }
    assert!(fetched >= 2.0, "two nodes do not own the group, and fetch what is too large");

    three.stop().await;
    println!("after one has left: {:?}", connected_to(&[&one, &two]).await);
    all_hear(&mut devices, group, "one has left").await;

    two.kill();
    connected_to(&[&one]).await;
    all_hear(&mut devices, group, "one has died").await;
}

/// The web client in a browser: its page and its requests are at a node that takes no connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_goes_to_the_node_that_is_picked_and_elsewhere_when_that_dies() {
    if std::env::var_os("CHAT_TEST_CHROMIUM").is_none() {
        println!("SKIPPED: `cargo xtask test` sets CHAT_TEST_CHROMIUM and installs what drives it");
        return;
    }
    let platform = Platform::new().await;
    let nodes = nodes(&platform, |number| match number {
        FIRST => "api,partitions",
        _ => "api,gateway,partitions",
    })
    .await;
    let places: Vec<String> =
        nodes[1..].iter().map(|node| format!("{}={}", node.address(), node.id())).collect();
    let web = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/web");
    let (url, places) = (nodes[0].url(), places.join(","));
    let script = move || {
        Command::new("node")
            .args(["--test", "e2e/places.test.js"])
            .current_dir(web)
            .envs([("CHAT_TEST_URL", url), ("CHAT_TEST_PLACES", places)])
            .output()
    };
    let output = tokio::task::spawn_blocking(script).await.unwrap().expect("Node.js runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success() && said.contains("# pass 1"));
}
