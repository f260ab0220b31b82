//! `room M`: one conversation of M members, four of whom speak; the same for nats-server and the floor.

use crate::Options;
use crate::accounts;
use crate::chat;
use crate::fleet::{self, Dialect, Fleet, Plan, Step};
use crate::link::Address;
use crate::process::Server;
use crate::report::{Mark, Report};
use crate::schedule::Search;

/// Members of a group; larger audiences are live rooms.
const GROUP_MEMBERS: usize = 100;
/// The rate at which CPU per delivery is compared.
const FIXED_DELIVERIES_PER_SECOND: f64 = 50_000.0;

/// A chat node.
pub(crate) async fn chat(
    options: &Options,
    server: &Server,
    members: usize,
) -> anyhow::Result<Report> {
    let api = chat_client::Api::new(&format!("http://{}", server.socket))?;
    let accounts = accounts::sign_up(&api, members).await?;
    let dialect = match members <= GROUP_MEMBERS {
        true => Dialect::Group(accounts::group(&api, &accounts).await?),
        false => Dialect::Room(accounts::room(&api, fleet::first(&accounts)?).await?),
    };
    let plan = Plan { address: chat::address(server), dialect, accounts, count: members };
    let peak = match members {
        100 => Some(Mark::AtLeast(900_000.0)),
        1_000 => Some(Mark::AtLeast(780_000.0)),
        5_000 => Some(Mark::AtLeast(320_000.0)),
        _ => None,
    };
    let cpu = (members == 100).then_some(Mark::AtMost(14.0));
    measure(options, server, plan, Report::new(format!("room {members}")), peak, cpu).await
}

/// nats-server.
pub(crate) async fn nats(
    options: &Options,
    server: &Server,
    members: usize,
) -> anyhow::Result<Report> {
    let address = Address::new(&server.sockets, "/", None);
    let plan = Plan { address, dialect: Dialect::Nats, accounts: Vec::new(), count: members };
    measure(options, server, plan, Report::new(format!("nats room {members}")), None, None).await
}

/// The own server that writes each delivery by itself.
pub(crate) async fn floor(
    options: &Options,
    server: &Server,
    members: usize,
) -> anyhow::Result<Report> {
    let address = Address::new(&server.sockets, "/", None);
    let plan = Plan { address, dialect: Dialect::Floor, accounts: Vec::new(), count: members };
    measure(options, server, plan, Report::new(format!("floor room {members}")), None, None).await
}

async fn measure(
    options: &Options,
    server: &Server,
    plan: Plan,
    mut report: Report,
    peak: Option<Mark>,
    cpu: Option<Mark>,
) -> anyhow::Result<Report> {
    let members = plan.count as f64;
    let mut fleet = Fleet::connect(plan, server).await?;
    let fixed = fleet
        .step(server, FIXED_DELIVERIES_PER_SECOND / members, options.seconds(10.0, 3.0))
        .await?;
    eprintln!("fixed: {}", fleet::describe(&fixed));
    report.figure("at 50,000 deliveries/s: delivered", fixed.deliveries_per_second, "1/s");
    report.figure("at 50,000 deliveries/s: missing", fixed.missing as f64, "messages");
    report.figure("at 50,000 deliveries/s: p99", fixed.p99_ms, "ms");
    if let Some(seconds) = fixed.cpu_per_million() {
        report.add("CPU per million deliveries at 50,000/s", seconds, "s", cpu);
    }
    if fixed.ended > 0 {
        fleet.reopen().await?;
    }
    let highest = highest(options, server, &mut fleet, members).await?;
    report.add(
        "highest deliveries/s, p99 < 1 s, none lost",
        highest.deliveries_per_second,
        "1/s",
        peak,
    );
    report.figure("p99 at the highest rate", highest.p99_ms, "ms");
    report.figure("generator's share of its core there", highest.generator_share, "cores");
    Ok(report)
}

async fn highest(
    options: &Options,
    server: &Server,
    fleet: &mut Fleet,
    members: f64,
) -> anyhow::Result<Step> {
    let mut search =
        Search::new(FIXED_DELIVERIES_PER_SECOND / members, if options.quick { 2 } else { 4 });
    let mut best = Step::default();
    while let Some(rate) = search.rate() {
        let step = fleet.step(server, rate, options.seconds(3.0, 1.5)).await?;
        eprintln!("search: {}", fleet::describe(&step));
        search.tried(step.holds());
        if step.holds() && step.deliveries_per_second > best.deliveries_per_second {
            best = step.clone();
        }
        if step.ended > 0 {
            fleet.reopen().await?;
        } else if !step.holds() {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    }
    Ok(best)
}
