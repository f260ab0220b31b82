//! Service discovery: which node a client should connect to.
//!
//! [`choice`] decides, from what the nodes tell of themselves ([`node`]) and where the client is ([`region`]). The pick
//! travels in a [`token`], so that a client which ends up elsewhere is sent on, once.

pub mod choice;
pub mod host;
pub mod node;
mod redirect;
pub mod region;
pub mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chat_protocol::admin::Target;
use chat_protocol::{DeviceId, Millis, NodeId};

pub use host::HostTemplate;
pub use node::{Load, NodeDescription, Role, Roles};
pub use region::{Region, RegionNetwork};
pub use token::Pick;

use crate::auth::KeyRing;
use redirect::Redirects;

/// Life of a pick's token.
pub const TOKEN_LIFE_MS: u64 = 300_000;

/// What this node knows of where clients should be.
pub struct Directory {
    own: NodeId,
    nodes: Box<dyn Fn() -> Vec<NodeDescription> + Send + Sync>,
    keys: Arc<KeyRing>,
    redirects: Redirects,
    /// The newest generation heard of.
    generation: AtomicU64,
    platform_generation: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The answer to "where should I connect?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The node.
    pub node: NodeDescription,
    /// Proves the pick. Only for a node with an address of its own: behind a shared one a client cannot choose.
    pub token: Option<String>,
}

impl Directory {
    /// A directory of the nodes that `nodes` tells of, this one among them.
    pub fn new(
        own: NodeId,
        nodes: impl Fn() -> Vec<NodeDescription> + Send + Sync + 'static,
        keys: Arc<KeyRing>,
    ) -> Directory {
        Directory {
            own,
            nodes: Box::new(nodes),
            keys,
            redirects: Redirects::default(),
            generation: AtomicU64::new(0),
            platform_generation: Box::new(|| 0),
        }
    }

    /// The same; `generation` tells the one that counts on the platform.
    pub fn with_generation(
        self,
        generation: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Directory {
        Directory { platform_generation: Box::new(generation), ..self }
    }

    /// A directory of one node that knows no others; for tests and for the document.
    pub fn alone() -> Directory {
        let node = NodeDescription::alone(NodeId::random());
        Directory::new(node.id, move || vec![node.clone()], Arc::new(KeyRing::random()))
    }

    /// A node for a client in this region, or anywhere. `None`: every node is leaving.
    pub fn answer(&self, region: Option<&Region>, now: Millis) -> Option<Answer> {
        let nodes = (self.nodes)();
        let random = [rand::random(), rand::random()];
        let node = choice::choose(&nodes, region, random)?.clone();
        let pick = Pick { node: Some(node.id), revision: None, generation: None };
        let token =
            node.host.as_ref().and_then(|_| token::sign(&self.keys, &pick, now, TOKEN_LIFE_MS));
        Some(Answer { node, token })
    }

    /// A token that says: at any node of this revision. `None`: its name is too long.
    pub fn token_to(&self, target: &Target, now: Millis) -> Option<String> {
        self.generation.fetch_max(target.generation, Ordering::Relaxed);
        let pick = Pick {
            node: None,
            revision: Some(target.revision.clone()),
            generation: Some(target.generation),
        };
        token::sign(&self.keys, &pick, now, TOKEN_LIFE_MS)
    }

    /// Whether a device that came with this token should go to another node first. A token that is expired, forged, or of
    /// an older generation says nothing: it is a preference, not a right.
    pub fn should_redirect(&self, token: &str, device: DeviceId, now: Millis) -> bool {
        let Some(pick) = token::verify(&self.keys, token, now) else { return false };
        let heard = self.generation.fetch_max((self.platform_generation)(), Ordering::Relaxed);
        let known = heard.max((self.platform_generation)());
        if pick.generation.is_some_and(|generation| generation < known) {
            return false;
        }
        let nodes = (self.nodes)();
        choice::is_better_elsewhere(&nodes, self.own, &pick) && self.redirects.first(device, now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::node::tests::node;
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn addressed(number: u64) -> NodeDescription {
        NodeDescription { host: Some(format!("node-{number}.example.org")), ..node(number) }
    }

    type Told = Arc<Mutex<Vec<NodeDescription>>>;

    fn directories() -> (Directory, Directory, Told) {
        let nodes: Vec<NodeDescription> = [1, 2].map(addressed).into();
        let told = Arc::new(Mutex::new(nodes.clone()));
        let keys = Arc::new(KeyRing::random());
        let directory = |own| {
            let told = told.clone();
            Directory::new(own, move || told.lock().unwrap().clone(), keys.clone())
        };
        (directory(nodes[0].id), directory(nodes[1].id), told)
    }

    #[test]
    fn a_client_at_the_wrong_node_is_sent_on_once_and_then_served() {
        let (one, two, _told) = directories();
        let answer = one.answer(None, NOW).unwrap();
        let (right, wrong) = if answer.node.id == one.own { (&one, &two) } else { (&two, &one) };
        let device = DeviceId::random();
        let token = answer.token.unwrap();
        assert!(!right.should_redirect(&token, device, NOW));
        assert!(wrong.should_redirect(&token, device, NOW));
        assert!(!wrong.should_redirect(&token, device, NOW), "once");
        assert!(wrong.should_redirect(&token, DeviceId::random(), NOW));
        let late = NOW.plus(TOKEN_LIFE_MS);
        assert!(!wrong.should_redirect(&token, DeviceId::random(), late), "it expired");
        assert!(!wrong.should_redirect("forged", DeviceId::random(), NOW));
    }

    #[test]
    fn behind_a_shared_address_there_is_nothing_to_tie_a_client_to() {
        assert_eq!(Directory::alone().answer(None, NOW).unwrap().token, None);
    }

    #[test]
    fn nobody_is_sent_to_a_node_that_leaves_or_is_gone() {
        let (one, two, told) = directories();
        let answer = one.answer(None, NOW).unwrap();
        let token = answer.token.clone().unwrap();
        let wrong = if answer.node.id == one.own { &two } else { &one };
        let leaving = |draining: bool, gone: bool| {
            let kept =
                [1, 2].map(addressed).into_iter().filter(|n| !gone || n.id != answer.node.id);
            kept.map(|n| NodeDescription { draining: draining && n.id == answer.node.id, ..n })
                .collect::<Vec<_>>()
        };
        for (draining, gone) in [(true, false), (false, true)] {
            *told.lock().unwrap() = leaving(draining, gone);
            assert!(!wrong.should_redirect(&token, DeviceId::random(), NOW));
            assert_eq!(wrong.answer(None, NOW).unwrap().node.id, wrong.own);
        }
        told.lock().unwrap().clear();
        assert_eq!(one.answer(None, NOW), None);
    }
}
