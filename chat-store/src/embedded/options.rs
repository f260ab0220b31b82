/// How an embedded store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads that read, each with a connection of its own. At least 1.
    pub reader_threads: usize,
    /// Reads that wait for a thread; more make their callers wait.
    pub read_queue_length: usize,
    /// Writes that wait for the next commit; more make their callers wait. One commit takes at most this many.
    pub write_queue_length: usize,
    /// The database file never grows beyond this; writes are answered with `Unavailable` while it is full. The
    /// write-ahead log beside it is not counted. `None`: as large as the disk.
    pub size_bytes_max: Option<u64>,
    /// Page cache of the writing connection.
    pub writer_cache_bytes: u64,
    /// Page cache of each reading connection.
    pub reader_cache_bytes: u64,
    /// Longest wait for a lock that another process holds, for example during maintenance.
    pub busy_timeout_ms: u64,
    /// The epoch of a store that does not exist yet. `None`: drawn at random. A simulation gives it from its seed.
    pub epoch: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            reader_threads: 4,
            read_queue_length: 1_024,
            write_queue_length: 1_024,
            size_bytes_max: None,
            writer_cache_bytes: 64 << 20,
            reader_cache_bytes: 16 << 20,
            busy_timeout_ms: 5_000,
            epoch: None,
        }
    }
}
