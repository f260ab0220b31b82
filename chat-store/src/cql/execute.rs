//! Requests to the database: bounded in number, prepared, repeated by the driver where that is safe.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use scylla::client::pager::TypedRowStream;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::column::Values;
use super::error::{Failure, RequestFailure};

/// Content of one request. Databases refuse mutations above half a segment of their commit log, 16 MB by default, and
/// cut the connection above the largest frame: what is larger than this is refused before it is sent.
const REQUEST_BYTES_MAX: usize = 6 << 20;

/// Content of one batch: many small ones spread better than few large ones.
pub(super) const BATCH_BYTES_MAX: usize = 64 << 10;

/// Statements of one batch.
pub(super) const BATCH_STATEMENTS_MAX: usize = 100;

/// Attempts of a lightweight transaction whose outcome nobody knows.
const COMPARE_ATTEMPTS: u32 = 8;

/// One write of one row.
pub(super) struct RowWrite<'a> {
    pub(super) statement: &'a PreparedStatement,
    pub(super) values: Values,
}

impl RowWrite<'_> {
    /// About as long as its content on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.values.iter().map(|value| 4 + value.as_ref().map_or(0, bytes)).sum()
    }
}

fn bytes(value: &CqlValue) -> usize {
    match value {
        CqlValue::Text(text) => text.len(),
        CqlValue::Blob(blob) => blob.len(),
        _ => 8,
    }
}

/// What a lightweight transaction answered.
pub(super) struct Compared {
    /// The condition held, and it was done.
    pub(super) applied: bool,
    /// The row as it is, if the condition did not hold and there is one.
    pub(super) present: HashMap<String, CqlValue>,
}

impl Compared {
    pub(super) fn number(&self, column: &str) -> Option<i64> {
        match self.present.get(column)? {
            CqlValue::BigInt(number) => Some(*number),
            CqlValue::SmallInt(number) => Some(i64::from(*number)),
            _ => None,
        }
    }

    pub(super) fn blob(&self, column: &str) -> Option<&[u8]> {
        match self.present.get(column)? {
            CqlValue::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The session and the places for requests.
pub(super) struct Executor {
    session: Session,
    places: Semaphore,
    patience: Duration,
}

impl Executor {
    pub(super) fn new(session: Session, concurrency_max: usize, patience: Duration) -> Executor {
        let places = Semaphore::new(concurrency_max.min(Semaphore::MAX_PERMITS));
        Executor { session, places, patience }
    }

    /// Back-pressure: waits until a request has come back, but not for ever.
    async fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        match tokio::time::timeout(self.patience, self.places.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::Busy),
        }
    }

    /// Writes rows of one partition of one table, in one request.
    pub(super) async fn write(&self, mut rows: Vec<RowWrite<'_>>) -> Result<(), Failure> {
        let bytes: usize = rows.iter().map(RowWrite::bytes).sum();
        if bytes > REQUEST_BYTES_MAX {
            return Err(Failure::Refused(format!(
                "a row of {bytes} bytes is too large for the store: it takes {REQUEST_BYTES_MAX}"
            )));
        }
        if rows.len() == 1 {
            let row = rows.remove(0);
            return self.run(row.statement, row.values).await;
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            batch.append_statement(row.statement.clone());
            values.push(row.values);
        }
        let _place = self.place().await?;
        Box::pin(self.session.batch(&batch, values)).await?;
        Ok(())
    }

    /// Runs a statement without an answer.
    pub(super) async fn run(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<(), Failure> {
        let _place = self.place().await?;
        Box::pin(self.session.execute_unpaged(statement, values)).await?;
        Ok(())
    }

    /// The only row of an answer that has at most one.
    pub(super) async fn one<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Option<T>, Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let _place = self.place().await?;
        let answer = Box::pin(self.session.execute_unpaged(statement, values)).await?;
        let rows = answer.into_rows_result()?;
        rows.rows::<T>()?.next().transpose().map_err(Failure::from)
    }

    /// All rows of an answer, fetched page by page. Its caller bounds them by a limit or by the table's nature.
    pub(super) async fn all<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Vec<T>, Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + Send + 'static,
    {
        self.each(statement, values).await?.rows.try_collect().await.map_err(Failure::from)
    }

    /// Rows one by one, fetched page by page while they are taken.
    pub(super) async fn each<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Rows<'_, T>, Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + Send + 'static,
    {
        let place = self.place().await?;
        let pager = Box::pin(self.session.execute_iter(statement.clone(), values)).await?;
        Ok(Rows { rows: pager.rows_stream::<T>()?, _place: place })
    }

    /// Prepares a statement that is not among those of every start: it reads.
    pub(super) async fn prepare(&self, text: &str) -> Result<PreparedStatement, Failure> {
        let _place = self.place().await?;
        let mut statement = Box::pin(self.session.prepare(text))
            .await
            .map_err(|error| Failure::Request(Box::new(RequestFailure::Prepare(error))))?;
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    /// One page of an answer, and where the next one begins.
    pub(super) async fn page<T>(
        &self,
        mut statement: PreparedStatement,
        from: Vec<u8>,
        rows_max: i32,
    ) -> Result<(Vec<T>, Option<Vec<u8>>), Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let _place = self.place().await?;
        statement.set_page_size(rows_max);
        let state = match from.is_empty() {
            true => PagingState::start(),
            false => PagingState::new_from_raw_bytes(from),
        };
        let (answer, state) =
            Box::pin(self.session.execute_single_page(&statement, (), state)).await?;
        let rows = answer.into_rows_result()?;
        let rows = rows.rows::<T>()?.collect::<Result<Vec<T>, _>>()?;
        let next = match state {
            PagingStateResponse::HasMorePages { state } => {
                state.as_bytes_slice().map(|bytes| bytes.to_vec())
            }
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    /// A lightweight transaction. One that comes back undecided is tried again: `statement` must be such that a second
    /// success, or `present`, tells the caller that the first attempt had been done.
    pub(super) async fn compare(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone + Send,
    ) -> Result<Compared, Failure> {
        let mut attempt = 1;
        loop {
            match self.compare_once(statement, values.clone()).await {
                Err(failure) if failure.is_undecided() && attempt < COMPARE_ATTEMPTS => {
                    // Others want the same row: the longer it takes, the further apart.
                    let pause_ms = rand::random_range(0..u64::from(attempt) * 50);
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn compare_once(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Compared, Failure> {
        let _place = self.place().await?;
        let answer = Box::pin(self.session.execute_unpaged(statement, values)).await?;
        let rows = answer.into_rows_result()?;
        let names: Vec<String> =
            rows.column_specs().iter().map(|column| column.name().to_owned()).collect();
        let row = rows.single_row::<Row>().map_err(|error| Failure::Damaged(error.to_string()))?;
        let named = names.into_iter().zip(row.columns);
        let mut present: HashMap<String, CqlValue> =
            named.filter_map(|(name, value)| Some((name, value?))).collect();
        let applied = present.remove("[applied]") == Some(CqlValue::Boolean(true));
        Ok(Compared { applied, present })
    }
}

/// Rows that are being read; they hold a place until they are dropped.
pub(super) struct Rows<'a, T> {
    pub(super) rows: TypedRowStream<T>,
    _place: SemaphorePermit<'a>,
}
