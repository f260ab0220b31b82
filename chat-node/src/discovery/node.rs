//! What a node tells of itself, as far as a client's way to it is concerned.

use std::fmt;

use chat_protocol::NodeId;

use super::Region;

/// A part of the node's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Accounts, friends, conversations and history over HTTP.
    Api,
    /// Sockets, events and polls.
    Gateway,
    /// Owning partitions.
    Partitions,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::Api, Role::Gateway, Role::Partitions];

    /// The role with this name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Api => "api",
            Role::Gateway => "gateway",
            Role::Partitions => "partitions",
        }
    }
}

/// What a node does: at least one role.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Everything.
    pub const ALL: Roles = Roles(0b111);

    /// These roles. `None`: there are none.
    pub fn of(roles: impl IntoIterator<Item = Role>) -> Option<Roles> {
        let bits = roles.into_iter().fold(0, |bits, role| bits | 1 << role as u8);
        (bits != 0).then_some(Roles(bits))
    }

    /// Names of roles with commas between them. `None`: one is not known, or there are none.
    pub fn parse(text: &str) -> Option<Roles> {
        let named = |name: &str| Role::named(name.trim());
        Roles::of(text.split(',').map(named).collect::<Option<Vec<Role>>>()?)
    }

    /// Whether this role is among them.
    pub fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Role::ALL.into_iter().filter(|role| self.has(*role)).map(Role::as_str).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

/// How full a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Connections that stand.
    pub connections: u64,
    /// Connections that it takes.
    pub connections_max: u64,
}

impl Load {
    /// Free places, in parts of a million: nodes of different sizes fill up evenly.
    pub fn free_share(self) -> u64 {
        let free = self.connections_max.saturating_sub(self.connections);
        match self.connections_max {
            0 => 0,
            all => u64::try_from(u128::from(free) * 1_000_000 / u128::from(all)).unwrap_or(0),
        }
    }

    /// Whether one more connection would be refused.
    pub fn is_full(self) -> bool {
        self.connections >= self.connections_max
    }
}

/// A node, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescription {
    /// Of this start of its process.
    pub id: NodeId,
    /// Its name in the answer.
    pub name: String,
    /// Where it is.
    pub region: Option<Region>,
    /// The host, and perhaps the port, at which clients reach this node and no other. `None`: only the platform's address
    /// is known.
    pub host: Option<String>,
    /// What it does.
    pub roles: Roles,
    /// Version of the program and its configuration that it belongs to.
    pub revision: Option<String>,
    /// How full it is.
    pub load: Load,
    /// It is leaving, or about to.
    pub draining: bool,
}

impl NodeDescription {
    /// A node by itself, of which nothing else is known.
    pub fn alone(id: NodeId) -> NodeDescription {
        NodeDescription {
            id,
            name: "chat-node".to_owned(),
            region: None,
            host: None,
            roles: Roles::ALL,
            revision: None,
            load: Load { connections: 0, connections_max: u64::MAX },
            draining: false,
        }
    }

    /// Whether new clients may be sent there.
    pub fn takes_clients(&self) -> bool {
        self.roles.has(Role::Gateway) && !self.draining
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node of 100 places, 50 of them taken.
    pub(in crate::discovery) fn node(number: u64) -> NodeDescription {
        NodeDescription {
            name: format!("node-{number}"),
            load: Load { connections: 50, connections_max: 100 },
            ..NodeDescription::alone(NodeId(uuid::Uuid::from_u128(u128::from(number))))
        }
    }

    #[test]
    fn roles_are_read_by_name_and_an_unknown_one_is_refused() {
        assert_eq!(Roles::parse("api,gateway,partitions"), Some(Roles::ALL));
        let split = Roles::parse("gateway, api").unwrap();
        assert_eq!(split.to_string(), "api,gateway");
        assert!(!split.has(Role::Partitions));
        for text in ["", ",", "api,", "push", "API", "api gateway"] {
            assert_eq!(Roles::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn nodes_of_different_sizes_are_compared_by_their_free_share() {
        let share =
            |connections, connections_max| Load { connections, connections_max }.free_share();
        assert_eq!((share(0, 10), share(5, 10), share(10, 10)), (1_000_000, 500_000, 0));
        assert_eq!((share(11, 10), share(0, 0)), (0, 0));
        assert!(share(900, 1_000_000) > share(9, 1_000));
        assert_eq!(share(0, u64::MAX), 1_000_000);
    }
}
