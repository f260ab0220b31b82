//! What a command has to write, or why it is refused: functions of what is there.

use crds::{ChatCluster, Command, Phase};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

/// What the annotation of a command has to name. The error is a sentence for people.
pub(crate) fn target(cluster: &ChatCluster, command: Command) -> Result<String, String> {
    let name = cluster.name_any();
    if cluster.spec.paused {
        return Err(format!(
            "The operator leaves ChatCluster {name} alone: set spec.paused to false first."
        ));
    }
    let status = cluster.status.as_ref();
    if command == Command::Retry {
        return status.and_then(|status| status.rejected_revision.clone()).ok_or_else(|| {
            format!("No revision of ChatCluster {name} was rejected: there is nothing to retry.")
        });
    }
    let Some(run) = status.and_then(|status| status.rollout.as_ref()) else {
        return Err(format!(
            "No rollout of ChatCluster {name} is under way: there is nothing to {}.",
            command.name()
        ));
    };
    match command {
        Command::Promote | Command::Abort if !run.pods.is_empty() => Err(format!(
            "Rollout {} empties single pods as long as there is a reason: uncordon the machine, run kubectl chat drain \
             POD --undo, or ask for more nodes.",
            run.id
        )),
        Command::Promote if !is_before_switch(run.phase) => Err(format!(
            "Rollout {} is promoted already: it is in the phase {:?}.",
            run.id, run.phase
        )),
        Command::Pause if run.paused => Err(format!("Rollout {} is paused already.", run.id)),
        _ => Ok(run.id.clone()),
    }
}

fn is_before_switch(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Verifying | Phase::AwaitingPromotion)
}

/// Whether a pod may be asked to give its clients away. The error is a sentence for people.
pub(crate) fn may_drain(pod: &Pod, cluster: &ChatCluster, undo: bool) -> Result<(), String> {
    let name = pod.name_any();
    let asked = pod.annotations().contains_key(crds::DRAIN_ANNOTATION);
    if undo {
        return if asked { Ok(()) } else { Err(format!("Nobody asked for pod {name} to go.")) };
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!("Pod {name} ends already."));
    }
    if asked {
        return Err(format!("Pod {name} was asked to go already."));
    }
    let revision = pod.labels().get(crds::REVISION_LABEL);
    let active = cluster.status.as_ref().and_then(|status| status.active_revision.as_ref());
    if active != revision {
        return Err(format!(
            "Pod {name} is not of the active revision: the rollout moves its clients, and ends it."
        ));
    }
    Ok(())
}

/// The ChatCluster that a chat node belongs to.
pub(crate) fn owner(pod: &Pod) -> Result<String, String> {
    let labels = pod.labels();
    let is_chat = labels.get(crds::COMPONENT_LABEL).is_some_and(|part| part == "chat");
    let owner = labels.get(crds::CLUSTER_LABEL).filter(|_| is_chat);
    owner
        .cloned()
        .ok_or_else(|| format!("Pod {} is not a chat node of a ChatCluster.", pod.name_any()))
}

/// Whether the operator has heard a command. It takes the annotation away when it has written what came of it.
pub(crate) fn result<'a>(
    cluster: &'a ChatCluster,
    command: Command,
    target: &str,
) -> Option<&'a str> {
    if cluster.annotations().contains_key(command.annotation()) {
        return None;
    }
    let last = cluster.status.as_ref()?.last_command.as_ref()?;
    (last.command == command.name() && last.target == target).then_some(last.result.as_str())
}
