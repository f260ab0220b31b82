//! Moves an embedded installation to NATS and ScyllaDB.
//!
//! The source is only read. What only its log holds, after a crash, is first brought into a copy of its store. Then every
//! table is copied page by page, both sides are compared by count and digest, and last of all the target gets its
//! `store_epoch` key, without which no node starts on it. How far it has come is a key of the target, so that a run that
//! was broken off goes on. The target is a store of its own epoch: every cursor is reset, and clients load anew what
//! they have. Ids and epochs go on above those of the source, by a closing record in each partition of the new log.

mod copy;
mod progress;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;

use crate::clock::Clock;
use crate::config::Config;
pub use progress::MIGRATION_KEY;
pub(crate) use progress::unfinished;
use progress::{Progress, Stage};
use source::Source;
use target::Target;
pub use verify::Compared;

/// How a migration is done.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where a copy of the source's store is made if one is needed; default: the system's directory for temporary files.
    pub scratch_dir: Option<PathBuf>,
    /// The source's signing key is copied to `token.key_file`.
    pub copy_keys: bool,
    /// The store has on its disk what it acknowledged.
    pub store_syncs: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// It had been done before; nothing was changed.
    pub is_old: bool,
    /// Rows compared, by table.
    pub tables: Vec<Compared>,
    /// What the operator should know of the signing keys.
    pub keys: String,
}

/// Tells the operator how far it is.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// Moves the installation in the data directory to the platform that the configuration names.
pub async fn migrate(config: &Config, options: &Options, say: Say<'_>) -> anyhow::Result<Outcome> {
    let source = Source::open(&config.data_dir, options.scratch_dir.as_deref(), say).await?;
    let target = Target::open(config).await?;
    let progress = Progress::claim(&source, &target).await?;
    // Before the long work, so that nobody waits to hear what is wrong with them.
    let keys = source.keys(config.token.key_file.as_deref(), options.copy_keys)?;
    let lag = if options.store_syncs { Duration::ZERO } else { target.store.durability_lag() };
    let clock = Clock::system();
    let (source, target, rows_max) = (&source, &target, copy::ROWS_MAX);
    let migration = Migration { source, target, clock, lag, rows_max, say };
    let (is_old, tables) = migration.run(progress).await?;
    Ok(Outcome { is_old, tables, keys })
}

/// One run.
struct Migration<'a> {
    source: &'a Source,
    target: &'a Target,
    clock: Clock,
    /// How long the target may still lose what it acknowledged.
    lag: Duration,
    /// Rows read and written at a time.
    rows_max: usize,
    say: Say<'a>,
}

impl Migration<'_> {
    /// Whether it had been done before; and what was compared, if it was now.
    async fn run(&self, mut progress: Progress<'_>) -> anyhow::Result<(bool, Vec<Compared>)> {
        let (source, target) = (self.source, self.target);
        if progress.stage() == &Stage::Done {
            ensure!(
                progress.is_of(source),
                "The migration was done before, but the old node has run since. What was written there then is not on the \
                 platform, and cannot be moved any more: nothing was changed."
            );
            return Ok((true, vec![]));
        }
        progress.follow(source, self.say).await?;
        let mut tables = vec![];
        loop {
            match progress.stage().clone() {
                Stage::Copying { table, from } => {
                    if progress.is_beginning() {
                        self.reserve_ids().await?;
                    }
                    self.copy(&mut progress, table, from).await?;
                }
                Stage::Copied => {
                    self.wait_for_disks().await;
                    tables = self.verify(&mut progress).await?;
                }
                Stage::Verified => {
                    target.put_epoch().await?;
                    progress.set(Stage::Done).await?;
                }
                Stage::Done => return Ok((false, tables)),
            }
        }
    }

    async fn reserve_ids(&self) -> anyhow::Result<()> {
        (self.say)("Reserving the ids that were given out.");
        let floors = self.source.floors().await?;
        self.target.reserve(floors).await
    }

    /// What is compared after this is on the disks.
    async fn wait_for_disks(&self) {
        if !self.lag.is_zero() {
            let seconds = self.lag.as_secs();
            (self.say)(&format!(
                "Waiting {seconds} s until the store has everything on its disks."
            ));
            tokio::time::sleep(self.lag).await;
        }
    }
}
