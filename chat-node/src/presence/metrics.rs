//! What an operator sees of presence.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Presence in numbers. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) connections: Gauge,
    pub(super) online_users: Gauge,
    pub(super) transitions: Counter,
    pub(super) announced_again: Counter,
    pub(super) failed_announcements: Counter,
    pub(super) unwritten: Gauge,
    pub(super) dropped: Counter,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("presence");
        registry.register(
            "connections",
            "Connections of this node that count as online",
            self.connections.clone(),
        );
        registry.register(
            "online_users",
            "Users online whose presence this node owns",
            self.online_users.clone(),
        );
        registry.register(
            "transitions",
            "Users who came or went, decided by this node",
            self.transitions.clone(),
        );
        registry.register(
            "reannouncements",
            "Partitions whose connections this node announced again",
            self.announced_again.clone(),
        );
        registry.register(
            "failed_announcements",
            "Announcements that no owner took in",
            self.failed_announcements.clone(),
        );
        registry.register(
            "unwritten_users",
            "Users whose presence waits for the store",
            self.unwritten.clone(),
        );
        registry.register(
            "dropped",
            "Writes and notices of presence left out because too many waited",
            self.dropped.clone(),
        );
    }
}
