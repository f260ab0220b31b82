//! One pass over one ChatCluster: read, decide, write the status, act.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::{ChatCluster, ChatClusterStatus, DeletionPolicy, MemberStatus, Phase};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ApiResource, ListParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::apply::{Applier, Decision, decide};
use crate::build::{self, Concern, Facts, Fleet, Intent};
use crate::error::{Error, doing};
use crate::limits;
use crate::machines::Machines;
use crate::metrics::Metrics;
use crate::names::{self, Component};
use crate::nats::{self, Monitor};
use crate::nodes::Nodes;
use crate::observe::{self, Found};
use crate::restart::Next;
use crate::rollout::{self, Action, Plan, View};
use crate::scylla;
use crate::status::{Findings, describe};
use crate::volumes;

/// What passes need.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The chat nodes.
    pub nodes: Arc<dyn Nodes>,
    /// The NATS servers.
    pub monitor: Arc<dyn Monitor>,
    /// The members of the database.
    pub ring: Arc<dyn scylla::Ring>,
    /// The machines that are being emptied.
    pub machines: Arc<Machines>,
    /// Counters.
    pub metrics: Metrics,
    /// Writer of events.
    pub recorder: Recorder,
    /// The fencing epoch: how often the lease has changed hands.
    pub epoch: i64,
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// The clock.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Brings a ChatCluster one step further. Returns when to look again, though nothing may have changed.
pub async fn pass(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<ChatCluster> = Api::namespaced(context.client.clone(), namespace);
    let Some(cluster) = api.get_opt(name).await.map_err(doing("read the ChatCluster"))? else {
        return Ok(limits::SLOW_PASS);
    };
    let pass = Pass {
        context,
        applier: Applier::new(context.client.clone(), namespace),
        api,
        cluster,
        now: (context.now)(),
    };
    pass.run().await
}

struct Pass<'a> {
    context: &'a Context,
    applier: Applier,
    api: Api<ChatCluster>,
    cluster: ChatCluster,
    now: Timestamp,
}

impl Pass<'_> {
    async fn run(mut self) -> Result<Duration, Error> {
        if self.cluster.metadata.deletion_timestamp.is_some() {
            return self.clean_up().await;
        }
        let mut findings = Findings { problems: self.cluster.problems(), ..Findings::default() };
        if !findings.problems.is_empty() {
            self.write_status(self.old_status(), &findings).await?;
            return Ok(limits::SLOW_PASS);
        }
        if self.cluster.spec.paused {
            let found = observe::find(&self.context.client, &self.cluster).await?;
            (findings.nats, findings.scylla) = found.ready(&self.cluster);
            self.write_status(self.old_status(), &findings).await?;
            return Ok(limits::SLOW_PASS);
        }
        self.add_finalizer().await?;
        match self.bring_further(&mut findings).await {
            Ok(again) => Ok(again),
            Err(error) => {
                // People look at the resource, not at the operator's log. That the status cannot be written either
                // is less important than why.
                findings.failure = Some(error.to_string());
                let status = self.old_status();
                if let Err(second) = self.write_status(status, &findings).await {
                    tracing::debug!(error = %second, "the status could not be written");
                }
                Err(error)
            }
        }
    }

    fn old_status(&self) -> ChatClusterStatus {
        self.cluster.status.clone().unwrap_or_default()
    }

    async fn bring_further(&mut self, findings: &mut Findings) -> Result<Duration, Error> {
        let mut found = observe::find(&self.context.client, &self.cluster).await?;
        findings.secrets = self.complete_secrets(&mut found).await?;
        (findings.nats, findings.scylla) = found.ready(&self.cluster);
        let database = self.plan_database(&found).await?;
        findings.scylla.shrinking = database.leaving.is_some();
        findings.scylla_waits = database.waits.clone();
        let members = database.members.clone();
        let facts = found.facts(&self.cluster, &self.context.operator_namespace, members);
        let foundation = build::foundation(&self.cluster, &facts);
        self.apply(&found, &foundation).await?;
        self.follow_database(&found, &database).await?;
        findings.volumes = self.grow_volumes(&found).await;
        findings.nats_waits = self.restart_nats(&found).await?;

        let machines = self.context.machines.leaving();
        let views = self.ask_nodes(&found, machines.as_ref()).await;
        let obstacles = findings.obstacles();
        let world = found.world(&self.cluster, &views, machines.as_ref(), obstacles, self.now);
        let order = world.order.clone();
        let plan = rollout::next_step(&self.cluster.spec.rollout, &self.old_status(), &world);
        // First what is meant to happen, then what makes it happen: a crash in between repeats it.
        self.write_status(plan.status.clone(), findings).await?;
        let fleet = self.act(&found, &facts, &plan).await?;
        if let Some(order) = order {
            self.remove_annotation(order.annotation).await?;
        }
        let intents: Vec<Intent> = foundation.into_iter().chain(fleet).collect();
        self.prune(&found, &intents, &plan.fleet).await?;
        // No watch tells that streams have caught up, or that a ring has changed.
        let waits = findings.nats_waits.is_some() || findings.scylla_waits.is_some();
        Ok(if waits { again(&plan).min(limits::STARTING_PASS) } else { again(&plan) })
    }

    /// Creates what is to be generated. Returns what is missing, in sentences.
    async fn complete_secrets(&self, found: &mut Found) -> Result<Vec<String>, Error> {
        let plan = build::secrets(&self.cluster);
        let mut is_new = false;
        for wanted in plan.all() {
            if wanted.generated && !found.secrets.contains_key(&wanted.name) {
                self.applier.create(&build::generate(&self.cluster, wanted)).await?;
                self.context.metrics.write("Secret", "write");
                is_new = true;
            }
        }
        if is_new {
            let (_, namespace) = build::place(&self.cluster);
            found.secrets = observe::secrets(&self.context.client, &namespace, &plan).await?;
        }
        let missing = plan.all().into_iter().flat_map(|wanted| {
            let data = found.secrets.get(&wanted.name);
            let keys = wanted
                .keys
                .iter()
                .filter(move |key| !data.is_some_and(|data| data.contains_key(**key)));
            keys.map(move |key| format!("Create Secret {} with the key {key}.", wanted.name))
        });
        Ok(missing.chain(found.same_nats_user(&self.cluster)).collect())
    }

    async fn apply(&self, found: &Found, intents: &[Intent]) -> Result<(), Error> {
        let (own, _) = build::place(&self.cluster);
        let mut written = BTreeSet::new();
        for intent in intents {
            let mut live = found.object(&intent.resource.kind, &intent.name).cloned();
            if live.is_none() && intent.concern != Concern::Scale {
                // One without our label would be taken over by an apply.
                live = self.applier.read(intent).await?;
            }
            let live = live.as_ref();
            // The number of pods belongs to an object that was written just now.
            let fresh = intent.concern == Concern::Scale
                && live.is_none()
                && written.contains(&intent.name);
            let what = match decide(live, intent, &own) {
                Decision::Leave | Decision::Wait => continue,
                Decision::Refuse => {
                    return Err(Error::Foreign {
                        kind: intent.resource.kind.clone(),
                        name: intent.name.clone(),
                    });
                }
                Decision::Write if intent.concern == Concern::Scale && live.is_none() && !fresh => {
                    continue;
                }
                Decision::Write => "write",
                Decision::Repair => "repair",
            };
            self.applier.apply(intent).await?;
            self.context.metrics.write(&intent.resource.kind, what);
            written.insert(intent.name.clone());
            if what == "repair" {
                let text = format!("{} {} had been changed.", intent.resource.kind, intent.name);
                tracing::warn!(kind = intent.resource.kind, name = intent.name, "repaired");
                self.publish("DriftCorrected", &text, true).await;
            }
        }
        Ok(())
    }

    /// Lets volumes become as large as the resource says. Returns what stands in the way, in sentences: a storage class may
    /// not allow it, and nothing else should wait for that.
    async fn grow_volumes(&self, found: &Found) -> Vec<String> {
        let spec = &self.cluster.spec;
        let nats = spec.nats.managed.as_ref().map(|nats| (Component::Nats, &nats.storage.size));
        let scylla =
            spec.scylla.managed.as_ref().map(|scylla| (Component::Scylla, &scylla.storage.size));
        let mut sentences = Vec::new();
        for (part, size) in nats.into_iter().chain(scylla) {
            for growth in volumes::too_small(found.claims_of(part), size) {
                match self.applier.grow(&growth).await {
                    Ok(()) => {
                        self.context.metrics.write("PersistentVolumeClaim", "write");
                        let text = format!("Volume {} grows to {size}.", growth.claim);
                        self.publish("VolumeGrows", &text, false).await;
                    }
                    Err(error) => sentences.push(format!("{error}.")),
                }
            }
            let growing = volumes::growing(found.claims_of(part)).into_iter();
            sentences.extend(growing.map(|claim| format!("Volume {claim} is being made larger.")));
        }
        sentences
    }

    /// Lets a NATS server start again, if one is to and may. Returns why none may.
    async fn restart_nats(&self, found: &Found) -> Result<Option<String>, Error> {
        let Some(managed) = &self.cluster.spec.nats.managed else { return Ok(None) };
        let (mut servers, peers) = found.nats_servers(&self.cluster);
        if servers.iter().all(|server| !server.server.outdated) {
            return Ok(None);
        }
        let mut reports = self.context.monitor.ask(&peers).await;
        for server in &mut servers {
            server.report = reports.remove(&server.server.name);
        }
        match nats::next_restart(&servers, managed.replicas, self.now) {
            Next::Nothing => Ok(None),
            Next::Wait(why) => Ok(Some(why)),
            Next::Restart(name) => {
                self.delete_pods(found, std::slice::from_ref(&name)).await?;
                let text = format!("NATS server {name} starts again.");
                self.publish("NatsServerRestarted", &text, false).await;
                Ok(Some(text))
            }
        }
    }

    /// What is to be done about the database. Who has joined, and who is to leave, is in the status before it is acted on.
    async fn plan_database(&mut self, found: &Found) -> Result<scylla::Plan, Error> {
        let Some(mut database) = found.database(&self.cluster, self.now) else {
            return Ok(scylla::Plan::default());
        };
        if !database.is_at_rest() {
            let keyspace = &self.cluster.spec.scylla.keyspace;
            let views = self.context.ring.ask(&database.peers(), keyspace).await;
            database.hear(views);
        }
        let plan = scylla::next_step(&database);
        let mut status = self.old_status();
        let hosts = plan.hosts.iter();
        status.members = hosts
            .map(|(pod, host)| MemberStatus { pod: pod.clone(), host: host.clone() })
            .collect();
        status.leaving_member.clone_from(&plan.leaving);
        self.put_status(status).await?;
        Ok(plan)
    }

    /// Lets volumes and pods of members go, and tells people.
    async fn follow_database(&self, found: &Found, plan: &scylla::Plan) -> Result<(), Error> {
        let resource = ApiResource::erase::<PersistentVolumeClaim>(&());
        for claim in found.claims.iter().filter(|claim| plan.claims.contains(&claim.name_any())) {
            let uid = claim.uid().unwrap_or_default();
            self.applier.delete(&resource, &claim.name_any(), &uid).await?;
            self.context.metrics.write("PersistentVolumeClaim", "delete");
        }
        self.delete_pods(found, &plan.pods).await?;
        for event in &plan.events {
            self.publish(event.reason, &event.message, false).await;
        }
        Ok(())
    }

    /// Asks the nodes, if a rollout runs or is due, or has left something behind.
    async fn ask_nodes(
        &self,
        found: &Found,
        machines: Option<&BTreeSet<String>>,
    ) -> BTreeMap<String, View> {
        let status = self.old_status();
        let wanted = build::wanted_revision(&self.cluster, &found.digests());
        let sets = found.objects.keys().filter(|(kind, _)| kind == "ReplicaSet").count();
        let at_rest = status.rollout.is_none()
            && sets <= 1
            && status.active_revision.as_deref() == Some(wanted.as_str())
            && !found.has_leavers(&self.cluster, machines)
            && !found.has_unready();
        if at_rest {
            return BTreeMap::new();
        }
        self.context.nodes.ask(&found.peers(), &found.admin_tokens(&self.cluster)).await
    }

    async fn act(&self, found: &Found, facts: &Facts, plan: &Plan) -> Result<Vec<Intent>, Error> {
        let intents = build::fleet(&self.cluster, facts, &plan.fleet);
        self.apply(found, &intents).await?;
        for event in &plan.events {
            self.publish(event.reason, &event.message, event.warning).await;
        }
        if !plan.actions.is_empty() {
            self.tell_nodes(found, &plan.actions).await;
        }
        self.delete_pods(found, &plan.deletions).await?;
        Ok(intents)
    }

    async fn delete_pods(&self, found: &Found, names: &[String]) -> Result<(), Error> {
        let resource = ApiResource::erase::<Pod>(&());
        for pod in found.pods.iter().filter(|pod| names.contains(&pod.name_any())) {
            let uid = pod.uid().unwrap_or_default();
            self.applier.delete(&resource, &pod.name_any(), &uid).await?;
            self.context.metrics.write("Pod", "delete");
        }
        Ok(())
    }

    async fn tell_nodes(&self, found: &Found, actions: &[Action]) {
        let tokens = found.admin_tokens(&self.cluster);
        let told =
            self.context.nodes.tell(&found.peers(), &tokens, self.context.epoch, actions).await;
        if let Err(error) = told {
            // The next pass tells them again.
            tracing::warn!(cluster = self.cluster.name_any(), error, "nodes were not told");
        }
    }

    async fn publish(&self, reason: &str, message: &str, warning: bool) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(message.to_owned()),
            // Events of one action and reason are counted together, and show the first sentence alone.
            action: format!("Reconcile-{}", build::digest(&message)),
            secondary: None,
        };
        let about = self.cluster.object_ref(&());
        if let Err(error) = self.context.recorder.publish(&event, &about).await {
            tracing::warn!(reason, %error, "an event could not be written");
        }
    }

    /// Writes the status if it differs. The resource version makes the write of a stale leader fail.
    async fn write_status(
        &mut self,
        status: ChatClusterStatus,
        findings: &Findings,
    ) -> Result<(), Error> {
        let status = describe(&self.cluster, status, findings, self.now);
        self.put_status(status).await
    }

    async fn put_status(&mut self, status: ChatClusterStatus) -> Result<(), Error> {
        if self.cluster.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut next = self.cluster.clone();
        next.status = Some(status);
        let parameters = PostParams {
            field_manager: Some("chat-operator-status".to_owned()),
            ..PostParams::default()
        };
        let written = self.api.replace_status(&self.cluster.name_any(), &parameters, &next).await;
        self.cluster = written.map_err(doing("write the status"))?;
        self.context.metrics.write("ChatCluster", "status");
        // What is not remembered must not be acted on.
        if self.cluster.status == next.status { Ok(()) } else { Err(Error::OldDefinition) }
    }

    /// Deletes what nothing asks for any more.
    async fn prune(&self, found: &Found, intents: &[Intent], fleet: &Fleet) -> Result<(), Error> {
        let wanted: BTreeSet<(&str, &str)> = intents
            .iter()
            .map(|intent| (intent.resource.kind.as_str(), intent.name.as_str()))
            .collect();
        let uid = self.cluster.uid().unwrap_or_default();
        for resource in observe::prunable() {
            let of_kind = found.objects.iter().filter(|((kind, _), _)| *kind == resource.kind);
            for ((kind, name), value) in of_kind {
                let metadata = &value["metadata"];
                let revision = metadata["labels"][names::REVISION].as_str();
                let lives = revision
                    .is_some_and(|name| fleet.replicas.keys().any(|known| known.as_str() == name));
                let owned = metadata["ownerReferences"][0]["uid"].as_str() == Some(uid.as_str());
                let ending = !metadata["deletionTimestamp"].is_null();
                if lives || !owned || ending || wanted.contains(&(kind.as_str(), name.as_str())) {
                    continue;
                }
                let uid = metadata["uid"].as_str().unwrap_or_default();
                self.applier.delete(&resource, name, uid).await?;
                self.context.metrics.write(kind, "delete");
            }
        }
        Ok(())
    }

    async fn add_finalizer(&mut self) -> Result<(), Error> {
        if self.cluster.finalizers().iter().any(|name| name == names::FINALIZER) {
            return Ok(());
        }
        let mut finalizers = self.cluster.finalizers().to_vec();
        finalizers.push(names::FINALIZER.to_owned());
        self.write_finalizers(finalizers).await
    }

    async fn write_finalizers(&mut self, finalizers: Vec<String>) -> Result<(), Error> {
        let metadata = json!({
            "finalizers": finalizers,
            "resourceVersion": self.cluster.resource_version(),
        });
        let name = self.cluster.name_any();
        let resource = ApiResource::erase::<ChatCluster>(&());
        self.applier.patch_metadata(&resource, &name, metadata).await?;
        let read = self.api.get_opt(&name).await.map_err(doing("read the ChatCluster"))?;
        self.cluster = read.unwrap_or_else(|| self.cluster.clone());
        Ok(())
    }

    async fn remove_annotation(&self, annotation: &str) -> Result<(), Error> {
        let resource = ApiResource::erase::<ChatCluster>(&());
        let metadata = json!({"annotations": {annotation: null}});
        self.applier.patch_metadata(&resource, &self.cluster.name_any(), metadata).await
    }

    /// The ChatCluster is being deleted. What it owns goes by itself; Secrets go or stay by the policy. Pods move their
    /// clients on SIGTERM, and there is nowhere to send them.
    async fn clean_up(mut self) -> Result<Duration, Error> {
        if !self.cluster.finalizers().iter().any(|name| name == names::FINALIZER) {
            return Ok(limits::SLOW_PASS);
        }
        let (own, namespace) = build::place(&self.cluster);
        let selected = ListParams::default().labels(&format!("{}={own}", names::CLUSTER));
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
        let secrets = api.list(&selected).await.map_err(doing("list Secrets"))?;
        let resource = ApiResource::erase::<Secret>(&());
        for secret in secrets {
            let name = secret.name_any();
            match self.cluster.spec.deletion_policy {
                DeletionPolicy::Delete => {
                    let uid = secret.uid().unwrap_or_default();
                    self.applier.delete(&resource, &name, &uid).await?;
                }
                DeletionPolicy::Retain if !secret.owner_references().is_empty() => {
                    let nobody = json!({"ownerReferences": null});
                    self.applier.patch_metadata(&resource, &name, nobody).await?;
                }
                DeletionPolicy::Retain => {}
            }
        }
        let rest = self.cluster.finalizers().iter().filter(|name| *name != names::FINALIZER);
        let rest = rest.cloned().collect();
        self.write_finalizers(rest).await?;
        Ok(limits::SLOW_PASS)
    }
}

/// When to look again.
fn again(plan: &Plan) -> Duration {
    match plan.status.phase {
        Phase::Starting => limits::STARTING_PASS,
        Phase::Draining if plan.waits => limits::DRAINING_PASS,
        _ if plan.waits => limits::WAITING_PASS,
        Phase::Steady if plan.status.ready_replicas >= plan.status.replicas => limits::SLOW_PASS,
        _ => limits::STARTING_PASS,
    }
}
