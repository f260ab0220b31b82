//! Addresses on the bus.

use std::fmt;

use chat_protocol::{ConversationId, NodeId, Partition, UserId};

/// Where something on the bus goes to. As text this is the NATS subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Everything for one user; interest is held by the nodes where they are connected.
    User(UserId),
    /// Everything for the audience of a live room.
    Room(ConversationId),
    /// Commands to the owner of a partition.
    Partition(Partition),
    /// Things for one node.
    Node(NodeId),
    /// Things for every node: devices that were logged out.
    Nodes,
    /// Watermarks of all owners, and the probes they echo.
    Watermarks,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(id) => write!(f, "user.{id}"),
            Subject::Room(id) => write!(f, "room.{id}"),
            Subject::Partition(partition) => write!(f, "partition.{partition}"),
            Subject::Node(id) => write!(f, "node.{id}"),
            Subject::Nodes => f.write_str("nodes"),
            Subject::Watermarks => f.write_str("watermarks"),
        }
    }
}
