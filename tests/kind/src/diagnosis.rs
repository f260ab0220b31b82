//! What a person wants to see of a test that failed.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::{Api, ResourceExt};

use crate::Space;

/// Lines of each container's log.
const LOG_LINES: i64 = 60;

/// The project's own API group.
const GROUP: &str = "chatcluster.dev";

/// Prints events, pods, their logs, and the status of the project's own resources. It must not fail itself: an error is
/// printed in place of what cannot be had.
pub(crate) async fn print(space: &Space) {
    println!("--- namespace {} when the test failed", space.name);
    print_resources(space).await;
    match space.api::<Event>().list(&ListParams::default()).await {
        Ok(events) => print_events(events.items),
        Err(error) => println!("no events: {error}"),
    }
    match space.api::<Pod>().list(&ListParams::default()).await {
        Ok(pods) => {
            for pod in pods {
                print_pod(space, &pod).await;
            }
        }
        Err(error) => println!("no pods: {error}"),
    }
    println!("--- end of namespace {}", space.name);
}

async fn print_resources(space: &Space) {
    // Before the definitions are there, nobody knows the group.
    let Ok(group) = kube::discovery::group(&space.client, GROUP).await else { return };
    for (resource, _) in group.recommended_resources() {
        let api: Api<DynamicObject> =
            Api::namespaced_with(space.client.clone(), &space.name, &resource);
        let found = api.list(&ListParams::default()).await;
        for object in found.map(|list| list.items).unwrap_or_default() {
            let status = serde_json::to_string_pretty(&object.data["status"]).unwrap_or_default();
            println!("{} {}: status {status}", resource.kind, object.name_any());
        }
    }
}

fn print_events(mut events: Vec<Event>) {
    events.sort_by_key(|event| event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    for event in events {
        let about = &event.involved_object;
        println!(
            "event {} {}: {} {} (×{})",
            about.kind.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default(),
            event.count.unwrap_or(1),
        );
    }
}

async fn print_pod(space: &Space, pod: &Pod) {
    let name = pod.name_any();
    let status = pod.status.clone().unwrap_or_default();
    println!("pod {name}: {}", status.phase.unwrap_or_default());
    for container in status.container_statuses.unwrap_or_default() {
        print_container(space, &name, &container).await;
    }
}

async fn print_container(space: &Space, pod: &str, container: &ContainerStatus) {
    let state = serde_json::to_string(&container.state).unwrap_or_default();
    println!("  {}: restarts {}, {state}", container.name, container.restart_count);
    for previous in [true, false] {
        if previous && container.restart_count == 0 {
            continue;
        }
        let tail = LogParams {
            container: Some(container.name.clone()),
            previous,
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        match space.api::<Pod>().logs(pod, &tail).await {
            Ok(text) => text.lines().for_each(|line| println!("    {line}")),
            Err(error) => println!("    no log: {error}"),
        }
    }
}
