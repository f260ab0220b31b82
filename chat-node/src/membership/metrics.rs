//! Figures of the node's membership.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Gauges; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Since the last renewal of the node's lease.
    pub lease_age_seconds: Gauge<f64, AtomicU64>,
    /// How far the node's clock is ahead of the broker's.
    pub clock_offset_seconds: Gauge<f64, AtomicU64>,
    /// Nodes that are alive.
    pub nodes_alive: Gauge,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "lease_age_seconds",
            "Time since the last renewal of the node's lease began; at 3 the node stops owning",
            self.lease_age_seconds.clone(),
        );
        registry.register(
            "clock_offset_seconds",
            "How far the node's clock is ahead of the broker's, at least; beyond 2 the node owns nothing",
            self.clock_offset_seconds.clone(),
        );
        registry.register(
            "nodes_alive",
            "Nodes that are alive, this one included",
            self.nodes_alive.clone(),
        );
    }
}
