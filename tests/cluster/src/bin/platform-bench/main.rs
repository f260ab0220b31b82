//! `platform-bench`: a whole platform on one machine (NATS, Cassandra, chat nodes), the scenarios of `chat-bench` against it,
//! what a bare client gets out of the same NATS servers, and how long senders wait when a node dies or leaves.
//!
//! `cargo xtask bench --cluster` builds and runs it. Everything shares the machine, so figures are for comparing within one
//! run: shares of CPU time and ratios, not what a platform of many machines reaches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use cluster::{Platform, PlatformOptions};
use serde_json::json;
use servers::nats::NatsOptions;

mod commit;
mod figure;
mod outage;
mod raw;
mod scenario;

use figure::Figures;

/// Measures a whole platform on this machine.
#[derive(Parser)]
pub(crate) struct Options {
    /// NATS servers, 1 or 3; the log has as many replicas.
    #[arg(long, default_value_t = 1)]
    nats: usize,
    /// Chat nodes.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// When NATS syncs to disk: `always`, or a time such as `2m`.
    #[arg(long, default_value = "2m")]
    sync_interval: String,
    /// Only parts whose name begins with this: pairs, room, reconnect, history, idle, raw, outage. May be repeated.
    #[arg(long)]
    scenario: Vec<String>,
    /// Shorter and smaller, for a first look.
    #[arg(long)]
    quick: bool,
    /// Writes the figures to this file as a JSON list.
    #[arg(long)]
    json: PathBuf,
}

/// How long owners of partitions look every send up in the store, as it may be a repeat of one that went to another owner:
/// what is measured is a platform that has run for a while.
const YOUNG: Duration = Duration::from_secs(65);

/// What all processes together use at rest, and how often and how long they are looked at.
const QUIET_CORES: f64 = 0.4;
const QUIET_LOOK: Duration = Duration::from_secs(2);
const QUIET_LOOKS_MAX: usize = 60;

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.scenario.is_empty() || self.scenario.iter().any(|wanted| name.starts_with(wanted))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let size = PlatformOptions { nats: options.nats, nodes: options.nodes };
    let servers =
        NatsOptions { sync_interval: options.sync_interval.clone(), ..NatsOptions::default() };
    let starting = tokio::task::spawn_blocking(move || Platform::start_with(size, &servers));
    let platform = Arc::new(starting.await.context("the platform does not start")?);
    if !options.quick {
        tokio::time::sleep(YOUNG).await;
    }
    let mut figures = Figures::default();
    let measured = measure(&options, &platform, &mut figures).await;
    let records: Vec<_> = figures.records().iter().map(|record| json!(record)).collect();
    std::fs::write(&options.json, serde_json::to_string_pretty(&records)?)
        .with_context(|| format!("write {}", options.json.display()))?;
    measured
}

async fn measure(
    options: &Options,
    platform: &Arc<Platform>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    for scenario in scenario::SCENARIOS.iter().filter(|one| options.wants(one.name)) {
        eprintln!("== {}", scenario.name);
        let (before, log_before) = (commit::read(platform)?, log_bytes(platform));
        figures.extend(scenario::run(scenario, options, platform)?);
        let commits = commit::read(platform)?.since(&before);
        for (share, name) in [(0.5, "commits, p50"), (0.99, "commits, p99")] {
            if let Some(seconds) = commits.quantile(share) {
                figures.add(scenario.name, name, seconds * 1e3, "ms");
            }
        }
        if commits.entries > 0.0 {
            let bytes = (log_bytes(platform) - log_before) / commits.entries;
            figures.add(scenario.name, "bytes in each replica of the log per entry", bytes, "B");
        }
    }
    if options.wants("raw") {
        quiet(platform).await?;
        eprintln!("== raw");
        raw::measure(platform, options.quick, figures).await?;
        figures.compare_with_raw();
    }
    if options.wants("outage") {
        eprintln!("== outage");
        outage::measure(platform, options.quick, figures).await?;
    }
    Ok(())
}

/// Waits until nothing works off what was before: the database goes on writing for a while.
async fn quiet(platform: &Platform) -> anyhow::Result<()> {
    for _ in 0..QUIET_LOOKS_MAX {
        let seconds = || -> f64 { platform.cpu_seconds().iter().map(|(_, used)| used).sum() };
        let before = seconds();
        tokio::time::sleep(QUIET_LOOK).await;
        if seconds() - before < QUIET_CORES * QUIET_LOOK.as_secs_f64() {
            return Ok(());
        }
    }
    anyhow::bail!("the platform does not come to rest")
}

/// What the streams hold, in one replica. Nothing is purged within three days.
fn log_bytes(platform: &Platform) -> f64 {
    let streams = platform.nats.streams();
    streams.iter().filter_map(|stream| stream["state"]["bytes"].as_f64()).sum()
}

/// A program that was built beside this one.
pub(crate) fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("a running program has a path")?;
    let path = own.parent().unwrap_or(Path::new(".")).join(name);
    anyhow::ensure!(
        path.exists(),
        "there is no {}: build it with the same profile",
        path.display()
    );
    Ok(path)
}
