//! `mortal-node`: the chat node, with something between it and its backends that kills the process, without a destructor or
//! a flush, at the step of an owner that a file names. `chat-node` itself has nothing of this.
//!
//! A program of its own, because a feature of `chat-node` that tests switch on would be on in every build of the whole
//! workspace; and at the ports, because everything that others see of an owner goes through them.

mod broker;
mod death;
mod store;

use std::sync::Arc;

use chat_node::config::{self, Config, Sources};
use chat_node::{logging, node};
use chat_store::faulty::{Faults, FaultyStore};
use clap::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use broker::MortalBroker;
use death::Deaths;
use store::MortalWrites;

fn main() -> anyhow::Result<()> {
    // Programs that know two providers of cryptography must name one. Only a second choice is refused.
    rustls::crypto::ring::default_provider().install_default().ok();
    let matches = Command::new("mortal-node").args(config::arguments()).get_matches();
    let config = Sources::gather(&matches, |name| std::env::var_os(name))
        .and_then(|sources| Config::load(&sources))?;
    let deaths = Deaths::from_environment()?;
    logging::start(&config.log)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let threads @ 1.. = config.worker_threads as usize {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(run(config, deaths))
}

async fn run(config: Config, deaths: Arc<Deaths>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    drop(tokio::spawn(async move {
        terminate.recv().await;
        stopping.cancel();
    }));
    let node = node::run_on(config, stop, |broker, store| {
        let writes = Arc::new(MortalWrites::new(deaths.clone()));
        let broker = MortalBroker::new(broker, deaths, writes.clone());
        // Nothing else goes wrong.
        let store = FaultyStore::with_apply(store, Faults::new(0), writes);
        (Arc::new(broker), Arc::new(store))
    });
    Box::pin(node).await
}
