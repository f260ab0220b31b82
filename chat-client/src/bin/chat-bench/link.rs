//! Connections that cost the generator next to nothing: no buffer of their own while nothing is half read.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::frame;

/// The largest frame the generator reads; a batch of a live room at a high rate.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The generator's clock.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What all connections of the one thread share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    /// Connections read one after another, so one buffer serves all.
    buffer: RefCell<Box<[u8]>>,
    mask: Cell<u32>,
}

impl Shared {
    pub(crate) fn new() -> Rc<Shared> {
        let buffer = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
        Rc::new(Shared { clock: Clock::start(), buffer, mask: Cell::new(0x9E37_79B9) })
    }

    /// A masking key that differs from the one before (xorshift): the server's work is the same as with any other.
    pub(crate) fn mask(&self) -> u32 {
        let mut mask = self.mask.get();
        mask ^= mask << 13;
        mask ^= mask >> 17;
        mask ^= mask << 5;
        self.mask.set(mask);
        mask
    }
}

/// The sending side of a connection. What the system does not take at once waits here.
pub(crate) struct Link {
    half: OwnedWriteHalf,
    pending: RefCell<Vec<u8>>,
    shared: Rc<Shared>,
}

impl Link {
    /// Queues a frame; [`flush`](Link::flush) hands it to the system.
    pub(crate) fn queue(&self, opcode: u8, payload: &[u8]) {
        let mask = self.shared.mask();
        frame::write_masked(&mut self.pending.borrow_mut(), opcode, payload, mask);
    }

    /// Writes as much as the system takes. A connection that is gone drops what it has: the reader reports the end.
    pub(crate) fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        while !pending.is_empty() {
            match self.half.try_write(&pending) {
                Ok(written) => drop(pending.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => pending.clear(),
            }
        }
        // Idle connections must not hold a buffer.
        pending.shrink_to(0);
    }

    pub(crate) fn send(&self, opcode: u8, payload: &[u8]) {
        self.queue(opcode, payload);
        self.flush();
    }

    pub(crate) fn is_blocked(&self) -> bool {
        !self.pending.borrow().is_empty()
    }
}

/// What a scenario does with frames.
pub(crate) trait Receive {
    /// A data frame arrived. All frames of one read have the same time.
    fn frame(&mut self, payload: &[u8], now_ns: u64);
    /// The connection ended, with the close code if there was one.
    fn ended(&mut self, code: Option<u16>);
}

/// The reading side of a connection, not started yet.
pub(crate) struct Incoming {
    half: OwnedReadHalf,
    carry: Vec<u8>,
}

/// Where and how to connect.
#[derive(Clone)]
pub(crate) struct Address {
    sockets: Rc<[SocketAddr]>,
    next: Rc<Cell<usize>>,
    path: &'static str,
    subprotocol: Option<&'static str>,
}

impl Address {
    pub(crate) fn new(
        sockets: &[SocketAddr],
        path: &'static str,
        subprotocol: Option<&'static str>,
    ) -> Address {
        Address { sockets: sockets.into(), next: Rc::default(), path, subprotocol }
    }

    /// One server after another; clones take turns together.
    fn socket(&self) -> SocketAddr {
        let next = self.next.get();
        self.next.set((next + 1) % self.sockets.len());
        self.sockets[next]
    }
}

/// Connects and upgrades to WebSocket.
pub(crate) async fn connect(
    address: &Address,
    shared: &Rc<Shared>,
) -> anyhow::Result<(Rc<Link>, Incoming)> {
    let socket = address.socket();
    let mut stream = TcpStream::connect(socket).await.context("connect")?;
    stream.set_nodelay(true)?;
    let protocol = address
        .subprotocol
        .map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {socket}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n",
        address.path
    );
    stream.write_all(request.as_bytes()).await.context("write the upgrade request")?;
    let carry = read_upgrade(&mut stream).await?;
    let (read, write) = stream.into_split();
    let link = Link { half: write, pending: RefCell::new(Vec::new()), shared: Rc::clone(shared) };
    Ok((Rc::new(link), Incoming { half: read, carry }))
}

/// Reads the answer to the upgrade; returns what came after it.
async fn read_upgrade(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await.context("read the answer to the upgrade")?;
        if count == 0 || answer.len() > 16 * 1024 {
            bail!("the server ended the upgrade: {}", String::from_utf8_lossy(&answer));
        }
        answer.extend_from_slice(&chunk[..count]);
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            if !answer.starts_with(b"HTTP/1.1 101") {
                bail!("the server refused the upgrade: {}", String::from_utf8_lossy(&answer));
            }
            return Ok(answer.split_off(end + 4));
        }
    }
}

/// Reads until the connection ends.
pub(crate) async fn receive(
    incoming: Incoming,
    link: Rc<Link>,
    shared: Rc<Shared>,
    mut receiver: impl Receive,
) {
    let Incoming { mut half, mut carry } = incoming;
    if !carry.is_empty() {
        let early = std::mem::take(&mut carry);
        match split(&early, shared.clock.now_ns(), &link, &mut receiver) {
            Ok(used) => carry = early[used..].to_vec(),
            Err(code) => return receiver.ended(code),
        }
    }
    loop {
        let read = std::future::poll_fn(|context| {
            // Borrowed for one poll only: no other connection runs meanwhile.
            let mut buffer = shared.buffer.borrow_mut();
            buffer[..carry.len()].copy_from_slice(&carry);
            let mut free = ReadBuf::new(&mut buffer[carry.len()..]);
            std::task::ready!(Pin::new(&mut half).poll_read(context, &mut free))?;
            let count = free.filled().len();
            if count == 0 {
                return std::task::Poll::Ready(Ok::<_, std::io::Error>(Err(None)));
            }
            let bytes = &buffer[..carry.len() + count];
            let used = match split(bytes, shared.clock.now_ns(), &link, &mut receiver) {
                Ok(used) => used,
                Err(code) => return std::task::Poll::Ready(Ok(Err(code))),
            };
            carry.clear();
            carry.extend_from_slice(&bytes[used..]);
            if carry.is_empty() {
                carry.shrink_to(0);
            }
            let full = carry.len() == buffer.len();
            std::task::Poll::Ready(Ok(if full { Err(None) } else { Ok(()) }))
        });
        match read.await {
            Ok(Ok(())) => {}
            Ok(Err(code)) => return receiver.ended(code),
            Err(_) => return receiver.ended(None),
        }
    }
}

/// Hands out every whole frame; returns how many bytes they took, or the code of a close frame.
fn split(
    bytes: &[u8],
    now_ns: u64,
    link: &Link,
    receiver: &mut impl Receive,
) -> Result<usize, Option<u16>> {
    let mut used = 0;
    while let Some(head) = frame::head(&bytes[used..]) {
        let Some(payload) = bytes.get(used + head.start..used.saturating_add(head.end)) else {
            break;
        };
        match head.opcode {
            frame::CLOSE => {
                let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                return Err(code);
            }
            frame::PING => link.send(frame::PONG, payload),
            frame::PONG => {}
            _ => receiver.frame(payload, now_ns),
        }
        used += head.end;
    }
    Ok(used)
}
