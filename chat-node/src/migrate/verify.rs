//! Compares both sides: how many rows each table has, and the sum of their digests.

use anyhow::bail;
use chat_protocol::Millis;
use chat_store::table::Digest;
use chat_store::{Table, Tables};

use super::Migration;
use super::progress::{Progress, Stage};

/// A table of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Which.
    pub table: Table,
    /// What the old installation has.
    pub source: Digest,
    /// What the platform has.
    pub target: Digest,
}

impl Compared {
    /// Both have the same rows.
    pub fn is_equal(&self) -> bool {
        self.source == self.target
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, source, target) = (self.table.name(), self.source, self.target);
        if self.is_equal() {
            return write!(
                f,
                "{name}: {} rows, equal, digest {:.16}",
                source.rows,
                source.to_string()
            );
        }
        write!(
            f,
            "{name}: {} rows in the old installation and {} on the platform, NOT EQUAL",
            source.rows, target.rows
        )
    }
}

impl Migration<'_> {
    /// Compares every table; what differs is copied again by the next run.
    pub(super) async fn verify(
        &self,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Vec<Compared>> {
        (self.say)("Comparing both sides.");
        // One moment for both: rows whose time ends meanwhile are of no account.
        let now = self.clock.now();
        let mut tables = Vec::new();
        for table in Table::ALL {
            let (source, target) = tokio::try_join!(
                self.digest(&*self.source.store, table, now),
                self.digest(&*self.target.store, table, now)
            )?;
            let compared = Compared { table, source, target };
            (self.say)(&compared.to_string());
            tables.push(compared);
        }
        let Some(first) = tables.iter().find(|compared| !compared.is_equal()) else {
            progress.set(Stage::Verified).await?;
            return Ok(tables);
        };
        progress.set(Stage::Copying { table: first.table, from: vec![] }).await?;
        let different: Vec<String> =
            tables.iter().filter(|table| !table.is_equal()).map(Compared::to_string).collect();
        bail!(
            "The platform does not hold what the old installation holds: {}. Run this again: these tables are copied once \
             more. If they differ still, the target holds rows of somebody else: choose an empty keyspace and another \
             nats.prefix.",
            different.join("; ")
        )
    }

    async fn digest(
        &self,
        store: &dyn Tables,
        table: Table,
        now: Millis,
    ) -> anyhow::Result<Digest> {
        let mut digest = Digest::default();
        let mut next = Some(vec![]);
        while let Some(from) = next {
            let page = store.scan(table, from, self.rows_max).await?;
            page.rows.iter().filter(|row| !row.is_over(now)).for_each(|row| digest.add(row));
            next = page.next;
        }
        Ok(digest)
    }
}
