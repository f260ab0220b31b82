//! A child process under test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// What a failure shows of the log.
const TAIL_LINES: usize = 30;

/// A program and how to start it, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Kills the child if this process dies without dropping it: then the pipe to it closes.
    watchdog: Child,
}

impl Process {
    /// Starts a program. What it writes is appended to the file `log`.
    pub fn start(
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Process {
        let mut process = Process {
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            environment: environment.to_vec(),
            log: log.to_owned(),
            running: None,
        };
        process.restart();
        process
    }

    /// Starts it, with the same arguments and whatever data it left. Kills it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log).expect("the log file");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.program.display()));
        let watchdog = Command::new("sh")
            .args(["-c", &format!("read _; kill -9 {}", child.id())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        self.running = Some(Running { child, watchdog });
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // First the one that knows the process id, which is free for others after the wait below.
        for child in [&mut running.watchdog, &mut running.child] {
            child.kill().ok();
            child.wait().expect("the child was not waited for");
        }
    }

    /// SIGTERM, and waits for its end. Panics if it takes longer than `patience`.
    pub fn terminate(&mut self, patience: Duration) -> ExitStatus {
        self.signal("TERM");
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(started.elapsed() < patience, "not ended in {patience:?}:\n{}", self.tail());
            std::thread::sleep(POLL);
        }
    }

    /// How it ended, if it has ended by itself and this was not asked before. Panics if it does not run.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let running = self.running.as_mut().expect("it runs");
        let status = running.child.try_wait().expect("the child can be waited for")?;
        self.kill();
        Some(status)
    }

    /// SIGSTOP: it hangs, its connections stay open.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Its process id. Panics if it does not run.
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("it runs").child.id()
    }

    /// Its id, if it runs.
    pub fn running_id(&mut self) -> Option<u32> {
        self.is_running().then(|| self.id())
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        running.child.try_wait().expect("the child can be waited for").is_none()
    }

    /// Waits until `holds`. Panics with the end of the log if the process ends before, or it takes longer than
    /// `patience`.
    pub fn wait_until(&mut self, what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(self.is_running(), "ended before {what}:\n{}", self.tail());
            assert!(started.elapsed() < patience, "not in {patience:?}: {what}:\n{}", self.tail());
            std::thread::sleep(POLL);
        }
    }

    /// Everything it wrote since its first start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The file it writes to.
    pub fn log_path(&self) -> PathBuf {
        self.log.clone()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let status = Command::new("kill").args(["-s", name, "--", &id]).status().expect("kill");
        assert!(status.success(), "kill -s {name} {id}: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(script: &str, log: &Path) -> Process {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Process::start(Path::new("/bin/sh"), &arguments, &[], log)
    }

    fn exists(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_process_is_stopped_resumed_restarted_and_ends_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut process = shell("echo started; while :; do sleep 0.01; done", &log);
        process.wait_until("it started", PATIENCE, || {
            std::fs::read_to_string(&log).unwrap().contains("started")
        });
        let state = |id: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let id = process.id();
        process.stop();
        process.wait_until("it hangs", PATIENCE, || state(id) == 'T');
        process.resume();
        process.wait_until("it goes on", PATIENCE, || state(id) != 'T');
        process.restart();
        assert!(!exists(id), "the first one is gone");
        process.wait_until("it started again", PATIENCE, || {
            std::fs::read_to_string(&log).unwrap().matches("started").count() == 2
        });
        process.stop();
        let id = process.id();
        drop(process);
        assert!(!exists(id), "also while it hangs");
    }

    #[test]
    fn a_process_that_is_asked_to_end_does() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut process = shell("trap 'exit 3' TERM; echo on; while :; do sleep 0.01; done", &log);
        process.wait_until("it started", PATIENCE, || {
            std::fs::read_to_string(&log).unwrap().contains("on")
        });
        assert_eq!(process.terminate(PATIENCE).code(), Some(3));
        assert!(!process.is_running());
    }
}
