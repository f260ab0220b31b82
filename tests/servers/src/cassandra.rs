//! Apache Cassandra as the tests' CQL server: one, or a cluster of three. ScyllaDB is in no package registry.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use crate::nats::write_certificates;
use crate::port::Port;
use crate::process::Process;
use crate::tools;

/// The data centre that every member is in.
pub const DATACENTER: &str = "dc1";

/// A start takes about 10 s; on a busy machine much longer.
const PATIENCE: Duration = Duration::from_secs(240);
const CLUSTER_MEMBERS: usize = 3;

/// What can be set of a server.
#[derive(Clone, Debug, Default)]
pub struct CassandraOptions {
    /// Clients must log in; there is the user `cassandra` with the password `cassandra`.
    pub password: bool,
    /// Clients must use TLS; [`Cassandra::certificate_authority`] vouches for the server.
    pub tls: bool,
}

/// One or several servers, and their directory. They end when it is dropped.
#[derive(Debug)]
pub struct Cassandra {
    members: Vec<Member>,
    /// All members listen on these, each on an address of its own: drivers expect one port for all.
    native: Port,
    storage: Port,
    options: CassandraOptions,
    directory: TempDir,
}

#[derive(Debug)]
struct Member {
    host: String,
    /// Locked, so that tests may share a server.
    process: Mutex<Option<Process>>,
}

impl Cassandra {
    /// One server.
    pub fn single(options: &CassandraOptions) -> Cassandra {
        Cassandra::start(1, options)
    }

    /// Three servers of one data centre.
    pub fn cluster(options: &CassandraOptions) -> Cassandra {
        Cassandra::start(CLUSTER_MEMBERS, options)
    }

    /// One server with default options that tests of a process share: it ends when the last of them drops it.
    pub fn shared() -> Arc<Cassandra> {
        static SHARED: Mutex<Weak<Cassandra>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Cassandra::single(&CassandraOptions::default()));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start(count: usize, options: &CassandraOptions) -> Cassandra {
        let directory = tempfile::tempdir().expect("a directory for the servers");
        if options.tls {
            write_certificates(directory.path());
        }
        let member =
            |index| Member { host: format!("127.0.0.{}", index + 1), process: Mutex::new(None) };
        let cassandra = Cassandra {
            members: (0..count).map(member).collect(),
            native: Port::reserve(),
            storage: Port::reserve(),
            options: options.clone(),
            directory,
        };
        // One after the other: the next one learns of the ring from the first.
        for index in 0..count {
            cassandra.start_member(index);
            cassandra.wait_until_up(index);
        }
        for member in &cassandra.members {
            let others = count - 1;
            let mut process = member.process();
            let process = process.as_mut().expect("it was started");
            let log = process.log_path();
            process.wait_until("the others are up", PATIENCE, || {
                read(&log).matches(" is now UP").count() >= others
            });
        }
        cassandra
    }

    fn start_member(&self, index: usize) {
        let place = self.place(index);
        std::fs::create_dir_all(place.join("tmp")).expect("a directory for a server");
        write(&place.join("cassandra.yaml"), &self.configuration(index, &place));
        let rack = format!("dc={DATACENTER}\nrack=rack{index}\n");
        write(&place.join("cassandra-rackdc.properties"), &rack);
        write(&place.join("logback.xml"), include_str!("../cassandra/logback.xml"));
        write(&place.join("java.options"), include_str!("../cassandra/java.options"));
        let libraries = tools::path("cassandra/lib");
        let at = place.display();
        let arguments = [
            format!("@{at}/java.options"),
            "-Xmx384m".to_owned(),
            "-Xss256k".to_owned(),
            format!("-Djava.io.tmpdir={at}/tmp"),
            format!("-Djna.tmpdir={at}/tmp"),
            format!("-Dcassandra.storagedir={at}"),
            format!("-Dcassandra.logdir={at}/logs"),
            // Otherwise it closes its output once it has started.
            "-Dcassandra-foreground=yes".to_owned(),
            // The waits for gossip to settle are for large clusters.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0".to_owned(),
            "-Dcassandra.ring_delay_ms=2000".to_owned(),
            "-Dcassandra.superuser_setup_delay_ms=0".to_owned(),
            "-cp".to_owned(),
            format!("{at}:{}/*", libraries.display()),
            "org.apache.cassandra.service.CassandraDaemon".to_owned(),
        ];
        let process = Process::start(Path::new("java"), &arguments, &[], &place.join("log"));
        *self.members[index].process() = Some(process);
    }

    fn configuration(&self, index: usize, place: &Path) -> String {
        let host = &self.members[index].host;
        // Evenly round the ring from -2^63 to 2^63.
        let share = (1_i128 << 64) / self.members.len() as i128;
        let token = -(1_i128 << 63) + share * index as i128 + 1;
        let (native, storage) = (self.native.number(), self.storage.number());
        let at = place.display();
        let mut text = format!(
            "{}\nlisten_address: {host}\nrpc_address: {host}\nnative_transport_port: {native}\n\
             storage_port: {storage}\ninitial_token: \"{token}\"\n\
             seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    \
             parameters: [{{seeds: \"{}:{storage}\"}}]\n\
             data_file_directories: [{at}/data]\ncommitlog_directory: {at}/commitlog\n\
             saved_caches_directory: {at}/saved_caches\nhints_directory: {at}/hints\n\
             cdc_raw_directory: {at}/cdc_raw\n",
            include_str!("../cassandra/cassandra.yaml"),
            self.members[0].host,
        );
        if self.options.password {
            text += "authenticator: PasswordAuthenticator\n";
        }
        if self.options.tls {
            let file = |name: &str| self.directory.path().join(name);
            // One file with the key and then the certificate, as this format wants it.
            let both = place.join("server-both.pem");
            let content = ["server-key.pem", "server.pem"].map(|name| read(&file(name)));
            write(&both, &content.concat());
            text += &format!(
                "client_encryption_options:\n  enabled: true\n  optional: false\n  \
                 ssl_context_factory:\n    \
                 class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n  \
                 keystore: {}\n  truststore: {}\n",
                both.display(),
                file("authority.pem").display(),
            );
        }
        text
    }

    /// How many servers there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where clients connect: `host:port` of every server.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| self.address_of(member)).collect()
    }

    fn address_of(&self, member: &Member) -> String {
        format!("{}:{}", member.host, self.native.number())
    }

    /// The file with the certificate that vouches for the servers, with `tls`.
    pub fn certificate_authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// The process ids of those that run.
    pub fn process_ids(&self) -> Vec<u32> {
        let ids = self.members.iter().filter_map(|member| {
            let mut process = member.process.lock().unwrap_or_else(PoisonError::into_inner);
            process.as_mut().and_then(Process::running_id)
        });
        ids.collect()
    }

    /// Where one server keeps its data: while it is killed, a copy of all of it is a backup, and may be put back.
    pub fn place(&self, index: usize) -> PathBuf {
        self.directory.path().join(index.to_string())
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

    /// Waits until a server takes clients.
    pub fn wait_until_up(&self, index: usize) {
        let member = &self.members[index];
        let address = self.address_of(member);
        let mut process = member.process();
        let process = process.as_mut().expect("it was started");
        process.wait_until("the server takes clients", PATIENCE, || {
            TcpStream::connect(&address).is_ok()
        });
        if self.options.password {
            let log = process.log_path();
            process.wait_until("the first user is there", PATIENCE, || {
                read(&log).contains("Created default superuser role")
            });
        }
    }

    fn with<T>(&self, index: usize, work: impl FnOnce(&mut Process) -> T) -> T {
        let mut process = self.members[index].process();
        work(process.as_mut().expect("set since the start"))
    }
}

impl Member {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file for the server is written");
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_killed_and_comes_back() {
        let server = Cassandra::single(&CassandraOptions::default());
        let address = &server.addresses()[0];
        assert!(TcpStream::connect(address).is_ok());
        server.kill(0);
        assert!(TcpStream::connect(address).is_err());
        server.restart(0);
        server.wait_until_up(0);
    }
}
