//! When passes run: for each change of a ChatCluster or of what it owns, and slowly by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crds::ChatCluster;
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, retry_after};
use crate::limits;
use crate::machines;
use crate::names;
use crate::reconcile::{Context, pass};

/// Failures in a row, by resource.
type Failures = Mutex<HashMap<ObjectRef<ChatCluster>, u32>>;

struct Running {
    context: Context,
    failures: Failures,
}

/// Which resources a process answers for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Those of one namespace.
    Namespace(String),
    /// All.
    Cluster,
}

impl Scope {
    /// Access to a kind within the scope.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Scope::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
            Scope::Cluster => Api::all(client.clone()),
        }
    }
}

/// Runs passes until `stop`.
pub async fn run(context: Context, scope: Scope, stop: CancellationToken) {
    let client = context.client.clone();
    let running = Arc::new(Running { context, failures: Mutex::default() });
    let own = watcher::Config::default();
    let ours = watcher::Config::default().labels(&format!(
        "{}={}",
        names::MANAGED_BY.0,
        names::MANAGED_BY.1
    ));
    let machines = running.context.machines.clone();
    let looked = machines.first_look();
    let watching = tokio::spawn(machines::watch(client.clone(), machines.clone()));
    looked.await;
    let stopped = stop.clone();
    Controller::new(scope.api::<ChatCluster>(&client), own)
        .with_config(
            Config::default().debounce(limits::DEBOUNCE).concurrency(limits::PASSES_AT_ONCE),
        )
        .owns(scope.api::<StatefulSet>(&client), ours.clone())
        .owns(scope.api::<ReplicaSet>(&client), ours.clone())
        .owns(scope.api::<Service>(&client), ours.clone())
        .owns(scope.api::<ConfigMap>(&client), ours.clone())
        .owns(scope.api::<ServiceAccount>(&client), ours.clone())
        .owns(scope.api::<PodDisruptionBudget>(&client), ours.clone())
        .owns(scope.api::<NetworkPolicy>(&client), ours.clone())
        .owns(scope.api::<HorizontalPodAutoscaler>(&client), ours.clone())
        .watches(scope.api::<Secret>(&client), ours.clone(), cluster_of::<Secret>)
        .watches(scope.api::<Pod>(&client), ours, cluster_of::<Pod>)
        .reconcile_all_on(machines.changes())
        .graceful_shutdown_on(async move { stopped.cancelled().await })
        .run(reconcile, on_error, running)
        .for_each(|done| async {
            // Passes tell of themselves; a watch that fails is told here alone. It is tried again.
            if let Err(kube::runtime::controller::Error::QueueError(error)) = done {
                tracing::warn!(%error, "a watch failed");
            }
        })
        .await;
    watching.abort();
}

/// The ChatCluster that an object belongs to by its label.
fn cluster_of<K: Resource>(object: K) -> Option<ObjectRef<ChatCluster>> {
    let name = object.labels().get(names::CLUSTER)?.clone();
    Some(ObjectRef::new(&name).within(&object.namespace()?))
}

async fn reconcile(cluster: Arc<ChatCluster>, running: Arc<Running>) -> Result<Action, Error> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let started = Instant::now();
    let done = pass(&running.context, &name, &namespace).await;
    let metrics = &running.context.metrics;
    let result = done.as_ref().map_or_else(|error| error.class().as_str(), |_| "ok");
    metrics.pass(result, started.elapsed());
    let after = done?;
    metrics.last_pass.set((running.context.now)().as_second() as f64);
    let reference = ObjectRef::from_obj(cluster.as_ref());
    running.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference);
    Ok(Action::requeue(after))
}

fn on_error(cluster: Arc<ChatCluster>, error: &Error, running: Arc<Running>) -> Action {
    let reference = ObjectRef::from_obj(cluster.as_ref());
    let mut failures = running.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(reference).or_default();
    *count = count.saturating_add(1);
    let after = retry_after(error.class(), *count, rand::random());
    tracing::warn!(
        cluster = cluster.name_any(),
        namespace = cluster.namespace(),
        class = error.class().as_str(),
        failures = *count,
        retry_ms = after.as_millis() as u64,
        %error,
        "a pass failed"
    );
    Action::requeue(after)
}
