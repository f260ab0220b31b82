//! The database: a StatefulSet for each rack, a Service for each member, and what differs between engines.

use std::collections::BTreeMap;

use crds::{ChatCluster, Engine, ManagedScylla, Rack};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, ExecAction, Lifecycle, LifecycleHandler,
    PodSecurityContext, PodSpec, PodTemplateSpec, SecurityContext, Service, ServiceSpec,
    VolumeMount,
};
use kube::api::ObjectMeta;

use super::nats::retention;
use super::object::{Intent, digest, entry, metadata};
use super::{Facts, LostMember, Start, place, pod};
use crate::names::{self, Component};

/// A member has to write what is in memory before it ends.
const GRACE_SECONDS: i64 = 120;
const CQL_PORT: i32 = 9042;

/// Where the files of the rack's ConfigMap are, which change while a member runs.
const TOLD: &str = "/etc/member";
/// The file with the unique id of the pod whose member is to leave the ring.
const LEAVING: &str = "leaving";

/// The file with the unique ids of the pods whose members have joined the ring.
const JOINED: &str = "joined";

/// What runs in front of the image's own start script, with the command by which a member leaves the ring as `$1`.
///
/// A member that has not joined the ring yet waits until the operator says how it starts. A member leaves the ring when the
/// operator says so, and never because it is stopped; it tries again until it has left, for it may have to wait for others.
const SCRIPT: &str = r#"leave=$1
shift
joining=/var/lib/scylla/joining
told=/etc/member/$POD_NAME
is_new() { [ -e $joining ] || [ ! -d /var/lib/scylla/data/system ]; }
says() { [ -s /etc/member/$1 ] && case $(cat /etc/member/$1) in *$POD_UID*) ;; *) false ;; esac; }
trap 'exit 0' TERM
if is_new; then
  echo 'waits for the operator to say how to join the ring' >&2
  while [ ! -s $told ]; do sleep 1; done
  : >$joining
  set -- "$@" $(cat $told)
fi
while sleep 5; do
  if says joined; then rm -f $joining; fi
  if says leaving; then
    echo 'leaves the ring' >&2
    $leave && break
  fi
done &
exec /docker-entrypoint.py "$@"
"#;

/// What differs between databases that take the same arguments.
trait Database {
    /// Ports beside CQL.
    fn ports(&self) -> Vec<ContainerPort>;
    /// Command that makes a member write everything and take no more, before it is stopped.
    fn drain(&self) -> Vec<String>;
    /// Command that makes a member give its rows to the others and leave the ring.
    fn leave(&self) -> &'static str;
    /// Argument with which a member takes the place of one whose volume is lost. It is of no account for one that has joined
    /// before.
    fn replace(&self, lost: &LostMember) -> String;
    /// Arguments of its own.
    fn arguments(&self, managed: &ManagedScylla) -> Vec<String>;
    /// What its processes may do.
    fn security(&self) -> (Option<PodSecurityContext>, SecurityContext);
}

struct ScyllaDb;
struct Cassandra;

impl Database for ScyllaDb {
    fn ports(&self) -> Vec<ContainerPort> {
        let ports = [("shard-aware", 19042), ("internode", 7000), ("metrics", 9180)];
        ports.map(|(name, port)| pod::container_port(name, port)).into()
    }

    fn drain(&self) -> Vec<String> {
        ["nodetool", "drain"].map(str::to_owned).into()
    }

    fn leave(&self) -> &'static str {
        "nodetool decommission"
    }

    fn replace(&self, lost: &LostMember) -> String {
        format!("--replace-node-first-boot={}", lost.host)
    }

    fn arguments(&self, managed: &ManagedScylla) -> Vec<String> {
        let mut arguments = vec![
            "--prometheus-address=0.0.0.0".to_owned(),
            format!("--developer-mode={}", i32::from(managed.developer_mode)),
        ];
        let limits = &managed.resources.limits;
        let whole = limits.get("cpu").and_then(|cpu| cpu.parse::<u32>().ok());
        arguments.push(format!("--smp={}", whole.unwrap_or(1).max(1)));
        // Without processors of its own it must not spin on them.
        let guaranteed = !limits.is_empty() && managed.resources.requests == *limits;
        arguments.push(format!("--overprovisioned={}", i32::from(!guaranteed)));
        if managed.developer_mode {
            arguments.push("--memory=512M".to_owned());
        }
        arguments
    }

    /// The image's own start script runs as root and writes below `/etc` and `/var`.
    fn security(&self) -> (Option<PodSecurityContext>, SecurityContext) {
        let context = SecurityContext {
            allow_privilege_escalation: Some(false),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            ..SecurityContext::default()
        };
        (Some(PodSecurityContext::default()), context)
    }
}

impl Database for Cassandra {
    fn ports(&self) -> Vec<ContainerPort> {
        vec![pod::container_port("internode", 7000)]
    }

    fn drain(&self) -> Vec<String> {
        ["nodetool", "drain"].map(str::to_owned).into()
    }

    /// Cassandra has keyspaces of its own with two and three copies, and a ring of fewer members by force alone. The operator
    /// looks at the platform's.
    fn leave(&self) -> &'static str {
        "nodetool decommission --force"
    }

    fn replace(&self, lost: &LostMember) -> String {
        format!("--replace-address-first-boot={}", lost.address)
    }

    fn arguments(&self, _: &ManagedScylla) -> Vec<String> {
        Vec::new()
    }

    fn security(&self) -> (Option<PodSecurityContext>, SecurityContext) {
        (None, pod::confined())
    }
}

fn database(engine: Engine) -> &'static dyn Database {
    match engine {
        Engine::ScyllaDb => &ScyllaDb,
        Engine::Cassandra => &Cassandra,
    }
}

pub(super) fn intents(cluster: &ChatCluster, facts: &Facts) -> Vec<Intent> {
    let Some(managed) = &cluster.spec.scylla.managed else { return Vec::new() };
    let (own, _) = place(cluster);
    let selector = names::selector(&own, Component::Scylla);
    let mut intents = vec![
        service(cluster, names::scylla(&own), selector.clone(), false),
        pod::disruption_budget(
            cluster,
            names::scylla(&own),
            Component::Scylla,
            &selector,
            pod::SERVERS,
        ),
    ];
    for rack in &managed.racks {
        if let Some(replicas) = facts.members.replicas.get(&rack.name) {
            intents.extend(rack_intents(cluster, managed, rack, *replicas, facts));
        }
    }
    intents
}

fn rack_intents(
    cluster: &ChatCluster,
    managed: &ManagedScylla,
    rack: &Rack,
    replicas: i32,
    facts: &Facts,
) -> Vec<Intent> {
    let (own, _) = place(cluster);
    let name = names::rack(&own, &rack.name);
    let mut intents = vec![
        // Before the set: a new member reads how it is to start.
        Intent::new(&ConfigMap {
            metadata: metadata(cluster, name.clone(), Component::Scylla),
            data: Some(files(cluster, managed, rack, facts)),
            ..ConfigMap::default()
        }),
        service(cluster, name.clone(), rack_selector(&own, rack), true),
        stateful_set(cluster, managed, rack, replicas, facts),
    ];
    intents.extend((0..replicas).map(|ordinal| {
        let member = format!("{name}-{ordinal}");
        let selector = entry("statefulset.kubernetes.io/pod-name", member.as_str());
        service(cluster, member, selector, true)
    }));
    intents
}

/// What the members of a rack read.
fn files(
    cluster: &ChatCluster,
    managed: &ManagedScylla,
    rack: &Rack,
    facts: &Facts,
) -> BTreeMap<String, String> {
    let (own, _) = place(cluster);
    let set = format!("{}-", names::rack(&own, &rack.name));
    let properties = format!("dc={}\nrack={}\n", managed.datacenter, rack.name);
    let mut files = entry("cassandra-rackdc.properties", properties);
    let starts = facts.members.starts.iter().filter(|(member, _)| member.starts_with(&set));
    files.extend(starts.map(|(member, how)| (member.clone(), start(cluster, managed, how))));
    if let Some((_, uid)) = facts.members.leaving.as_ref().filter(|(pod, _)| pod.starts_with(&set))
    {
        files.insert(LEAVING.to_owned(), format!("{uid}\n"));
    }
    let joined = facts.members.joined.iter().filter(|(member, _)| member.starts_with(&set));
    let joined: String = joined.map(|(_, uid)| format!("{uid}\n")).collect();
    files.insert(JOINED.to_owned(), joined);
    files
}

/// Arguments of a member whose volume is empty.
fn start(cluster: &ChatCluster, managed: &ManagedScylla, start: &Start) -> String {
    let (_, namespace) = place(cluster);
    let seeds: Vec<String> =
        start.seeds.iter().map(|member| format!("{member}.{namespace}.svc")).collect();
    let mut arguments = vec![format!("--seeds={}", seeds.join(","))];
    arguments.extend(start.replaces.as_ref().map(|lost| database(managed.engine).replace(lost)));
    arguments.join(" ") + "\n"
}

fn rack_selector(own: &str, rack: &Rack) -> BTreeMap<String, String> {
    let mut labels = names::selector(own, Component::Scylla);
    labels.insert(names::RACK.to_owned(), rack.name.clone());
    labels
}

/// A Service of all members, of a rack, or of one member. The latter two are for members, which have to find each other
/// before they are ready.
fn service(
    cluster: &ChatCluster,
    name: String,
    selector: BTreeMap<String, String>,
    internal: bool,
) -> Intent {
    Intent::new(&Service {
        metadata: metadata(cluster, name, Component::Scylla),
        spec: Some(ServiceSpec {
            cluster_ip: internal.then(|| "None".to_owned()),
            publish_not_ready_addresses: internal.then_some(true),
            selector: Some(selector),
            ports: Some(vec![pod::service_port("cql", CQL_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

/// The member that all ask first that have joined before. It must be the same one for all: two that choose each other never
/// meet the rest.
fn seed(cluster: &ChatCluster, managed: &ManagedScylla) -> String {
    let (own, namespace) = place(cluster);
    let first = managed.racks.first().map_or("", |rack| rack.name.as_str());
    format!("{}-0.{namespace}.svc", names::rack(&own, first))
}

fn stateful_set(
    cluster: &ChatCluster,
    managed: &ManagedScylla,
    rack: &Rack,
    replicas: i32,
    facts: &Facts,
) -> Intent {
    let (own, _) = place(cluster);
    let name = names::rack(&own, &rack.name);
    let selector = rack_selector(&own, rack);
    let mut labels = pod::pod_labels(cluster, Component::Scylla);
    labels.insert(names::RACK.to_owned(), rack.name.clone());
    let container = container(cluster, managed);
    let inputs = digest(&(
        &managed.image,
        &managed.resources,
        &managed.storage,
        managed.developer_mode,
        (&rack.name, &rack.node_selector, replicas),
        cluster.spec.deletion_policy,
    ));
    let mut spec = pod::pod_spec(cluster, vec![container]);
    if let (Some(security), _) = database(managed.engine).security() {
        spec.security_context = Some(security);
    }
    Intent::new(&StatefulSet {
        metadata: metadata(cluster, name.clone(), Component::Scylla),
        spec: Some(StatefulSetSpec {
            service_name: Some(name.clone()),
            replicas: Some(replicas),
            // The operator lets them join one at a time. Those that have joined must not wait for one that is lost.
            pod_management_policy: Some("Parallel".to_owned()),
            // Which member goes next depends on all others: crate::scylla decides it.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            min_ready_seconds: Some(5),
            selector: pod::labelled(&selector),
            persistent_volume_claim_retention_policy: Some(retention(cluster)),
            volume_claim_templates: Some(vec![pod::claim(&managed.storage, &name, facts)]),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    volumes: Some(vec![pod::config_volume("rackdc", &name)]),
                    topology_spread_constraints: Some(pod::spread(&selector)),
                    affinity: Some(pod::apart(&selector)),
                    termination_grace_period_seconds: Some(GRACE_SECONDS),
                    node_selector: Some(rack.node_selector.clone())
                        .filter(|labels| !labels.is_empty()),
                    ..spec
                }),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
    .made_from(&inputs)
}

fn container(cluster: &ChatCluster, managed: &ManagedScylla) -> Container {
    let engine = database(managed.engine);
    let mut arguments = vec![
        format!("--seeds={}", seed(cluster, managed)),
        format!("--cluster-name={}", place(cluster).0),
        "--endpoint-snitch=GossipingPropertyFileSnitch".to_owned(),
        "--listen-address=$(POD_IP)".to_owned(),
        "--rpc-address=0.0.0.0".to_owned(),
        "--broadcast-address=$(POD_IP)".to_owned(),
        "--broadcast-rpc-address=$(POD_IP)".to_owned(),
    ];
    arguments.extend(engine.arguments(managed));
    let mut ports = vec![pod::container_port("cql", CQL_PORT)];
    ports.extend(engine.ports());
    Container {
        name: "scylla".to_owned(),
        image: Some(managed.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(["sh", "-c", SCRIPT, "member", engine.leave()].map(str::to_owned).into()),
        args: Some(arguments),
        env: Some(vec![
            pod::own_field("POD_IP", "status.podIP"),
            pod::own_field("POD_NAME", "metadata.name"),
            pod::own_field("POD_UID", "metadata.uid"),
        ]),
        ports: Some(ports),
        // It listens for CQL once it has joined the ring, which takes long when there is much to stream.
        startup_probe: Some(pod::tcp_probe("cql", 5, 720)),
        readiness_probe: Some(pod::tcp_probe("cql", 5, 2)),
        liveness_probe: Some(pod::tcp_probe("cql", 10, 12)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction { command: Some(engine.drain()) }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(pod::resources(&managed.resources)),
        security_context: Some(engine.security().1),
        volume_mounts: Some(vec![
            pod::mount("data", "/var/lib/scylla"),
            pod::mount("rackdc", TOLD),
            VolumeMount {
                sub_path: Some("cassandra-rackdc.properties".to_owned()),
                ..pod::mount("rackdc", "/etc/scylla/cassandra-rackdc.properties")
            },
        ]),
        ..Container::default()
    }
}
