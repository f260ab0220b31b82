//! Every setting, once.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::source::{Problem, Sources};
use super::value::{
    BrokerAddress, Cidr, LogFilter, LogFormat, Password as Phrase, Secret, Setting, StoreAddress,
    Url, WebOrigin,
};
use crate::discovery::{HostTemplate, Region, RegionNetwork, Roles};

/// What is known of a setting besides its value.
#[derive(Debug)]
pub struct Field {
    /// Its key in the configuration file, with its section: `log.format`.
    pub key: &'static str,
    /// What it means: its comment, one string per line.
    pub doc: &'static [&'static str],
    /// The values it takes, in words.
    pub form: &'static str,
    /// The default as in a configuration file; empty if it is not set by default.
    pub default: &'static str,
    /// Its value is never shown, and there is no flag for it: other users of a machine see flags.
    pub secret: bool,
}

/// A section of the configuration file.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name; empty for the settings before the first section.
    pub(super) name: &'static str,
    /// What it is about.
    pub(super) doc: &'static [&'static str],
}

impl Field {
    /// The section it stands in.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// Its key inside its section.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// `--log-format`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// `CHAT_LOG_FORMAT`.
    pub fn variable(&self) -> String {
        format!("CHAT_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Its comment as one text.
    pub fn text(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

macro_rules! settings {
    (
        { $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal $(in $range:expr)?;)* }
        $($(#[doc = $section_doc:literal])+ $section:ident: $Section:ident {
            $($(#[doc = $sub_doc:literal])+ $sub:ident: $sub_type:ty = $sub_default:literal $(in $sub_range:expr)?;)*
        })*
    ) => {
        /// Everything that can be configured.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)*
            $($(#[doc = $section_doc])+ pub $section: $Section,)*
        }

        $($(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Section {
            $($(#[doc = $sub_doc])+ pub $sub: $sub_type,)*
        })*

        /// The sections, in the order of the configuration file.
        pub(super) static SECTIONS: &[Section] = &[
            Section { name: "", doc: &[] },
            $(Section { name: stringify!($section), doc: &[$($section_doc),+] },)*
        ];

        /// Every setting, in the order of the configuration file.
        pub static FIELDS: &[Field] = &[
            $(Field {
                key: stringify!($name),
                doc: &[$($doc),+],
                form: <$type as Setting>::FORM,
                default: $default,
                secret: <$type as Setting>::SECRET,
            },)*
            $($(Field {
                key: concat!(stringify!($section), ".", stringify!($sub)),
                doc: &[$($sub_doc),+],
                form: <$sub_type as Setting>::FORM,
                default: $sub_default,
                secret: <$sub_type as Setting>::SECRET,
            },)*)*
        ];

        /// Parses every setting from where it is given.
        pub(super) fn build(sources: &Sources) -> Result<Config, Problem> {
            Ok(Config {
                $($name: sources.parse(
                    stringify!($name), $default, settings!(@range $($range)?),
                )?,)*
                $($section: $Section {
                    $($sub: sources.parse(
                        concat!(stringify!($section), ".", stringify!($sub)),
                        $sub_default,
                        settings!(@range $($sub_range)?),
                    )?,)*
                },)*
            })
        }

        /// The values in the order of [`FIELDS`], as in a configuration file; `None` for what is not set.
        pub(super) fn values(config: &Config) -> Vec<Option<toml::Value>> {
            vec![
                $(config.$name.to_toml(),)*
                $($(config.$section.$sub.to_toml(),)*)*
            ]
        }
    };
    (@range) => { None };
    (@range $range:expr) => {{
        let range: RangeInclusive<u64> = $range;
        Some(range)
    }};
}

settings! {
    {
        /// Address and port that clients connect to. The default is reachable from this machine only; set
        /// `0.0.0.0:8080` to serve a network, behind something that ends TLS. Port 0 takes any free port.
        listen: SocketAddr = "127.0.0.1:8080";
        /// Address and port of liveness, readiness, metrics and the calls of an operator. Keep it off the public network.
        admin_listen: SocketAddr = "127.0.0.1:9090";
        /// Bearer token that `/metrics` and `/v1/admin/` ask for. Without it metrics answer everyone who reaches the port,
        /// and `/v1/admin/` nobody.
        admin_token: Option<Secret> = "";
        /// Directory of the embedded store, the log and the signing key. It is created if it does not exist, and one
        /// node at a time can use it. Not used with `broker` and `store`.
        data_dir: PathBuf = "./data";
        /// Where the log and the bus are: `embedded` for one node by itself, or the addresses of NATS servers for a
        /// platform of many nodes, such as `nats://nats-0:4222,nats://nats-1:4222`. One that answers is enough; it names
        /// the others. See `[nats]`. Broker and store must be both embedded or both not.
        broker: BrokerAddress = "embedded";
        /// Where everything is kept: `embedded` for one node by itself, or the first nodes and the keyspace of a ScyllaDB
        /// or Apache Cassandra, such as `scylla://scylla-0:9042,scylla-1:9042/chat`. See `[scylla]`.
        store: StoreAddress = "embedded";
        /// Version of the program that this node belongs to, such as `2026.11-green`. While nodes of the revision in the
        /// key `owner_revision` are alive, only they own partitions.
        revision: Option<String> = "";
        /// Region of this node, such as `eu-central`. Other nodes learn it.
        region: Option<Region> = "";
        /// Address under which clients reach this node, such as `https://chat.example.org`: what service discovery
        /// answers, and an origin that browsers may connect from. Made from `listen` if absent.
        public_url: Option<Url> = "";
        /// Name of this node in logs and in service discovery.
        node_name: String = "chat-node";
        /// What this node does: `api` serves accounts, conversations and history over HTTP, `gateway` serves sockets and
        /// polls, `partitions` owns partitions of the log. A platform needs all of them somewhere; a node by itself too.
        roles: Roles = "api,gateway,partitions";
        /// Host under which clients reach this node and no other: what service discovery answers when it picks this node.
        /// `{node}` is `node_name`, `{region}` is `region`. Without it discovery answers `public_url`.
        advertise_host_template: Option<HostTemplate> = "";
        /// Origins besides `public_url` whose pages may open WebSockets, such as `https://app.example.org`. A browser's
        /// WebSocket from any other origin is refused; clients that send no Origin header are not browsers and pass.
        allowed_origins: Vec<WebOrigin> = "";
        /// Origins whose pages may use the HTTP API (Cross-Origin Resource Sharing).
        cors_origins: Vec<WebOrigin> = "";
        /// Threads that serve connections; 0 for one per processor.
        worker_threads: u64 = "0" in 0..=1024;
        /// How often a client has to be heard, in milliseconds; it is told in `welcome`.
        heartbeat_interval_ms: u64 = "5000" in 100..=600_000;
        /// After this silence, in milliseconds, a connection is closed, and its user is offline unless another one
        /// stands. At least twice `heartbeat_interval_ms`.
        offline_after_ms: u64 = "30000" in 200..=3_600_000;
        /// How often, in milliseconds, each session reads its inbox from the store, to find what live delivery lost.
        audit_interval_ms: u64 = "60000" in 1_000..=3_600_000;
        /// Connections of clients at once; one more is refused as overloaded.
        connections_max: u64 = "50000" in 1..=10_000_000;
        /// Connections at once from one address. Behind a proxy set `trusted_proxy`, or all clients share its address.
        connections_per_address_max: u64 = "1000" in 1..=10_000_000;
        /// Longest wait of a long poll, in milliseconds. Keep it below the time-outs of proxies in between.
        poll_wait_ms_max: u64 = "25000" in 0..=55_000;
        /// Messages of a live room are collected for this long, in milliseconds, and delivered as one batch.
        room_batch_window_ms: u64 = "30" in 0..=1_000;
        /// How long, in milliseconds, a command waits for the owner of its conversation before it is answered
        /// `deadline_exceeded`.
        command_deadline_ms: u64 = "5000" in 100..=60_000;
    }

    /// What the node writes to standard error.
    log: Log {
        /// `text` for people, `json` for programs: one object per line.
        format: LogFormat = "text";
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels per module such as
        /// `info,chat_node=debug`.
        filter: LogFilter = "info";
    }

    /// How service discovery finds a client's region, if the client does not ask for one.
    discovery: Discovery {
        /// Networks of clients and the regions they are in, such as `10.0.0.0/8=eu-central`. The narrowest one counts.
        regions: Vec<RegionNetwork> = "";
        /// Header in which a trusted proxy names the client's region, for addresses in none of the networks. See
        /// `[trusted_proxy]`; the header of anyone else is ignored.
        region_header: Option<String> = "";
    }

    /// Proxies in front of the node.
    trusted_proxy: TrustedProxy {
        /// Header in which a trusted proxy names the client's address; the last address in it that is not a trusted
        /// proxy counts.
        header: String = "x-forwarded-for";
        /// Networks of the proxies, such as `10.0.0.0/8`. The header of anyone else is ignored.
        cidrs: Vec<Cidr> = "";
    }

    /// Cost of hashing passwords (argon2id, RFC 9106). Stored hashes keep the cost they were made with.
    password: Password {
        /// Memory of one hash in KiB.
        memory_kib: u32 = "19456" in 8..=4_194_304;
        /// Passes over that memory.
        iterations: u32 = "2" in 1..=100;
        /// Lanes of one hash.
        parallelism: u32 = "1" in 1..=64;
        /// Hashes at once. Their memory adds up; further logins wait.
        concurrency: u32 = "2" in 1..=1_024;
    }

    /// Access and refresh tokens.
    token: Token {
        /// Life of an access token in milliseconds.
        access_lifetime_ms: u64 = "900000" in 1_000..=86_400_000;
        /// Life of a refresh token in days, counted from its last use.
        refresh_lifetime_days: u64 = "60" in 1..=3_650;
        /// File with signing keys, a JSON Web Key Set (RFC 7517) of `oct` keys. The first one signs, all of them verify:
        /// put a new key in front, and remove the old one when its last token has expired. If absent, the node makes
        /// `token.key` in `data_dir` and keeps it. The nodes of a platform need the same keys, so with NATS it must be set.
        key_file: Option<PathBuf> = "";
    }

    /// Tokens of an external OpenID Connect issuer, accepted besides the node's own. All three or none.
    oidc: Oidc {
        /// The issuer, exactly as in the tokens' `iss`.
        issuer: Option<Url> = "";
        /// The audience that a token's `aud` must hold.
        audience: Option<String> = "";
        /// File with the issuer's public keys (JSON Web Key Set, RFC 7517).
        jwks_file: Option<PathBuf> = "";
    }

    /// How much one client may ask for.
    rate_limits: RateLimits {
        /// Whether there are any. Turn off only for tests and benchmarks.
        enabled: bool = "true";
        /// Commands of one user per second: sends, edits, reactions, marks.
        commands_per_second: u32 = "50" in 1..=1_000_000;
        /// Commands of one user at once, before the rate counts.
        commands_burst: u32 = "200" in 1..=1_000_000;
        /// Requests of one user to the HTTP API per second.
        requests_per_second: u32 = "50" in 1..=1_000_000;
        /// Requests of one user at once, before the rate counts.
        requests_burst: u32 = "200" in 1..=1_000_000;
        /// Logins and refreshes from one address (of IPv6: one /64) per minute. Many people may share one.
        logins_per_minute: u32 = "60" in 1..=60_000;
        /// Logins for one account per minute, from anywhere.
        logins_per_account_per_minute: u32 = "6" in 1..=60_000;
        /// New accounts from one address (of IPv6: one /64) per minute.
        sign_ups_per_minute: u32 = "20" in 1..=60_000;
    }

    /// The embedded store and log.
    storage: Storage {
        /// Largest size of the store in bytes; 0 for no limit. At the limit the store takes no more, sends go on until
        /// the log is full, and reads go on.
        store_bytes_max: u64 = "0";
        /// Largest size of the log in bytes; 0 for no limit. At the limit sends are refused as `storage_full`.
        log_bytes_max: u64 = "0";
    }

    /// The NATS servers of `broker`. Version 2.12 or newer, with JetStream.
    nats: Nats {
        /// Name to log in with.
        user: Option<String> = "";
        /// Password to log in with.
        password: Option<Phrase> = "";
        /// Token to log in with, instead of a name.
        token: Option<Phrase> = "";
        /// File with a JWT and its key, as `nsc` writes it, to log in with instead of a name.
        credentials_file: Option<PathBuf> = "";
        /// Whether nothing is sent without TLS. Servers may ask for it by themselves.
        tls: bool = "false";
        /// PEM file of the authorities that vouch for the servers; without it the system's.
        ca_file: Option<PathBuf> = "";
        /// PEM file of a certificate for servers that ask for one. Needs `nats.key_file`.
        certificate_file: Option<PathBuf> = "";
        /// PEM file of that certificate's key.
        key_file: Option<PathBuf> = "";
        /// In front of the names of all streams and subjects, so that platforms can share servers: letters, digits, `-`
        /// and `_`.
        prefix: String = "chat";
        /// Streams that the log is spread over. Fixed when the platform is created.
        streams: u32 = "4" in 1..=64;
        /// Copies of each stream: 1, 3 or 5, on as many servers. With 1, what was acknowledged is lost with its server's
        /// disk.
        replicas: u32 = "3" in 1..=5;
        /// What each stream may take of the servers' disks, in bytes; they reserve it. When it is full, sends are refused
        /// as `storage_full`.
        stream_bytes_max: u64 = "4294967296" in 1_048_576..=1_125_899_906_842_624;
    }

    /// The ScyllaDB or Apache Cassandra of `store`.
    scylla: Scylla {
        /// Name to log in with. Needs `scylla.password`.
        user: Option<String> = "";
        /// Password to log in with.
        password: Option<Phrase> = "";
        /// PEM file of the authority that signed the servers' certificates. If set, connections use TLS.
        ca_file: Option<PathBuf> = "";
        /// PEM file of a certificate for servers that ask for one. Needs `scylla.key_file`.
        certificate_file: Option<PathBuf> = "";
        /// PEM file of that certificate's key.
        key_file: Option<PathBuf> = "";
        /// The data centre near this node: its replicas are asked, and most of them must answer.
        datacenter: String = "datacenter1";
        /// Copies in that data centre, if the keyspace is not there yet and is made. An existing one stays as it is.
        replication_factor: u32 = "3" in 1..=9;
    }

    /// The end of a node, on SIGTERM or SIGINT.
    shutdown: Shutdown {
        /// Longest time for a graceful end, in milliseconds. Then the node ends anyhow.
        grace_ms: u64 = "25000" in 0..=3_600_000;
        /// Clients are told to come back after a random time up to this, in milliseconds, so that they do not all come
        /// at once.
        drain_jitter_ms: u64 = "3000" in 0..=3_600_000;
    }
}
