//! One chat node as a process, on ports of its own that it keeps through every start.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use servers::port::Port;
use servers::process::Process;

use crate::clock::Clock;
use crate::platform::Program;
use crate::step::{DEATH_FILE, Death, last_words};

/// Two processors may be busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// Passwords that cost little, no limits by rate, and sockets that leave at once.
const FLAGS: &[&str] = &[
    "--password-memory-kib=8",
    "--password-iterations=1",
    "--password-concurrency=64",
    "--rate-limits-enabled=false",
    "--worker-threads=2",
    "--shutdown-drain-jitter-ms=500",
    "--audit-interval-ms=5000",
    "--connections-per-address-max=100000",
];

/// A chat node. It ends when it is dropped.
pub struct ChatNode {
    name: String,
    client: Port,
    admin: Port,
    process: Mutex<Process>,
    clock: Clock,
    /// Where a mortal one is told when to die.
    death: PathBuf,
}

/// The program: beside this one, or beside the directory of tests. `cargo test --workspace` builds all.
fn path(program: Program) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let name = program.name();
    let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let found = places.find(|program| program.exists());
    found.unwrap_or_else(|| {
        panic!("there is no {name} beside this program: run `cargo build --workspace`")
    })
}

impl ChatNode {
    /// Starts a node; does not wait.
    pub fn start(
        program: Program,
        name: &str,
        flags: &[String],
        clock: Clock,
        log: &Path,
    ) -> ChatNode {
        let (client, admin) = (Port::reserve(), Port::reserve());
        let mut arguments: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        arguments.push(format!("--listen={}", client.address()));
        arguments.push(format!("--admin-listen={}", admin.address()));
        arguments.push(format!("--node-name={name}"));
        arguments.extend(flags.iter().cloned());
        let death = log.with_extension("death");
        let mut environment = clock.environment();
        environment.push((DEATH_FILE.to_owned(), death.display().to_string()));
        let process = Process::start(&path(program), &arguments, &environment, log);
        ChatNode {
            name: name.to_owned(),
            client,
            admin,
            process: Mutex::new(process),
            clock,
            death,
        }
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.client.address().parse().expect("an address")
    }

    /// Sets its wall clock ahead, or behind if negative.
    pub fn set_clock(&self, offset_ms: i64) {
        self.clock.set(offset_ms);
    }

    /// Tells a mortal node when to kill itself; `None`: not at all.
    pub fn order_death(&self, death: Option<Death>) {
        match death {
            Some(death) => {
                std::fs::remove_file(last_words(&self.death)).ok();
                // At once as a whole: it may be read at any time.
                let new = self.death.with_extension("new");
                std::fs::write(&new, death.to_string()).expect("an order is written");
                std::fs::rename(&new, &self.death).expect("an order is put in its place");
            }
            None => drop(std::fs::remove_file(&self.death)),
        }
    }

    /// The death that a mortal node has died by itself, as it was told. Panics if it ended in another way.
    pub fn death(&self) -> Option<Death> {
        use std::os::unix::process::ExitStatusExt;
        const SIGKILL: i32 = 9;
        let status = self.process().ended()?;
        let words = std::fs::read_to_string(last_words(&self.death)).ok();
        let death = words.and_then(|words| words.parse().ok());
        let is_killed = status.signal() == Some(SIGKILL);
        assert!(is_killed && death.is_some(), "{} ended with {status}:\n{}", self.name, self.log());
        death
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.process().stop();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process().resume();
    }

    /// Starts it again, killing it first if it runs. Does not wait.
    pub fn restart(&self) {
        self.process().restart();
    }

    /// Ends it as an operator does; it must end well. Blocks.
    pub fn terminate(&self) {
        let status = self.process().terminate(START_TIMEOUT);
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
    }

    /// Waits until it is ready for traffic. Blocks.
    pub fn wait_until_ready(&self) {
        let (name, admin) = (&self.name, self.admin.address());
        let began = Instant::now();
        loop {
            let answer = get(&admin, "/ready").unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200") {
                return;
            }
            assert!(self.process().is_running(), "{name} has ended:\n{}", self.log());
            let waited = began.elapsed();
            assert!(waited < START_TIMEOUT, "{name} is not ready: {answer}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process().id()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it tells Prometheus; empty if it does not answer. Blocks.
    pub fn metrics(&self) -> String {
        get(&self.admin.address(), "/metrics").unwrap_or_default()
    }

    /// One figure without labels of what it tells Prometheus. Blocks.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// Waits until it runs, and says that it should get no traffic. Blocks.
    pub fn wait_until_not_ready(&self) {
        let (name, admin) = (&self.name, self.admin.address());
        let began = Instant::now();
        loop {
            let answer = get(&admin, "/ready").unwrap_or_default();
            if answer.contains(" 503 ") {
                return;
            }
            assert!(began.elapsed() < START_TIMEOUT, "{name} is still ready\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The most resident memory that it had at any time since its start, if it runs.
    pub fn memory_bytes(&self) -> Option<u64> {
        let mut process = self.process();
        if !process.is_running() {
            return None;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
    }

    /// Everything it wrote.
    pub fn whole_log(&self) -> String {
        self.process().log()
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Everything it wrote that a person would have to act on.
    pub fn complaints(&self) -> Vec<String> {
        let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
        self.process().log().lines().filter(bad).map(str::to_owned).collect()
    }
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().ok()?, HTTP_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
