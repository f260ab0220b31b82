//! People on a platform while something happens to it, and what they have to see in the end.

use std::time::Duration;

use cluster::crowd::{Crowd, CrowdOptions, seed};
use cluster::log::Entry;
use crds::{ChatClusterSpec, HistoryEntry};

use crate::{PATIENCE, Platform, Space};

/// Bounded, so that it ends in CI on two processors. One of ten polls.
pub const SOME: CrowdOptions =
    CrowdOptions { users: 20, devices: 10, groups: 10, pause_ms: 1000, polls_every: 10 };

/// Nobody is without service for longer.
const GAP_MAX: Duration = Duration::from_secs(5);

/// No message is under way for longer, also on a machine that is busy with other things.
const DELIVERY_MAX: Duration = Duration::from_secs(30);

/// A platform, people on it, and what they have to see in the end.
pub struct Roll {
    /// The platform.
    pub platform: Platform,
    /// The people.
    pub crowd: Crowd,
    /// When everybody had connected, for [`Crowd::service`].
    pub since_ms: u64,
    /// Entries of the history before anything was changed: the installation.
    ended: usize,
}

impl Roll {
    /// Makes a platform and lets people chat on it.
    pub async fn start(
        space: &Space,
        scenario: &str,
        spec: ChatClusterSpec,
        people: CrowdOptions,
    ) -> Roll {
        Roll::on(Platform::start(space, spec).await, scenario, people).await
    }

    /// Lets people chat on a platform that is ready.
    pub async fn on(platform: Platform, scenario: &str, people: CrowdOptions) -> Roll {
        let api = chat_client::Api::new(&platform.url().await).expect("an address");
        let crowd = Crowd::start(scenario, seed(), api, people).await;
        crowd.until_more(20, PATIENCE).await;
        let since_ms = crowd.now_ms();
        let ended = platform.status().await.history.len();
        Roll { platform, crowd, since_ms, ended }
    }

    /// Says, and takes down, what is done.
    pub fn note(&self, fault: &str) {
        println!("{:>6} ms {fault}", self.crowd.now_ms() - self.since_ms);
        self.crowd.note(Entry::Fault { fault: fault.to_owned() });
    }

    /// Waits for the end of so many rollouts, and returns the history without what was there before.
    pub async fn until_ended(&self, rollouts: usize) -> Vec<HistoryEntry> {
        let mut history = self.platform.until_ended(self.ended + rollouts).await;
        history.truncate(history.len() - self.ended);
        history
    }

    /// Waits for the end of so many rollouts, and checks what people saw.
    pub async fn finish(self, rollouts: usize) -> Vec<HistoryEntry> {
        let history = self.until_ended(rollouts).await;
        self.platform.until_ready().await;
        self.note("the end");
        self.crowd.until_more(20, PATIENCE).await;
        let service = self.crowd.service(self.since_ms);
        let outcome = self.crowd.finish().await;
        println!("{service:?}");
        for entry in &history {
            println!("{}", serde_json::to_string(entry).expect("an entry"));
        }
        println!("{}", self.platform.events().await.join("\n"));
        assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);
        assert!(service.gap <= GAP_MAX, "somebody was away; see {}", outcome.path);
        assert!(service.delivery <= DELIVERY_MAX, "a message came late; see {}", outcome.path);
        history
    }
}
