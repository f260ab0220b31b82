//! The threads that read, each with a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection::read;
use super::error::Failure;
use crate::store::Error;

type Request = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the threads that read.
pub(super) struct Readers {
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(
        connections: Vec<Connection>,
        queue_length: usize,
    ) -> std::io::Result<Readers> {
        let (requests, queue) = mpsc::channel(queue_length.max(1));
        // One of the threads waits on the queue, the others wait for their turn to wait.
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Readers { requests: Some(requests), threads: Vec::new() };
        for (number, connection) in connections.into_iter().enumerate() {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || read_all(&connection, &queue))?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = || Error::Unavailable("the store has stopped: restart the node".into());
        let (sender, receiver) = oneshot::channel();
        let request: Request = Box::new(move |connection| {
            // A caller that has gone away, for example by a time-out, needs no answer.
            if !sender.is_closed() {
                drop(sender.send(read(connection, work).map_err(Error::from)));
            }
        });
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        requests.send(request).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reading thread of the store panicked");
            }
        }
    }
}

fn read_all(connection: &Connection, queue: &Mutex<mpsc::Receiver<Request>>) {
    loop {
        // The guard is gone before the request runs. Nothing can panic while it is held.
        let request = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(request) = request else { return };
        request(connection);
    }
}
