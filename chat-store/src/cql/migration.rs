//! The schema, and how an older one becomes the present one: by one node at a time, and by the next one if that node
//! dies in the middle.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::statement::unprepared::Statement;
use scylla::value::{CqlValue, Row};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::error::OpenError;
use super::options::Options;

/// In order; the schema version is how many of them a keyspace has seen. Never changed, only added to. Statements end
/// with a semicolon at the end of a line, and do nothing the second time (`IF NOT EXISTS`).
const MIGRATIONS: &[(&str, &str)] = &[
    ("first", include_str!("migrations/0001_first.cql")),
    ("confirmed", include_str!("migrations/0002_confirmed.cql")),
];

/// What is there before the lock. Everything else is made under it.
const BOOKKEEPING: &[(&str, &str)] = &[
    ("schema_lock", "(one smallint PRIMARY KEY, owner uuid)"),
    ("schema_version", "(one smallint, version int, title text, PRIMARY KEY (one, version))"),
];

/// Attempts of the whole, [`LOOK_AGAIN`] apart.
const ATTEMPTS: u32 = 15;

/// How often one who waits for the lock looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The schema version of this program.
pub(super) fn known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the keyspace to the present schema, or waits until another node has.
pub(super) async fn migrate(session: &Session, options: &Options) -> Result<(), OpenError> {
    let migrator = Migrator { session, options, owner: Uuid::new_v4() };
    // A node that holds the lock for long renews it; so whoever waits sees progress or takes over.
    let end = Instant::now() + 10 * migrator.lock_time();
    let mut attempt = 1;
    loop {
        match migrator.run(MIGRATIONS, end).await {
            // What another node has just made may be listed before it can be used; every step can be made again.
            Err(OpenError::Schema { .. }) if attempt < ATTEMPTS && Instant::now() < end => {
                attempt += 1;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

struct Migrator<'a> {
    session: &'a Session,
    options: &'a Options,
    owner: Uuid,
}

impl Migrator<'_> {
    async fn run(&self, migrations: &[(&str, &str)], end: Instant) -> Result<(), OpenError> {
        self.make_keyspace().await?;
        if self.is_present(migrations).await? {
            return Ok(());
        }
        for (table, columns) in BOOKKEEPING {
            let id = table_id(&self.options.keyspace, table);
            let make = format!("CREATE TABLE IF NOT EXISTS {table} {columns} WITH id = {id}");
            self.change(&make).await?;
        }
        while !self.is_present(migrations).await? {
            if self.take_lock().await? {
                let outcome = self.apply_all(migrations).await;
                self.release_lock().await?;
                return outcome;
            }
            if Instant::now() > end {
                return Err(self.failed("another node has held the schema's lock for too long"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn make_keyspace(&self) -> Result<(), OpenError> {
        let keyspace = &self.options.keyspace;
        let known = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        // A keyspace that is there is used as it is: making one may not be allowed to this user.
        if self.rows(known, (keyspace.as_str(),)).await?.is_empty() {
            let copies: Vec<String> = self
                .options
                .replication
                .iter()
                .map(|(datacenter, copies)| format!("'{datacenter}': {copies}"))
                .collect();
            self.change(&format!(
                "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}}",
                copies.join(", ")
            ))
            .await?;
        }
        let used = self.session.use_keyspace(keyspace.as_str(), false).await;
        used.map_err(|error| self.failed(error))
    }

    /// Whether all is there already. An older program must not touch a newer schema.
    async fn is_present(&self, migrations: &[(&str, &str)]) -> Result<bool, OpenError> {
        let known = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
        let found = self.version().await?;
        if found > known {
            let keyspace = self.options.keyspace.clone();
            return Err(OpenError::Newer { keyspace, found, known });
        }
        Ok(found == known)
    }

    /// 0: there is nothing yet.
    async fn version(&self) -> Result<i32, OpenError> {
        let table = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
        let name = (self.options.keyspace.as_str(), "schema_version");
        if self.rows(table, name).await?.is_empty() {
            return Ok(0);
        }
        let rows = self.rows("SELECT max(version) FROM schema_version WHERE one = 1", ()).await?;
        match rows.into_iter().next().and_then(|row| row.columns.into_iter().next().flatten()) {
            Some(CqlValue::Int(version)) => Ok(version),
            _ => Ok(0),
        }
    }

    /// Under the lock.
    async fn apply_all(&self, migrations: &[(&str, &str)]) -> Result<(), OpenError> {
        // Another node may have been at it until a moment ago.
        let found = usize::try_from(self.version().await?).unwrap_or(0);
        for (number, (title, text)) in migrations.iter().enumerate().skip(found) {
            for statement in statements(text) {
                // Whoever was stopped for so long that the lock went to another leaves the rest to them.
                if !self.renew_lock().await? {
                    return Err(self.failed("this node was too slow, and lost the schema's lock"));
                }
                self.change(&statement).await?;
            }
            let version = i32::try_from(number + 1).unwrap_or(i32::MAX);
            let done = "INSERT INTO schema_version (one, version, title) VALUES (1, ?, ?)";
            self.rows(done, (version, *title)).await?;
        }
        Ok(())
    }

    fn lock_time(&self) -> Duration {
        Duration::from_millis(self.options.migration_lock_ms.max(1_000))
    }

    /// The lock expires by the database's clock, which needs no agreement with this node's.
    async fn take_lock(&self) -> Result<bool, OpenError> {
        let seconds = self.lock_time().as_secs();
        let text = format!(
            "INSERT INTO schema_lock (one, owner) VALUES (1, ?) IF NOT EXISTS USING TTL {seconds}"
        );
        self.compare(&text, (self.owner,)).await
    }

    async fn renew_lock(&self) -> Result<bool, OpenError> {
        let seconds = self.lock_time().as_secs();
        let text = format!(
            "UPDATE schema_lock USING TTL {seconds} SET owner = ? WHERE one = 1 IF owner = ?"
        );
        self.compare(&text, (self.owner, self.owner)).await
    }

    async fn release_lock(&self) -> Result<(), OpenError> {
        let text = "DELETE FROM schema_lock WHERE one = 1 IF owner = ?";
        self.compare(text, (self.owner,)).await.map(drop)
    }

    /// Whether a lightweight transaction was done. The lock answers with its owner: also if the first attempt was
    /// done and nobody heard of it.
    async fn compare(
        &self,
        text: &str,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<bool, OpenError> {
        let rows = self.rows(text, values).await?;
        let own = Some(CqlValue::Uuid(self.owner));
        Ok(rows.first().is_some_and(|row| {
            row.columns.contains(&own)
                || row.columns.first() == Some(&Some(CqlValue::Boolean(true)))
        }))
    }

    /// A change of the schema; the driver waits until all nodes agree on it.
    async fn change(&self, text: &str) -> Result<(), OpenError> {
        let mut statement = Statement::new(text);
        // Making tables takes some databases seconds.
        statement.set_request_timeout(Some(Duration::from_secs(60)));
        let changed = Box::pin(self.session.query_unpaged(statement, ())).await;
        changed.map_err(|error| self.failed(error))?;
        Ok(())
    }

    async fn rows(
        &self,
        text: &str,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<Vec<Row>, OpenError> {
        let answer = Box::pin(self.session.query_unpaged(text, values)).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        if !answer.is_rows() {
            return Ok(Vec::new());
        }
        let rows = answer.into_rows_result().map_err(|error| self.failed(error))?;
        let rows = rows.rows::<Row>().map_err(|error| self.failed(error))?;
        rows.collect::<Result<_, _>>().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl std::fmt::Display) -> OpenError {
        let keyspace = self.options.keyspace.clone();
        OpenError::Schema { keyspace, reason: error.to_string() }
    }
}

/// The id of a table that is made without a lock: of two nodes that make it on an empty cluster at the same moment, both
/// make the same one.
fn table_id(keyspace: &str, table: &str) -> Uuid {
    let digest = Sha256::new().chain_update(keyspace).chain_update(".").chain_update(table);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The statements of a migration's text, without comments.
fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let statements = text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty());
    statements.map(str::to_owned).collect()
}
