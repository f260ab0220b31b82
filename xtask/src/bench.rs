//! `cargo xtask bench`: every scenario against a release build, with the server on one core and the generator on
//! another, and one report of all figures beside the machine's.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::run::{cargo, succeed};
use crate::tools;

/// No scenario takes longer; one that does has hung.
const SCENARIO_LIMIT: Duration = Duration::from_secs(600);
/// All scenarios against a whole platform, and its outages.
const PLATFORM_LIMIT: Duration = Duration::from_secs(1_800);
/// What one gets to end by itself after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(5);
const SERVER_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";

/// Measures the release build.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Only scenarios whose name begins with this, such as `room` or `nats room 100`. May be repeated.
    #[arg(long)]
    scenario: Vec<String>,
    /// Shorter and smaller, for a first look.
    #[arg(long)]
    quick: bool,
    /// Messages in the conversation that `history` reads.
    #[arg(long, default_value_t = 200_000)]
    history_messages: usize,
    /// Fails if a mark was missed.
    #[arg(long)]
    strict: bool,
    /// Measures a platform of NATS, Cassandra and two nodes instead, its outages and a bare JetStream client.
    #[arg(long)]
    cluster: bool,
    /// With `--cluster`: when NATS syncs to disk, `always` or a time.
    #[arg(long, requires = "cluster", default_value = "2m")]
    sync_interval: String,
}

/// What a scenario runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Node,
    Nats,
    Floor,
    Nothing,
}

/// A scenario's name, its arguments for chat-bench and its server.
const SCENARIOS: &[(&str, &[&str], Target)] = &[
    ("sqlite", &["sqlite"], Target::Nothing),
    ("floor room 100", &["floor", "100"], Target::Floor),
    ("floor room 1000", &["floor", "1000"], Target::Floor),
    ("nats room 100", &["nats", "100"], Target::Nats),
    ("nats room 1000", &["nats", "1000"], Target::Nats),
    ("nats room 5000", &["nats", "5000"], Target::Nats),
    ("room 100", &["room", "100"], Target::Node),
    ("room 1000", &["room", "1000"], Target::Node),
    ("room 5000", &["room", "5000"], Target::Node),
    ("pairs", &["pairs"], Target::Node),
    ("reconnect", &["reconnect"], Target::Node),
    ("history", &["history"], Target::Node),
    ("idle", &["idle"], Target::Node),
];

/// Runs the scenarios, writes `target/bench/report.json` and prints the table.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    if args.cluster {
        return run_platform(&args);
    }
    let chosen = chosen(&args.scenario)?;
    let bench = Bench::prepare(&chosen)?;
    let (mut records, mut failures) = (Vec::new(), Vec::new());
    for (name, words, target) in chosen {
        eprintln!("== {name}");
        match bench.scenario(&args, name, words, target) {
            Ok(mut figures) => records.append(&mut figures),
            // One scenario that fails must not cost the figures of the others.
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failures.push(name);
            }
        }
    }
    report(&args, &bench.directory.join("report.json"), &failures, &records)
}

/// Writes the figures down and prints them.
fn report(
    args: &BenchArgs,
    path: &Path,
    failures: &[&str],
    records: &[Value],
) -> anyhow::Result<()> {
    let report = json!({ "machine": machine(), "quick": args.quick, "failed": failures, "figures": records });
    fs::write(path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("write {}", path.display()))?;
    eprint!("{}", table(&report["machine"], records));
    eprintln!("report: {}", path.display());
    let missed = records.iter().filter(|record| record["pass"] == false).count();
    match (failures.is_empty(), args.strict && missed > 0) {
        (false, _) => bail!("these scenarios failed: {}", failures.join(", ")),
        (true, true) => bail!("{missed} marks were missed"),
        (true, false) => Ok(()),
    }
}

/// Everything shares all cores: how the system divides them is part of what is measured.
fn run_platform(args: &BenchArgs) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    build()?;
    tools::run()?;
    let directory = root.join("target/bench");
    fs::create_dir_all(&directory)?;
    let figures = directory.join("platform-figures.json");
    let mut command = Command::new(root.join("target/release/platform-bench"));
    command.arg("--json").arg(&figures).args(["--sync-interval", &args.sync_interval]);
    if args.quick {
        command.arg("--quick");
    }
    for name in &args.scenario {
        command.arg("--scenario").arg(name);
    }
    let status = bounded(command, PLATFORM_LIMIT)?;
    let text = fs::read_to_string(&figures).context("read the figures")?;
    let records: Vec<Value> = serde_json::from_str(&text).context("the figures are not a list")?;
    let failures: &[&str] = if status.success() { &[] } else { &["platform-bench"] };
    report(args, &directory.join("platform.json"), failures, &records)
}

type Chosen = (&'static str, &'static [&'static str], Target);

fn chosen(wanted: &[String]) -> anyhow::Result<Vec<Chosen>> {
    let unknown = |wanted: &&String| !SCENARIOS.iter().any(|(name, ..)| is_named(name, wanted));
    if let Some(unknown) = wanted.iter().find(unknown) {
        let names: Vec<_> = SCENARIOS.iter().map(|(name, ..)| *name).collect();
        bail!("there is no scenario {unknown}; there are: {}", names.join(", "));
    }
    let all = wanted.is_empty();
    let chosen =
        SCENARIOS.iter().filter(|(name, ..)| all || wanted.iter().any(|w| is_named(name, w)));
    Ok(chosen.copied().collect())
}

/// Whole words, so that `room 100` does not mean `room 1000`.
fn is_named(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

struct Bench {
    node: PathBuf,
    generator: PathBuf,
    nats: PathBuf,
    directory: PathBuf,
}

impl Bench {
    fn prepare(chosen: &[Chosen]) -> anyhow::Result<Bench> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
        let target = root.join("target");
        let needs = |target| chosen.iter().any(|(.., needed)| *needed == target);
        build()?;
        let nats = if needs(Target::Nats) { tools::nats_server()? } else { PathBuf::new() };
        let directory = target.join("bench");
        fs::create_dir_all(&directory)?;
        let release = target.join("release");
        let (node, generator) = (release.join("chat-node"), release.join("chat-bench"));
        Ok(Bench { node, generator, nats, directory })
    }

    fn scenario(
        &self,
        args: &BenchArgs,
        name: &str,
        words: &[&str],
        target: Target,
    ) -> anyhow::Result<Vec<Value>> {
        let place = self.directory.join(name.replace(' ', "-"));
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir_all(&place)?;
        let result = self.measure(args, words, target, &place);
        // Databases of a run are large and tell nothing afterwards.
        fs::remove_dir_all(&place)?;
        result
    }

    fn measure(
        &self,
        args: &BenchArgs,
        words: &[&str],
        target: Target,
        place: &Path,
    ) -> anyhow::Result<Vec<Value>> {
        let json = place.join("figures.json");
        let mut command = Command::new("taskset");
        command.args(["-c", GENERATOR_CORE]).arg(&self.generator).arg("--json").arg(&json);
        if args.quick {
            command.arg("--quick");
        }
        if target != Target::Nothing {
            let (listen, server) = self.server(target, place)?;
            command.arg("--server").arg(listen).arg("--server-command").arg(server);
        }
        command.args(words);
        match words {
            ["history"] => drop(command.arg("--messages").arg(args.history_messages.to_string())),
            ["sqlite"] => drop(command.arg("--directory").arg(place)),
            _ => {}
        }
        let status = bounded(command, SCENARIO_LIMIT)?;
        if !status.success() {
            bail!("chat-bench ended with {status}");
        }
        let text = fs::read_to_string(&json).context("read the figures")?;
        serde_json::from_str(&text).context("the figures are not a JSON list")
    }

    /// The address and the command of the server.
    fn server(&self, target: Target, place: &Path) -> anyhow::Result<(String, String)> {
        let listen = free_address()?;
        let pinned = format!("taskset -c {SERVER_CORE}");
        let command = match target {
            Target::Nothing => String::new(),
            Target::Node => format!(
                "{pinned} {} --data-dir {} --listen {listen} --admin-listen {} \
                 --password-memory-kib=8 --password-iterations=1 --password-concurrency=64 --rate-limits-enabled=off \
                 --connections-per-address-max=50000",
                self.node.display(),
                place.join("data").display(),
                free_address()?
            ),
            Target::Floor => {
                format!("{pinned} {} floor-server --listen {listen}", self.generator.display())
            }
            Target::Nats => {
                let configuration = place.join("nats.conf");
                let text = nats_configuration(&listen, &free_address()?, &place.join("nats.log"));
                fs::write(&configuration, text)?;
                format!("{pinned} {} -c {}", self.nats.display(), configuration.display())
            }
        };
        Ok((listen, command))
    }
}

fn nats_configuration(websocket: &str, plain: &str, log: &Path) -> String {
    let log = log.display();
    format!(
        "listen: \"{plain}\"\nlog_file: \"{log}\"\nmax_connections: 65536\n\
         websocket {{ listen: \"{websocket}\", no_tls: true }}\n"
    )
}

/// In one go: programs built apart would ask for other features of what they share, and it would be compiled twice.
const PROGRAMS: &[&str] = &[
    "-p",
    "chat-client",
    "-p",
    "chat-node",
    "-p",
    "cluster",
    "--bin=chat-node",
    "--bin=chat-bench",
    "--bin=platform-bench",
    "--features",
    "chat-client/sqlite",
];

fn build() -> anyhow::Result<()> {
    succeed(cargo(&["build", "--release", "--locked"]).args(PROGRAMS))
}

/// A port that was free a moment ago. Nothing else here asks for ports meanwhile.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Runs a command in a process group of its own, and ends the group if it takes too long: the generator ends its server
/// when it is asked to end.
fn bounded(mut command: Command, limit: Duration) -> anyhow::Result<ExitStatus> {
    command.process_group(0).stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let status = wait(&mut child, limit)?;
    if let Some(status) = status {
        return Ok(status);
    }
    signal_group(&child, "TERM")?;
    if wait(&mut child, END_LIMIT)?.is_none() {
        signal_group(&child, "KILL")?;
        child.wait()?;
    }
    bail!("it took longer than {} s and was ended", limit.as_secs())
}

fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

/// The child leads its group, so the group's id is the child's.
fn signal_group(child: &Child, signal: &str) -> anyhow::Result<()> {
    let mut command = Command::new("kill");
    command.args(["-s", signal, "--"]).arg(format!("-{}", child.id()));
    succeed(&mut command)
}

/// What the figures depend on.
fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().unwrap_or_default().split_whitespace().nth(1);
    json!({
        "cpu": model.map(|(_, model)| model),
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "kernel": kernel.trim(),
        "memory_kib": memory.and_then(|kib| kib.parse::<u64>().ok()),
    })
}

fn table(machine: &Value, records: &[Value]) -> String {
    let mut table = format!(
        "\n{}, {} cores, Linux {}\n\n",
        machine["cpu"].as_str().unwrap_or("unknown CPU"),
        machine["cores"],
        machine["kernel"].as_str().unwrap_or("?")
    );
    for record in records {
        let text = |key: &str| record[key].as_str().unwrap_or_default();
        let value = record["value"].as_f64().unwrap_or(f64::NAN);
        let mark = match (record["mark"].as_f64(), record["pass"].as_bool()) {
            (Some(mark), Some(true)) => format!("mark {mark} reached"),
            (Some(mark), Some(false)) => format!("mark {mark} MISSED"),
            _ => String::new(),
        };
        table.push_str(&format!(
            "{:<16} {:<48} {value:>16.3} {:<9} {mark}\n",
            text("scenario"),
            text("figure"),
            text("unit")
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        chosen(&wanted).unwrap().into_iter().map(|(name, ..)| name).collect()
    }

    #[test]
    fn a_scenario_is_chosen_by_whole_words() {
        assert_eq!(names(&["room 100"]), ["room 100"]);
        assert_eq!(names(&["room"]), ["room 100", "room 1000", "room 5000"]);
        assert_eq!(names(&["idle", "pairs"]), ["pairs", "idle"]);
        assert_eq!(names(&[]).len(), SCENARIOS.len());
        assert!(chosen(&["rooms".into()]).is_err());
    }

    #[test]
    fn a_missed_mark_shows_in_the_table() {
        let record = json!({ "scenario": "idle", "figure": "memory", "value": 13.5, "unit": "KiB", "mark": 12.0, "pass": false });
        assert!(table(&json!({}), &[record]).contains("mark 12 MISSED"));
    }
}
