//! What an operator may set.

/// How sessions behave. The defaults are those of the documentation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients are asked for a heartbeat at least this often.
    pub heartbeat_interval_ms: u64,
    /// After this silence a session is closed, and a user without another one is offline.
    pub offline_after_ms: u64,
    /// A connection without `hello` is closed after this time.
    pub hello_timeout_ms: u64,
    /// A write that a socket does not take in this time closes it as slow.
    pub write_timeout_ms: u64,
    /// A first `hello` waits this long for the first watermark after the node's start.
    pub watermark_wait_ms: u64,
    /// The first inbox read after going live comes after this time.
    pub first_audit_ms: u64,
    /// Until a session is complete, its inbox is read this often.
    pub catch_up_interval_ms: u64,
    /// Then this often.
    pub audit_interval_ms: u64,
    /// Sessions whose inbox is read at the same time.
    pub reads_max: usize,
    /// Requests of one session that are under way; then its socket is not read until one is answered.
    pub requests_in_flight_max: usize,
    /// Requests of one session per second, and how many may come at once; `None`: no limit.
    pub rate: Option<Rate>,
    /// Connections of this node; a further one is refused as overloaded.
    pub connections_max: usize,
    /// Origins, such as `https://chat.example.org`, whose pages may open a WebSocket, besides the node's own host.
    pub allowed_origins: Vec<String>,
    /// How long a drain lets a socket take what waits for it.
    pub flush_timeout_ms: u64,
}

/// A token bucket's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat_interval_ms: 5_000,
            offline_after_ms: 30_000,
            hello_timeout_ms: 10_000,
            write_timeout_ms: 10_000,
            watermark_wait_ms: 2_000,
            first_audit_ms: 2_000,
            catch_up_interval_ms: 750,
            audit_interval_ms: 60_000,
            reads_max: 32,
            requests_in_flight_max: 32,
            rate: Some(Rate { per_second: 50, burst: 200 }),
            connections_max: 1_000_000,
            allowed_origins: Vec::new(),
            flush_timeout_ms: 5_000,
        }
    }
}
