//! What nodes tell the owner of a presence partition, and how it gets there.

use async_trait::async_trait;
use chat_broker::RequestError;
use chat_protocol::frame::Presence;
use chat_protocol::{NodeId, Partition, SessionId, UserId};
use serde::{Deserialize, Serialize};

/// Entries of one announcement. At about 100 bytes an entry as JSON this is far below a broker's limit of 1 MiB.
pub const ANNOUNCEMENT_ENTRIES_MAX: usize = 2_000;

/// Users of one snapshot command.
pub const SNAPSHOT_USERS_MAX: usize = 2_000;

/// Said or asked to the owner of a presence partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceCommand {
    /// What changed among a node's connections, or that the node is still there. Answer: [`PresenceReply::Heard`].
    Announce(Announcement),
    /// Asks for the presence of users of this partition. Answer: [`PresenceReply::Snapshot`].
    Snapshot {
        /// Whose.
        users: Vec<UserId>,
    },
}

/// What the owner answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceReply {
    /// Taken in.
    Heard {
        /// The owner's epoch. A node that sees it rise announces everything again.
        epoch: u64,
        /// `false`: the owner knows other connections of the node than the announcement's digest says.
        in_step: bool,
    },
    /// Nothing was done: this node does not own the partition, or no longer, or not yet.
    Moved,
    /// Presence of the users asked for. Those the owner knows nothing of are left out: they are offline.
    Snapshot {
        /// The owner's epoch.
        epoch: u64,
        /// As the owner knows them.
        users: Vec<Presence>,
    },
}

/// A node's word about its connections of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Who says it.
    pub node: NodeId,
    /// Grows with every announcement of this node for this partition; the owner passes over what arrives late.
    pub number: u64,
    /// Highest epoch the node has heard; an owner with a lower one has been replaced.
    pub epoch: u64,
    /// A change, or part of the whole.
    pub scope: Scope,
    /// Connections that stand.
    pub arrived: Vec<Arrived>,
    /// Connections that ended. Taken in after `arrived`.
    pub departed: Vec<Departed>,
    /// All the node's connections of the partition once this is taken in, if the node has nothing more to say.
    pub digest: Option<Digest>,
}

/// What an announcement covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// What changed.
    Change,
    /// A part of all that stands. Connections that no part names have ended, once the last part is taken in.
    Whole {
        /// The first part.
        first: bool,
        /// The last part.
        last: bool,
    },
}

/// A connection that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub connection: SessionId,
    /// Never acknowledged by an owner: the user connects now.
    pub new: bool,
}

/// A connection that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub connection: SessionId,
}

/// A set of connections in a few bytes. Connection ids are random, so a set that differs has another digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    count: u64,
    mixed: u64,
}

impl Digest {
    /// Takes in a connection that was not in the set.
    pub fn add(&mut self, connection: SessionId) {
        self.count += 1;
        self.mixed ^= fold(connection);
    }

    /// Takes out a connection that was in the set.
    pub fn remove(&mut self, connection: SessionId) {
        self.count -= 1;
        self.mixed ^= fold(connection);
    }
}

fn fold(connection: SessionId) -> u64 {
    let (high, low) = connection.0.as_u64_pair();
    high ^ low
}

/// The way to the owner of a partition, wherever it is.
#[async_trait]
pub trait Route: Send + Sync {
    /// Hands a command to the partition's owner: a call if this node owns it, else a request on the bus.
    async fn send(
        &self,
        partition: Partition,
        command: PresenceCommand,
    ) -> Result<PresenceReply, RequestError>;
}
