//! Machines (Kubernetes nodes) that are being emptied: a drain cordons a machine before it evicts the first pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;

use crate::limits;

/// Taints by which autoscalers say that they are about to take a machine away.
const TAINTS: &[&str] = &["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"];

/// The machines that are being emptied, as far as they can be seen.
pub struct Machines(watch::Sender<Option<BTreeSet<String>>>);

impl Default for Machines {
    fn default() -> Machines {
        Machines(watch::Sender::new(None))
    }
}

impl Machines {
    /// Names of the machines. None if they were not read yet, or may not be.
    pub fn leaving(&self) -> Option<BTreeSet<String>> {
        self.0.borrow().clone()
    }

    /// Says which there are.
    pub fn set(&self, names: Option<BTreeSet<String>>) {
        self.0.send_if_modified(|known| {
            let differs = *known != names;
            *known = names;
            differs
        });
    }

    /// An item for each change.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + Sync + use<> {
        stream::unfold(self.0.subscribe(), |mut seen| async move {
            seen.changed().await.ok()?;
            Some(((), seen))
        })
    }

    /// Waits until the machines were read, or it is clear that they may not be. Passes that do not know would let pods be
    /// evicted for a moment.
    pub fn first_look(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut seen = self.0.subscribe();
        async move {
            if tokio::time::timeout(limits::FIRST_LOOK, seen.changed()).await.is_err() {
                tracing::warn!(
                    "Kubernetes nodes were not read in time: pods are evicted meanwhile"
                );
            }
        }
    }

    fn change(&self, name: String, leaves: bool) {
        let mut names = self.leaving().unwrap_or_default();
        match leaves {
            true => names.insert(name),
            false => names.remove(&name),
        };
        self.set(Some(names));
    }
}

/// Whether somebody is emptying a machine.
fn is_leaving(node: &Node) -> bool {
    let Some(spec) = &node.spec else { return false };
    let taints = spec.taints.iter().flatten();
    spec.unschedulable == Some(true)
        || taints.into_iter().any(|taint| TAINTS.contains(&taint.key.as_str()))
}

/// Keeps `machines` true, for as long as it runs.
pub async fn watch(client: Client, machines: Arc<Machines>) {
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut nodes = std::pin::pin!(nodes);
    let mut listed = BTreeSet::new();
    let mut was_refused = false;
    while let Some(event) = nodes.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(node)) if is_leaving(&node) => {
                listed.insert(node.name_any());
            }
            Ok(Event::InitApply(_)) => {}
            // A list is shown when it is complete: a part of it would let pods stay for a moment.
            Ok(Event::InitDone) => machines.set(Some(std::mem::take(&mut listed))),
            Ok(Event::Apply(node)) => machines.change(node.name_any(), is_leaving(&node)),
            Ok(Event::Delete(node)) => machines.change(node.name_any(), false),
            Err(error) if is_refused(&error) => {
                machines.0.send_replace(None);
                if !was_refused {
                    tracing::info!(
                        "Kubernetes nodes may not be read: pods are evicted with their clients. Allow the operator to \
                         list and watch nodes if clients should move first."
                    );
                }
                was_refused = true;
                // Each attempt is a line of the client's log, and its own pauses begin anew with each.
                tokio::time::sleep(limits::REFUSED_PAUSE).await;
            }
            // What was seen last stays true for long, and the next list corrects it.
            Err(error) => tracing::debug!(%error, "Kubernetes nodes could not be watched"),
        }
    }
}

fn is_refused(error: &Error) -> bool {
    let status = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status)) => status,
        Error::WatchError(status) => status,
        _ => return false,
    };
    status.code == 403
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_machine_is_emptied_when_it_is_cordoned_or_an_autoscaler_says_so() {
        let node = |spec| serde_json::from_value(json!({"spec": spec})).unwrap();
        assert!(is_leaving(&node(json!({"unschedulable": true}))));
        let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
        assert!(is_leaving(&node(taint("ToBeDeletedByClusterAutoscaler"))));
        assert!(!is_leaving(&node(taint("node.kubernetes.io/disk-pressure"))));
        assert!(!is_leaving(&node(json!({}))));
    }

    #[tokio::test]
    async fn only_changes_are_told() {
        let machines = Machines::default();
        let changes = machines.changes();
        let mut changes = std::pin::pin!(changes);
        machines.set(Some(BTreeSet::new()));
        assert_eq!(changes.next().await, Some(()));
        machines.change("a".to_owned(), false);
        assert!(futures_util::poll!(changes.next()).is_pending());
        machines.change("a".to_owned(), true);
        assert_eq!(changes.next().await, Some(()));
        assert_eq!(machines.leaving(), Some(BTreeSet::from(["a".to_owned()])));
    }
}
