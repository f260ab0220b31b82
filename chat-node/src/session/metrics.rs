//! What sessions count.

use chat_protocol::Code;
use chat_protocol::admin::Handshakes;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::hub::Counters;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Transport {
    /// WebSocket.
    WebSocket,
    /// Server-sent events.
    Events,
    /// Poll and long poll.
    Poll,
}

/// Label: the transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByTransport {
    /// The transport.
    pub transport: Transport,
}

/// Label: what became of a cursor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// `new`, `resumed`, `reset`, or the code of a refusal.
    pub outcome: &'static str,
}

/// Label: why a connection was closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByClose {
    /// The close code's number.
    pub code: u16,
}

/// What sessions and their transports count. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Connections that stand now.
    pub connections: Family<ByTransport, Gauge>,
    /// Sessions begun, and hellos refused.
    pub hellos: Family<ByOutcome, Counter>,
    /// Connections closed by the server.
    pub closes: Family<ByClose, Counter>,
    /// Frames received from clients.
    pub frames_received: Counter,
    /// Frames written to clients.
    pub frames_sent: Counter,
    /// Inbox reads.
    pub inbox_reads: Counter,
    /// Inbox reads that the store did not answer.
    pub inbox_read_failures: Counter,
    /// Entries that an inbox read found and live delivery had not sent.
    pub entries_repaired: Counter,
    /// Sockets that this node ended without a `reconnect` frame and a close frame. Must be 0.
    pub abrupt_closes: Counter,
    /// Confirmed cursors left out because too many waited for the store.
    pub confirmations_dropped: Counter,
    /// The hub's.
    pub hub: Counters,
}

impl Metrics {
    /// Handshakes so far: sessions begun, and hellos that failed because of the server.
    pub fn handshakes(&self) -> Handshakes {
        let count =
            |outcome| self.hellos.get(&ByOutcome { outcome }).map_or(0, |counter| counter.get());
        let is_failure = |code: &&Code| code.http_status() >= 500 && **code != Code::Draining;
        Handshakes {
            accepted: ["new", "resumed", "reset"].into_iter().map(count).sum(),
            failed: Code::ALL.iter().filter(is_failure).map(|code| count(code.as_str())).sum(),
        }
    }

    /// Names them for the metrics endpoint.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Connections that stand", self.connections.clone());
        registry.register("hellos", "Sessions begun and refused, by outcome", self.hellos.clone());
        registry.register(
            "closes",
            "Connections closed by the server, by code",
            self.closes.clone(),
        );
        registry.register("frames_received", "Frames from clients", self.frames_received.clone());
        registry.register("frames_sent", "Frames to clients", self.frames_sent.clone());
        registry.register("inbox_reads", "Inbox reads", self.inbox_reads.clone());
        registry.register(
            "inbox_read_failures",
            "Inbox reads that the store did not answer",
            self.inbox_read_failures.clone(),
        );
        registry.register(
            "entries_repaired",
            "Inbox entries that live delivery had not sent",
            self.entries_repaired.clone(),
        );
        registry.register(
            "abrupt_closes",
            "Sockets ended without reconnect event and close frame; must be 0",
            self.abrupt_closes.clone(),
        );
        registry.register(
            "confirmations_dropped",
            "Confirmed cursors left out because too many waited for the store",
            self.confirmations_dropped.clone(),
        );
        registry.register(
            "deliveries",
            "Frames put into outboxes from the bus",
            self.hub.delivered.clone(),
        );
        registry.register(
            "deliveries_dropped",
            "Ephemeral frames and room batches left out for slow sockets",
            self.hub.dropped.clone(),
        );
        registry.register(
            "bodies_fetched",
            "Messages fetched because their body was too large for the bus",
            self.hub.fetched.clone(),
        );
        registry.register(
            "bodies_not_fetched",
            "Messages whose body was too large for the bus and could not be fetched in time",
            self.hub.unfetched.clone(),
        );
        registry.register(
            "deliveries_not_waiting",
            "Live frames left out because too much waited for messages that are fetched",
            self.hub.refused.clone(),
        );
        registry.register(
            "outbox_overflows",
            "Connections closed because chat overflowed their outbox",
            self.hub.overflowed.clone(),
        );
    }
}
