//! Looks at a database and a keyspace, and changes nothing: for a program that tells people what is wrong.

use std::collections::{BTreeMap, HashMap};

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;

use super::column::from_bits;
use super::connection;
use super::error::OpenError;
use super::migration;
use super::options::{Consistency, Options};

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Version of the node that answered, as it says.
    pub release: String,
    /// How many nodes each data centre has, as that node knows.
    pub datacenters: BTreeMap<String, u32>,
    /// The keyspace; `None`: it does not exist.
    pub keyspace: Option<KeyspaceState>,
}

/// What a keyspace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceState {
    /// Copies per data centre. A class that knows no data centres has its one number under `replication_factor`.
    pub replication: BTreeMap<String, u32>,
    /// Whether the class of replication is the one that counts per data centre.
    pub is_network_topology: bool,
    /// Version of the schema; 0: there are no tables yet.
    pub schema: i32,
    /// The version that this program has.
    pub schema_known: i32,
    /// The store's epoch; `None`: no node has made it yet.
    pub epoch: Option<u64>,
}

pub(super) async fn inspect(options: &Options) -> Result<Inspection, OpenError> {
    options.check()?;
    // A data centre that does not exist is to be found out, not to be asked alone.
    let anywhere = Options { consistency: Consistency::Quorum, ..options.clone() };
    let session = Box::pin(connection::connect(&anywhere)).await?;
    let look = Look { session, options };
    let release = look.release().await?;
    Ok(Inspection {
        release,
        datacenters: look.datacenters().await?,
        keyspace: look.keyspace().await?,
    })
}

struct Look<'a> {
    session: Session,
    options: &'a Options,
}

impl Look<'_> {
    /// Cassandra's, unless the node says what it really is.
    async fn release(&self) -> Result<String, OpenError> {
        let scylla = "SELECT version FROM system.versions WHERE key = 'local'";
        if let Ok(rows) = self.rows::<(String,)>(scylla, ()).await
            && let Some((version,)) = rows.into_iter().next()
        {
            return Ok(format!("ScyllaDB {version}"));
        }
        let found = self.rows::<(String,)>("SELECT release_version FROM system.local", ()).await?;
        let version = found.into_iter().next().map(|(version,)| version);
        Ok(format!("Cassandra {}", version.unwrap_or_else(|| "of an unknown version".to_owned())))
    }

    async fn datacenters(&self) -> Result<BTreeMap<String, u32>, OpenError> {
        let mut counts = BTreeMap::new();
        for table in ["local", "peers"] {
            let text = format!("SELECT data_center FROM system.{table}");
            for (name,) in self.rows::<(Option<String>,)>(&text, ()).await? {
                *counts.entry(name.unwrap_or_default()).or_default() += 1;
            }
        }
        Ok(counts)
    }

    async fn keyspace(&self) -> Result<Option<KeyspaceState>, OpenError> {
        let text = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let name = (self.options.keyspace.as_str(),);
        let found = self.rows::<(HashMap<String, String>,)>(text, name).await?;
        let Some((replication,)) = found.into_iter().next() else { return Ok(None) };
        let class = replication.get("class").map(String::as_str).unwrap_or_default();
        Ok(Some(KeyspaceState {
            is_network_topology: class.ends_with("NetworkTopologyStrategy"),
            schema: self.schema().await?,
            schema_known: migration::known(),
            epoch: self.epoch().await?,
            // "3", or "3/1" with transient copies: what stands in front counts.
            replication: replication
                .iter()
                .filter_map(|(key, copies)| {
                    let copies = copies.split('/').next()?.parse().ok()?;
                    Some((key.clone(), copies))
                })
                .collect(),
        }))
    }

    async fn schema(&self) -> Result<i32, OpenError> {
        if !self.has_table("schema_version").await? {
            return Ok(0);
        }
        let keyspace = &self.options.keyspace;
        let text = format!("SELECT max(version) FROM {keyspace}.schema_version WHERE one = 1");
        let found = self.rows::<(Option<i32>,)>(&text, ()).await?;
        Ok(found.into_iter().next().and_then(|(version,)| version).unwrap_or(0))
    }

    async fn epoch(&self) -> Result<Option<u64>, OpenError> {
        if !self.has_table("meta").await? {
            return Ok(None);
        }
        let text = format!("SELECT epoch FROM {}.meta WHERE one = 1", self.options.keyspace);
        let found = self.rows::<(i64,)>(&text, ()).await?;
        Ok(found.into_iter().next().map(|(epoch,)| from_bits(epoch)))
    }

    async fn has_table(&self, table: &str) -> Result<bool, OpenError> {
        let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
        let names = (self.options.keyspace.as_str(), table);
        Ok(!self.rows::<(String,)>(text, names).await?.is_empty())
    }

    async fn rows<T>(&self, text: &str, values: impl SerializeRow) -> Result<Vec<T>, OpenError>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let failed = |error: String| OpenError::Schema {
            keyspace: self.options.keyspace.clone(),
            reason: error,
        };
        let answer = Box::pin(self.session.query_unpaged(text, values)).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let rows = answer.into_rows_result().map_err(|error| failed(error.to_string()))?;
        let rows = rows.rows::<T>().map_err(|error| failed(error.to_string()))?;
        rows.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))
    }
}
