//! The one thread that writes: everything that waits goes into one transaction, and is answered after its commit.

use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection::end;
use super::error::{Failure, OpenError};
use crate::store::Error;

/// Requests in one commit. More would only make the first of them wait longer.
const COMMIT_REQUESTS_MAX: usize = 256;

/// A request: runs its SQL, and is answered once its fate is known.
trait Request: Send {
    /// Runs the SQL, and says what went wrong. May be called again after its transaction was rolled back.
    fn run(&mut self, connection: &Connection) -> Option<Error>;
    /// `Ok`: the transaction is committed.
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

struct Pending<T, W> {
    work: W,
    /// `None` until it has run.
    result: Option<Result<T, Error>>,
    sender: oneshot::Sender<Result<T, Error>>,
}

impl<T, W> Request for Pending<T, W>
where
    T: Send,
    W: Fn(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, connection: &Connection) -> Option<Error> {
        let result = (self.work)(connection).map_err(Error::from);
        let error = result.as_ref().err().cloned();
        self.result = Some(result);
        error
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let not_run = || Err(Error::Unavailable("the store did not get to it".into()));
        let Pending { result, sender, .. } = *self;
        let result = outcome.and_then(|()| result.unwrap_or_else(not_run));
        // A caller that has gone away does not need the answer.
        drop(sender.send(result));
    }
}

/// The way to the thread that writes.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Box<dyn Request>>>,
    /// Joined on drop, so that what was accepted is written and the file is free afterwards.
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        reopen: impl Fn() -> Result<Connection, OpenError> + Send + 'static,
        queue_length: usize,
    ) -> std::io::Result<Writer> {
        let (requests, queue) = mpsc::channel(queue_length.max(1));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_all(connection, reopen, queue))?;
        Ok(Writer { requests: Some(requests), thread: Some(thread) })
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = || Error::Unavailable("the store has stopped: restart the node".into());
        let (sender, receiver) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        let request = Pending { work, result: None, sender };
        requests.send(Box::new(request)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writing thread panicked");
        }
    }
}

fn write_all(
    mut connection: Connection,
    reopen: impl Fn() -> Result<Connection, OpenError>,
    mut queue: mpsc::Receiver<Box<dyn Request>>,
) {
    let mut failing = false;
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, COMMIT_REQUESTS_MAX) > 0 {
        let outcome = commit(&connection, &mut batch);
        match &outcome {
            Err(error) if !failing => tracing::error!(%error, "writes to the store fail"),
            Ok(()) if failing => tracing::info!("writes to the store succeed again"),
            _ => {}
        }
        failing = outcome.is_err();
        // A transaction that cannot even be rolled back would hold everything up: begin anew.
        if !connection.is_autocommit()
            && let Ok(fresh) = reopen()
        {
            connection = fresh;
        }
    }
}

/// Runs the requests in one transaction and answers them. `Err`: some of them met a store that does not work.
fn commit(connection: &Connection, batch: &mut Vec<Box<dyn Request>>) -> Result<(), Error> {
    let outcome = match run_together(connection, batch) {
        Ok(true) => Ok(None),
        Ok(false) => run_apart(connection, batch).map_err(Error::from),
        Err(failure) => Err(failure.into()),
    };
    if outcome.is_err() && !connection.is_autocommit() {
        // If this fails too, the caller sees that the transaction is still there.
        drop(end(connection, "ROLLBACK"));
    }
    for request in batch.drain(..) {
        request.answer(outcome.as_ref().map(|_| ()).map_err(Error::clone));
    }
    outcome?.map_or(Ok(()), Err)
}

/// Runs the requests as one and commits. `false`: one of them failed, and all were rolled back. Without savepoints
/// SQLite need not keep a copy of every page that a request changes.
fn run_together(connection: &Connection, batch: &mut [Box<dyn Request>]) -> Result<bool, Failure> {
    end(connection, "BEGIN IMMEDIATE")?;
    if batch.iter_mut().any(|request| request.run(connection).is_some()) {
        if !connection.is_autocommit() {
            end(connection, "ROLLBACK")?;
        }
        return Ok(false);
    }
    end(connection, "COMMIT")?;
    Ok(true)
}

/// Runs each request in a savepoint of its own, so that one that fails takes nothing else with it, and commits. The
/// value is the first sign of a store that does not work in a transaction that was committed all the same.
fn run_apart(
    connection: &Connection,
    batch: &mut [Box<dyn Request>],
) -> Result<Option<Error>, Failure> {
    let mut unavailable = None;
    end(connection, "BEGIN IMMEDIATE")?;
    for request in batch {
        end(connection, "SAVEPOINT request")?;
        let error = request.run(connection);
        if connection.is_autocommit() {
            // Some errors, a full disk among them, may end the whole transaction.
            return Err(Failure::Aborted(error));
        }
        if error.is_some() {
            end(connection, "ROLLBACK TO request")?;
        }
        end(connection, "RELEASE request")?;
        if let Some(error @ Error::Unavailable(_)) = error {
            unavailable.get_or_insert(error);
        }
    }
    end(connection, "COMMIT")?;
    Ok(unavailable)
}

/// Runs one piece of work in a transaction of its own, where there is no thread to collect several.
pub(super) fn write_alone<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    end(connection, "BEGIN IMMEDIATE")?;
    let result = work(connection).and_then(|value| {
        end(connection, "COMMIT")?;
        Ok(value)
    });
    if result.is_err() && !connection.is_autocommit() {
        end(connection, "ROLLBACK")?;
    }
    result
}
