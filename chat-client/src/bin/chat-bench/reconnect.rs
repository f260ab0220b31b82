//! `reconnect`: 5,000 connections in 50 groups, 50 messages a second going on; everyone is dropped, then the server is
//! killed and started again. Lost and doubled messages are counted by id once everyone has caught up.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use chat_protocol::{ClientMessageId, ConversationId};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Options;
use crate::accounts::{self, Account};
use crate::chat::{self, Kind, MessageIds};
use crate::link::{self, Address, Link, Receive, Shared};
use crate::payload::{self, Finder, Stamp};
use crate::process::Server;
use crate::report::{Mark, Report};

const CONNECTIONS: usize = 5_000;
const GROUP_MEMBERS: usize = 100;
/// Upgrades under way at once: more would overflow a listener's queue and measure the kernel's retries.
const UPGRADES: usize = 128;
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// One group: its first member speaks.
struct Group {
    conversation: ConversationId,
    spoken: RefCell<Vec<Spoken>>,
}

struct Spoken {
    id: ClientMessageId,
    due_ns: u64,
    attempted: bool,
    under_way: bool,
    /// The message's id, once acknowledged.
    committed: Option<u64>,
}

struct Member {
    account: Account,
    group: Rc<Group>,
    speaks: bool,
    link: RefCell<Option<Rc<Link>>>,
    welcome: Cell<bool>,
    cursor: RefCell<Option<String>>,
    /// By message id: the number in the group and how often it came.
    seen: RefCell<HashMap<u64, (u32, u32)>>,
    resets: Cell<u32>,
}

struct Hearing {
    member: Rc<Member>,
    link: Rc<Link>,
    finder: Finder,
}

impl Receive for Hearing {
    fn frame(&mut self, bytes: &[u8], _now_ns: u64) {
        let member = &self.member;
        match chat::kind(bytes) {
            Kind::Message => {
                let id = payload::number_after(bytes, b"\"message_id\":");
                if let Some((id, stamp)) = id.zip(self.finder.one(bytes)) {
                    member.seen.borrow_mut().entry(id).or_insert((stamp.number, 0)).1 += 1;
                }
            }
            Kind::Cursor | Kind::Reconnect => {
                // The first `"cursor":` of a cursor frame is its type: followed by a brace, not by a string.
                let fields = bytes.get(9..).unwrap_or_default();
                if let Some(cursor) = payload::text_after(fields, b"\"cursor\":") {
                    *member.cursor.borrow_mut() = Some(cursor.to_owned());
                }
            }
            Kind::Welcome => {
                if payload::text_after(bytes, b"\"outcome\":") == Some("reset") {
                    member.resets.set(member.resets.get() + 1);
                }
                *member.link.borrow_mut() = Some(Rc::clone(&self.link));
                member.welcome.set(true);
            }
            Kind::Ack => member.acknowledged(bytes),
            Kind::Error => member.refused(bytes),
            _ => {}
        }
    }

    fn ended(&mut self, _code: Option<u16>) {
        self.member.lost();
    }
}

impl Member {
    fn lost(&self) {
        *self.link.borrow_mut() = None;
        self.welcome.set(false);
        if self.speaks {
            self.group.spoken.borrow_mut().iter_mut().for_each(|spoken| spoken.under_way = false);
        }
    }

    fn acknowledged(&self, bytes: &[u8]) {
        let number = payload::number_after(bytes, b"\"request_id\":");
        let id = payload::number_after(bytes, b"\"message_id\":");
        if let Some((number, id)) = number.zip(id)
            && let Some(spoken) = self.group.spoken.borrow_mut().get_mut(number as usize)
        {
            spoken.committed = Some(id);
        }
    }

    /// Sent again with the next round.
    fn refused(&self, bytes: &[u8]) {
        let number = payload::number_after(bytes, b"\"request_id\":");
        if let Some(number) = number
            && let Some(spoken) = self.group.spoken.borrow_mut().get_mut(number as usize)
        {
            spoken.under_way = false;
        }
    }

    /// Sends what is not under way, in order.
    fn speak(&self) {
        let link = self.link.borrow();
        let Some(link) = link.as_ref().filter(|_| self.welcome.get()) else { return };
        for (number, spoken) in self.group.spoken.borrow_mut().iter_mut().enumerate() {
            if spoken.committed.is_some() || spoken.under_way {
                continue;
            }
            let stamp = Stamp { due_ns: spoken.due_ns, run: 1, number: number as u32 };
            let (conversation, text) = (self.group.conversation, payload::text(stamp));
            chat::queue_send(link, conversation, number as u64, spoken.id, spoken.attempted, &text);
            spoken.attempted = true;
            spoken.under_way = true;
        }
        link.flush();
    }
}

/// Everything the tasks of the scenario share.
struct Stage {
    shared: Rc<Shared>,
    address: Address,
    upgrades: Semaphore,
    members: Vec<Rc<Member>>,
    groups: Vec<Rc<Group>>,
    speaking: Cell<bool>,
}

/// Runs it.
pub(crate) async fn run(options: &Options, server: &mut Server) -> anyhow::Result<Report> {
    let count = options.connections.unwrap_or(if options.quick { 500 } else { CONNECTIONS });
    let stage = Rc::new(prepare(server, count).await?);
    let (drop_all, dropped) = watch::channel(0u32);
    let mut tasks = JoinSet::new();
    for member in &stage.members {
        tasks.spawn_local(live(Rc::clone(member), Rc::clone(&stage), dropped.clone()));
    }
    tasks.spawn_local(speak(Rc::clone(&stage)));
    all_welcome(&stage, Duration::from_secs(60)).await?;
    sleep(Duration::from_secs_f64(options.seconds(8.0, 6.0))).await;

    let mut report = Report::new("reconnect");
    let start = Instant::now();
    // Marked first, so that nobody is counted as back before they were away.
    stage.members.iter().for_each(|member| member.lost());
    drop_all.send_modify(|generation| *generation += 1);
    all_welcome(&stage, Duration::from_secs(60)).await?;
    report.add("after a drop: all back", start.elapsed().as_secs_f64(), "s", Mark::AtMost(3.0));
    count_up(&stage, start, "after a drop", &mut report, options).await;

    if server.is_own() {
        stage.speaking.set(true);
        sleep(Duration::from_secs_f64(options.seconds(8.0, 4.0))).await;
        let start = Instant::now();
        server.kill();
        stage.members.iter().for_each(|member| member.lost());
        server.restart().await?;
        report.figure("after SIGKILL: server answers", start.elapsed().as_secs_f64(), "s");
        all_welcome(&stage, Duration::from_secs(60)).await?;
        let back = start.elapsed().as_secs_f64();
        report.add("after SIGKILL: all back", back, "s", Mark::AtMost(5.0));
        count_up(&stage, start, "after SIGKILL", &mut report, options).await;
    }
    Ok(report)
}

async fn prepare(server: &Server, count: usize) -> anyhow::Result<Stage> {
    let api = chat_client::Api::new(&format!("http://{}", server.socket))?;
    let accounts = accounts::sign_up(&api, count).await?;
    let (mut groups, mut members) = (Vec::new(), Vec::new());
    for people in accounts.chunks(GROUP_MEMBERS) {
        let conversation = accounts::group(&api, people).await?;
        let group = Rc::new(Group { conversation, spoken: RefCell::default() });
        for (n, account) in people.iter().enumerate() {
            members.push(Rc::new(Member {
                account: account.clone(),
                group: Rc::clone(&group),
                speaks: n == 0,
                link: RefCell::default(),
                welcome: Cell::new(false),
                cursor: RefCell::default(),
                seen: RefCell::default(),
                resets: Cell::new(0),
            }));
        }
        groups.push(group);
    }
    Ok(Stage {
        shared: Shared::new(),
        address: chat::address(server),
        upgrades: Semaphore::new(UPGRADES),
        members,
        groups,
        speaking: Cell::new(true),
    })
}

/// Keeps one member connected.
async fn live(member: Rc<Member>, stage: Rc<Stage>, mut dropped: watch::Receiver<u32>) {
    let mut wait_ms = 0;
    loop {
        if wait_ms > 0 {
            sleep(Duration::from_millis(rand::random_range(0..=wait_ms))).await;
        }
        wait_ms = (wait_ms * 2).clamp(50, 1_000);
        let connected = {
            let Ok(_permit) = stage.upgrades.acquire().await else { return };
            link::connect(&stage.address, &stage.shared).await
        };
        let Ok((link, incoming)) = connected else { continue };
        let cursor = member.cursor.borrow().clone();
        chat::hello(&link, &member.account.token, cursor.as_deref());
        let hearing = Hearing {
            member: Rc::clone(&member),
            link: Rc::clone(&link),
            finder: Finder::default(),
        };
        tokio::select! {
            () = link::receive(incoming, link, Rc::clone(&stage.shared), hearing) => {}
            _ = dropped.changed() => wait_ms = 0,
        }
        member.lost();
    }
}

/// One message a second from each group, spread over the second, and heartbeats of everyone.
async fn speak(stage: Rc<Stage>) {
    let mut ids = MessageIds::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for tick in 0usize.. {
        ticks.tick().await;
        for (n, group) in stage.groups.iter().enumerate() {
            if stage.speaking.get() && n % 50 == tick % 50 {
                group.spoken.borrow_mut().push(Spoken {
                    id: ids.next(),
                    due_ns: stage.shared.clock.now_ns(),
                    attempted: false,
                    under_way: false,
                    committed: None,
                });
            }
        }
        stage.members.iter().filter(|member| member.speaks).for_each(|member| member.speak());
        for member in stage.members.iter().skip(tick % 250).step_by(250) {
            if let Some(link) = member.link.borrow().as_ref() {
                chat::heartbeat(link);
            }
        }
    }
}

async fn all_welcome(stage: &Stage, limit: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if stage.members.iter().all(|member| member.welcome.get()) {
            return Ok(());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let back = stage.members.iter().filter(|member| member.welcome.get()).count();
    bail!("after {} s only {back} of {} are connected", limit.as_secs(), stage.members.len())
}

/// What is missing or doubled among what was acknowledged.
#[derive(Debug, Default, PartialEq)]
struct Missing {
    committed: u64,
    unacknowledged: u64,
    lost: u64,
    doubled: u64,
    redelivered: u64,
}

fn compare(stage: &Stage) -> Missing {
    let mut result = Missing::default();
    for group in &stage.groups {
        let spoken = group.spoken.borrow();
        result.committed += spoken.iter().filter(|s| s.committed.is_some()).count() as u64;
        result.unacknowledged += spoken.iter().filter(|s| s.committed.is_none()).count() as u64;
    }
    // Whether a speaker's own connection gets its messages is the server's choice: listeners are compared.
    for member in stage.members.iter().filter(|member| !member.speaks) {
        let seen = member.seen.borrow();
        let (lost, doubled) = gaps(&seen, &member.group.spoken.borrow());
        result.lost += lost;
        result.doubled += doubled;
        result.redelivered += seen.values().map(|(_, times)| u64::from(times - 1)).sum::<u64>();
    }
    result
}

/// Of what one listener saw: acknowledged messages that never came, and messages that came under a second id.
fn gaps(seen: &HashMap<u64, (u32, u32)>, spoken: &[Spoken]) -> (u64, u64) {
    let committed = spoken.iter().filter_map(|spoken| spoken.committed);
    let lost = committed.filter(|id| !seen.contains_key(id)).count();
    let mut numbers: Vec<u32> = seen.values().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let doubled = numbers.windows(2).filter(|pair| pair[0] == pair[1]).count();
    (lost as u64, doubled as u64)
}

async fn count_up(
    stage: &Stage,
    start: Instant,
    what: &str,
    report: &mut Report,
    options: &Options,
) {
    sleep(Duration::from_secs_f64(options.seconds(4.0, 2.0))).await;
    stage.speaking.set(false);
    // Messages of the outage first, then those that went on meanwhile.
    let mut missing = compare(stage);
    while (missing.lost > 0 || missing.unacknowledged > 0) && start.elapsed() < CATCH_UP_LIMIT {
        sleep(Duration::from_millis(100)).await;
        missing = compare(stage);
    }
    let resets: u32 = stage.members.iter().map(|member| member.resets.get()).sum();
    report.figure(
        &format!("{what}: everyone had everything after"),
        start.elapsed().as_secs_f64(),
        "s",
    );
    report.figure(&format!("{what}: messages acknowledged so far"), missing.committed as f64, "");
    let none = Mark::AtMost(0.0);
    report.add(&format!("{what}: never acknowledged"), missing.unacknowledged as f64, "", none);
    report.add(&format!("{what}: deliveries lost"), missing.lost as f64, "", none);
    report.add(&format!("{what}: messages doubled"), missing.doubled as f64, "", none);
    report.figure(&format!("{what}: repeats dropped by id"), missing.redelivered as f64, "");
    report.add(&format!("{what}: cursors reset"), f64::from(resets), "", none);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(committed: &[u64]) -> Vec<Spoken> {
        let spoken = |id: &u64| Spoken {
            id: ClientMessageId::random(),
            due_ns: 0,
            attempted: true,
            under_way: false,
            committed: Some(*id),
        };
        committed.iter().map(spoken).collect()
    }

    #[test]
    fn an_acknowledged_message_that_never_came_is_lost() {
        let seen = HashMap::from([(10, (0, 1)), (12, (2, 1))]);
        assert_eq!(gaps(&seen, &spoken(&[10, 11, 12])), (1, 0));
    }

    #[test]
    fn a_message_under_two_ids_is_doubled_and_a_repeat_of_one_id_is_not() {
        let seen = HashMap::from([(10, (0, 2)), (12, (1, 1)), (13, (1, 1))]);
        assert_eq!(gaps(&seen, &spoken(&[10, 12])), (0, 1));
    }
}
