//! `history`: pages of 50 from a conversation with many messages.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use chat_client::api::{From, history_path};
use chat_protocol::{ConversationId, MessageId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Options;
use crate::accounts::{self, Account};
use crate::chat::{self, Kind, MessageIds};
use crate::histogram::Histogram;
use crate::link::{self, Clock, Link, Receive, Shared};
use crate::payload::{self, Stamp};
use crate::process::Server;
use crate::report::{Mark, Report};

const PAGE: usize = 50;
/// Messages under way while the conversation is filled.
const WINDOW: u64 = 2_000;
/// One id of this many is remembered to start pages from.
const SAMPLE_EVERY: u64 = 64;

struct Filling {
    acked: Cell<u64>,
    ids: RefCell<Vec<MessageId>>,
    failed: RefCell<Option<String>>,
    welcome: Cell<bool>,
}

struct Writer(Rc<Filling>);

impl Receive for Writer {
    fn frame(&mut self, bytes: &[u8], _now_ns: u64) {
        match chat::kind(bytes) {
            Kind::Ack => {
                let acked = self.0.acked.get() + 1;
                self.0.acked.set(acked);
                if acked.is_multiple_of(SAMPLE_EVERY)
                    && let Some(id) = payload::number_after(bytes, b"\"message_id\":")
                {
                    self.0.ids.borrow_mut().push(MessageId(id));
                }
            }
            Kind::Welcome => self.0.welcome.set(true),
            Kind::Error => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                self.0.failed.borrow_mut().get_or_insert(text);
            }
            _ => {}
        }
    }

    fn ended(&mut self, code: Option<u16>) {
        let text = format!("the connection ended with code {code:?}");
        self.0.failed.borrow_mut().get_or_insert(text);
    }
}

/// Runs it.
pub(crate) async fn run(
    options: &Options,
    server: &Server,
    messages: usize,
    fill_seconds: u64,
) -> anyhow::Result<Report> {
    let api = chat_client::Api::new(&format!("http://{}", server.socket))?;
    let accounts = accounts::sign_up(&api, 2).await?;
    let (one, other) = (accounts[0].clone(), accounts[1].clone());
    let conversation = accounts::direct(api, one.clone(), other).await?;
    let start = Instant::now();
    let messages = if options.quick { messages.min(20_000) } else { messages };
    let limit = Duration::from_secs(fill_seconds);
    let ids = fill(server, &one, conversation, messages as u64, limit).await?;
    let mut report = Report::new("history");
    let (count, starts) = ids;
    report.figure("messages in the conversation", count as f64, "");
    report.figure("written in", start.elapsed().as_secs_f64(), "s");
    // The store may still be behind the log.
    sleep(Duration::from_secs(3)).await;

    let seconds = options.seconds(10.0, 3.0);
    let alone = pages(server, &one, conversation, &starts, 1, seconds).await?;
    let many = pages(server, &one, conversation, &starts, 16, seconds).await?;
    report.figure("one reader: p50", alone.latency.milliseconds(0.5), "ms");
    report.add("one reader: p99", alone.latency.milliseconds(0.99), "ms", Mark::AtMost(5.0));
    report.figure("one reader: pages/s", alone.rate(), "1/s");
    report.figure("16 readers: pages/s", many.rate(), "1/s");
    report.figure("16 readers: p99", many.latency.milliseconds(0.99), "ms");
    if let Some(cpu) = many.server_cpu {
        report.figure("16 readers: pages per CPU second", many.pages as f64 / cpu.max(0.01), "1/s");
    }
    Ok(report)
}

async fn fill(
    server: &Server,
    account: &Account,
    conversation: ConversationId,
    messages: u64,
    limit: Duration,
) -> anyhow::Result<(u64, Vec<MessageId>)> {
    let shared = Shared::new();
    let (link, incoming) = link::connect(&chat::address(server), &shared).await?;
    let filling = Rc::new(Filling {
        acked: Cell::new(0),
        ids: RefCell::default(),
        failed: RefCell::default(),
        welcome: Cell::new(false),
    });
    let mut tasks = JoinSet::new();
    let writer = Writer(Rc::clone(&filling));
    tasks.spawn_local(link::receive(incoming, Rc::clone(&link), Rc::clone(&shared), writer));
    chat::hello(&link, &account.token, None);
    let start = Instant::now();
    let (mut ids, mut sent) = (MessageIds::new(), 0);
    while filling.acked.get() < sent || (sent < messages && start.elapsed() < limit) {
        if let Some(problem) = &*filling.failed.borrow() {
            bail!("writing the history failed after {} messages: {problem}", filling.acked.get());
        }
        let open = start.elapsed() < limit && filling.welcome.get() && !link.is_blocked();
        if open {
            sent = write_some(
                &link,
                conversation,
                &mut ids,
                sent,
                messages.min(filling.acked.get() + WINDOW),
                shared.clock,
            );
        }
        link.flush();
        if start.elapsed() > limit + Duration::from_secs(30) {
            bail!("{} of {sent} messages were acknowledged", filling.acked.get());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let starts = filling.ids.take();
    Ok((filling.acked.get(), starts))
}

fn write_some(
    link: &Link,
    conversation: ConversationId,
    ids: &mut MessageIds,
    from: u64,
    to: u64,
    clock: Clock,
) -> u64 {
    for number in from..to {
        let text = payload::text(Stamp { due_ns: clock.now_ns(), run: 1, number: number as u32 });
        chat::queue_send(link, conversation, number, ids.next(), false, &text);
    }
    to.max(from)
}

#[derive(Default)]
struct Pages {
    pages: u64,
    latency: Histogram,
    seconds: f64,
    server_cpu: Option<f64>,
}

impl Pages {
    fn rate(&self) -> f64 {
        self.pages as f64 / self.seconds
    }
}

/// `readers` at once, each asking for the next page when it has the one before, from random places.
async fn pages(
    server: &Server,
    account: &Account,
    conversation: ConversationId,
    starts: &[MessageId],
    readers: usize,
    seconds: f64,
) -> anyhow::Result<Pages> {
    let (latency, mut tasks) = (Rc::new(RefCell::new(Histogram::default())), JoinSet::new());
    let starts: Rc<[MessageId]> = starts.into();
    let (clock, cpu) = (Clock::start(), server.cpu_seconds());
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    for _ in 0..readers {
        let mut reader = Reader::connect(server, account).await?;
        let (latency, starts) = (Rc::clone(&latency), Rc::clone(&starts));
        tasks.spawn_local(async move {
            while Instant::now() < until {
                let from = match starts.len() {
                    0 => From::Newest,
                    count => From::Before(starts[rand::random_range(0..count)]),
                };
                let asked_ns = clock.now_ns();
                reader.page(&history_path(conversation, from, PAGE)).await?;
                latency.borrow_mut().record(clock.now_ns() - asked_ns);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a reader failed")??;
    }
    let seconds = clock.now_ns() as f64 / 1e9;
    let latency = latency.borrow().clone();
    let server_cpu = server.cpu_seconds().zip(cpu).map(|(now, then)| now - then);
    Ok(Pages { pages: latency.total(), latency, seconds, server_cpu })
}

/// A kept-alive HTTP connection that only looks at status and length.
struct Reader {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Reader {
    async fn connect(server: &Server, account: &Account) -> anyhow::Result<Reader> {
        let stream = TcpStream::connect(server.socket).await.context("connect")?;
        stream.set_nodelay(true)?;
        let head = format!(
            " HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
            server.socket, account.token
        );
        Ok(Reader { stream, head, buffer: Vec::new() })
    }

    async fn page(&mut self, path: &str) -> anyhow::Result<()> {
        let request = format!("GET {path}{}", self.head);
        self.stream.write_all(request.as_bytes()).await.context("ask for a page")?;
        self.buffer.clear();
        let mut expected = None;
        loop {
            if expected.is_some_and(|expected| self.buffer.len() >= expected) {
                return self.check();
            }
            if self.stream.read_buf(&mut self.buffer).await.context("read a page")? == 0 {
                bail!("the server closed the connection");
            }
            if expected.is_none() {
                expected = answer_length(&self.buffer)?;
            }
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if !self.buffer.starts_with(b"HTTP/1.1 200") {
            bail!("a page was refused: {}", String::from_utf8_lossy(&self.buffer));
        }
        Ok(())
    }
}

/// Bytes of head and body together, once the head is there.
fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize =
        length.context("an answer without a length")?.trim().parse().context("the length")?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_known_once_its_head_is_there() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";
        assert_eq!(answer_length(&bytes[..20]).unwrap(), None);
        assert_eq!(answer_length(bytes).unwrap(), Some(bytes.len() + 3));
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
