//! The server under test: started, measured, killed and started again.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clock ticks per second in `/proc/PID/stat`. 100 on every Linux that runs today (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// A node that replays its log may take a while.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A process by a name for people.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    id: u32,
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Process, String> {
        let parsed = text.split_once('=').and_then(|(name, id)| {
            let id = id.parse().ok()?;
            (!name.is_empty()).then(|| Process { name: name.to_owned(), id })
        });
        parsed.ok_or_else(|| "write it as name=process id, such as node-1=4711".to_owned())
    }
}

/// A server that this process started, or one that was running before; perhaps several processes.
pub(crate) struct Server {
    /// The first of its addresses.
    pub(crate) socket: SocketAddr,
    /// All of them.
    pub(crate) sockets: Vec<SocketAddr>,
    command: Vec<String>,
    child: Option<Child>,
    foreign: Vec<Process>,
}

impl Server {
    /// Starts `command` and waits until the first address answers. Without one, measures processes that run already.
    pub(crate) async fn start(
        sockets: &[SocketAddr],
        command: Option<&str>,
        processes: &[Process],
    ) -> anyhow::Result<Server> {
        let words = command.map(|c| c.split_whitespace().map(str::to_owned).collect());
        let mut server = Server {
            socket: *sockets.first().context("there is no address of a server")?,
            sockets: sockets.to_vec(),
            command: words.unwrap_or_default(),
            child: None,
            foreign: processes.to_vec(),
        };
        if server.command.is_empty() {
            server.wait().await?;
        } else {
            server.restart().await?;
        }
        Ok(server)
    }

    /// The processes that can be measured.
    fn processes(&self) -> Vec<Process> {
        let own =
            self.child.as_ref().map(|child| Process { name: "server".into(), id: child.id() });
        own.map_or_else(|| self.foreign.clone(), |own| vec![own])
    }

    /// Whether [`kill`](Server::kill) and [`restart`](Server::restart) work.
    pub(crate) fn is_own(&self) -> bool {
        !self.command.is_empty()
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it is dead already.
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let (program, arguments) =
            self.command.split_first().context("there is no server command")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        self.child = Some(child);
        self.wait().await
    }

    /// Waits until it answers an HTTP request, with whatever status.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the server ended before it answered: {status}");
            }
            if self.answers().await.is_ok_and(|answers| answers) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the server at {} does not answer", self.socket)
    }

    async fn answers(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.socket).await?;
        let request = format!("GET /v1/discovery HTTP/1.1\r\nHost: {}\r\n\r\n", self.socket);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 5];
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut answer)).await;
        Ok(matches!(read, Ok(Ok(count)) if answer[..count].starts_with(b"HTTP/")))
    }

    /// CPU time that all of it has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let split = self.cpu_split()?;
        (!split.is_empty()).then(|| split.iter().map(|(_, seconds)| seconds).sum())
    }

    /// CPU time that each process has used, in seconds.
    pub(crate) fn cpu_split(&self) -> Option<Vec<(String, f64)>> {
        let seconds = |process: Process| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id)).ok()?;
            Some((process.name, cpu_seconds(&stat)?))
        };
        self.processes().into_iter().map(seconds).collect()
    }

    /// The memory of all of it now.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let mut sum = Memory { pss_kib: 0.0, rss_kib: 0.0 };
        let processes = self.processes();
        for process in &processes {
            let path = format!("/proc/{}/smaps_rollup", process.id);
            let text = std::fs::read_to_string(path).ok()?;
            sum.pss_kib += field_kib(&text, "Pss:")?;
            sum.rss_kib += field_kib(&text, "Rss:")?;
        }
        (!processes.is_empty()).then_some(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    pub(crate) pss_kib: f64,
    pub(crate) rss_kib: f64,
}

/// The kernel's own structures, of the whole machine.
pub(crate) fn slab_kib() -> Option<f64> {
    field_kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "Slab:")
}

/// CPU time that this process has used, in seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    cpu_seconds(&text).unwrap_or(0.0)
}

fn field_kib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `utime` and `stime`, fields 14 and 15. The name in field 2 may hold spaces, so counting starts behind it.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_also_when_the_name_holds_spaces() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn a_process_is_given_by_name_and_id() {
        let process: Process = "node-1=4711".parse().unwrap();
        assert_eq!((process.name.as_str(), process.id), ("node-1", 4711));
        assert!("4711".parse::<Process>().is_err());
        assert!("=4711".parse::<Process>().is_err());
        assert!("node=x".parse::<Process>().is_err());
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "Rss:   100 kB\nPss_Anon: 5 kB\nPss:    60 kB\n";
        assert_eq!(field_kib(text, "Pss:"), Some(60.0));
        assert_eq!(field_kib(text, "Swap:"), None);
    }
}
