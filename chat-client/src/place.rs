//! Where to connect: the node that service discovery picked, or the configured address. Pure.

use chat_protocol::api::Discovery;

/// Where the next attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) websocket_url: String,
    /// Goes into `hello`, so that a node can tell whether this client is right there.
    pub(crate) discovery_token: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Place {
    configured: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is known, or what was known is over.
    Ask,
    /// One attempt at this node.
    Picked(Target),
    /// One attempt at the configured address: discovery is away, or the node that it named.
    FallBack,
    /// There is nothing to pick from: every node has the configured address.
    Shared { until_ms: u64 },
}

impl Place {
    /// Discovery has not been asked yet.
    pub(crate) fn new(configured: String) -> Place {
        Place { configured, state: State::Ask }
    }

    /// Whether to ask discovery before the next attempt.
    pub(crate) fn should_ask(&self, now_ms: u64) -> bool {
        match self.state {
            State::Ask => true,
            State::Shared { until_ms } => now_ms >= until_ms,
            State::Picked(_) | State::FallBack => false,
        }
    }

    /// Discovery has answered; `None`: it has not, in good time.
    pub(crate) fn answered(&mut self, answer: Option<Discovery>, now_ms: u64) {
        self.state = match answer {
            None => State::FallBack,
            Some(Discovery { websocket_url, discovery_token: Some(token), .. }) => {
                State::Picked(Target { websocket_url, discovery_token: Some(token) })
            }
            Some(Discovery { valid_for_ms, .. }) => {
                State::Shared { until_ms: now_ms.saturating_add(valid_for_ms) }
            }
        };
    }

    /// Where the attempt goes.
    pub(crate) fn target(&self) -> Target {
        match &self.state {
            State::Picked(target) => target.clone(),
            State::Ask | State::FallBack | State::Shared { .. } => {
                Target { websocket_url: self.configured.clone(), discovery_token: None }
            }
        }
    }

    /// The attempt, or the connection that it became, ended. `reached`: a node has answered.
    pub(crate) fn ended(&mut self, reached: bool) {
        self.state = match self.state {
            State::Picked(_) if !reached => State::FallBack,
            State::Shared { until_ms } => State::Shared { until_ms },
            State::Picked(_) | State::FallBack | State::Ask => State::Ask,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(url: &str, token: Option<&str>) -> Option<Discovery> {
        Some(Discovery {
            url: "http://unused".into(),
            websocket_url: url.into(),
            node: "node-1".into(),
            region: None,
            discovery_token: token.map(Into::into),
            valid_for_ms: 1_000,
        })
    }

    fn target(url: &str, token: Option<&str>) -> Target {
        Target { websocket_url: url.into(), discovery_token: token.map(Into::into) }
    }

    #[test]
    fn the_picked_node_gets_its_token_and_after_its_loss_discovery_is_asked_again() {
        let mut place = Place::new("configured".into());
        assert!(place.should_ask(0));
        place.answered(answer("one", Some("token")), 0);
        assert!(!place.should_ask(0));
        assert_eq!(place.target(), target("one", Some("token")));
        place.ended(true);
        assert!(place.should_ask(1));
    }

    #[test]
    fn a_node_that_cannot_be_reached_is_passed_over_once() {
        let mut place = Place::new("configured".into());
        place.answered(answer("one", Some("token")), 0);
        place.ended(false);
        assert!(!place.should_ask(1));
        assert_eq!(place.target(), target("configured", None));
        place.ended(false);
        assert!(place.should_ask(2));
    }

    #[test]
    fn without_discovery_the_configured_address_is_tried_and_then_discovery_again() {
        let mut place = Place::new("configured".into());
        place.answered(None, 0);
        assert_eq!(place.target(), target("configured", None));
        place.ended(true);
        assert!(place.should_ask(1));
    }

    #[test]
    fn behind_one_address_there_is_nothing_to_pick_and_nothing_to_ask_for_a_while() {
        let mut place = Place::new("configured".into());
        place.answered(answer("as the request said", None), 5);
        assert_eq!(place.target(), target("configured", None));
        place.ended(true);
        place.ended(false);
        assert!(!place.should_ask(1_004));
        assert!(place.should_ask(1_005));
    }
}
