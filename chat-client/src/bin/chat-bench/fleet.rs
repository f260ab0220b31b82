//! Many connections that listen to one conversation, room or subject, and four of them that speak.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use chat_protocol::ConversationId;
use tokio::task::JoinSet;

use crate::accounts::{Account, concurrently};
use crate::chat::{self, Kind, MessageIds};
use crate::frame;
use crate::histogram::Histogram;
use crate::link::{self, Address, Link, Receive, Shared};
use crate::nats;
use crate::payload::{self, Finder, Stamp};
use crate::process::{Server, own_cpu_seconds};
use crate::schedule::Schedule;

/// Of each room, this many members speak.
const SENDERS: usize = 4;
/// What has not arrived this long after the last message was due is lost or too late.
const DRAIN: Duration = Duration::from_secs(4);

/// How the server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A group of a chat node.
    Group(ConversationId),
    /// A live room of a chat node.
    Room(ConversationId),
    /// A subject of nats-server.
    Nats,
    /// The own server that writes each delivery by itself.
    Floor,
}

/// What to connect.
pub(crate) struct Plan {
    pub(crate) address: Address,
    pub(crate) dialect: Dialect,
    /// Who, for a chat node; otherwise empty.
    pub(crate) accounts: Vec<Account>,
    pub(crate) count: usize,
}

/// What arrived in the run under way.
#[derive(Default)]
pub(crate) struct Tally {
    run: u16,
    deliveries: u64,
    skipped: u64,
    latency: Histogram,
    welcomes: u64,
    acks: u64,
    errors: u64,
    first_error: Option<String>,
    ended: u64,
    close_code: Option<u16>,
}

impl Tally {
    fn delivered(&mut self, stamp: Stamp, now_ns: u64) {
        // Late ones of a run before this one would be counted twice.
        if stamp.run == self.run {
            self.deliveries += 1;
            self.latency.record(now_ns.saturating_sub(stamp.due_ns));
        }
    }

    pub(crate) fn failed(&mut self, text: &[u8]) {
        self.errors += 1;
        if self.first_error.is_none() {
            let text: String = String::from_utf8_lossy(text).chars().take(300).collect();
            self.first_error = Some(text);
        }
    }

    fn begin(&mut self, run: u16) {
        let mut latency = std::mem::take(&mut self.latency);
        latency.clear();
        let (welcomes, ended, close_code) = (self.welcomes, self.ended, self.close_code);
        *self = Tally { run, latency, welcomes, ended, close_code, ..Tally::default() };
    }
}

struct Counter {
    tally: Rc<RefCell<Tally>>,
    finder: Finder,
}

impl Receive for Counter {
    fn frame(&mut self, bytes: &[u8], now_ns: u64) {
        let mut tally = self.tally.borrow_mut();
        match chat::kind(bytes) {
            Kind::Message => {
                if let Some(stamp) = self.finder.one(bytes) {
                    tally.delivered(stamp, now_ns);
                }
            }
            Kind::Room => {
                self.finder.each(bytes, |stamp| tally.delivered(stamp, now_ns));
                // The last field of a batch.
                let tail = &bytes[bytes.len().saturating_sub(40)..];
                tally.skipped += payload::number_after(tail, b"\"skipped\":").unwrap_or(0);
            }
            Kind::Ack => tally.acks += 1,
            Kind::Error => tally.failed(bytes),
            Kind::Welcome => tally.welcomes += 1,
            Kind::Cursor | Kind::Reconnect | Kind::Other => {}
        }
    }

    fn ended(&mut self, code: Option<u16>) {
        let mut tally = self.tally.borrow_mut();
        tally.ended += 1;
        tally.close_code = tally.close_code.or(code);
    }
}

struct NatsCounter {
    tally: Rc<RefCell<Tally>>,
    stream: nats::Stream,
    finder: Finder,
    link: Rc<Link>,
}

impl Receive for NatsCounter {
    fn frame(&mut self, bytes: &[u8], now_ns: u64) {
        let mut tally = self.tally.borrow_mut();
        let finder = &mut self.finder;
        let link = &self.link;
        self.stream.feed(bytes, |event| match event {
            nats::Event::Message(body) => {
                if let Some(stamp) = finder.one(body) {
                    tally.delivered(stamp, now_ns);
                }
            }
            nats::Event::Ping => link.send(frame::BINARY, b"PONG\r\n"),
            nats::Event::Pong => tally.welcomes += 1,
            nats::Event::Error(line) => tally.failed(line),
        });
    }

    fn ended(&mut self, code: Option<u16>) {
        let mut tally = self.tally.borrow_mut();
        tally.ended += 1;
        tally.close_code = tally.close_code.or(code);
    }
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) deliveries_per_second: f64,
    pub(crate) deliveries: u64,
    pub(crate) missing: i64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) server_cpu_seconds: Option<f64>,
    pub(crate) server_share: f64,
    pub(crate) generator_share: f64,
    pub(crate) ended: u64,
    pub(crate) problem: Option<String>,
}

impl Step {
    pub(crate) fn holds(&self) -> bool {
        self.missing == 0 && self.p99_ms < 1_000.0 && self.problem.is_none() && self.ended == 0
    }

    pub(crate) fn cpu_per_million(&self) -> Option<f64> {
        self.server_cpu_seconds.map(|cpu| cpu / self.deliveries.max(1) as f64 * 1e6)
    }
}

/// See the module.
pub(crate) struct Fleet {
    plan: Plan,
    shared: Rc<Shared>,
    links: Vec<Rc<Link>>,
    tally: Rc<RefCell<Tally>>,
    tasks: JoinSet<()>,
    ids: MessageIds,
    run: u16,
    fanout: u64,
}

impl Fleet {
    /// Connects everyone and finds out how many receive each message.
    pub(crate) async fn connect(plan: Plan, server: &Server) -> anyhow::Result<Fleet> {
        let mut fleet = Fleet {
            plan,
            shared: Shared::new(),
            links: Vec::new(),
            tally: Rc::default(),
            tasks: JoinSet::new(),
            ids: MessageIds::new(),
            run: 0,
            fanout: 0,
        };
        fleet.open().await?;
        fleet.calibrate(server).await?;
        Ok(fleet)
    }

    /// Connects everyone again, after a server has closed some.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<()> {
        self.tasks.shutdown().await;
        self.links.clear();
        self.tally = Rc::default();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.open().await
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        let count = self.plan.count;
        let (address, shared) = (self.plan.address.clone(), Rc::clone(&self.shared));
        let connected = concurrently(count, |_| {
            let (address, shared) = (address.clone(), Rc::clone(&shared));
            async move { link::connect(&address, &shared).await }
        })
        .await?;
        for (n, (link, incoming)) in connected.into_iter().enumerate() {
            let (tally, shared) = (Rc::clone(&self.tally), Rc::clone(&self.shared));
            match self.plan.dialect {
                Dialect::Nats => {
                    let counter = NatsCounter {
                        tally,
                        stream: nats::Stream::default(),
                        finder: Finder::default(),
                        link: Rc::clone(&link),
                    };
                    let reading = link::receive(incoming, Rc::clone(&link), shared, counter);
                    self.tasks.spawn_local(reading);
                    link.send(frame::BINARY, nats::GREETING);
                }
                _ => {
                    let counter = Counter { tally, finder: Finder::default() };
                    let reading = link::receive(incoming, Rc::clone(&link), shared, counter);
                    self.tasks.spawn_local(reading);
                    if let Some(account) = self.plan.accounts.get(n) {
                        chat::hello(&link, &account.token, None);
                    }
                }
            }
            self.links.push(link);
        }
        if self.plan.dialect == Dialect::Floor {
            return Ok(());
        }
        self.until("everyone is welcome", |tally| tally.welcomes).await?;
        if let Dialect::Room(room) = self.plan.dialect {
            self.tally.borrow_mut().acks = 0;
            self.links.iter().for_each(|link| chat::join_room(link, room));
            self.until("everyone is in the room", |tally| tally.acks).await?;
        }
        Ok(())
    }

    async fn until(&self, what: &str, counted: impl Fn(&Tally) -> u64) -> anyhow::Result<()> {
        for _ in 0..6_000 {
            {
                let tally = self.tally.borrow();
                if counted(&tally) >= self.links.len() as u64 {
                    return Ok(());
                }
                if tally.errors + tally.ended > 0 {
                    let (error, code) = (&tally.first_error, tally.close_code);
                    bail!("failed before {what}: {error:?}, close code {code:?}");
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("waited a minute until {what}");
    }

    /// A server may or may not send a message back to the connection it came from.
    async fn calibrate(&mut self, server: &Server) -> anyhow::Result<()> {
        let everyone = self.links.len() as u64;
        self.fanout = everyone;
        let step = self.step(server, 40.0, 0.1).await?;
        if let Some(problem) = step.problem {
            bail!("the first messages failed: {problem}");
        }
        let sent = SENDERS as u64;
        self.fanout = match step.deliveries {
            all if all == everyone * sent => everyone,
            others if others == (everyone - 1) * sent => everyone - 1,
            other => bail!("{sent} messages to {everyone} connections gave {other} deliveries"),
        };
        Ok(())
    }

    /// Messages at a fixed rate for a while.
    pub(crate) async fn step(
        &mut self,
        server: &Server,
        messages_per_second: f64,
        seconds: f64,
    ) -> anyhow::Result<Step> {
        self.run = self.run.wrapping_add(1);
        self.tally.borrow_mut().begin(self.run);
        let (server_cpu, own_cpu) = (server.cpu_seconds(), own_cpu_seconds());
        let start_ns = self.shared.clock.now_ns();
        let sent = self.speak(Schedule::new(start_ns, messages_per_second, seconds)).await;
        let spoken_ns = self.shared.clock.now_ns();
        let expected = sent * self.fanout;
        let arrived_ns = self.drain(expected).await;
        let tally = self.tally.borrow();
        let elapsed = (spoken_ns.max(arrived_ns) - start_ns) as f64 / 1e9;
        let server_cpu_seconds = server.cpu_seconds().zip(server_cpu).map(|(now, then)| now - then);
        Ok(Step {
            deliveries_per_second: tally.deliveries as f64 / elapsed,
            deliveries: tally.deliveries,
            missing: expected as i64 - tally.deliveries as i64,
            p50_ms: tally.latency.milliseconds(0.5),
            p99_ms: tally.latency.milliseconds(0.99),
            server_cpu_seconds,
            server_share: server_cpu_seconds.unwrap_or_default() / elapsed,
            generator_share: (own_cpu_seconds() - own_cpu) / elapsed,
            ended: tally.ended,
            problem: tally.first_error.clone(),
        })
    }

    async fn speak(&mut self, mut schedule: Schedule) -> u64 {
        while !schedule.is_done() {
            while let Some((number, due_ns)) = schedule.take(self.shared.clock.now_ns()) {
                let stamp = Stamp { due_ns, run: self.run, number: number as u32 };
                let link = Rc::clone(&self.links[number as usize % SENDERS.min(self.links.len())]);
                self.queue(&link, stamp);
            }
            self.links.iter().take(SENDERS).for_each(|link| link.flush());
            pause(&schedule, self.shared.clock.now_ns()).await;
        }
        schedule.issued()
    }

    fn queue(&mut self, link: &Link, stamp: Stamp) {
        let text = payload::text(stamp);
        match self.plan.dialect {
            Dialect::Group(conversation) | Dialect::Room(conversation) => {
                let id = self.ids.next();
                chat::queue_send(link, conversation, stamp.number.into(), id, false, &text);
            }
            Dialect::Nats => link.queue(frame::BINARY, &nats::publish(&text)),
            Dialect::Floor => link.queue(frame::TEXT, &floor_message(&text)),
        }
    }

    /// Waits for what is still on its way; returns when the last of it came.
    async fn drain(&self, expected: u64) -> u64 {
        let limit_ns = self.shared.clock.now_ns() + DRAIN.as_nanos() as u64;
        // Without a known fan-out the first messages need a moment to be all there.
        let mut last = (0, self.shared.clock.now_ns());
        loop {
            self.links.iter().take(SENDERS).for_each(|link| link.flush());
            let now_ns = self.shared.clock.now_ns();
            let arrived = {
                let tally = self.tally.borrow();
                tally.deliveries + tally.skipped
            };
            if arrived != last.0 {
                last = (arrived, now_ns);
            }
            let blocked = self.links.iter().take(SENDERS).any(|link| link.is_blocked());
            if (arrived >= expected && !blocked) || now_ns > limit_ns {
                return last.1;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The floor sends the payload back as it is, so it comes in the form that is counted.
fn floor_message(text: &[u8]) -> Vec<u8> {
    [br#"{"message":{"body":{"text":""#, text, br#""}}}"#].concat()
}

/// Until the next message is nearly due. The timer is too coarse for the last stretch; the generator has a core to
/// itself, so it goes round instead.
pub(crate) async fn pause(schedule: &Schedule, now_ns: u64) {
    match schedule.wait_ns(now_ns) {
        long if long > 3_000_000 => {
            tokio::time::sleep(Duration::from_nanos(long - 2_000_000)).await;
        }
        _ => tokio::task::yield_now().await,
    }
}

/// The context of every failure of a step.
pub(crate) fn describe(step: &Step) -> String {
    format!(
        "{:>10.0} deliveries/s  p50 {:>8.2} ms  p99 {:>8.2} ms  missing {}  server {:.0} %  generator {:.0} %{}",
        step.deliveries_per_second,
        step.p50_ms,
        step.p99_ms,
        step.missing,
        step.server_share * 100.0,
        step.generator_share * 100.0,
        step.problem.as_deref().map(|p| format!("  {p}")).unwrap_or_default()
    )
}

/// The accounts of a fleet, or why there are none.
pub(crate) fn first(accounts: &[Account]) -> anyhow::Result<&Account> {
    accounts.first().context("there are no accounts")
}
