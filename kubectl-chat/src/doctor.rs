//! What is wrong with a platform and what to do about it: functions of what was read, and now.

use crds::{ChatCluster, Phase};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::{CustomResourceExt as _, ResourceExt as _};
use serde_json::Value;

use crate::text::{Page, Style, Tone, count, since};

/// A lease that was not renewed for so long is nobody's. Its holder renews it every 2 s; clocks may differ by the rest.
const LEASE_SECONDS_MAX: i64 = 60;
/// A claim, a pod, an edit that waits for longer than this waits for somebody.
const PATIENCE_SECONDS: i64 = 120;
/// Fields named of a definition that lacks some.
const FIELDS: usize = 5;

/// Something that was read, or why it could not be.
pub(crate) type Read<T> = Result<T, String>;

/// Everything that was read.
pub(crate) struct Facts {
    /// The definition of the ChatCluster.
    pub(crate) definition: Read<Option<Value>>,
    /// Leases by which an operator may look after the ChatCluster.
    pub(crate) leases: Read<Vec<Lease>>,
    /// The ChatCluster.
    pub(crate) cluster: ChatCluster,
    /// Its pods.
    pub(crate) pods: Read<Vec<Pod>>,
    /// Its volumes.
    pub(crate) claims: Read<Vec<PersistentVolumeClaim>>,
    /// What chat nodes say of themselves, by pod: `None` if all is well, else why they take no clients.
    pub(crate) nodes: Vec<(String, Read<Option<String>>)>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// Worth knowing, or not known.
    Note,
    /// Wrong.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) what: String,
    /// What to do.
    pub(crate) advice: String,
}

fn finding(level: Level, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level, what: what.into(), advice: advice.into() }
}

fn unread(what: &str, why: &str) -> Finding {
    let text = format!("{what} could not be read: {why}");
    finding(Level::Note, text, "Ask somebody who may, or get the right to read it.")
}

/// Looks at everything.
pub(crate) fn diagnose(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![definition(facts)];
    findings.extend(operator(facts, now));
    findings.extend(conditions(facts, now));
    findings.extend(pods(facts, now));
    findings.extend(claims(facts, now));
    findings.extend(nodes(facts));
    findings
}

fn definition(facts: &Facts) -> Finding {
    let found = match &facts.definition {
        Err(why) => return unread("The definition of the ChatCluster", why),
        Ok(None) => {
            return finding(
                Level::Bad,
                "The ChatCluster is not defined in this cluster.",
                "Install the chart charts/chat-operator, or kubectl apply -f crds/.",
            );
        }
        Ok(Some(found)) => found,
    };
    let own = serde_json::to_value(ChatCluster::crd()).unwrap_or_default();
    let version = |definition: &Value| definition["spec"]["versions"][0].clone();
    let (own, found) = (version(&own), version(found));
    if own["name"] != found["name"] {
        let text = format!("The definition serves {} and not {}.", found["name"], own["name"]);
        return finding(Level::Bad, text, "Use the plugin and the definition of one release.");
    }
    let mut lacking = Vec::new();
    compare(
        &own["schema"]["openAPIV3Schema"],
        &found["schema"]["openAPIV3Schema"],
        "",
        &mut lacking,
    );
    if lacking.is_empty() {
        return finding(Level::Good, "The definition of the ChatCluster is there.", "");
    }
    let count = lacking.len();
    lacking.truncate(FIELDS);
    let text = format!(
        "The definition is of another release: it lacks {count} fields, such as {}.",
        lacking.join(", ")
    );
    finding(Level::Bad, text, "Apply crds/chatcluster.yaml of the operator's release.")
}

/// Fields of one schema that another lacks.
fn compare(own: &Value, found: &Value, path: &str, lacking: &mut Vec<String>) {
    for (name, field) in own["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match found["properties"].get(name) {
            None => lacking.push(path),
            Some(found) => compare(field, found, &path, lacking),
        }
    }
    if own["items"].is_object() {
        compare(&own["items"], &found["items"], path, lacking);
    }
}

fn operator(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let start = "Look at the operator: kubectl get pods -A -l app.kubernetes.io/name=chat-operator, and its log.";
    let leases = match &facts.leases {
        Err(why) => return vec![unread("The operator's lease", why)],
        Ok(leases) => leases,
    };
    let newest = leases.iter().max_by_key(|lease| {
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        renewed.map_or(Timestamp::MIN, |time| time.0)
    });
    let Some(spec) = newest.and_then(|lease| lease.spec.as_ref()) else {
        return vec![finding(Level::Bad, "No operator has ever held a lease.", start)];
    };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let renewed = spec.renew_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let age = since(renewed, now);
    if holder.is_empty() {
        let text = format!("No operator works: the lease was given back {age} ago.");
        return vec![finding(Level::Bad, text, start)];
    }
    if now.as_second() - renewed.as_second() > LEASE_SECONDS_MAX {
        let text = format!("No operator works: {holder} renewed its lease {age} ago.");
        return vec![finding(Level::Bad, text, start)];
    }
    vec![finding(Level::Good, format!("The operator {holder} works."), "")]
}

fn conditions(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let cluster = &facts.cluster;
    let Some(status) = &cluster.status else {
        return vec![finding(
            Level::Bad,
            "The operator has not looked at the ChatCluster yet.",
            "Wait a moment; then look whether the operator is one for another namespace.",
        )];
    };
    let mut findings = Vec::new();
    if cluster.metadata.generation > status.observed_generation {
        findings.push(finding(
            Level::Note,
            "The operator has not looked at the last edit of the spec yet.",
            "Look at the operator's log if this stays so.",
        ));
    }
    for condition in &status.conditions {
        let bad = match condition.type_.as_str() {
            // Why it is not ready is what the others say, unless a pass failed.
            "Ready" => condition.reason == "Failed" && condition.status == "False",
            "Progressing" => false,
            "Paused" => {
                if condition.status == "True" {
                    let text = "The operator leaves the ChatCluster alone.";
                    findings.push(finding(Level::Note, text, "Set spec.paused to false."));
                }
                false
            }
            _ => condition.status != "True",
        };
        if bad {
            let age = since(condition.last_transition_time, now);
            let text = format!(
                "{} is {} for {age}: {}",
                condition.type_, condition.status, condition.message
            );
            findings.push(finding(Level::Bad, text, ""));
        }
    }
    findings.extend(progress(cluster));
    if findings.is_empty() {
        findings.push(finding(Level::Good, "All conditions are as they should be.", ""));
    }
    findings
}

/// A rollout that waits for somebody.
fn progress(cluster: &ChatCluster) -> Option<Finding> {
    let status = cluster.status.as_ref()?;
    if let (Some(revision), Phase::Held) = (&status.rejected_revision, status.phase) {
        let text = format!("Revision {revision} was rejected: an older one serves.");
        return Some(finding(
            Level::Bad,
            text,
            "Change the spec, or try it again: kubectl chat retry.",
        ));
    }
    let run = status.rollout.as_ref()?;
    if run.paused || cluster.spec.rollout.paused {
        let advice = if run.paused {
            "kubectl chat resume lets it go on."
        } else {
            "Set spec.rollout.paused to false."
        };
        return Some(finding(Level::Note, format!("Rollout {} is paused.", run.id), advice));
    }
    let text = format!("Rollout {} is under way: {}", run.id, run.message);
    let advice = match run.phase {
        Phase::AwaitingPromotion => "kubectl chat promote, or kubectl chat abort.",
        _ => "kubectl chat status --watch shows it.",
    };
    Some(finding(Level::Note, text, advice))
}

fn pods(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let pods = match &facts.pods {
        Err(why) => return vec![unread("Pods", why)],
        Ok(pods) => pods,
    };
    let trouble = |pod: &Pod| pod_trouble(pod, is_emptied(&facts.cluster, pod), now);
    let mut findings: Vec<Finding> = pods.iter().filter_map(trouble).collect();
    if findings.is_empty() {
        findings.push(finding(Level::Good, format!("Ready: {}.", count(pods.len(), "pod")), ""));
    }
    findings
}

/// Whether a node's clients are being moved elsewhere: it is not ready on purpose.
fn is_emptied(cluster: &ChatCluster, pod: &Pod) -> bool {
    let Some(status) = &cluster.status else { return false };
    let Some(rollout) = &status.rollout else { return false };
    let revision = pod.labels().get(crds::REVISION_LABEL);
    let is_older = revision.is_some() && revision != status.active_revision.as_ref();
    status.phase == Phase::Draining && (is_older || rollout.pods.contains(&pod.name_any()))
}

fn pod_trouble(pod: &Pod, is_emptied: bool, now: Timestamp) -> Option<Finding> {
    let name = pod.name_any();
    if let Some(ending) = &pod.metadata.deletion_timestamp {
        let late = now.as_second() - ending.0.as_second() > PATIENCE_SECONDS;
        let text = format!("Pod {name} should have ended {} ago.", since(ending.0, now));
        let advice = "Look whether its machine answers: kubectl get nodes.";
        return late.then(|| finding(Level::Bad, text, advice));
    }
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    if condition("Ready").is_some_and(|condition| condition.status == "True") {
        return None;
    }
    if let Some(placed) = condition("PodScheduled").filter(|condition| condition.status == "False")
    {
        let why = placed.message.as_deref().unwrap_or("no machine takes it");
        let text = format!("Pod {name} has no machine: {why}");
        return Some(finding(
            Level::Bad,
            text,
            "Add machines, or lower what it asks for: resources, nodeSelector, volumes.",
        ));
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    if let Some(found) = containers.iter().find_map(|container| container_trouble(&name, container))
    {
        return Some(found);
    }
    if is_emptied {
        return None;
    }
    let since_ready =
        condition("Ready").and_then(|condition| condition.last_transition_time.as_ref());
    let age = since_ready.map_or_else(String::new, |time| format!(" for {}", since(time.0, now)));
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let advice = format!("kubectl logs {name} tells why, and kubectl describe pod {name}.");
    Some(finding(Level::Bad, format!("Pod {name} is {phase} and not ready{age}."), advice))
}

fn container_trouble(pod: &str, container: &ContainerStatus) -> Option<Finding> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if ended.is_some_and(|ended| ended.reason.as_deref() == Some("OOMKilled")) {
        let text = format!("Pod {pod} was ended because it took more memory than its limit.");
        return Some(finding(Level::Bad, text, "Raise the limit in resources.limits.memory."));
    }
    let waiting = waiting?;
    let reason = waiting.reason.as_deref().unwrap_or("unknown");
    let message = waiting.message.as_deref().unwrap_or("no message");
    let advice = match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            "Check the image's name, and chat.imagePullSecrets.".to_owned()
        }
        "CrashLoopBackOff" => format!("kubectl logs {pod} --previous tells why it ended."),
        "CreateContainerConfigError" => {
            "Create the Secret or the ConfigMap that it names.".to_owned()
        }
        "ContainerCreating" | "PodInitializing" => return None,
        _ => format!("kubectl describe pod {pod} tells more."),
    };
    Some(finding(Level::Bad, format!("Pod {pod} does not start: {reason}: {message}"), advice))
}

fn claims(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let claims = match &facts.claims {
        Err(why) => return vec![unread("Volume claims", why)],
        Ok(claims) => claims,
    };
    let mut findings: Vec<Finding> =
        claims.iter().filter_map(|claim| claim_trouble(claim, now)).collect();
    if findings.is_empty() && !claims.is_empty() {
        findings.push(finding(
            Level::Good,
            format!("Bound: {}.", count(claims.len(), "volume")),
            "",
        ));
    }
    findings
}

fn claim_trouble(claim: &PersistentVolumeClaim, now: Timestamp) -> Option<Finding> {
    let name = claim.name_any();
    let status = claim.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.map_or("the default class".to_owned(), |class| format!("class {class}"));
    match phase {
        "Bound" => {
            let conditions =
                status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
            let resize =
                conditions.into_iter().find(|condition| condition.type_.contains("Resize"));
            resize.map(|condition| {
                let text = format!("Volume {name} is being made larger: {}.", condition.type_);
                finding(Level::Note, text, "If it stays so, its pod has to start again.")
            })
        }
        "Lost" => Some(finding(
            Level::Bad,
            format!("Volume {name} has lost what it was bound to."),
            "Bring the PersistentVolume back; deleting the claim deletes what is on it.",
        )),
        _ => {
            let age = claim
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |at| now.as_second() - at.0.as_second());
            let level = if age > PATIENCE_SECONDS { Level::Bad } else { Level::Note };
            let advice =
                format!("kubectl describe pvc {name} tells why; is there {class}, and room?");
            Some(finding(level, format!("Volume {name} of {class} is {phase}."), advice))
        }
    }
}

fn nodes(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut silent = Vec::new();
    let mut well = 0;
    for (pod, answer) in &facts.nodes {
        match answer {
            Ok(None) => well += 1,
            Ok(Some(why)) => {
                let text = format!("Chat node {pod} takes no clients: {why}");
                findings.push(finding(Level::Note, text, ""));
            }
            Err(why) => silent.push((pod, why)),
        }
    }
    if let Some((pod, why)) = silent.first() {
        let text = format!(
            "{} could not be asked through the API server, such as {pod}: {why}",
            count(silent.len(), "chat node")
        );
        let advice =
            "It takes the right pods/proxy, and a NetworkPolicy that lets the API server in.";
        findings.push(finding(Level::Note, text, advice));
    }
    if well > 0 {
        findings.push(finding(
            Level::Good,
            format!("Well by its own word: {}.", count(well, "chat node")),
            "",
        ));
    }
    findings
}

/// Whether anything is wrong.
pub(crate) fn is_sick(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Bad)
}

/// The page.
pub(crate) fn render(findings: &[Finding], style: Style) -> String {
    let mut page = Page::new(style);
    for finding in findings {
        let (tone, sign) = match (finding.level, style.rich) {
            (Level::Good, true) => (Tone::Good, "✓"),
            (Level::Good, false) => (Tone::Good, "ok"),
            (Level::Note, true) => (Tone::Warning, "•"),
            (Level::Note, false) => (Tone::Warning, "note"),
            (Level::Bad, true) => (Tone::Bad, "✗"),
            (Level::Bad, false) => (Tone::Bad, "BAD"),
        };
        let indent = if style.rich { 2 } else { 5 };
        page.labelled(&[(tone, sign)], indent, &finding.what);
        page.paragraph(indent + 2, Tone::Strong, &finding.advice);
    }
    let bad = findings.iter().filter(|finding| finding.level == Level::Bad).count();
    page.blank();
    match bad {
        0 => page.line(&[(Tone::Good, "No fault was found.")]),
        1 => page.line(&[(Tone::Bad, "One fault was found.")]),
        _ => page.line(&[(Tone::Bad, &format!("{bad} faults were found."))]),
    }
    page.into_text()
}
