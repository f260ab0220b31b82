//! Publications: as many as there is room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::bus::{Addresses, Losses};
use super::connection::Connection;
use super::options::NatsOptions;
use super::outgoing::Item;
use crate::Subject;

/// Counted for each subject of a publication.
const SUBJECT_BYTES: usize = 64;

pub(super) struct Publisher {
    connection: Connection,
    addresses: Addresses,
    /// Bytes that may wait to be sent.
    room: Arc<Semaphore>,
    losses: Arc<Losses>,
    /// Whether the last publication was dropped; told of once.
    dropping: AtomicBool,
}

impl Publisher {
    pub(super) fn new(
        connection: &Connection,
        addresses: Addresses,
        options: &NatsOptions,
        losses: Arc<Losses>,
    ) -> Publisher {
        let room = options.publications_bytes_max.clamp(1, Semaphore::MAX_PERMITS);
        Publisher {
            connection: connection.clone(),
            addresses,
            room: Arc::new(Semaphore::new(room)),
            losses,
            dropping: AtomicBool::new(false),
        }
    }

    /// Never waits: what does not fit is dropped and counted.
    pub(super) fn publish(&self, subjects: &[Subject], payload: Bytes) {
        if subjects.is_empty() {
            return;
        }
        if payload.len() > self.connection.client.max_payload() {
            self.lost(subjects);
            tracing::warn!(bytes = payload.len(), "a publication is larger than NATS takes");
            return;
        }
        let queued = self.try_queue(subjects, payload);
        if !queued {
            self.lost(subjects);
        }
        let was_dropping = self.dropping.swap(!queued, Ordering::Relaxed);
        if !queued && !was_dropping {
            tracing::warn!("publications come faster than NATS takes them; some are dropped");
        }
    }

    fn lost(&self, subjects: &[Subject]) {
        self.losses.publications.fetch_add(subjects.len() as u64, Ordering::Relaxed);
    }

    fn try_queue(&self, subjects: &[Subject], payload: Bytes) -> bool {
        let bytes = payload.len() + subjects.len() * SUBJECT_BYTES;
        let Ok(bytes) = u32::try_from(bytes) else { return false };
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        let subjects = subjects.iter().map(|subject| self.addresses.publications(subject));
        self.connection.outgoing.try_send(Item::Message {
            subjects: subjects.collect(),
            headers: HeaderMap::new(),
            payload,
            room: Some(room),
        })
    }
}
