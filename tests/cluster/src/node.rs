//! One chat node as a process, on ports of its own that it keeps through every start.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use servers::port::Port;
use servers::process::Process;

use crate::clock::Clock;

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
}

/// The program: beside this one, or beside the directory of tests. `cargo test --workspace` builds both.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join("chat-node"));
    let found = places.find(|program| program.exists());
    found.expect("there is no chat-node beside this program: run `cargo build -p chat-node`")
}

impl ChatNode {
    /// Starts a node; does not wait.
    pub fn start(name: &str, flags: &[String], clock: Clock, log: &Path) -> ChatNode {
        let (client, admin) = (Port::reserve(), Port::reserve());
        let mut arguments: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        arguments.push(format!("--listen={}", client.address()));
        arguments.push(format!("--admin-listen={}", admin.address()));
        arguments.push(format!("--node-name={name}"));
        arguments.extend(flags.iter().cloned());
        let process = Process::start(&program(), &arguments, &clock.environment(), log);
        ChatNode { name: name.to_owned(), client, admin, process: Mutex::new(process), clock }
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

    /// Resident memory, if it runs.
    pub fn memory_bytes(&self) -> Option<u64> {
        let mut process = self.process();
        if !process.is_running() {
            return None;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let log = self.process().log();
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
