//! `pairs`: 1,000 users in 500 pairs, both online, every message acknowledged and delivered to the other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use chat_protocol::ConversationId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Options;
use crate::accounts::{self, Account, concurrently};
use crate::chat::{self, Kind, MessageIds};
use crate::fleet::pause;
use crate::histogram::Histogram;
use crate::link::{self, Link, Receive, Shared};
use crate::payload::{self, Finder, Stamp};
use crate::process::{Server, own_cpu_seconds};
use crate::report::{Mark, Report};
use crate::schedule::Schedule;

const USERS: usize = 1_000;
/// A stamp's number is the sender and its count.
const COUNT_BITS: u32 = 20;
const FIXED_PER_SECOND: f64 = 1_000.0;
/// A rate at which deliveries come later than this is not one that a server keeps up with.
const DELIVERED_P99_MAX_MS: f64 = 1_000.0;

/// What all users share.
struct Table {
    shared: Rc<Shared>,
    ids: RefCell<MessageIds>,
    tally: RefCell<Tally>,
    /// On an acknowledgement, send the next at once.
    refill: Cell<bool>,
    run: Cell<u16>,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    acked: u64,
    delivered: u64,
    ack_latency: Histogram,
    delivery_latency: Histogram,
    welcomes: usize,
    ended: u64,
    first_error: Option<String>,
}

/// One end of a pair.
struct User {
    index: u32,
    link: Rc<Link>,
    conversation: ConversationId,
    table: Rc<Table>,
    count: Cell<u32>,
    /// What is not acknowledged: the request and when it was due.
    outstanding: RefCell<VecDeque<(u64, u64)>>,
}

impl User {
    fn queue(&self, due_ns: u64) {
        let number = self.index << COUNT_BITS | (self.count.get() & ((1 << COUNT_BITS) - 1));
        self.count.set(self.count.get().wrapping_add(1));
        let text = payload::text(Stamp { due_ns, run: self.table.run.get(), number });
        let id = self.table.ids.borrow_mut().next();
        let request_id = u64::from(self.table.run.get()) << 32 | u64::from(number);
        chat::queue_send(&self.link, self.conversation, request_id, id, false, &text);
        self.outstanding.borrow_mut().push_back((request_id, due_ns));
        self.table.tally.borrow_mut().sent += 1;
    }

    fn acknowledged(&self, bytes: &[u8], now_ns: u64) {
        let Some(request) = payload::number_after(bytes, b"\"request_id\":") else { return };
        let due_ns = {
            let mut outstanding = self.outstanding.borrow_mut();
            let Some(at) = outstanding.iter().position(|(id, _)| *id == request) else { return };
            outstanding.remove(at).map_or(now_ns, |(_, due_ns)| due_ns)
        };
        {
            let mut tally = self.table.tally.borrow_mut();
            tally.acked += 1;
            tally.ack_latency.record(now_ns.saturating_sub(due_ns));
        }
        if self.table.refill.get() {
            self.queue(now_ns);
            self.link.flush();
        }
    }
}

struct Ears {
    user: Rc<User>,
    finder: Finder,
}

impl Receive for Ears {
    fn frame(&mut self, bytes: &[u8], now_ns: u64) {
        let table = &self.user.table;
        match chat::kind(bytes) {
            Kind::Ack => self.user.acknowledged(bytes, now_ns),
            Kind::Message => {
                let Some(stamp) = self.finder.one(bytes) else { return };
                let own = stamp.number >> COUNT_BITS == self.user.index;
                if !own && stamp.run == table.run.get() {
                    let mut tally = table.tally.borrow_mut();
                    tally.delivered += 1;
                    tally.delivery_latency.record(now_ns.saturating_sub(stamp.due_ns));
                }
            }
            Kind::Welcome => table.tally.borrow_mut().welcomes += 1,
            Kind::Error => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                table.tally.borrow_mut().first_error.get_or_insert(text);
            }
            _ => {}
        }
    }

    fn ended(&mut self, _code: Option<u16>) {
        self.user.table.tally.borrow_mut().ended += 1;
    }
}

/// Runs it.
pub(crate) async fn run(options: &Options, server: &Server) -> anyhow::Result<Report> {
    let count = options.connections.unwrap_or(USERS).clamp(2, 4_000) / 2 * 2;
    let table = Rc::new(Table {
        shared: Shared::new(),
        ids: RefCell::new(MessageIds::new()),
        tally: RefCell::default(),
        refill: Cell::new(false),
        run: Cell::new(0),
    });
    let mut tasks = JoinSet::new();
    let users = connect(server, &table, count, &mut tasks).await?;
    let mut report = Report::new("pairs");
    fixed(options, server, &users, &table, &mut report).await?;
    highest(options, server, &users, &table, &mut report).await?;
    Ok(report)
}

async fn connect(
    server: &Server,
    table: &Rc<Table>,
    count: usize,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Vec<Rc<User>>> {
    let api = chat_client::Api::new(&format!("http://{}", server.socket))?;
    let accounts = accounts::sign_up(&api, count).await?;
    let pairs: Vec<(Account, Account)> =
        accounts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let conversations = concurrently(pairs.len(), |n| {
        let (one, other) = pairs[n].clone();
        accounts::direct(api.clone(), one, other)
    })
    .await?;
    let mut users = Vec::with_capacity(count);
    for (index, account) in accounts.iter().enumerate() {
        let (link, incoming) = link::connect(&chat::address(server), &table.shared).await?;
        let user = Rc::new(User {
            index: index as u32,
            link: Rc::clone(&link),
            conversation: conversations[index / 2],
            table: Rc::clone(table),
            count: Cell::new(0),
            outstanding: RefCell::default(),
        });
        let ears = Ears { user: Rc::clone(&user), finder: Finder::default() };
        tasks.spawn_local(link::receive(
            incoming,
            Rc::clone(&link),
            Rc::clone(&table.shared),
            ears,
        ));
        chat::hello(&link, &account.token, None);
        users.push(user);
    }
    for _ in 0..3_000 {
        if table.tally.borrow().welcomes == count {
            return Ok(users);
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!("only {} of {count} users were welcome", table.tally.borrow().welcomes)
}

async fn fixed(
    options: &Options,
    server: &Server,
    users: &[Rc<User>],
    table: &Table,
    report: &mut Report,
) -> anyhow::Result<()> {
    // The first message of a conversation loads it; that is not what is measured.
    phase(users, table, 500.0, users.len() as f64 / 500.0).await?;
    let cpu = server.cpu_seconds();
    phase(users, table, FIXED_PER_SECOND, options.seconds(20.0, 5.0)).await?;
    let cpu = server.cpu_seconds().zip(cpu).map(|(now, then)| now - then);
    let tally = table.tally.borrow();
    report.figure("at 1,000/s: delivered, p50", tally.delivery_latency.milliseconds(0.5), "ms");
    let p99 = tally.delivery_latency.milliseconds(0.99);
    report.add("at 1,000/s: delivered, p99", p99, "ms", Mark::AtMost(15.0));
    report.figure("at 1,000/s: acknowledged, p50", tally.ack_latency.milliseconds(0.5), "ms");
    report.figure("at 1,000/s: acknowledged, p99", tally.ack_latency.milliseconds(0.99), "ms");
    if let Some(cpu) = cpu {
        let per_million = cpu / tally.acked.max(1) as f64 * 1e6;
        report.add("at 1,000/s: CPU per million messages", per_million, "s", Mark::AtMost(250.0));
    }
    Ok(())
}

/// Messages at a fixed rate from one user after another, until all are acknowledged and delivered.
async fn phase(
    users: &[Rc<User>],
    table: &Table,
    per_second: f64,
    seconds: f64,
) -> anyhow::Result<()> {
    begin(table);
    let clock = table.shared.clock;
    let mut schedule = Schedule::new(clock.now_ns(), per_second, seconds);
    while !schedule.is_done() {
        while let Some((number, due_ns)) = schedule.take(clock.now_ns()) {
            let user = &users[number as usize % users.len()];
            user.queue(due_ns);
            user.link.flush();
        }
        pause(&schedule, clock.now_ns()).await;
    }
    settle(users, table).await
}

fn begin(table: &Table) {
    table.run.set(table.run.get().wrapping_add(1));
    *table.tally.borrow_mut() = Tally::default();
}

/// Waits until everything sent is acknowledged and delivered; it is an error if that does not happen.
async fn settle(users: &[Rc<User>], table: &Table) -> anyhow::Result<()> {
    for _ in 0..2_500 {
        {
            let tally = table.tally.borrow();
            if let Some(error) = &tally.first_error {
                bail!("the server refused a message: {error}");
            }
            if tally.acked == tally.sent && tally.delivered == tally.sent {
                return Ok(());
            }
        }
        users.iter().for_each(|user| user.link.flush());
        sleep(Duration::from_millis(2)).await;
    }
    let tally = table.tally.borrow();
    let Tally { sent, acked, delivered, ended, .. } = &*tally;
    bail!(
        "of {sent} messages {acked} were acknowledged and {delivered} delivered; {ended} connections closed"
    )
}

async fn highest(
    options: &Options,
    server: &Server,
    users: &[Rc<User>],
    table: &Table,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut steps: Vec<Step> = Vec::new();
    for window in [1, 2, 4, 8] {
        let step = match step(options, server, users, table, window).await {
            Err(error) if is_overload(table) && !steps.is_empty() => {
                eprintln!("{window} under way each: too many: {error}");
                break;
            }
            step => step?,
        };
        let grows = steps.iter().all(|before| step.rate > before.rate * 1.03);
        steps.push(step);
        if !grows {
            break;
        }
    }
    // The first step is told whatever it was.
    let in_time = |step: &&Step| step.window == 1 || step.p99 < DELIVERED_P99_MAX_MS;
    let best = fastest(steps.iter().filter(in_time)).context("one step at least")?;
    let most = fastest(steps.iter()).context("one step at least")?;
    report.add("highest acknowledged messages/s", best.rate, "1/s", Mark::AtLeast(20_000.0));
    report.figure("delivered there, p99", best.p99, "ms");
    report.figure("acknowledged there, p99", best.ack_p99, "ms");
    best.report_cpu("there", report);
    report.figure("generator's share of its core there", best.share, "cores");
    report.figure("messages under way per user there", f64::from(best.window), "");
    report.figure("most acknowledged messages/s, however late", most.rate, "1/s");
    report.figure("delivered at the most, p99", most.p99, "ms");
    most.report_cpu("at the most", report);
    report.figure("messages under way per user at the most", f64::from(most.window), "");
    Ok(())
}

/// The server refused a message because it has too many.
fn is_overload(table: &Table) -> bool {
    let codes = [r#""code":"overloaded""#, r#""code":"deadline_exceeded""#];
    let tally = table.tally.borrow();
    tally.first_error.as_ref().is_some_and(|error| codes.iter().any(|code| error.contains(code)))
}

fn fastest<'a>(steps: impl Iterator<Item = &'a Step>) -> Option<&'a Step> {
    steps.max_by(|one, other| one.rate.total_cmp(&other.rate))
}

/// So many messages under way for each user, all the time.
async fn step(
    options: &Options,
    server: &Server,
    users: &[Rc<User>],
    table: &Table,
    window: u32,
) -> anyhow::Result<Step> {
    begin(table);
    let clock = table.shared.clock;
    let (start_ns, own_cpu) = (clock.now_ns(), own_cpu_seconds());
    let cpu = server.cpu_split().context("the server's CPU time cannot be read")?;
    table.refill.set(true);
    for user in users {
        (0..window).for_each(|_| user.queue(clock.now_ns()));
        user.link.flush();
    }
    sleep(Duration::from_secs_f64(options.seconds(8.0, 3.0))).await;
    table.refill.set(false);
    let elapsed = (clock.now_ns() - start_ns) as f64 / 1e9;
    let acked = table.tally.borrow().acked as f64;
    let cpu = used(&cpu, &server.cpu_split().context("the server has gone")?);
    let share = (own_cpu_seconds() - own_cpu) / elapsed;
    settle(users, table).await?;
    let tally = table.tally.borrow();
    let (rate, p99) = (acked / elapsed, tally.delivery_latency.milliseconds(0.99));
    eprintln!(
        "{window} under way each: {rate:.0} acknowledged/s, p99 delivered {p99:.1} ms, generator {:.0} %",
        share * 100.0
    );
    let ack_p99 = tally.ack_latency.milliseconds(0.99);
    Ok(Step { rate, p99, ack_p99, acked, cpu, share, window })
}

/// What came of one step.
struct Step {
    rate: f64,
    p99: f64,
    ack_p99: f64,
    acked: f64,
    cpu: Vec<(String, f64)>,
    share: f64,
    window: u32,
}

impl Step {
    fn report_cpu(&self, place: &str, report: &mut Report) {
        let per_million = |seconds: f64| seconds / self.acked * 1e6;
        let all = self.cpu.iter().map(|(_, seconds)| seconds).sum();
        report.figure(&format!("CPU per million messages {place}"), per_million(all), "s");
        if self.cpu.len() > 1 {
            for (name, seconds) in &self.cpu {
                let figure = format!("CPU per million messages {place}: {name}");
                report.figure(&figure, per_million(*seconds), "s");
            }
        }
    }
}

/// What each process used between two looks.
fn used(before: &[(String, f64)], after: &[(String, f64)]) -> Vec<(String, f64)> {
    let pairs = before.iter().zip(after);
    pairs.map(|((name, before), (_, after))| (name.clone(), after - before)).collect()
}
