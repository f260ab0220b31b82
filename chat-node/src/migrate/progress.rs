//! How far a migration has come: a key of the target's broker, written by compare-and-set.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chat_broker::{Broker, Revision};
use chat_store::Table;
use serde::{Deserialize, Serialize};

use super::Say;
use super::source::Source;
use super::target::Target;

/// Key of the broker that says how far a migration to this platform has come.
pub const MIGRATION_KEY: &str = "migration";

/// Attempts to write the key while the broker does not answer.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Rows of this table are copied from this position on, then the tables after it.
    Copying {
        #[serde(with = "table")]
        table: Table,
        from: Vec<u8>,
    },
    /// Both sides are compared.
    Copied,
    /// They are equal; nodes may start once the target's epoch is written down.
    Verified,
    /// Nothing.
    Done,
}

/// Tables by name: their number changes with the program.
mod table {
    use chat_store::Table;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(table: &Table, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(table.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Table, D::Error> {
        let name = String::deserialize(from)?;
        let found = Table::ALL.into_iter().find(|table| table.name() == name);
        found.ok_or_else(|| de::Error::custom(format!("no table is called {name}")))
    }
}

/// The key's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Epoch of the store that is copied.
    source: u64,
    /// Where its log ended when copying began.
    source_log: String,
    /// Epoch of the store that is copied into.
    target: u64,
    stage: Stage,
    /// Rows copied so far, repeated ones included.
    rows: u64,
}

/// The key, held by this run.
pub(super) struct Progress<'a> {
    broker: &'a dyn Broker,
    revision: Revision,
    state: State,
}

const START: Stage = Stage::Copying { table: Table::ALL[0], from: vec![] };

/// Why a node must not start here; `None`: no migration is under way.
pub(crate) async fn unfinished(broker: &dyn Broker) -> anyhow::Result<Option<&'static str>> {
    let Some(entry) = broker.get(MIGRATION_KEY).await? else { return Ok(None) };
    let state: Option<State> = serde_json::from_slice(&entry.value).ok();
    let is_done = state.is_some_and(|state| state.stage == Stage::Done);
    Ok((!is_done).then_some(
        "A migration to this platform has not ended. Run `chat-node migrate` again: it goes on where it was broken off.",
    ))
}

impl<'a> Progress<'a> {
    /// Finds out how far it is. A target that nothing was ever written to is claimed for this source.
    pub(super) async fn claim(source: &Source, target: &'a Target) -> anyhow::Result<Progress<'a>> {
        let broker = &*target.log;
        let epoch = target.store.epoch().await?;
        if let Some(entry) = broker.get(MIGRATION_KEY).await? {
            let state: State = serde_json::from_slice(&entry.value).context(
                "The target holds notes of a migration by a newer program. Run that one",
            )?;
            ensure!(
                state.source == source.epoch,
                "The target holds another installation: one was migrated to it, or that has begun. Choose an empty keyspace \
                 and another nats.prefix."
            );
            ensure!(
                state.target == epoch,
                "The target's store is not the one that this migration began with. Restore that, or choose an empty keyspace \
                 and another nats.prefix."
            );
            return Ok(Progress { broker, revision: entry.revision, state });
        }
        target.require_empty().await?;
        let state = State {
            source: source.epoch,
            source_log: source.log_end.clone(),
            target: epoch,
            stage: START,
            rows: 0,
        };
        let mut progress = Progress { broker, revision: Revision(0), state };
        progress.save().await?;
        Ok(progress)
    }

    /// Begins anew if the old node has run since the copying began.
    pub(super) async fn follow(&mut self, source: &Source, say: Say<'_>) -> anyhow::Result<()> {
        if self.is_of(source) {
            if self.state.rows > 0 {
                say(&format!("Going on: {} rows were copied before.", self.state.rows));
            }
            return Ok(());
        }
        ensure!(
            self.state.stage != Stage::Verified,
            "The old node has run since everything was compared. Choose an empty keyspace and another nats.prefix."
        );
        say("The old node has run since the last attempt: everything is copied again.");
        self.state.source_log.clone_from(&source.log_end);
        self.set(START).await
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.state.stage
    }

    pub(super) fn is_beginning(&self) -> bool {
        self.state.stage == START
    }

    /// Whether the source is as it was when copying began.
    pub(super) fn is_of(&self, source: &Source) -> bool {
        self.state.source_log == source.log_end
    }

    /// Rows copied so far.
    pub(super) fn rows(&self) -> u64 {
        self.state.rows
    }

    pub(super) async fn copied(&mut self, rows: usize, next: Stage) -> anyhow::Result<()> {
        self.state.rows += rows as u64;
        self.set(next).await
    }

    pub(super) async fn set(&mut self, stage: Stage) -> anyhow::Result<()> {
        self.state.stage = stage;
        self.save().await
    }

    async fn save(&mut self) -> anyhow::Result<()> {
        let value = serde_json::to_vec(&self.state)?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.broker.put(MIGRATION_KEY, self.revision, value.clone().into()).await {
                Ok(Some(revision)) => {
                    self.revision = revision;
                    return Ok(());
                }
                // An attempt before may have been made all the same.
                Ok(None) => match self.broker.get(MIGRATION_KEY).await? {
                    Some(entry) if entry.value == value => {
                        self.revision = entry.revision;
                        return Ok(());
                    }
                    // A stale read.
                    found
                        if found.as_ref().map(|entry| entry.revision) <= Some(self.revision)
                            && attempt < ATTEMPTS => {}
                    _ => bail!(
                        "Another migration to the same platform is running. Let it end, or stop it."
                    ),
                },
                Err(error) if attempt >= ATTEMPTS => {
                    return Err(error).context(
                        "The broker does not keep how far the migration is. Run it again",
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}
