//! `idle`: thousands of authenticated connections that do nothing but send heartbeats.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Options;
use crate::accounts::{self, concurrently};
use crate::chat::{self, Kind};
use crate::link::{self, Link, Receive, Shared};
use crate::process::{Server, slab_kib};
use crate::report::{Mark, Report};

const CONNECTIONS: usize = 19_000;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// Each portion says hello before the next connects: a server waits for a hello only so long.
const CONNECTED_AT_ONCE: usize = 500;
/// Heartbeats are spread evenly over their interval, in this many portions.
const PORTIONS: usize = 500;

#[derive(Default)]
struct Counts {
    welcomes: Cell<usize>,
    ended: Cell<usize>,
}

struct Quiet(Rc<Counts>);

impl Receive for Quiet {
    fn frame(&mut self, payload: &[u8], _now_ns: u64) {
        if chat::kind(payload) == Kind::Welcome {
            self.0.welcomes.set(self.0.welcomes.get() + 1);
        }
    }

    fn ended(&mut self, _code: Option<u16>) {
        self.0.ended.set(self.0.ended.get() + 1);
    }
}

/// Runs it.
pub(crate) async fn run(options: &Options, server: &Server) -> anyhow::Result<Report> {
    let count = options.connections.unwrap_or(if options.quick { 2_000 } else { CONNECTIONS });
    let api = chat_client::Api::new(&format!("http://{}", server.socket))?;
    let accounts = accounts::sign_up(&api, count).await?;
    // Connections of the sign-ups are closed, so that they count on neither side.
    drop(api);
    sleep(Duration::from_secs(3)).await;
    let before = server.memory().context("the server's memory cannot be read")?;
    let slab_before = slab_kib().context("/proc/meminfo cannot be read")?;

    let (shared, counts, mut tasks) = (Shared::new(), Rc::new(Counts::default()), JoinSet::new());
    let address = chat::address(server);
    let mut links: Vec<Rc<Link>> = Vec::with_capacity(count);
    for accounts in accounts.chunks(CONNECTED_AT_ONCE) {
        let connected = concurrently(accounts.len(), |_| {
            let (address, shared) = (address.clone(), Rc::clone(&shared));
            async move { link::connect(&address, &shared).await }
        })
        .await?;
        for ((link, incoming), account) in connected.into_iter().zip(accounts) {
            let quiet = Quiet(Rc::clone(&counts));
            tasks.spawn_local(link::receive(incoming, Rc::clone(&link), Rc::clone(&shared), quiet));
            chat::hello(&link, &account.token, None);
            links.push(link);
        }
    }
    for _ in 0..6_000 {
        if counts.welcomes.get() + counts.ended.get() >= count {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let links = Rc::new(links);
    tasks.spawn_local(heartbeats(Rc::clone(&links)));
    sleep(Duration::from_secs_f64(options.seconds(10.0, 6.0))).await;
    let window = options.seconds(30.0, 10.0);
    let cpu_before = server.cpu_seconds().context("the server's CPU time cannot be read")?;
    sleep(Duration::from_secs_f64(window)).await;
    let cpu = server.cpu_seconds().context("the server has gone")? - cpu_before;
    let after = server.memory().context("the server has gone")?;
    let slab = slab_kib().context("/proc/meminfo cannot be read")? - slab_before;
    if counts.welcomes.get() < count {
        bail!("only {} of {count} connections were welcome", counts.welcomes.get());
    }

    let each = |kib: f64| kib / count as f64;
    let mut report = Report::new("idle");
    report.figure("connections", count as f64, "");
    report.add(
        "memory per connection, PSS",
        each(after.pss_kib - before.pss_kib),
        "KiB",
        Mark::AtMost(12.0),
    );
    report.figure("memory per connection, RSS", each(after.rss_kib - before.rss_kib), "KiB");
    report.figure("kernel slab per connection, both ends", each(slab), "KiB");
    report.figure("server PSS before", before.pss_kib / 1_024.0, "MiB");
    report.figure("server PSS after", after.pss_kib / 1_024.0, "MiB");
    let per_second = cpu / window / count as f64 * 1e6;
    report.add("CPU per connection and second", per_second, "µs", Mark::AtMost(8.0));
    report.add("connections closed meanwhile", counts.ended.get() as f64, "", Mark::AtMost(0.0));
    Ok(report)
}

async fn heartbeats(links: Rc<Vec<Rc<Link>>>) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY / PORTIONS as u32);
    for portion in (0..PORTIONS).cycle() {
        ticks.tick().await;
        links.iter().skip(portion).step_by(PORTIONS).for_each(|link| chat::heartbeat(link));
    }
}
