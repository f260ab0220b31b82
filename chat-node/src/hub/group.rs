//! The outboxes behind one subject: a handful for a user, any number for a room.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use chat_protocol::SessionId;

use super::outbox::Outbox;

/// A list is faster to walk and smaller; from here on, removing from one would be slow.
const LIST_MAX: usize = 16;

#[derive(Debug)]
pub(super) enum Group {
    Few(Vec<Arc<Outbox>>),
    Many(HashMap<SessionId, Arc<Outbox>, RandomState>),
}

impl Default for Group {
    fn default() -> Group {
        Group::Few(Vec::new())
    }
}

impl Group {
    pub(super) fn insert(&mut self, outbox: Arc<Outbox>) {
        match self {
            Group::Few(list) if list.len() < LIST_MAX => list.push(outbox),
            Group::Few(list) => {
                let mut map: HashMap<_, _, RandomState> =
                    list.drain(..).map(|outbox| (outbox.connection, outbox)).collect();
                map.insert(outbox.connection, outbox);
                *self = Group::Many(map);
            }
            Group::Many(map) => _ = map.insert(outbox.connection, outbox),
        }
    }

    pub(super) fn remove(&mut self, connection: SessionId) {
        match self {
            Group::Few(list) => list.retain(|outbox| outbox.connection != connection),
            Group::Many(map) => {
                map.remove(&connection);
                if map.is_empty() {
                    *self = Group::default();
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Group::Few(list) => list.is_empty(),
            Group::Many(map) => map.is_empty(),
        }
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&Arc<Outbox>)) {
        match self {
            Group::Few(list) => list.iter().for_each(visit),
            Group::Many(map) => map.values().for_each(visit),
        }
    }
}
