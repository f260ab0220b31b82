//! The scenarios of `chat-bench`, against all nodes.

use std::process::Command;

use anyhow::Context;
use cluster::Platform;

use crate::figure::Record;
use crate::{Options, beside};

/// What is measured beside the figures of `chat-bench`.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    words: &'static [&'static str],
    /// CPU time and memory of all processes; else of the chat nodes alone: a database grows in its own time.
    everything: bool,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "pairs", words: &["pairs"], everything: true },
    Scenario { name: "room 100", words: &["room", "100"], everything: true },
    Scenario { name: "room 1000", words: &["room", "1000"], everything: true },
    Scenario { name: "room 5000", words: &["room", "5000"], everything: true },
    Scenario {
        name: "reconnect",
        words: &["--connections", "2000", "reconnect"],
        everything: false,
    },
    // A database with half a core takes longer to fill than a node's own store.
    Scenario { name: "history", words: &["history", "--messages", "50000"], everything: true },
    Scenario { name: "idle", words: &["--connections", "8000", "idle"], everything: false },
];

/// Runs one.
pub(crate) fn run(
    scenario: &Scenario,
    options: &Options,
    platform: &Platform,
) -> anyhow::Result<Vec<Record>> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("figures.json");
    let servers: Vec<String> =
        platform.nodes.iter().map(|node| node.address().to_string()).collect();
    let mut command = Command::new(beside("chat-bench")?);
    command.arg("--json").arg(&json).arg("--server").arg(servers.join(","));
    for (name, id) in platform.processes() {
        if scenario.everything || name.starts_with("node-") {
            command.arg("--process").arg(format!("{name}={id}"));
        }
    }
    if options.quick {
        command.arg("--quick");
    }
    let status = command.args(scenario.words).status().context("start chat-bench")?;
    anyhow::ensure!(status.success(), "chat-bench {:?} ended with {status}", scenario.words);
    let text = std::fs::read_to_string(&json).context("read the figures")?;
    serde_json::from_str(&text).context("the figures are not a JSON list")
}
