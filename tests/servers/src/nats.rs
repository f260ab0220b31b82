//! nats-server with JetStream: one, or a cluster of three.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::network::{Network, Place};
use crate::port::Port;
use crate::process::Process;
use crate::tools;

const PATIENCE: Duration = Duration::from_secs(60);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);
const CLUSTER_MEMBERS: usize = 3;

/// What can be set of a server.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `sync_interval` of JetStream: `always`, or a time such as `2m`.
    pub sync_interval: String,
    /// Clients must log in with this name and password.
    pub user: Option<(String, String)>,
    /// Clients must use TLS; [`Nats::certificate_authority`] vouches for the servers.
    pub tls: bool,
    /// With `tls`: clients must show a certificate, as [`Nats::client_certificate`].
    pub client_certificates: bool,
    /// Largest message.
    pub max_payload_bytes: usize,
    /// What all streams together may take of the disk.
    pub store_bytes_max: u64,
}

impl Default for NatsOptions {
    fn default() -> NatsOptions {
        NatsOptions {
            // Fast on slow disks; a test that ends machines sets it.
            sync_interval: "2m".to_owned(),
            user: None,
            tls: false,
            client_certificates: false,
            max_payload_bytes: 1024 * 1024,
            store_bytes_max: 1 << 40,
        }
    }
}

/// A running server.
pub type NatsServer = Nats;
/// Three running servers that replicate.
pub type NatsCluster = Nats;

/// One or several servers, and their directory. They end when it is dropped.
#[derive(Debug)]
pub struct Nats {
    members: Vec<Member>,
    tls: bool,
    directory: TempDir,
}

#[derive(Debug)]
struct Member {
    host: String,
    client: Port,
    monitor: Port,
    cluster: Port,
    /// Locked, so that tests may share a server.
    process: Mutex<Option<Process>>,
}

impl Nats {
    /// One server.
    pub fn single(options: &NatsOptions) -> NatsServer {
        Nats::start(1, options)
    }

    /// Three servers; streams may have three replicas.
    pub fn cluster(options: &NatsOptions) -> NatsCluster {
        Nats::start(CLUSTER_MEMBERS, options)
    }

    /// Three servers, each at a place of its own. The network must outlive them.
    pub fn cluster_in(options: &NatsOptions, network: &Network) -> NatsCluster {
        Nats::start_at(network.places(), options)
    }

    /// One server with default options that tests of a process share: it ends when the last of them drops it.
    pub fn shared() -> Arc<NatsServer> {
        static SHARED: Mutex<Weak<Nats>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Nats::single(&NatsOptions::default()));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start(count: usize, options: &NatsOptions) -> Nats {
        Nats::start_at(&vec![Place::here(); count], options)
    }

    fn start_at(places: &[Place], options: &NatsOptions) -> Nats {
        let program = tools::path("nats-server");
        let directory = tempfile::tempdir().expect("a directory for the servers");
        if options.tls {
            write_certificates(directory.path());
        }
        let member = |place: &Place| Member {
            host: place.host.clone(),
            client: Port::reserve(),
            monitor: Port::reserve(),
            cluster: Port::reserve(),
            process: Mutex::new(None),
        };
        let members: Vec<Member> = places.iter().map(member).collect();
        let nats = Nats { members, tls: options.tls, directory };
        for (index, (member, place)) in nats.members.iter().zip(places).enumerate() {
            let directory = nats.directory.path().join(index.to_string());
            std::fs::create_dir(&directory).expect("a directory for a server");
            let configuration = directory.join("nats.conf");
            std::fs::write(&configuration, nats.configuration(index, options)).expect("written");
            let arguments = ["-c".to_owned(), configuration.display().to_string()];
            let (program, arguments) = place.command(&program, &arguments);
            let process = Process::start(&program, &arguments, &[], &directory.join("log"));
            *member.process() = Some(process);
        }
        nats.wait_until_healthy();
        nats
    }

    fn configuration(&self, index: usize, options: &NatsOptions) -> String {
        let directory = self.directory.path();
        let member = &self.members[index];
        let mut text = format!(
            "server_name: member-{index}\nlisten: \"{}\"\nhttp: \"{}\"\nmax_payload: {}\n\
             jetstream {{ store_dir: \"{}\", sync_interval: {}, max_file_store: {} }}\n",
            member.address(&member.client),
            member.address(&member.monitor),
            options.max_payload_bytes,
            directory.join(index.to_string()).display(),
            options.sync_interval,
            options.store_bytes_max,
        );
        if self.members.len() > 1 {
            let routes: Vec<String> = self
                .members
                .iter()
                .map(|member| format!("\"nats://{}\"", member.address(&member.cluster)))
                .collect();
            let (listen, routes) = (member.address(&member.cluster), routes.join(", "));
            append(
                &mut text,
                &format!("cluster {{ name: test, listen: \"{listen}\", routes: [{routes}] }}"),
            );
        }
        if let Some((name, password)) = &options.user {
            append(
                &mut text,
                &format!("authorization {{ user: \"{name}\", password: \"{password}\" }}"),
            );
        }
        if options.tls {
            let file = |name: &str| directory.join(name).display().to_string();
            append(
                &mut text,
                &format!(
                    "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {} }}",
                    file("server.pem"),
                    file("server-key.pem"),
                    file("authority.pem"),
                    options.client_certificates,
                ),
            );
        }
        text
    }

    /// How many servers there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where clients connect: the addresses of all servers, comma-separated.
    pub fn url(&self) -> String {
        let urls: Vec<String> = (0..self.count()).map(|index| self.url_of(index)).collect();
        urls.join(",")
    }

    /// Where clients connect to one server.
    pub fn url_of(&self, index: usize) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        format!("{scheme}://{}", self.addresses()[index])
    }

    /// Where clients connect: `host:port` of every server.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address(&member.client)).collect()
    }

    /// The file with the certificate that vouches for the servers, with `tls`.
    pub fn certificate_authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// The files with a client's certificate and its key, with `tls`.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        let file = |name: &str| self.directory.path().join(name);
        (file("client.pem"), file("client-key.pem"))
    }

    /// The process ids of those that run.
    pub fn process_ids(&self) -> Vec<u32> {
        let ids = self.members.iter().filter_map(|member| {
            let mut process = member.process.lock().unwrap_or_else(PoisonError::into_inner);
            process.as_mut().and_then(Process::running_id)
        });
        ids.collect()
    }

    /// Kills one server.
    pub fn kill(&self, index: usize) {
        self.with(index, Process::kill);
    }

    /// Hangs one server; its connections stay open.
    pub fn stop(&self, index: usize) {
        self.with(index, |process| process.stop());
    }

    /// Lets it go on.
    pub fn resume(&self, index: usize) {
        self.with(index, |process| process.resume());
    }

    /// Starts one server on its data, and kills it first if it runs. Does not wait.
    pub fn restart(&self, index: usize) {
        self.with(index, Process::restart);
    }

    /// What one server wrote.
    pub fn log(&self, index: usize) -> String {
        self.with(index, |process| process.log())
    }

    /// Waits until every server that runs answers, its JetStream included.
    pub fn wait_until_healthy(&self) {
        self.wait_until_healthy_within(PATIENCE);
    }

    /// The same, where each server may take this long.
    pub fn wait_until_healthy_within(&self, patience: Duration) {
        for member in &self.members {
            let mut process = member.process();
            let Some(process) = process.as_mut() else { continue };
            if !process.is_running() {
                continue;
            }
            process.wait_until("the server is healthy", patience, || {
                get(&member.address(&member.monitor), "/healthz")
                    .is_some_and(|answer| answer.contains("\"ok\""))
            });
        }
    }

    /// The index of the server that leads a stream, if there is one now.
    pub fn leader(&self, stream: &str) -> Option<usize> {
        let details = self.streams();
        let stream = details.iter().find(|details| details["name"] == stream)?;
        let leader = stream["cluster"]["leader"].as_str()?;
        leader.strip_prefix("member-")?.parse().ok()
    }

    /// The streams and consumers, as the first server that answers tells of them (`/jsz` with details).
    pub fn streams(&self) -> Vec<Value> {
        let path = "/jsz?streams=true&consumers=true&config=true";
        let answer =
            self.members.iter().find_map(|member| get(&member.address(&member.monitor), path));
        let answer: Value = answer
            .and_then(|answer| serde_json::from_str(&answer).ok())
            .expect("a server answers /jsz");
        let accounts = answer["account_details"].as_array().cloned().unwrap_or_default();
        accounts
            .iter()
            .filter_map(|account| account["stream_detail"].as_array())
            .flatten()
            .cloned()
            .collect()
    }

    /// How many messages one server received from clients since it started.
    pub fn messages_received(&self, index: usize) -> u64 {
        self.figure(index, "in_msgs")
    }

    /// How many messages one server sent to clients since it started.
    pub fn messages_sent(&self, index: usize) -> u64 {
        self.figure(index, "out_msgs")
    }

    fn figure(&self, index: usize, name: &str) -> u64 {
        let member = &self.members[index];
        let answer = get(&member.address(&member.monitor), "/varz");
        let answer = answer.expect("the server answers /varz");
        let answer: Value = serde_json::from_str(&answer).expect("/varz is JSON");
        answer[name].as_u64().expect("/varz tells the figure")
    }

    fn with<T>(&self, index: usize, work: impl FnOnce(&mut Process) -> T) -> T {
        let mut process = self.members[index].process();
        work(process.as_mut().expect("set since the start"))
    }
}

impl Member {
    fn address(&self, port: &Port) -> String {
        format!("{}:{}", self.host, port.number())
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}

/// The body of an HTTP answer, if there is one in time.
fn get(address: &str, path: &str) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// A certificate authority, and certificates of the servers and of a client.
pub(crate) fn write_certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("a certificate is written");
    };
    let key = || KeyPair::generate().expect("a key");
    let params = |name: &str| {
        CertificateParams::new(vec![name.to_owned()]).expect("a name that certificates may have")
    };
    let mut authority = params("authority.test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("self-signed");
    write("authority.pem", authority.pem());
    for (name, host) in [("server", "127.0.0.1"), ("client", "client.test")] {
        let key = key();
        let certificate = params(host).signed_by(&key, &authority).expect("signed");
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_killed_and_comes_back() {
        let server = Nats::single(&NatsOptions::default());
        assert_eq!(server.streams(), Vec::<Value>::new());
        server.kill(0);
        assert!(TcpStream::connect(server.members[0].client.address()).is_err());
        server.restart(0);
        server.wait_until_healthy();
        assert!(TcpStream::connect(server.members[0].client.address()).is_ok());
    }

    #[test]
    fn a_cluster_becomes_healthy() {
        let cluster = Nats::cluster(&NatsOptions { tls: true, ..NatsOptions::default() });
        assert_eq!(cluster.count(), 3);
        assert_eq!(cluster.url().matches("tls://127.0.0.1:").count(), 3);
    }
}
