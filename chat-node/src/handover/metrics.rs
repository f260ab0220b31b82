//! Figures of rollouts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ledger::{Ledger, Totals};

/// Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    asked: Counter,
    acknowledged: Counter,
    counted: Counter,
    resumed: Counter,
    here: Gauge,
    batch: Gauge,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("drain_asked", "Clients asked to connect elsewhere", &self.asked),
            (
                "drain_acknowledged",
                "Of these, left by themselves or answered the close frame",
                &self.acknowledged,
            ),
            (
                "drain_counted",
                "Lineages that were active when they were asked, and have acknowledged",
                &self.counted,
            ),
            (
                "drain_resumed",
                "Of these, back on any node within 60 seconds after their delay",
                &self.resumed,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("drain_here", "Clients asked that are still here", self.here.clone());
        registry.register("drain_batch", "Newest batch granted; 0 for none", self.batch.clone());
    }

    /// Shows what the ledger says.
    pub(super) fn show(&self, ledger: &Ledger) {
        let Totals { asked, acknowledged, counted, resumed } = ledger.totals();
        let rises =
            |counter: &Counter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        rises(&self.asked, asked);
        rises(&self.acknowledged, acknowledged);
        rises(&self.counted, counted);
        rises(&self.resumed, resumed);
        self.here.set(ledger.here() as i64);
        self.batch.set(ledger.batches().last().map_or(0, |batch| i64::from(batch.batch)));
    }
}
