//! Copies tables page by page.

use std::time::Duration;

use anyhow::Context;
use chat_store::{Row, Table};
use tokio::time::Instant;

use super::Migration;
use super::progress::{Progress, Stage};

/// Rows read and written at a time.
pub(super) const ROWS_MAX: usize = 1_000;

/// How often the operator hears of it.
pub(super) const SAY_EVERY: Duration = Duration::from_secs(2);

/// Attempts to write a page while the store does not take it: about a minute.
const ATTEMPTS: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

impl Migration<'_> {
    /// Copies from this position of this table on to the end of the last table.
    pub(super) async fn copy(
        &self,
        progress: &mut Progress<'_>,
        table: Table,
        from: Vec<u8>,
    ) -> anyhow::Result<()> {
        let mut from = from;
        let mut said = Instant::now();
        for table in Table::ALL.into_iter().skip_while(|one| *one != table) {
            let mut next = Some(std::mem::take(&mut from));
            while let Some(position) = next {
                let mut page = self.source.store.scan(table, position, self.rows_max).await?;
                let now = self.clock.now();
                page.rows.retain(|row| !row.is_over(now));
                let count = page.rows.len();
                self.import(table, page.rows).await?;
                next = page.next;
                if let Some(from) = &next {
                    progress.copied(count, Stage::Copying { table, from: from.clone() }).await?;
                } else {
                    progress.copied(count, after(table)).await?;
                }
                if said.elapsed() >= SAY_EVERY {
                    said = Instant::now();
                    (self.say)(&format!(
                        "Copying {}: {} rows so far.",
                        table.name(),
                        progress.rows()
                    ));
                }
            }
        }
        (self.say)(&format!("Copied {} rows.", progress.rows()));
        Ok(())
    }

    async fn import(&self, table: Table, rows: Vec<Row>) -> anyhow::Result<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.target.store.import(rows.clone()).await {
                Err(chat_store::Error::Unavailable(_) | chat_store::Error::Away(_)) => {}
                outcome => return outcome.with_context(|| not_taken(table)),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.target.store.import(rows).await.with_context(|| not_taken(table))
    }
}

/// What comes once a table is copied.
fn after(table: Table) -> Stage {
    let next = Table::ALL.into_iter().skip_while(|one| *one != table).nth(1);
    next.map_or(Stage::Copied, |table| Stage::Copying { table, from: vec![] })
}

fn not_taken(table: Table) -> String {
    format!("The target does not take {}. Run this again: it goes on where it was", table.name())
}
