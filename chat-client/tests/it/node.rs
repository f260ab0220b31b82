//! The terminal client with a real node. `CHAT_TEST_NODE` names its binary.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A node with fresh data, and its address.
fn node(binary: &str, directory: &Path) -> (Process, String) {
    let mut child = Command::new(binary)
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.join("data"))
        .args(["--password-memory-kib", "8", "--password-iterations", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let process = Process(child);
    let (sender, addresses) = std::sync::mpsc::channel();
    let watch = |stream: Box<dyn std::io::Read + Send>| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let found =
                    line.split("serving at ").nth(1).and_then(|rest| rest.split('/').nth(2));
                if let Some(address) = found {
                    // Only the first is waited for.
                    let _first = sender.send(format!("http://{address}"));
                }
            }
        })
    };
    drop([watch(Box::new(out)), watch(Box::new(err))]);
    let address = addresses.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    (process, address)
}

fn chat(url: &str, state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
    command.args(["--url", url, "--state"]).arg(state).args(arguments);
    command.env_clear().env("CHAT_PASSWORD", "a good password");
    command
}

fn sign_up(url: &str, state: &Path, handle: &str) {
    let output = chat(url, state, &["sign-up", handle, "--name", handle])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An open chat.
struct Chat {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Chat {
    fn open(url: &str, state: &Path, with: &str) -> Chat {
        let mut child = chat(url, state, &["open", with])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Chat { _process: Process(child), input, output: BufReader::new(output) }
    }

    fn write(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Reads until a line ends with this.
    fn read(&mut self, end: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the chat ended before {end:?}");
            if line.trim_end().ends_with(end) {
                return;
            }
        }
    }
}

#[test]
fn two_people_chat_from_terminals() {
    let Some(binary) = std::env::var("CHAT_TEST_NODE").ok() else {
        eprintln!("SKIPPED: CHAT_TEST_NODE does not name the binary of a node");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (_node, url) = node(&binary, directory.path());
    let [ann, ben] = ["ann", "ben"].map(|name| directory.path().join(name));
    sign_up(&url, &ann, "ann");
    sign_up(&url, &ben, "ben");
    let mut at_ann = Chat::open(&url, &ann, "ben");
    at_ann.read("Connected.");
    at_ann.write("hello Ben");
    at_ann.read("#1 you: hello Ben");
    let mut at_ben = Chat::open(&url, &ben, "ann");
    at_ben.read("#1 ann: hello Ben");
    at_ben.write("hello Ann");
    at_ann.read("#2 ben: hello Ann");
    at_ann.write("/edit 1 hello, Ben!");
    at_ben.read("#1 ann: hello, Ben! (edited)");
    at_ben.write("/react 1 👍");
    at_ann.read("👍 1");
}
