//! Reads what there is. Every pass reads from the API server itself: a cache may show a part of the truth, and what is
//! decided here can delete.

use std::collections::{BTreeMap, BTreeSet};

use crds::{ChatCluster, Evictions};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, PodCondition, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, ListParams, TypeMeta};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::build::{self, Facts, Members, Revision, SecretPlan, digest};
use crate::error::{Error, doing};
use crate::limits;
use crate::names::{self, Component};
use crate::nats;
use crate::nodes::Peer;
use crate::restart::Server;
use crate::rollout::{self, Disruption, Order, View, World};
use crate::scylla::{self, Database};

/// Label by which Kubernetes says which template a pod of a StatefulSet was made from.
const CONTROLLER_REVISION: &str = "controller-revision-hash";

/// What one pass found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Objects of the ChatCluster, by kind and name.
    pub objects: BTreeMap<(String, String), Value>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its volume claims.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The Secrets that it uses, by name.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// Kinds of objects that a ChatCluster owns. Those of the second list go when they are not wanted any more.
fn kinds() -> (Vec<ApiResource>, Vec<ApiResource>) {
    let keep =
        vec![ApiResource::erase::<StatefulSet>(&()), ApiResource::erase::<ServiceAccount>(&())];
    let prune = vec![
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
    ];
    (keep, prune)
}

/// Kinds whose objects are deleted when nothing asks for them.
pub fn prunable() -> Vec<ApiResource> {
    kinds().1
}

/// Reads everything that belongs to a ChatCluster.
pub async fn find(client: &Client, cluster: &ChatCluster) -> Result<Found, Error> {
    let (own, namespace) = build::place(cluster);
    let selected = ListParams::default().labels(&format!("{}={own}", names::CLUSTER));
    let mut found = Found::default();
    let (keep, prune) = kinds();
    for resource in keep.iter().chain(&prune) {
        let api: Api<kube::api::DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, resource);
        let list = api.list(&selected).await.map_err(doing(format!("list {}", resource.plural)))?;
        if list.items.len() > limits::OBJECTS_PER_LIST as usize {
            tracing::error!(kind = resource.kind, count = list.items.len(), "too many objects");
        }
        for mut object in list.items {
            // The API server leaves out of a list what its items have in common.
            object.types = Some(TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            let name = object.name_any();
            let value = serde_json::to_value(&object).unwrap_or_default();
            found.objects.insert((resource.kind.clone(), name), value);
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    found.pods = pods.list(&selected).await.map_err(doing("list pods"))?.items;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    found.claims = claims.list(&selected).await.map_err(doing("list volume claims"))?.items;
    found.secrets = secrets(client, &namespace, &build::secrets(cluster)).await?;
    Ok(found)
}

/// The Secrets of a plan that exist.
pub async fn secrets(
    client: &Client,
    namespace: &str,
    plan: &SecretPlan,
) -> Result<BTreeMap<String, BTreeMap<String, Vec<u8>>>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for wanted in plan.all() {
        let secret = api.get_opt(&wanted.name).await;
        if let Some(secret) = secret.map_err(doing(format!("read Secret {}", wanted.name)))? {
            let data = secret.data.unwrap_or_default();
            let data = data.into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect();
            found.insert(wanted.name.clone(), data);
        }
    }
    Ok(found)
}

impl Found {
    /// An object by kind and name.
    pub fn object(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    fn typed<K: serde::de::DeserializeOwned>(&self, kind: &str, name: &str) -> Option<K> {
        serde_json::from_value(self.object(kind, name)?.clone()).ok()
    }

    /// What building has to know, given the plan of the database.
    pub fn facts(
        &self,
        cluster: &ChatCluster,
        operator_namespace: &str,
        members: Members,
    ) -> Facts {
        Facts {
            secrets: self.digests(),
            operator_namespace: operator_namespace.to_owned(),
            revisions: self.revisions(cluster),
            claim_sizes: self.claim_sizes(),
            nats_rotation: self.nats_rotation(cluster),
            members,
        }
    }

    fn claim_sizes(&self) -> BTreeMap<String, String> {
        let sets = self.objects.iter().filter(|((kind, _), _)| kind == "StatefulSet");
        let sizes = sets.filter_map(|((_, name), set)| {
            let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
            let size = claim["resources"]["requests"]["storage"].as_str()?;
            Some((name.clone(), size.to_owned()))
        });
        sizes.collect()
    }

    /// The claims of one part of the platform.
    pub fn claims_of(&self, part: Component) -> impl Iterator<Item = &PersistentVolumeClaim> {
        let part = part.as_str();
        self.claims
            .iter()
            .filter(move |claim| claim.labels().get(names::COMPONENT).is_some_and(|l| l == part))
    }

    /// Digests of the Secrets' contents, without what was valid before: chat nodes do not use that.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let current = |data: &BTreeMap<String, Vec<u8>>| {
            let is_current = |key: &str| !key.starts_with(build::PREVIOUS);
            digest(&data.iter().filter(|(key, _)| is_current(key)).collect::<BTreeMap<_, _>>())
        };
        self.secrets.iter().map(|(name, data)| (name.clone(), current(data))).collect()
    }

    fn nats_secret(&self, cluster: &ChatCluster) -> Option<(String, &BTreeMap<String, Vec<u8>>)> {
        cluster.spec.nats.managed.as_ref()?;
        let name = build::secrets(cluster).nats?.name;
        let data = self.secrets.get(&name)?;
        Some((name, data))
    }

    /// Digest of the names and passwords of the managed NATS servers, while they take those from before, too.
    fn nats_rotation(&self, cluster: &ChatCluster) -> Option<String> {
        let (_, data) = self.nats_secret(cluster)?;
        let both = data.contains_key("previous-user") && data.contains_key("previous-password");
        (both && data.get("user") != data.get("previous-user")).then(|| digest(data))
    }

    /// Tells of a rotation that NATS would not start with: it knows users by their names.
    pub fn same_nats_user(&self, cluster: &ChatCluster) -> Option<String> {
        let (name, data) = self.nats_secret(cluster)?;
        let is_same = data.contains_key("user") && data.get("user") == data.get("previous-user");
        is_same.then(|| format!("Write another user than previous-user in Secret {name}."))
    }

    /// Revisions that have a ReplicaSet which is not on its way out.
    fn revisions(&self, cluster: &ChatCluster) -> BTreeSet<Revision> {
        let (own, _) = build::place(cluster);
        let sets = self.objects.iter().filter(|((kind, _), value)| {
            kind == "ReplicaSet" && value["metadata"]["deletionTimestamp"].is_null()
        });
        sets.filter_map(|((_, name), value)| {
            let revision = value["metadata"]["labels"][names::REVISION].as_str()?;
            (*name == names::revision(&own, revision)).then(|| Revision::new(revision))
        })
        .collect()
    }

    /// Ready members of the managed servers: of NATS, and of the database.
    pub fn ready(&self, cluster: &ChatCluster) -> (Part, Part) {
        let (own, _) = build::place(cluster);
        let (nats, scylla) = build::sizes(cluster);
        let racks = cluster.spec.scylla.managed.iter().flat_map(|managed| &managed.racks);
        let racks: Vec<String> = racks.map(|rack| names::rack(&own, &rack.name)).collect();
        (self.part(nats, &[names::nats(&own)]), self.part(scylla, &racks))
    }

    fn part(&self, wanted: Option<i32>, sets: &[String]) -> Part {
        let mut part = Part { wanted, ..Part::default() };
        for name in sets {
            let Some(set) = self.typed::<StatefulSet>("StatefulSet", name) else { continue };
            part.ready += ready(&set);
            part.restarting |= is_restarting(&set);
        }
        part
    }

    /// The managed NATS servers without their reports, in the order of their numbers, and where to ask for those. Empty
    /// while Kubernetes has not seen yet what they should be.
    pub fn nats_servers(&self, cluster: &ChatCluster) -> (Vec<nats::Server>, Vec<Peer>) {
        let (own, _) = build::place(cluster);
        let set = self.typed::<StatefulSet>("StatefulSet", &names::nats(&own));
        let Some(set) = set else { return (Vec::new(), Vec::new()) };
        let status = set.status.unwrap_or_default();
        if status.observed_generation < set.metadata.generation {
            return (Vec::new(), Vec::new());
        }
        let mut pods: Vec<&Pod> = self.pods_of(Component::Nats).collect();
        pods.sort_by_key(|pod| pod.name_any());
        let servers = pods.iter().map(|pod| nats::Server {
            server: server(pod, status.update_revision.as_ref()),
            report: None,
        });
        let peers = pods.iter().filter_map(|pod| {
            let address = pod.status.as_ref()?.pod_ip.clone()?;
            Some(Peer { name: pod.name_any(), address })
        });
        (servers.collect(), peers.collect())
    }

    /// The managed database, before its members are asked.
    pub fn database(&self, cluster: &ChatCluster, now: Timestamp) -> Option<Database> {
        let managed = cluster.spec.scylla.managed.as_ref()?;
        let (own, _) = build::place(cluster);
        let racks = managed.racks.iter().map(|rack| self.rack(&own, rack));
        let members = cluster.status.iter().flat_map(|status| &status.members);
        Some(Database {
            racks: racks.collect(),
            copies: build::replication_factor(&cluster.spec.scylla),
            hosts: members.map(|member| (member.pod.clone(), member.host.clone())).collect(),
            leaving: cluster.status.as_ref().and_then(|status| status.leaving_member.clone()),
            now,
        })
    }

    fn rack(&self, own: &str, wanted: &crds::Rack) -> scylla::Rack {
        let name = names::rack(own, &wanted.name);
        let set = self.typed::<StatefulSet>("StatefulSet", &name);
        let status = set.as_ref().and_then(|set| set.status.clone()).unwrap_or_default();
        let members = self.pods_of(Component::Scylla).filter_map(|pod| {
            let member = scylla::Member {
                server: server(pod, status.update_revision.as_ref()),
                uid: pod.uid().unwrap_or_default(),
                address: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
                is_lost: pod.annotations().contains_key(crds::REPLACE_ANNOTATION),
                view: None,
            };
            Some((ordinal(&pod.name_any(), &name)?, member))
        });
        let claims = self.claims_of(Component::Scylla).filter_map(|claim| {
            let (claim, ending) = (claim.name_any(), claim.metadata.deletion_timestamp.is_some());
            let number = ordinal(claim.strip_prefix("data-")?, &name)?;
            Some((number, scylla::Claim { name: claim, ending }))
        });
        let files = self.object("ConfigMap", &name).and_then(|map| map["data"].as_object());
        let mut files = files.into_iter().flat_map(|files| files.keys());
        scylla::Rack {
            name: wanted.name.clone(),
            joining: files.any(|file| ordinal(file, &name).is_some()),
            wanted: wanted.members,
            replicas: set.as_ref().and_then(|set| set.spec.as_ref()?.replicas),
            ready: set.as_ref().map_or(0, ready),
            stale: set.is_some_and(|set| status.observed_generation < set.metadata.generation),
            members: members.collect(),
            claims: claims.collect(),
            set: name,
        }
    }

    /// The token of the nodes' admin ports, and the one that nodes have which started before it was changed.
    pub fn admin_tokens(&self, cluster: &ChatCluster) -> Vec<String> {
        let name = build::secrets(cluster).admin_token.name;
        let Some(data) = self.secrets.get(&name) else { return Vec::new() };
        let tokens = ["token", "previous-token"].into_iter().filter_map(|key| data.get(key));
        tokens.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// Chat nodes that can be asked, those first that are ready.
    pub fn peers(&self) -> Vec<Peer> {
        let mut pods: Vec<&Pod> = self.chat_pods().filter(|pod| is_running(pod)).collect();
        pods.sort_by_key(|pod| !is_ready(pod));
        let peers = pods.into_iter().filter_map(|pod| {
            let address = pod.status.as_ref()?.pod_ip.clone()?;
            Some(Peer { name: pod.name_any(), address })
        });
        peers.collect()
    }

    fn chat_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods_of(Component::Chat)
    }

    fn pods_of(&self, part: Component) -> impl Iterator<Item = &Pod> {
        let part = part.as_str();
        self.pods
            .iter()
            .filter(move |pod| pod.labels().get(names::COMPONENT).map(String::as_str) == Some(part))
    }

    /// Whether a chat node runs and is not ready. It may still be prepared for a rollout that has ended.
    pub fn has_unready(&self) -> bool {
        self.chat_pods().any(|pod| is_running(pod) && !is_ready(pod))
    }

    /// Whether single chat nodes may have to go: there are too many, or somebody wants one to be gone.
    pub fn has_leavers(&self, cluster: &ChatCluster, machines: Option<&BTreeSet<String>>) -> bool {
        let holds = holds(cluster, machines);
        let mut pods: Vec<&Pod> = self.chat_pods().filter(|pod| !has_ended(pod)).collect();
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        let wanted = usize::try_from(cluster.spec.chat.replicas).unwrap_or(0);
        pods.len() > wanted || pods.iter().any(|pod| leaves(pod, machines, holds).is_some())
    }

    /// What the planner sees, given the nodes' answers and the machines that are being emptied, if that can be seen.
    pub fn world(
        &self,
        cluster: &ChatCluster,
        views: &BTreeMap<String, View>,
        machines: Option<&BTreeSet<String>>,
        obstacles: Vec<String>,
        now: Timestamp,
    ) -> World {
        let (own, _) = build::place(cluster);
        let holds = holds(cluster, machines);
        let mut revisions: BTreeMap<Revision, rollout::Observed> = BTreeMap::new();
        for revision in self.revisions(cluster) {
            let name = names::revision(&own, revision.as_str());
            let replicas = self.object("ReplicaSet", &name).map_or(0, |set| {
                i32::try_from(set["spec"]["replicas"].as_i64().unwrap_or(0)).unwrap_or(0)
            });
            revisions.entry(revision).or_default().replicas = replicas;
        }
        for pod in self.chat_pods().filter(|pod| !has_ended(pod)) {
            let Some(revision) = pod.labels().get(names::REVISION) else { continue };
            let name = pod.name_any();
            let view = views.get(&name).cloned().unwrap_or(View::Unknown);
            let seen = revisions.entry(Revision::new(revision.as_str())).or_default();
            seen.pods.push(rollout::Pod {
                ready: is_ready(pod),
                running: is_running(pod),
                ending: pod.metadata.deletion_timestamp.is_some(),
                created_at: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                leaves: leaves(pod, machines, holds),
                name,
                view,
            });
        }
        let service = self.object("Service", &names::active_service(&own));
        let selected =
            service.and_then(|service| service["spec"]["selector"][names::REVISION].as_str());
        World {
            now,
            wanted: build::wanted_revision(cluster, &self.digests()),
            replicas: cluster.spec.chat.replicas,
            revisions,
            selected: selected.map(Revision::new),
            obstacles,
            order: Order::find(cluster.annotations()),
            disruption: Disruption {
                max_unavailable: cluster.spec.disruption.max_unavailable,
                holds,
            },
        }
    }
}

/// Whether evictions wait for clients. They would wait for ever if nobody saw which machines are being emptied.
fn holds(cluster: &ChatCluster, machines: Option<&BTreeSet<String>>) -> bool {
    cluster.spec.disruption.evictions == Evictions::DrainFirst && machines.is_some()
}

/// Why somebody wants a pod to go, as the end of a sentence.
fn leaves(pod: &Pod, machines: Option<&BTreeSet<String>>, holds: bool) -> Option<String> {
    if pod.annotations().contains_key(crds::DRAIN_ANNOTATION) {
        return Some("somebody asked for it".to_owned());
    }
    let machine = pod.spec.as_ref()?.node_name.as_ref()?;
    let is_emptied = holds && machines.is_some_and(|machines| machines.contains(machine));
    is_emptied.then(|| format!("its machine {machine} is being emptied"))
}

/// Servers of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Part {
    /// How many there should be, if they are managed.
    pub wanted: Option<i32>,
    /// How many are ready.
    pub ready: i32,
    /// Whether they are being restarted one by one.
    pub restarting: bool,
    /// Whether one of them is on its way out for good.
    pub shrinking: bool,
}

impl Part {
    /// Whether chat nodes can be moved about on it.
    pub fn is_whole(self) -> bool {
        self.wanted.is_none_or(|wanted| self.ready >= wanted)
            && !(self.restarting || self.shrinking)
    }

    /// Such as `2/3`.
    pub fn shown(self) -> Option<String> {
        self.wanted.map(|wanted| format!("{}/{wanted}", self.ready))
    }
}

/// The number of a pod of this StatefulSet.
fn ordinal(pod: &str, set: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

fn ready(set: &StatefulSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn is_restarting(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else { return false };
    let stale = status.observed_generation < set.metadata.generation;
    let differs =
        status.update_revision.is_some() && status.update_revision != status.current_revision;
    let behind = status.updated_replicas.unwrap_or(0) < status.replicas;
    stale || (differs && behind)
}

/// A pod of a StatefulSet that is to be made from the template of this revision.
pub(crate) fn server(pod: &Pod, update_revision: Option<&String>) -> Server {
    Server {
        name: pod.name_any(),
        outdated: pod.labels().get(CONTROLLER_REVISION) != update_revision,
        ready_since: ready_since(pod),
        unready_since: unready_since(pod),
        ending: pod.metadata.deletion_timestamp.is_some(),
    }
}

fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "Ready")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = ready_condition(pod).filter(|condition| condition.status == "True")?;
    // One that does not say since when has been so for ever.
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

fn unready_since(pod: &Pod) -> Option<Timestamp> {
    if is_ready(pod) {
        return None;
    }
    let changed = ready_condition(pod).and_then(|ready| ready.last_transition_time.as_ref());
    // One without a machine has no such condition yet.
    changed.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

/// Whether its process runs, or may run: a machine that does not answer says nothing about it.
fn is_running(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let started = status
        .container_statuses
        .iter()
        .flatten()
        .any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    status.phase.as_deref() == Some("Running") && started
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
