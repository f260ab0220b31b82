//! What the operator says to chat nodes and hears from them, on their admin port.

mod http;

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::limits;
use crate::rollout::{Action, View};

pub use http::HttpNodes;

/// A pod that can be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
}

impl Peer {
    /// Where it is asked; an IPv6 address stands in brackets.
    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        let address = &self.address;
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        format!("http://{host}:{port}/{path}")
    }
}

/// A client of pods: an answer comes in time or not at all, and none sends it elsewhere.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(limits::NODE_ANSWER)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// The nodes of a platform. Everything may be said twice, and an answer may be missing. Of the tokens each node has one: a
/// node that refuses the first is shown the next.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Asks each node how it is. A node that does not answer in time is [`View::Unknown`].
    async fn ask(&self, peers: &[Peer], tokens: &[String]) -> BTreeMap<String, View>;

    /// Says what to do. `epoch` is the operator's: nodes refuse a lower one than they have heard. The error says which
    /// nodes did not take it; they are told again in the next pass.
    async fn tell(
        &self,
        peers: &[Peer],
        tokens: &[String],
        epoch: i64,
        actions: &[Action],
    ) -> Result<(), String>;
}
