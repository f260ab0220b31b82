//! The floor: one thread that writes each delivery by itself, to every connection, with nothing else to do.
//!
//! It speaks just enough WebSocket for this generator: the upgrade is answered without looking at its key.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::frame;

struct Peer {
    half: OwnedWriteHalf,
    /// What the system did not take.
    pending: RefCell<Vec<u8>>,
}

type Peers = Rc<RefCell<Vec<Rc<Peer>>>>;

/// Serves until the process is ended.
pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let peers = Peers::default();
    spawn_local(catch_up(Rc::clone(&peers)));
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(connection(stream, Rc::clone(&peers)));
    }
}

async fn connection(stream: TcpStream, peers: Peers) {
    // A connection that fails is simply gone: the generator counts its end.
    drop(converse(stream, peers).await);
}

async fn converse(mut stream: TcpStream, peers: Peers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 || request.len() > 16 * 1024 {
            return Ok(());
        }
    }
    if !request.windows(8).any(|window| window.eq_ignore_ascii_case(b"upgrade:")) {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    }
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(answer).await?;
    let (read, half) = stream.into_split();
    let peer = Rc::new(Peer { half, pending: RefCell::default() });
    peers.borrow_mut().push(Rc::clone(&peer));
    let end = pass_on(read, &peers).await;
    peers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &peer));
    end
}

async fn pass_on(mut read: OwnedReadHalf, peers: &Peers) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut out = Vec::new();
    loop {
        if read.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let mut used = 0;
        while let Some(head) = frame::head(&bytes[used..]) {
            let Some(payload) = bytes.get_mut(used + head.start..used + head.end) else { break };
            frame::apply_mask(payload, head.mask.unwrap_or_default());
            out.clear();
            frame::write_plain(&mut out, frame::TEXT, payload);
            peers.borrow().iter().for_each(|peer| peer.deliver(&out));
            used += head.end;
        }
        bytes.drain(..used);
        // A burst of one sender must not keep the others from being read.
        tokio::task::yield_now().await;
    }
}

async fn catch_up(peers: Peers) {
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        peers.borrow().iter().for_each(|peer| peer.flush());
    }
}

impl Peer {
    fn deliver(&self, bytes: &[u8]) {
        self.flush();
        let mut pending = self.pending.borrow_mut();
        let written = match pending.is_empty() {
            true => self.half.try_write(bytes).unwrap_or(0),
            false => 0,
        };
        pending.extend_from_slice(&bytes[written..]);
    }

    fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if !pending.is_empty() {
            let written = self.half.try_write(&pending).unwrap_or(0);
            pending.drain(..written);
        }
    }
}
