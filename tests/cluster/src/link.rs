//! A way to a server that a test can spoil: its answers come late, or are lost, and its connections are cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1024;

/// What becomes of what the server says. What is said to it always arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// It arrives.
    #[default]
    Pass,
    /// Each piece of it takes this long, one after the other.
    Late(Duration),
    /// It is lost. A connection that lost some of it can only be cut.
    Lost,
}

#[derive(Clone, Copy, Default)]
struct State {
    answers: Answers,
    /// Connections of an earlier number are cut.
    number: u64,
}

/// Passes connections on to a server until it is dropped.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    spoilt_bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Link {
    /// To the server at this `host:port`. Must be called in a runtime.
    pub fn start(server: &str) -> Link {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let listener = TcpListener::from_std(listener).expect("the listener is good");
        let address = listener.local_addr().expect("it is bound");
        let state = watch::Sender::new(State::default());
        let spoilt_bytes = Arc::<AtomicU64>::default();
        let link = accept(listener, server.to_owned(), state.clone(), spoilt_bytes.clone());
        Link { address, state, spoilt_bytes, task: tokio::spawn(link) }
    }

    /// Where it takes connections: `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What becomes of answers from now on.
    pub fn set(&self, answers: Answers) {
        self.state.send_modify(|state| state.answers = answers);
    }

    /// Cuts all connections; new ones can be made, and their answers arrive.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State { answers: Answers::Pass, number: state.number + 1 };
        });
    }

    /// How much was late or lost so far.
    pub fn spoilt_bytes(&self) -> u64 {
        self.spoilt_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    server: String,
    state: watch::Sender<State>,
    spoilt_bytes: Arc<AtomicU64>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (server, spoilt_bytes) = (server.clone(), spoilt_bytes.clone());
        let state = state.subscribe();
        // It ends with either side of the connection, or is cut.
        drop(tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            for stream in [&client, &server] {
                stream.set_nodelay(true).ok();
            }
            pass_on(client, server, state, spoilt_bytes).await;
        }));
    }
}

async fn pass_on(
    client: TcpStream,
    server: TcpStream,
    mut state: watch::Receiver<State>,
    spoilt_bytes: Arc<AtomicU64>,
) {
    let number = state.borrow().number;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let commands = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = answer(from_server, to_client, state.clone(), spoilt_bytes);
    tokio::select! {
        _ = commands => {}
        _ = answers => {}
        _ = state.wait_for(|state| state.number != number) => {}
    }
}

async fn answer(
    mut from_server: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
    state: watch::Receiver<State>,
    spoilt_bytes: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from_server.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let answers = state.borrow().answers;
        if answers != Answers::Pass {
            spoilt_bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        match answers {
            Answers::Pass => {}
            Answers::Late(time) => tokio::time::sleep(time).await,
            Answers::Lost => continue,
        }
        to_client.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that says again what it hears.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                drop(tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                }));
            }
        }));
        address
    }

    async fn say(stream: &mut TcpStream) -> Option<()> {
        stream.write_all(b"hello").await.ok()?;
        let mut heard = [0; 5];
        let reading = stream.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(2), reading).await.ok()?.ok()?;
        (&heard == b"hello").then_some(())
    }

    #[tokio::test]
    async fn answers_pass_come_late_are_lost_and_the_connection_is_cut() {
        let link = Link::start(&echo().await);
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        say(&mut stream).await.expect("an answer");
        link.set(Answers::Late(Duration::from_millis(300)));
        let asked = Instant::now();
        say(&mut stream).await.expect("an answer");
        assert!(asked.elapsed() >= Duration::from_millis(300));
        link.set(Answers::Lost);
        assert!(say(&mut stream).await.is_none() && link.spoilt_bytes() == 10);
        link.cut();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "it is cut");
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        say(&mut stream).await.expect("an answer");
    }
}
