//! The program: reads the configuration, then runs the node or does one of the smaller jobs.

use std::path::PathBuf;
use std::process::ExitCode;

use chat_node::config::{self, Config, Sources};
use chat_node::{backup, doctor, logging, migrate, node, platform_restore};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration or the command line is wrong (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

/// A second signal ended the node at once, as a shell reports a SIGINT.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    // Programs that know two providers of cryptography must name one. Only a second choice is refused.
    rustls::crypto::ring::default_provider().install_default().ok();
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(message) => {
            let code = if message.use_stderr() { USAGE } else { 0 };
            // Nobody is there to read it if this fails.
            drop(message.print());
            return ExitCode::from(code);
        }
    };
    let done = match matches.subcommand() {
        Some(("backup", matches)) => make_backup(matches),
        Some(("restore", matches)) => restore(matches),
        Some(("migrate", matches)) => match load_platform(matches) {
            Ok(config) => run_migration(matches, &config),
            Err(code) => return code,
        },
        Some(("restore-platform", matches)) => match load_platform(matches) {
            Ok(config) => restore_platform(&config),
            Err(code) => return code,
        },
        Some(("openapi", _)) => print(&node::openapi()),
        Some(("doctor", matches)) => match load(matches) {
            Ok(config) => match examine(matches, &config) {
                Ok(true) => Ok(()),
                Ok(false) => return ExitCode::FAILURE,
                Err(error) => Err(error),
            },
            Err(code) => return code,
        },
        Some(("config", matches)) => match load(matches) {
            Ok(config) => print(&shown(matches, &config)),
            Err(code) => return code,
        },
        Some((_, matches)) => match load(matches) {
            Ok(config) => run(config),
            Err(code) => return code,
        },
        None => match load(&matches) {
            Ok(config) => run(config),
            Err(code) => return code,
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let data_dir = || {
        Arg::new("data-dir")
            .long("data-dir")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .env("CHAT_DATA_DIR")
            .default_value("./data")
    };
    let path = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .required(true)
    };
    Command::new("chat-node")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The chat server. Without a command it runs.")
        .after_help("Secrets are set by environment or file only: CHAT_ADMIN_TOKEN, CHAT_NATS_PASSWORD, CHAT_NATS_TOKEN, \
             CHAT_SCYLLA_PASSWORD.",
        )
        .args_conflicts_with_subcommands(true)
        .args(config::arguments())
        .subcommand(
            Command::new("run").about("Run the node (the default)").args(config::arguments()),
        )
        .subcommand(
            Command::new("config")
                .about("Print the configuration in force as a configuration file, secrets masked")
                .args(config::arguments())
                .arg(
                    Arg::new("show")
                        .long("show")
                        .value_parser(["effective", "example", "reference"])
                        .default_value("effective")
                        .help("The configuration in force, a commented file to start from, or the manual"),
                ),
        )
        .subcommand(
            Command::new("backup")
                .about("Copy the data of a node with embedded store and log, also while it runs")
                .arg(data_dir().help("The node's data directory"))
                .arg(path("to").help("A new directory for the copy")),
        )
        .subcommand(
            Command::new("restore")
                .about("Make the data directory of a node with embedded store and log from a backup; clients load everything anew")
                .arg(path("from").help("The backup"))
                .arg(data_dir().help("The data directory to make"))
                .arg(
                    Arg::new("force")
                        .long("force")
                        .action(ArgAction::SetTrue)
                        .help("Replace what the data directory holds"),
                ),
        )
        .subcommand(
            Command::new("doctor")
                .about("Check broker, store, clock, disk and settings, and say what is wrong and what to do")
                .after_help("Exit code 0: nothing failed. 1: something did. Nothing is changed.")
                .args(config::arguments())
                .arg(
                    Arg::new("json")
                        .long("json")
                        .action(ArgAction::SetTrue)
                        .help("Print one JSON object for programs"),
                )
                .arg(
                    Arg::new("nats-monitor")
                        .long("nats-monitor")
                        .value_name("HOST:PORT")
                        .value_delimiter(',')
                        .action(ArgAction::Append)
                        .help("Monitoring ports of the NATS servers, to learn how they sync to disk"),
                ),
        )
        .subcommand(migrate_command())
        .subcommand(
            Command::new("restore-platform")
                .about("After ScyllaDB was restored from a snapshot: have nodes replay the log, and clients load everything anew")
                .after_help("No node may run. Exit code 0: done. 1: refused or failed. 64: the configuration is not valid.")
                .args(config::arguments()),
        )
        .subcommand(Command::new("openapi").about("Print the OpenAPI document of the HTTP API"))
}

fn migrate_command() -> Command {
    Command::new("migrate")
        .about("Move a stopped installation with embedded store and log, in --data-dir, to NATS and ScyllaDB")
        .after_help(
            "The installation is only read. A run that was broken off goes on when it is started again. Exit code 0: \
             everything is there. 1: refused or failed. 64: the configuration is not valid.",
        )
        .args(config::arguments())
        .arg(
            Arg::new("copy-keys")
                .long("copy-keys")
                .action(ArgAction::SetTrue)
                .help("Copy the installation's signing key to token.key_file, which must not exist"),
        )
        .arg(
            Arg::new("scratch-dir")
                .long("scratch-dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Where the store is copied to if the node had crashed [default: the system's temporary files]"),
        )
        .arg(
            Arg::new("store-syncs-writes")
                .long("store-syncs-writes")
                .action(ArgAction::SetTrue)
                .help("The database has writes on disk before it acknowledges them: do not wait a minute for that"),
        )
}

/// The configuration of a command that is about a platform of many nodes.
fn load_platform(matches: &ArgMatches) -> Result<Config, ExitCode> {
    let config = load(matches)?;
    if config.broker == config::BrokerAddress::Embedded {
        report("Name the platform with --broker nats://… and --store scylla://….");
        return Err(ExitCode::from(USAGE));
    }
    Ok(config)
}

fn load(matches: &ArgMatches) -> Result<Config, ExitCode> {
    Sources::gather(matches, |name| std::env::var_os(name))
        .and_then(|sources| Config::load(&sources))
        .map_err(|problem| {
            report(&problem.to_string());
            ExitCode::from(USAGE)
        })
}

fn shown(matches: &ArgMatches, config: &Config) -> String {
    match matches.get_one::<String>("show").map(String::as_str) {
        Some("example") => config::example(),
        Some("reference") => config::manual(),
        _ => config.to_toml(),
    }
}

/// Whether nothing failed.
fn examine(matches: &ArgMatches, config: &Config) -> anyhow::Result<bool> {
    let monitors: Vec<String> =
        matches.get_many::<String>("nats-monitor").into_iter().flatten().cloned().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(doctor::examine(config, &monitors));
    print(&if matches.get_flag("json") { report.to_json() } else { report.to_text() })?;
    Ok(report.healthy)
}

fn run(config: Config) -> anyhow::Result<()> {
    logging::start(&config.log)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let threads @ 1.. = config.worker_threads as usize {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(async {
        let stop = CancellationToken::new();
        let signals = watch_signals(stop.clone())?;
        let ended = node::run(config, stop).await;
        signals.abort();
        ended
    })
}

/// The first signal asks the node to end gracefully, the second ends it at once.
fn watch_signals(stop: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    #[expect(clippy::disallowed_methods, reason = "it must outlive every tracked task")]
    let task = tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal = name, "ending gracefully; a second signal ends at once");
                stop.cancel();
            }
        }
        end_at_once();
    });
    Ok(task)
}

fn end_at_once() -> ! {
    #[expect(
        clippy::disallowed_methods,
        reason = "the person asked twice; what is acknowledged is on disk"
    )]
    std::process::exit(INTERRUPTED)
}

fn make_backup(matches: &ArgMatches) -> anyhow::Result<()> {
    let (data, target) = (directory(matches, "data-dir"), directory(matches, "to"));
    let copied = backup::backup(&data, &target)?;
    print(&format!(
        "Backed up {} to {}: store {} bytes, log {} bytes.\n",
        data.display(),
        target.display(),
        copied.store_bytes,
        copied.log_bytes
    ))
}

fn restore(matches: &ArgMatches) -> anyhow::Result<()> {
    let (from, data) = (directory(matches, "from"), directory(matches, "data-dir"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let copied = runtime.block_on(backup::restore(&from, &data, matches.get_flag("force")))?;
    print(&format!(
        "Restored {} from {}: store {} bytes, log {} bytes. The log is replayed when the node starts; clients load \
         everything anew.\n",
        data.display(),
        from.display(),
        copied.store_bytes,
        copied.log_bytes
    ))
}

fn run_migration(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let options = migrate::Options {
        scratch_dir: matches.get_one::<PathBuf>("scratch-dir").cloned(),
        copy_keys: matches.get_flag("copy-keys"),
        store_syncs: matches.get_flag("store-syncs-writes"),
    };
    let say = |text: &str| eprintln!("{text}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(migrate::migrate(config, &options, &say))?;
    let first = if outcome.is_old {
        "The migration was done before. Nothing was changed.".to_owned()
    } else if outcome.tables.is_empty() {
        "Everything is on the platform, as an earlier run has found. Start nodes there.".to_owned()
    } else {
        let rows: u64 = outcome.tables.iter().map(|table| table.source.rows).sum();
        format!(
            "Everything is on the platform: {rows} rows in {} tables, compared by count and digest. Start nodes there; \
             the old one must not run again. Clients load everything anew once.",
            outcome.tables.len()
        )
    };
    print(&format!("{first}\n{}\n", outcome.keys))
}

fn restore_platform(config: &Config) -> anyhow::Result<()> {
    let say = |text: &str| eprintln!("{text}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(platform_restore::restore(config, &say))?;
    print(&outcome.to_string())
}

fn directory(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().expect("the argument is required or has a default")
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn report(sentence: &str) {
    eprintln!("chat-node: {sentence}");
}
