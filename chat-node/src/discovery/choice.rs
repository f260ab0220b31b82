//! Which node a client gets. Pure: randomness is an input.

use chat_protocol::NodeId;

use super::node::NodeDescription;
use super::{Pick, Region};

/// A node that takes clients, of the client's region if there is one there with room. Of two drawn at random the emptier
/// one: that spreads nearly as evenly as asking all, and many who ask at once, with the same old figures in hand, do not
/// all get the same node. Nodes without room only if there are no others. `None`: no node takes clients.
pub fn choose<'a>(
    nodes: &'a [NodeDescription],
    region: Option<&Region>,
    random: [u64; 2],
) -> Option<&'a NodeDescription> {
    let all: Vec<&NodeDescription> = nodes.iter().filter(|node| node.takes_clients()).collect();
    let with_room = |node: &&&NodeDescription| !node.load.is_full();
    let near = |node: &&&NodeDescription| region.is_some() && node.region.as_ref() == region;
    let groups: [Vec<&NodeDescription>; 3] = [
        all.iter().filter(near).filter(with_room).copied().collect(),
        all.iter().filter(with_room).copied().collect(),
        all,
    ];
    let group = groups.into_iter().find(|group| !group.is_empty())?;
    emptier_of_two(&group, random)
}

fn emptier_of_two<'a>(
    nodes: &[&'a NodeDescription],
    random: [u64; 2],
) -> Option<&'a NodeDescription> {
    let count = u64::try_from(nodes.len()).ok()?;
    let at = |index: u64| nodes.get(usize::try_from(index).ok()?).copied();
    let first = random[0] % count;
    if count == 1 {
        return at(first);
    }
    // One of the others, each as likely.
    let second = (first + 1 + random[1] % (count - 1)) % count;
    let (first, second) = (at(first)?, at(second)?);
    Some(if second.load.free_share() > first.load.free_share() { second } else { first })
}

/// Whether a client that was given this pick, and came to `own`, would be right elsewhere: another node is what was
/// picked, is there, and takes clients.
pub fn is_better_elsewhere(nodes: &[NodeDescription], own: NodeId, pick: &Pick) -> bool {
    let fits = |node: &NodeDescription| match (&pick.node, &pick.revision) {
        (Some(picked), _) => node.id == *picked,
        (None, Some(revision)) => node.revision.as_ref() == Some(revision),
        (None, None) => false,
    };
    let is_right_here = nodes.iter().any(|node| node.id == own && fits(node));
    let is_elsewhere = |node: &NodeDescription| {
        node.id != own && node.takes_clients() && !node.load.is_full() && fits(node)
    };
    !is_right_here && nodes.iter().any(is_elsewhere)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::node::tests::node;
    use super::super::{Load, Roles};
    use super::*;

    fn region(name: &str) -> Option<Region> {
        Region::parse(name)
    }

    fn loaded(number: u64, connections: u64) -> NodeDescription {
        NodeDescription { load: Load { connections, connections_max: 100 }, ..node(number) }
    }

    fn name(chosen: Option<&NodeDescription>) -> &str {
        chosen.map_or("none", |node| &node.name)
    }

    #[test]
    fn the_clients_region_comes_first_while_it_has_room() {
        let mut nodes: Vec<NodeDescription> = (0..6).map(node).collect();
        for near in &mut nodes[4..] {
            near.region = region("eu");
        }
        let eu = region("eu");
        for random in 0..50 {
            let chosen = choose(&nodes, eu.as_ref(), [random, random * 7]);
            assert!(["node-4", "node-5"].contains(&name(chosen)));
        }
        nodes[4].draining = true;
        nodes[5].load.connections = 100;
        let far = choose(&nodes, eu.as_ref(), [3, 1]);
        assert!(far.is_some_and(|node| node.region.is_none()), "better far away than not at all");
        assert!(choose(&nodes, region("mars").as_ref(), [0, 0]).is_some());
    }

    #[test]
    fn a_full_node_gets_clients_only_if_all_are_full_and_a_leaving_one_never() {
        let nodes = [loaded(0, 100), loaded(1, 99), loaded(2, 100)];
        for random in 0..9 {
            assert_eq!(name(choose(&nodes, None, [random, random / 3])), "node-1");
        }
        let full = [loaded(0, 100), NodeDescription { draining: true, ..node(1) }];
        assert_eq!(name(choose(&full, None, [1, 1])), "node-0");
        let without = NodeDescription { roles: Roles::parse("api,partitions").unwrap(), ..node(0) };
        assert_eq!(choose(&[without], None, [0, 0]), None);
        assert_eq!(choose(&[], None, [0, 0]), None);
    }

    #[test]
    fn ten_thousand_clients_with_old_figures_do_not_all_go_to_the_emptiest_node() {
        let nodes: Vec<NodeDescription> = (0..10).map(|n| loaded(n, n * 10)).collect();
        let mut counts = [0; 10];
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..10_000 {
            let drawn = [random.random(), random.random()];
            let chosen = choose(&nodes, None, drawn).unwrap();
            counts[nodes.iter().position(|node| node.id == chosen.id).unwrap()] += 1;
        }
        // Of two different ones out of ten the emptiest wins whenever it is drawn: in a fifth of all draws.
        assert!((1_800..2_200).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[9], 0, "the fullest never wins: {counts:?}");
        assert!(counts.windows(2).all(|pair| pair[0] + 100 > pair[1]), "{counts:?}");
    }

    #[test]
    fn a_pick_of_a_revision_is_right_at_every_node_of_it() {
        let of = |number, revision: &str| NodeDescription {
            revision: Some(revision.to_owned()),
            ..node(number)
        };
        let nodes = [of(1, "blue"), of(2, "green"), of(3, "green")];
        let green = Pick { node: None, revision: Some("green".to_owned()), generation: None };
        assert!(is_better_elsewhere(&nodes, nodes[0].id, &green));
        assert!(!is_better_elsewhere(&nodes, nodes[1].id, &green));
        let red = Pick { node: None, revision: Some("red".to_owned()), generation: None };
        assert!(!is_better_elsewhere(&nodes, nodes[0].id, &red), "nobody is of that revision");
        let nothing = Pick { node: None, revision: None, generation: None };
        assert!(!is_better_elsewhere(&nodes, nodes[0].id, &nothing));
        let full = [nodes[0].clone(), loaded(2, 100)];
        let second = Pick { node: Some(full[1].id), revision: None, generation: None };
        assert!(!is_better_elsewhere(&full, full[0].id, &second), "it would be refused there");
    }

    proptest! {
        #[test]
        fn whoever_takes_clients_can_be_chosen_and_nobody_else_is(
            draining in proptest::collection::vec(any::<bool>(), 0..12),
            connections in proptest::collection::vec(0_u64..120, 12),
            random in any::<[u64; 2]>(),
        ) {
            let nodes: Vec<NodeDescription> = draining
                .iter()
                .zip(&connections)
                .enumerate()
                .map(|(n, (&draining, &taken))| NodeDescription { draining, ..loaded(n as u64, taken) })
                .collect();
            let chosen = choose(&nodes, None, random);
            let takers = nodes.iter().filter(|node| node.takes_clients());
            prop_assert_eq!(chosen.is_some(), takers.clone().count() > 0);
            let is_room = takers.clone().any(|node| !node.load.is_full());
            prop_assert!(chosen.is_none_or(|node| !node.draining && node.load.is_full() != is_room));
        }
    }
}
