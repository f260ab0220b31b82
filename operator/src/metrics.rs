//! The operator's own metrics.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Label of passes.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ResultLabel {
    /// `ok`, or the class of the error.
    pub result: &'static str,
}

/// Label of writes.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct KindLabel {
    /// Kind of the object.
    pub kind: String,
    /// `write`, `repair`, `delete` or `status`.
    pub what: &'static str,
}

/// Metrics, registered once.
#[derive(Clone)]
pub struct Metrics {
    /// Passes by result.
    pub passes: Family<ResultLabel, Counter>,
    /// How long a pass takes.
    pub duration: Histogram,
    /// Objects written.
    pub writes: Family<KindLabel, Counter>,
    /// The fencing epoch; 0 while this process does not lead.
    pub epoch: Gauge,
    /// Time of the last pass that went well.
    pub last_pass: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            passes: Family::default(),
            duration: Histogram::new(exponential_buckets(0.005, 2.0, 12)),
            writes: Family::default(),
            epoch: Gauge::default(),
            last_pass: Gauge::default(),
        };
        registry.register("operator_passes", "Passes, by result", metrics.passes.clone());
        registry.register_with_unit(
            "operator_pass_duration",
            "Time of a pass",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("operator_writes", "Objects written", metrics.writes.clone());
        registry.register(
            "operator_epoch",
            "Fencing epoch of the lease; 0 while another process leads",
            metrics.epoch.clone(),
        );
        registry.register_with_unit(
            "operator_last_pass_timestamp",
            "Time of the last pass that went well",
            Unit::Seconds,
            metrics.last_pass.clone(),
        );
        metrics
    }

    pub(crate) fn pass(&self, result: &'static str, took: Duration) {
        self.passes.get_or_create(&ResultLabel { result }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn write(&self, kind: &str, what: &'static str) {
        self.writes.get_or_create(&KindLabel { kind: kind.to_owned(), what }).inc();
    }
}
