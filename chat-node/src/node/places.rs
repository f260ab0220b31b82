//! Where clients should be: this node, and the others as membership knows them.

use std::sync::Arc;

use chat_protocol::NodeId;

use crate::auth::KeyRing;
use crate::config::Config;
use crate::discovery::{Directory, Load, NodeDescription, Region, Role, Roles};
use crate::membership::{Membership, NodeEntry};

/// The host at which clients reach this node and no other.
pub(super) fn advertised_host(config: &Config) -> Option<String> {
    let template = config.advertise_host_template.as_ref()?;
    template.fill(&config.node_name, config.region.as_ref())
}

/// What discovery picks from.
pub(super) fn directory(
    config: &Config,
    own: NodeId,
    membership: Option<Arc<Membership>>,
    keys: Arc<KeyRing>,
) -> Directory {
    if let Some(membership) = membership {
        let generation = membership.clone();
        let nodes = move || membership.nodes().into_iter().filter_map(description).collect();
        return Directory::new(own, nodes, keys)
            .with_generation(move || generation.owner_revision().generation);
    }
    let node = NodeDescription {
        name: config.node_name.clone(),
        region: config.region.clone(),
        host: advertised_host(config),
        revision: config.revision.clone(),
        roles: config.roles,
        ..NodeDescription::alone(own)
    };
    Directory::new(own, move || vec![node.clone()], keys)
}

/// A node as clients are concerned with it. `None`: it has none of the roles that this node knows.
fn description(entry: NodeEntry) -> Option<NodeDescription> {
    Some(NodeDescription {
        id: entry.node,
        name: entry.name,
        region: entry.region.as_deref().and_then(Region::parse),
        host: entry.address,
        // A newer node may have a role that this one does not know.
        roles: Roles::of(entry.roles.iter().filter_map(|name| Role::named(name)))?,
        revision: Some(entry.revision).filter(|revision| !revision.is_empty()),
        load: Load { connections: entry.connections, connections_max: entry.capacity },
        draining: entry.draining || entry.prepared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(roles: &[&str]) -> NodeEntry {
        NodeEntry {
            node: NodeId::random(),
            start: 1,
            name: "node-1".to_owned(),
            address: Some("node-1.example.org".to_owned()),
            region: Some("eu".to_owned()),
            revision: String::new(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            connections: 3,
            capacity: 10,
            owns: true,
            draining: true,
            prepared: false,
            counter: 7,
        }
    }

    #[test]
    fn a_node_is_described_by_what_it_tells_of_itself() {
        let found = description(entry(&["gateway", "a role of next year"])).unwrap();
        assert_eq!(Some(found.roles), Roles::parse("gateway"));
        assert_eq!(found.load, Load { connections: 3, connections_max: 10 });
        assert_eq!((found.region, found.revision), (Region::parse("eu"), None));
        assert!(found.draining);
        assert_eq!(description(entry(&[])), None);
    }
}
