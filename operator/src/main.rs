//! `chat-operator`: turns ChatClusters into running platforms.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use crds::ChatCluster;
use jiff::Timestamp;
use kube::Client;
use kube::api::ListParams;
use kube::runtime::events::{Recorder, Reporter};
use operator::controller::{self, Scope};
use operator::lease::LeaderLease;
use operator::metrics::Metrics;
use operator::names;
use operator::nats::HttpMonitor;
use operator::nodes::HttpNodes;
use operator::reconcile::Context;
use operator::scylla::CqlRing;
use operator::server::{self, Readiness};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Turns ChatClusters into running platforms, and rolls out new versions without losing a message.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Print the definition of the ChatCluster, for `kubectl apply`
    Crd,
}

#[derive(clap::Args)]
struct Run {
    /// Look after this namespace only; without it after all of them
    #[arg(long, env = "CHAT_OPERATOR_NAMESPACE")]
    namespace: Option<String>,
    /// Address and port of liveness, readiness and metrics
    #[arg(long, env = "CHAT_OPERATOR_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    metrics_listen: SocketAddr,
    /// Namespace that this process runs in: where its lease is, and who may ask the nodes' admin ports
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    own_namespace: String,
    /// Name of this process in the lease, different for each
    #[arg(long, env = "POD_NAME")]
    own_name: Option<String>,
    /// What is logged: a level, or levels per module such as `info,operator=debug`
    #[arg(long, env = "CHAT_OPERATOR_LOG_FILTER", default_value = "info")]
    log_filter: String,
    /// How log lines look
    #[arg(long, env = "CHAT_OPERATOR_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Crd) => print_definition(),
        None => start(arguments.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Also what is wrong before there is a log.
            eprintln!("chat-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_definition() -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(crds::definition_yaml().as_bytes()).context("print the definition")
}

fn start(run: Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&run.log_filter).context("read --log-filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match run.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    // An error means that a provider is there already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(operate(run))
}

async fn operate(run: Run) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let mut registry = Registry::with_prefix("chat");
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    readiness.waits("The operator starts.");
    let listener = tokio::net::TcpListener::bind(run.metrics_listen)
        .await
        .with_context(|| format!("listen on {}", run.metrics_listen))?;
    let router = server::router(readiness.clone(), Arc::new(registry));
    let stopped = stop.clone();
    let serving = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await
    });

    let client = Client::try_default().await.context("find the API server")?;
    let scope = run.namespace.clone().map_or(Scope::Cluster, Scope::Namespace);
    if wait_for_definition(&client, &scope, &readiness, &stop).await {
        lead(&run, client, scope, metrics, readiness, &stop).await?;
    }
    stop.cancel();
    signals.abort();
    serving.await.context("stop the server")?.context("serve liveness and metrics")
}

/// Waits until the ChatCluster is defined and may be read. False if the process is to stop.
async fn wait_for_definition(
    client: &Client,
    scope: &Scope,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> bool {
    let api = scope.api::<ChatCluster>(client);
    loop {
        match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => return true,
            Err(error) => {
                let text = format!(
                    "ChatClusters cannot be listed ({error}). Apply crds/chatcluster.yaml, and check the operator's role."
                );
                tracing::warn!("{text}");
                readiness.waits(text);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// Waits for the lease, works as long as it is held, and gives it back.
async fn lead(
    run: &Run,
    client: Client,
    scope: Scope,
    metrics: Metrics,
    readiness: Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let name = run
        .own_name
        .clone()
        .unwrap_or_else(|| format!("{}-{}", names::OPERATOR, std::process::id()));
    // Each namespace of the namespaced mode has an operator of its own.
    let lease = run.namespace.as_ref().map_or_else(
        || names::OPERATOR.to_owned(),
        |namespace| format!("{}-{namespace}", names::OPERATOR),
    );
    let mut lease = LeaderLease::new(client.clone(), &run.own_namespace, &lease, &name);
    // It could take over at any time.
    readiness.ready();
    let Some(epoch) = lease.acquire(stop).await else { return Ok(()) };
    tracing::info!(epoch, "this process leads");
    metrics.epoch.set(epoch);
    let reporter = Reporter { controller: names::OPERATOR.to_owned(), instance: Some(name) };
    let context = Context {
        nodes: Arc::new(HttpNodes::new().context("make a client for nodes")?),
        recorder: Recorder::new(client.clone(), reporter),
        client,
        monitor: Arc::new(HttpMonitor::new().context("make a client for NATS servers")?),
        ring: Arc::new(CqlRing),
        machines: Arc::default(),
        metrics,
        epoch,
        operator_namespace: run.own_namespace.clone(),
        now: Arc::new(Timestamp::now),
    };
    let work_stop = stop.child_token();
    let working = controller::run(context, scope, work_stop.clone());
    tokio::pin!(working);
    tokio::select! {
        () = &mut working => anyhow::bail!("the controller ended by itself"),
        () = lease.keep(stop) => {}
    }
    // Whoever takes over must not meet a pass that still runs.
    work_stop.cancel();
    working.await;
    if !stop.is_cancelled() {
        anyhow::bail!("the lease was lost: another process leads");
    }
    lease.release().await;
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
}
