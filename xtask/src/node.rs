//! A real node for tests: started on free ports, ended gracefully, its log read afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run;

const START_PAUSE: Duration = Duration::from_millis(100);
const START_PAUSES_MAX: u32 = 600;
const STOP_PAUSES_MAX: u32 = 400;

/// A running node.
pub(crate) struct Node {
    process: Child,
    log: PathBuf,
    port: u16,
}

impl Node {
    /// Starts the program with an empty data directory and waits until it is ready.
    pub(crate) fn start(program: &Path, directory: &Path) -> anyhow::Result<Node> {
        if directory.exists() {
            std::fs::remove_dir_all(directory).context("empty the test directory")?;
        }
        std::fs::create_dir_all(directory).context("make the test directory")?;
        let (port, admin) = (free_port()?, free_port()?);
        let log = directory.join("node.log");
        let process = run::command(&program.display().to_string(), &[])
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--admin-listen=127.0.0.1:{admin}"))
            .arg(format!("--data-dir={}", directory.join("data").display()))
            .args(["--log-format=json", "--log-filter=info"])
            .stdin(Stdio::null())
            .stdout(File::create(directory.join("node.out")).context("make the output file")?)
            .stderr(File::create(&log).context("make the log file")?)
            .spawn()
            .context("start the node")?;
        let mut node = Node { process, log, port };
        node.wait_until_ready(admin)?;
        Ok(node)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait_until_ready(&mut self, admin: u16) -> anyhow::Result<()> {
        for _ in 0..START_PAUSES_MAX {
            if let Some(status) = self.process.try_wait()? {
                bail!("the node ended at once ({status}); see {}", self.log.display());
            }
            if get_status(admin, "/ready") == Some(200) {
                return Ok(());
            }
            std::thread::sleep(START_PAUSE);
        }
        bail!("the node did not get ready; see {}", self.log.display())
    }

    /// Ends the node as an operator does, and fails if it does not end well or logged a warning or an error.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let id = self.process.id().to_string();
        run::succeed(&mut run::command("kill", &["-TERM", &id]))?;
        for _ in 0..STOP_PAUSES_MAX {
            if let Some(status) = self.process.try_wait()? {
                if !status.success() {
                    bail!("the node ended with {status} after SIGTERM; see {}", self.log.display());
                }
                return check_log(&self.log);
            }
            std::thread::sleep(START_PAUSE);
        }
        bail!("the node did not end after SIGTERM; see {}", self.log.display())
    }
}

impl Drop for Node {
    /// A test that fails must not leave its node behind.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

/// Lines that a log may hold although they warn.
const EXPECTED: &[&str] = &[];

fn check_log(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).context("read the node's log")?;
    let unexpected: Vec<&str> = text.lines().filter(|line| is_unexpected(line)).collect();
    if unexpected.is_empty() {
        return Ok(());
    }
    bail!(
        "the node's log {} holds {} unexpected lines:\n{}",
        path.display(),
        unexpected.len(),
        unexpected.join("\n")
    )
}

/// A warning, an error, or something that is not a log line, such as a panic.
fn is_unexpected(line: &str) -> bool {
    let entry: Option<Value> = serde_json::from_str(line).ok();
    let level = entry.as_ref().and_then(|entry| entry["level"].as_str());
    let quiet = matches!(level, Some("INFO" | "DEBUG" | "TRACE"));
    !quiet && !EXPECTED.iter().any(|expected| line.contains(expected))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}

fn get_status(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head).ok()?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::is_unexpected;

    #[test]
    fn warnings_errors_and_panics_are_unexpected() {
        assert!(!is_unexpected("{\"level\":\"INFO\",\"message\":\"started\"}"));
        assert!(is_unexpected("{\"level\":\"WARN\",\"message\":\"slow\"}"));
        assert!(is_unexpected("{\"level\":\"ERROR\",\"message\":\"broken\"}"));
        assert!(is_unexpected("thread 'main' panicked at src/main.rs:1:1:"));
    }
}
