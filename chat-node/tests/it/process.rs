//! A real node process, and what it says while it runs.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// What every test sets: passwords that cost little, and no limits by rate.
const FLAGS: &[&str] = &[
    "--listen=127.0.0.1:0",
    "--admin-listen=127.0.0.1:0",
    "--password-memory-kib=8",
    "--password-iterations=1",
    "--rate-limits-enabled=false",
    "--worker-threads=2",
    "--shutdown-drain-jitter-ms=0",
];
/// Two processors may be busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A command of the program, with none of the surrounding configuration.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-node"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHAT_") {
            command.env_remove(name);
        }
    }
    command
}

/// One node, on its own data directory or on one that a test gives it.
///
/// When dropped, it ends the process, and fails the test if the log holds a warning or an error that was not expected.
pub(crate) struct NodeProcess {
    data: PathBuf,
    _own: Option<tempfile::TempDir>,
    flags: Vec<String>,
    running: Option<Running>,
    log: Arc<Mutex<Vec<String>>>,
    expected: Vec<&'static str>,
}

struct Running {
    child: Child,
    reader: std::thread::JoinHandle<()>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl NodeProcess {
    /// A node on a new data directory, ready for traffic.
    pub(crate) async fn start(flags: &[&str]) -> NodeProcess {
        let own = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::stopped(&own.path().join("data"), flags);
        node._own = Some(own);
        node.restart().await;
        node
    }

    /// A node on this data directory, which is not started yet.
    pub(crate) fn stopped(data: &Path, flags: &[&str]) -> NodeProcess {
        NodeProcess {
            data: data.to_owned(),
            _own: None,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            running: None,
            log: Arc::default(),
            expected: Vec::new(),
        }
    }

    /// Warnings and errors with this text are part of the test.
    pub(crate) fn expect(&mut self, text: &'static str) {
        self.expected.push(text);
    }

    /// Other flags from the next start on.
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Whether its own flags say otherwise.
    fn sets(&self, usual: &str) -> bool {
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        self.flags.iter().any(|flag| name(flag) == name(usual))
    }

    /// Starts the process on the same data directory, and waits until it is ready.
    pub(crate) async fn restart(&mut self) {
        self.launch().await;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(answer) = http().get(format!("{}/ready", self.admin_url())).send().await
                && answer.status().is_success()
            {
                return;
            }
            assert!(Instant::now() < deadline, "the node is not ready:\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the process, and waits until it listens.
    async fn launch(&mut self) {
        assert!(self.running.is_none(), "the node runs already");
        let seen = self.log.lock().unwrap().len();
        let mut command = program();
        let usual = FLAGS.iter().filter(|flag| !self.sets(flag));
        command.args(usual).args(&self.flags).arg("--data-dir").arg(&self.data);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = self.log.clone();
        let reader = std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line));
        });
        let deadline = Instant::now() + START_TIMEOUT;
        let (address, admin) = loop {
            let line = self.log_since(seen).into_iter().find(|line| line.contains("serving at "));
            if let Some(line) = line {
                break (field(&line, "address="), field(&line, "admin="));
            }
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the node does not start ({ended:?}):\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        self.running = Some(Running { child, reader, address, admin });
    }

    /// Ends the process like a power cut: nothing in it can react.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("the node runs");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running.reader.join().unwrap();
    }

    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.running().child.id()
    }

    /// One figure of the node's metrics.
    pub(crate) async fn figure(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Waits for the process's end.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the node runs");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = running.child.try_wait().unwrap() {
                running.reader.join().unwrap();
                return status;
            }
            if Instant::now() > deadline {
                running.child.kill().unwrap();
                panic!("the node does not end:\n{}", self.log_text());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it as an operator does; it must end well.
    pub(crate) async fn stop(&mut self) {
        self.terminate();
        let status = self.wait().await;
        assert_eq!(status.code(), Some(0), "{}", self.log_text());
    }

    /// Base address for clients.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running().address
    }

    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.running().admin)
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The node's metrics; `None` if it does not answer.
    pub(crate) async fn metrics(&self) -> Option<String> {
        let answer = http().get(format!("{}/metrics", self.admin_url())).send().await.ok()?;
        answer.text().await.ok()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the node runs")
    }

    fn log_since(&self, line: usize) -> Vec<String> {
        self.log.lock().unwrap()[line..].to_vec()
    }

    /// Everything it logged, over all starts.
    pub(crate) fn log_text(&self) -> String {
        self.log_since(0).join("\n")
    }

    fn complaints(&self) -> Vec<String> {
        let bad = |line: &String| line.contains(" WARN ") || line.contains(" ERROR ");
        let known = |line: &String| self.expected.iter().any(|text| line.contains(text));
        let panicked = |line: &String| line.contains("panicked at");
        let log = self.log_since(0);
        log.into_iter().filter(|line| panicked(line) || bad(line) && !known(line)).collect()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log_since(0);
            let tail = log.len().saturating_sub(40);
            eprintln!("the node's log ends:\n{}", log[tail..].join("\n"));
            return;
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the node complained:\n{}", complaints.join("\n"));
    }
}

fn field(line: &str, name: &str) -> SocketAddr {
    let (_, rest) = line.split_once(name).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// A client of plain HTTP.
pub(crate) fn http() -> reqwest::Client {
    // Building one chooses the process's cryptography, without which reqwest has no client.
    drop(chat_client::Api::new("http://127.0.0.1:1"));
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap()
}

#[tokio::test]
#[should_panic(expected = "the node complained")]
async fn a_node_that_complains_fails_its_test() {
    let mut node = NodeProcess::start(&[]).await;
    node.stop().await;
    node.log.lock().unwrap().push("2026-01-01T00:00:00Z  WARN chat_node: not expected".to_owned());
}
