//! `chat-bench`: loads a chat node, and what it is compared with, from one thread.
//!
//! Every latency counts from when a message was due, so a server that stalls cannot hide it by slowing the generator
//! down. The server should have one core and the generator another: `cargo xtask bench` sees to that.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

mod accounts;
mod chat;
mod fleet;
mod floor;
mod frame;
mod histogram;
mod history;
mod idle;
mod link;
mod nats;
mod pairs;
mod payload;
mod process;
mod reconnect;
mod report;
mod room;
mod schedule;
#[cfg(feature = "sqlite")]
mod sqlite;

use process::{Process, Server};
use report::Report;

/// Loads a chat node, and what it is compared with.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Where the server listens, or will listen. Several nodes of a platform with commas: connections go round.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8080")]
    server: Vec<SocketAddr>,
    /// Starts the server with this command, split at white space; it ends with the scenario.
    #[arg(long)]
    server_command: Option<String>,
    /// A process that runs already, to measure its CPU time and memory, such as `node-1=4711`. May be repeated: then
    /// CPU time is split by name, and figures are not held against the marks of one node.
    #[arg(long, conflicts_with = "server_command")]
    process: Vec<Process>,
    /// Shorter and smaller, for a first look.
    #[arg(long)]
    quick: bool,
    /// Connections of `idle` and `reconnect`, users of `pairs`.
    #[arg(long)]
    connections: Option<usize>,
    /// Writes the figures to this file as a JSON list.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Scenario,
}

impl Options {
    /// How long something takes, in full or quick.
    pub(crate) fn seconds(&self, full: f64, quick: f64) -> f64 {
        if self.quick { quick } else { full }
    }
}

#[derive(Subcommand)]
enum Scenario {
    /// Idle connections with heartbeats.
    Idle,
    /// A group of up to 100, or a live room of more.
    Room {
        /// Members.
        members: usize,
    },
    /// 1,000 users in pairs, every message acknowledged.
    Pairs,
    /// 5,000 connections dropped, then the server killed.
    Reconnect,
    /// Pages of a long history.
    History {
        /// Messages to write first.
        #[arg(long, default_value_t = 200_000)]
        messages: usize,
        /// Longest time to write them.
        #[arg(long, default_value_t = 120)]
        fill_seconds: u64,
    },
    /// Compares with nats-server over WebSocket.
    Nats {
        /// Subscribers.
        members: usize,
    },
    /// Compares with one thread that writes each delivery by itself.
    Floor {
        /// Connections.
        members: usize,
    },
    /// The server of `floor`.
    FloorServer {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Compares with bare SQLite transactions of the same rows.
    Sqlite {
        /// Where the database goes; the same disk as the server's.
        #[arg(long)]
        directory: PathBuf,
    },
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, Box::pin(run(&options)))?;
    print!("{}", report.table());
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.records)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

async fn run(options: &Options) -> anyhow::Result<Report> {
    match &options.scenario {
        Scenario::FloorServer { listen } => {
            floor::serve(*listen).await?;
            return Ok(Report::new("floor"));
        }
        Scenario::Sqlite { directory } => return sqlite_scenario(options, directory),
        _ => {}
    }
    // Ends the server also when this process is asked to end.
    let mut server =
        Server::start(&options.server, options.server_command.as_deref(), &options.process).await?;
    let mut report = tokio::select! {
        report = Box::pin(measure(options, &mut server)) => report?,
        () = asked_to_end() => anyhow::bail!("asked to end"),
    };
    if options.process.len() > 1 {
        report.drop_marks();
    }
    Ok(report)
}

async fn measure(options: &Options, server: &mut Server) -> anyhow::Result<Report> {
    match &options.scenario {
        Scenario::Idle => idle::run(options, server).await,
        Scenario::Room { members } => room::chat(options, server, *members).await,
        Scenario::Nats { members } => room::nats(options, server, *members).await,
        Scenario::Floor { members } => room::floor(options, server, *members).await,
        Scenario::Pairs => pairs::run(options, server).await,
        Scenario::Reconnect => reconnect::run(options, server).await,
        Scenario::History { messages, fill_seconds } => {
            history::run(options, server, *messages, *fill_seconds).await
        }
        Scenario::FloorServer { .. } | Scenario::Sqlite { .. } => {
            unreachable!("handled before a server is started")
        }
    }
}

#[cfg(feature = "sqlite")]
fn sqlite_scenario(options: &Options, directory: &std::path::Path) -> anyhow::Result<Report> {
    sqlite::run(options, directory)
}

#[cfg(not(feature = "sqlite"))]
fn sqlite_scenario(_: &Options, _: &std::path::Path) -> anyhow::Result<Report> {
    anyhow::bail!("this chat-bench was built without SQLite: build it with --features sqlite")
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process directly.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
