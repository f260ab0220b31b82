//! Figures of the owners on this node.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters and gauges; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records with entries accepted by the log.
    pub commits: Counter,
    /// Entries in them.
    pub entries: Counter,
    /// From handing a record to the log to its answer.
    pub commit_seconds: Histogram,
    /// Bytes of committed entries that wait for the store.
    pub unwritten_bytes: Gauge,
    /// Entries that the store refused and that were set aside.
    pub quarantined: Counter,
    /// Writes that the store did not take at once.
    pub write_retries: Counter,
    /// Partitions this node owns.
    pub partitions_owned: Gauge,
    /// Partitions closed for another node.
    pub hand_overs: Counter,
    /// Partitions opened that their owner had not closed.
    pub take_overs: Counter,
    /// How far the safe watermark is behind the clock, or the highest id if that is ahead of the clock.
    pub safe_watermark_lag_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
}

/// From half a millisecond to a minute, each a third longer than the one before.
const COMMIT_BUCKETS: (f64, f64, u16) = (0.000_5, 4.0 / 3.0, 41);

impl Default for Metrics {
    fn default() -> Metrics {
        let (first, factor, count) = COMMIT_BUCKETS;
        Metrics {
            commits: Counter::default(),
            entries: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(first, factor, count)),
            unwritten_bytes: Gauge::default(),
            quarantined: Counter::default(),
            write_retries: Counter::default(),
            partitions_owned: Gauge::default(),
            hand_overs: Counter::default(),
            take_overs: Counter::default(),
            safe_watermark_lag_seconds: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "log_commits",
            "Records with entries accepted by the log",
            self.commits.clone(),
        );
        registry.register(
            "log_commit_seconds",
            "From handing a record with entries to the log to its answer",
            self.commit_seconds.clone(),
        );
        registry.register("log_entries", "Entries accepted by the log", self.entries.clone());
        registry.register(
            "store_unwritten_bytes",
            "Bytes of committed entries that wait for the store",
            self.unwritten_bytes.clone(),
        );
        registry.register(
            "store_quarantined_entries",
            "Entries that the store refused and that were set aside: a person must look",
            self.quarantined.clone(),
        );
        registry.register(
            "store_write_retries",
            "Writes that the store did not take at once",
            self.write_retries.clone(),
        );
        registry.register(
            "partitions_owned",
            "Partitions this node owns",
            self.partitions_owned.clone(),
        );
        registry.register(
            "partition_hand_overs",
            "Partitions closed so that another node takes them",
            self.hand_overs.clone(),
        );
        registry.register(
            "partition_take_overs",
            "Partitions opened that their owner had not closed: it died, or was cut off",
            self.take_overs.clone(),
        );
        registry.register(
            "safe_watermark_lag_seconds",
            "How far the safe watermark is behind the clock, or behind the highest id if that is ahead; alert at 5",
            self.safe_watermark_lag_seconds.clone(),
        );
    }
}
