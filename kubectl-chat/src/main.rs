//! `kubectl chat`: shows what a ChatCluster does, gives commands to its rollouts, and says what is wrong.
//!
//! [`reader`] talks to the API server, [`screen`] to the terminal. What is shown ([`status`], [`doctor`]) and what a
//! command writes ([`command`]) are functions of what was read, and now.

mod command;
mod doctor;
mod exit;
mod reader;
mod screen;
mod status;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use crds::{ChatCluster, Command};
use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::reader::Reader;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a command waits to be heard: the operator sees an annotation at once, unless it does not work.
const HEARD: Duration = Duration::from_secs(30);

/// Show rollouts of a ChatCluster, give commands to them, and say what is wrong.
#[derive(Parser)]
#[command(name = "kubectl-chat", bin_name = "kubectl chat", version)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    what: What,
}

/// Where the ChatCluster is.
#[derive(Args)]
pub(crate) struct Place {
    /// Namespace; that of the context if absent
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Context of the kubeconfig; the current one if absent
    #[arg(long, global = true)]
    context: Option<String>,
    /// Kubeconfig; what kubectl uses if absent
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
}

/// A ChatCluster by name.
#[derive(Args)]
struct Which {
    /// ChatCluster; the only one of the namespace if absent
    name: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Show phase, progress, conditions and events
    Status {
        #[command(flatten)]
        which: Which,
        /// Show it again and again, until Ctrl-C; once where there is no terminal
        #[arg(short, long)]
        watch: bool,
    },
    /// Give new clients to the new revision as soon as it is verified
    Promote(Which),
    /// End the rollout: clients stay on, or go back to, the revision before
    Abort(Which),
    /// Let the rollout stand still; what was granted ends
    Pause(Which),
    /// Let the rollout go on, also if few clients came back
    Resume(Which),
    /// Try the rejected revision again
    Retry(Which),
    /// Move the clients of one chat node elsewhere, batch by batch, and put a new pod in its place
    Drain {
        /// Pod of the chat node
        pod: String,
        /// Take it back: the pod keeps the clients that it still has
        #[arg(long)]
        undo: bool,
    },
    /// Say what is wrong and what to do; the exit code is 4 if something is
    Doctor(Which),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An error means that a provider is there already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done =
        runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("kubectl chat: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let reader = Reader::new(&arguments.place).await?;
    match arguments.what {
        What::Status { which, watch } => {
            show(&reader, which.name.as_deref(), watch && screen::is_terminal()).await
        }
        What::Promote(which) => give(&reader, which, Command::Promote).await,
        What::Abort(which) => give(&reader, which, Command::Abort).await,
        What::Pause(which) => give(&reader, which, Command::Pause).await,
        What::Resume(which) => give(&reader, which, Command::Resume).await,
        What::Retry(which) => give(&reader, which, Command::Retry).await,
        What::Drain { pod, undo } => drain(&reader, &pod, undo).await,
        What::Doctor(which) => examine(&reader, which.name.as_deref()).await,
    }
}

async fn page(reader: &Reader, name: Option<&str>) -> anyhow::Result<(String, String)> {
    let cluster = reader.cluster(name).await?;
    let events = reader.events(&cluster).await;
    let (style, rows) = screen::style();
    let text = status::render(&cluster, &events, Timestamp::now(), style);
    Ok((cluster.name_any(), status::fit(&text, rows)))
}

async fn show(reader: &Reader, name: Option<&str>, watch: bool) -> anyhow::Result<u8> {
    if !watch {
        let cluster = reader.cluster(name).await?;
        let events = reader.events(&cluster).await;
        let (style, _) = screen::style();
        screen::write(&status::render(&cluster, &events, Timestamp::now(), style))?;
        return Ok(exit::DONE);
    }
    // What is wrong at the beginning is told where it stays to be read.
    let (name, first) = page(reader, name).await?;
    let alternate = screen::Alternate::enter()?;
    screen::redraw(&first)?;
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        match page(reader, Some(&name)).await {
            Ok((_, text)) => screen::redraw(&text)?,
            Err(error) => screen::redraw(&format!("{error:#}\nTrying again.\n"))?,
        }
    }
    drop(alternate);
    Ok(exit::DONE)
}

fn refuse(why: &str) -> u8 {
    eprintln!("{why}");
    exit::REFUSED
}

async fn give(reader: &Reader, which: Which, command: Command) -> anyhow::Result<u8> {
    let cluster = reader.cluster(which.name.as_deref()).await?;
    let name = cluster.name_any();
    let target = match command::target(&cluster, command) {
        Ok(target) => target,
        Err(why) => return Ok(refuse(&why)),
    };
    reader.annotate(&name, command.annotation(), &target).await?;
    match heard(reader, &name, command, &target).await? {
        Some(result) => {
            let (style, _) = screen::style();
            screen::write(&status::sentence(&result, style))?;
            Ok(exit::DONE)
        }
        None => anyhow::bail!(
            "the operator has not heard it within {} s, and may do so later: see kubectl chat doctor",
            HEARD.as_secs()
        ),
    }
}

/// Waits for what the operator says to a command.
async fn heard(
    reader: &Reader,
    name: &str,
    command: Command,
    target: &str,
) -> anyhow::Result<Option<String>> {
    let started = std::time::Instant::now();
    while started.elapsed() < HEARD {
        tokio::time::sleep(LOOK / 4).await;
        let cluster: ChatCluster = reader.cluster(Some(name)).await?;
        if let Some(result) = command::result(&cluster, command, target) {
            return Ok(Some(result.to_owned()));
        }
    }
    Ok(None)
}

async fn drain(reader: &Reader, name: &str, undo: bool) -> anyhow::Result<u8> {
    let pod = reader.pod(name).await?;
    let owner = match command::owner(&pod) {
        Ok(owner) => owner,
        Err(why) => return Ok(refuse(&why)),
    };
    let cluster = reader.cluster(Some(&owner)).await?;
    if let Err(why) = command::may_drain(&pod, &cluster, undo) {
        return Ok(refuse(&why));
    }
    let now = Timestamp::now().to_string();
    let value = (!undo).then_some(now.as_str());
    reader.annotate_pod(name, crds::DRAIN_ANNOTATION, value).await?;
    let text = match undo {
        true => format!(
            "Pod {name} keeps the clients that it still has, unless another pod has taken over already."
        ),
        false => format!(
            "Pod {name} gives its clients away, batch by batch, when no rollout is under way; then another pod takes its \
             place. kubectl chat status {owner} --watch shows it."
        ),
    };
    let (style, _) = screen::style();
    screen::write(&status::sentence(&text, style))?;
    Ok(exit::DONE)
}

async fn examine(reader: &Reader, name: Option<&str>) -> anyhow::Result<u8> {
    let cluster = reader.cluster(name).await?;
    let facts = reader.facts(cluster).await;
    let findings = doctor::diagnose(&facts, Timestamp::now());
    let (style, _) = screen::style();
    screen::write(&doctor::render(&findings, style))?;
    Ok(if doctor::is_sick(&findings) { exit::SICK } else { exit::DONE })
}
