//! A network of a test's own: places with an address each, joined by a bridge, and each can be cut off.
//!
//! The namespaces have no names: they live as long as the processes in them, so that nothing is left however a test ends.
//! The test itself runs in one of them ([`inside`]), with the bridge; the machine's own network is not touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::Process;

/// Set for a test that runs in a network of its own.
const INSIDE: &str = "TEST_NETWORK_INSIDE";

/// The bridge's address ends with 1, those of the places with 2, 3, …
const PREFIX: &str = "10.77.0";

/// A neighbour that nobody is: what is sent to it is lost.
const NOBODY: &str = "02:00:00:00:00:fe";

const START_MAX: Duration = Duration::from_secs(10);

/// Longer than any test that runs in a network.
const TEST_MAX: Duration = Duration::from_secs(1_800);

/// Where a server runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address.
    pub(crate) host: String,
    /// The process whose network it has; `None`: that of the test.
    holder: Option<u32>,
}

impl Place {
    /// 127.0.0.1, where the test is.
    pub(crate) fn here() -> Place {
        Place { host: "127.0.0.1".to_owned(), holder: None }
    }

    /// What to start so that a program runs there.
    pub(crate) fn command(&self, program: &Path, arguments: &[String]) -> (PathBuf, Vec<String>) {
        let Some(holder) = self.holder else { return (program.to_owned(), arguments.to_vec()) };
        let enter =
            ["--net", "--target", &holder.to_string(), "--", &program.display().to_string()]
                .map(str::to_owned);
        (PathBuf::from("nsenter"), enter.into_iter().chain(arguments.iter().cloned()).collect())
    }
}

/// Runs a test in a network of its own, in which it is root: starts this program once more there, for this test alone, and
/// fails if it does. `test` is its path in the program.
pub fn inside(test: &str, work: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let missing: Vec<&str> = [("ip", "-V"), ("unshare", "--version"), ("nsenter", "--version")]
        .into_iter()
        .filter_map(|(program, version)| {
            let run = Command::new(program).arg(version).stdout(Stdio::null()).status();
            (!run.is_ok_and(|status| status.success())).then_some(program)
        })
        .collect();
    assert!(
        missing.is_empty(),
        "a network of a test's own needs {}: run `cargo xtask tools`, or install it (Debian: apt-get install iproute2 \
         util-linux)",
        missing.join(" and ")
    );
    // Whoever is not root may be allowed to be it among his own processes.
    let unshare = ["--user", "--map-root-user", "--net"].map(str::to_owned);
    let skipped = if is_root() { 2 } else { 0 };
    let own = std::env::current_exe().expect("a running program has a path");
    let run = [test, "--exact", "--include-ignored", "--nocapture"].map(str::to_owned);
    let arguments =
        unshare.into_iter().skip(skipped).chain(["--".to_owned(), own.display().to_string()]);
    let arguments: Vec<String> = arguments.chain(run).collect();
    let directory = tempfile::tempdir().expect("a directory for the log of a test");
    let environment = [(INSIDE.to_owned(), "1".to_owned())];
    let log = directory.path().join("log");
    let mut process = Process::start(Path::new("unshare"), &arguments, &environment, &log);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        assert!(started.elapsed() < TEST_MAX, "not ended in {TEST_MAX:?}:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    let log = process.log();
    #[allow(clippy::print_stdout, reason = "what a test says is shown if it fails")]
    {
        println!("{log}");
    }
    assert!(
        status.success() && log.contains("test result: ok. 1 passed"),
        "{test} failed in a network of its own ({status}). If it says that something is not permitted: run it as root, or \
         allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
    );
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id starts");
    id.stdout.trim_ascii() == b"0"
}

/// Places joined by a bridge. They end when it is dropped.
#[derive(Debug)]
pub struct Network {
    places: Vec<Place>,
    /// Processes that do nothing but have a network.
    _holders: Vec<Process>,
}

impl Network {
    /// So many places, and a bridge to them from where the test is. The test must run [`inside`].
    pub fn new(count: usize) -> Network {
        assert!(std::env::var_os(INSIDE).is_some(), "this is not a network of the test's own");
        ip(None, "link set lo up");
        ip(None, "link add bridge type bridge");
        ip(None, &format!("address add {PREFIX}.1/24 dev bridge"));
        ip(None, "link set bridge up");
        let (places, holders) = (0..count).map(place).unzip();
        Network { places, _holders: holders }
    }

    /// Its places.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Nothing reaches a place, and nothing comes from it: its cable is drawn.
    pub fn cut_off(&self, index: usize) {
        ip(None, &format!("link set port{index} down"));
    }

    /// A place hears everybody, and nobody hears it.
    pub fn silence(&self, index: usize) {
        self.neighbours(index, |address| {
            format!("neighbour replace {address} dev cable lladdr {NOBODY} nud permanent")
        });
    }

    /// Undoes what was done to a place.
    pub fn heal(&self, index: usize) {
        ip(None, &format!("link set port{index} up"));
        // Also if nothing was done to them: they are learnt again.
        self.neighbours(index, |address| {
            format!("neighbour replace {address} dev cable lladdr {NOBODY} nud failed")
        });
    }

    fn neighbours(&self, index: usize, change: impl Fn(&str) -> String) {
        let place = &self.places[index];
        let others = self.places.iter().map(|place| place.host.as_str());
        let bridge = format!("{PREFIX}.1");
        for address in others.filter(|host| *host != place.host).chain([bridge.as_str()]) {
            ip(place.holder, &change(address));
        }
    }
}

fn place(index: usize) -> (Place, Process) {
    let log = std::env::temp_dir().join("place.log");
    let arguments = ["--net", "--", "sleep", "infinity"].map(str::to_owned);
    let mut holder = Process::start(Path::new("unshare"), &arguments, &[], &log);
    let id = holder.id();
    let network = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    holder.wait_until("it has a network of its own", START_MAX, || {
        network(&id.to_string()).is_some_and(|found| Some(found) != network("self"))
    });
    ip(None, &format!("link add port{index} type veth peer name cable netns {id}"));
    ip(None, &format!("link set port{index} master bridge up"));
    let host = format!("{PREFIX}.{}", index + 2);
    ip(Some(id), "link set lo up");
    ip(Some(id), &format!("address add {host}/24 dev cable"));
    ip(Some(id), "link set cable up");
    (Place { host, holder: Some(id) }, holder)
}

/// Runs `ip`, in the network of a process or in the test's.
fn ip(network_of: Option<u32>, words: &str) {
    let mut command = match network_of {
        Some(id) => {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", &id.to_string(), "--", "ip"]);
            command
        }
        None => Command::new("ip"),
    };
    let status = command.args(words.split(' ')).status().expect("ip starts");
    assert!(status.success(), "ip {words}: {status}");
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Says something to a place where everything is said back, and whether that comes.
    fn hears_and_answers(address: &str, stream: &mut Option<TcpStream>) -> bool {
        let connect = || TcpStream::connect_timeout(&address.parse().unwrap(), TIMEOUT).ok();
        let Some(mut open) = stream.take().or_else(connect) else { return false };
        open.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut heard = [0; 1];
        let answered = open.write_all(b"x").is_ok() && open.read_exact(&mut heard).is_ok();
        *stream = answered.then_some(open);
        answered
    }

    const ECHO: &str = "import socket,sys,threading\n\
        s=socket.create_server((sys.argv[1],7000))\n\
        def say(c):\n    \
            while d:=c.recv(9): print(d.decode(),end='',flush=True); c.sendall(d)\n\
        while True: threading.Thread(target=say,args=(s.accept()[0],),daemon=True).start()\n";

    #[test]
    fn a_place_is_cut_off_silenced_and_healed() {
        inside("network::tests::a_place_is_cut_off_silenced_and_healed", || {
            let network = Network::new(2);
            let directory = tempfile::tempdir().unwrap();
            let place = &network.places()[1];
            let arguments = ["-c".to_owned(), ECHO.to_owned(), place.host.clone()];
            let (program, arguments) = place.command(Path::new("python3"), &arguments);
            let mut echo = Process::start(&program, &arguments, &[], &directory.path().join("log"));
            let address = format!("{}:7000", place.host);
            let mut stream = None;
            echo.wait_until("it answers", START_MAX, || hears_and_answers(&address, &mut stream));
            network.cut_off(1);
            let said = echo.log().len();
            assert!(!hears_and_answers(&address, &mut stream));
            assert_eq!(echo.log().len(), said, "it hears nothing");
            network.heal(1);
            echo.wait_until("it answers", START_MAX, || hears_and_answers(&address, &mut stream));
            network.silence(1);
            let said = echo.log().len();
            assert!(!hears_and_answers(&address, &mut stream));
            assert!(echo.log().len() > said, "it hears, and is not heard");
            network.heal(1);
            echo.wait_until("it answers", START_MAX, || hears_and_answers(&address, &mut stream));
        });
    }
}
