//! The chat nodes' configuration file.

use crds::{ChatCluster, NatsSpec, ScyllaSpec};
use toml::{Table, Value};

use super::{Revision, place, secrets};
use crate::names;

/// Where the file and what it points to are in the container.
pub(super) const DIRECTORY: &str = "/etc/chat";
/// Port of clients.
pub(super) const CLIENT_PORT: i32 = 8080;
/// Port of probes, metrics and the drain.
pub(super) const ADMIN_PORT: i32 = 9090;
/// Seconds of a pod's grace that stay for the end of the process itself.
const RESERVE_SECONDS: i64 = 5;
/// Streams of the log; a part of the servers' disks stays for the rest.
const STREAM_SHARES: i64 = 5;

/// The configuration file of a revision. What is secret or differs by pod is not in it: that comes by the environment.
pub fn configuration(cluster: &ChatCluster, revision: &Revision) -> String {
    let chat = &cluster.spec.chat;
    let mut file = Table::new();
    // What was given goes first, so that what the operator needs stands in any case.
    for setting in &chat.config {
        set(&mut file, &setting.name, parse(&setting.value));
    }
    set(&mut file, "listen", format!("0.0.0.0:{CLIENT_PORT}").into());
    set(&mut file, "admin_listen", format!("0.0.0.0:{ADMIN_PORT}").into());
    set(&mut file, "revision", revision.as_str().into());
    set(&mut file, "public_url", public_url(cluster).into());
    set(&mut file, "connections_max", i64::from(chat.connections_max).into());
    set(&mut file, "log.format", "json".into());
    set(&mut file, "token.key_file", format!("{DIRECTORY}/keys/keys.json").into());
    let grace = (chat.termination_grace_seconds - RESERVE_SECONDS) * 1000;
    set(&mut file, "shutdown.grace_ms", grace.into());
    if let Some(region) = &chat.discovery.region {
        set(&mut file, "region", region.as_str().into());
    }
    if let Some(template) = &chat.discovery.host_template {
        set(&mut file, "advertise_host_template", template.as_str().into());
    }
    if !chat.discovery.networks.is_empty() {
        let networks = chat.discovery.networks.iter().map(|network| network.as_str().into());
        set(&mut file, "discovery.regions", Value::Array(networks.collect()));
    }
    nats(&mut file, cluster);
    scylla(&mut file, cluster);
    file.to_string()
}

/// Address of the platform for clients.
fn public_url(cluster: &ChatCluster) -> String {
    let (own, namespace) = place(cluster);
    let inside = || format!("http://{}.{namespace}.svc:{CLIENT_PORT}", names::active_service(&own));
    cluster.spec.chat.public_url.clone().unwrap_or_else(inside)
}

fn nats(file: &mut Table, cluster: &ChatCluster) {
    let (own, namespace) = place(cluster);
    let spec = &cluster.spec.nats;
    let servers = match &spec.external {
        Some(external) => external.servers.join(","),
        None => format!("nats://{}.{namespace}.svc:4222", names::nats(&own)),
    };
    set(file, "broker", servers.into());
    set(file, "nats.prefix", spec.prefix.as_str().into());
    set(file, "nats.replicas", i64::from(stream_replicas(spec)).into());
    if let Some(bytes) = stream_bytes_max(spec) {
        set(file, "nats.stream_bytes_max", bytes.into());
    }
    if secrets(cluster).nats_authority.is_some() {
        set(file, "nats.tls", true.into());
        set(file, "nats.ca_file", format!("{DIRECTORY}/nats/ca.crt").into());
    }
}

fn stream_replicas(spec: &NatsSpec) -> i32 {
    let most = spec.managed.as_ref().map_or(3, |managed| managed.replicas.min(3));
    spec.stream_replicas.unwrap_or(most)
}

fn stream_bytes_max(spec: &NatsSpec) -> Option<i64> {
    let share = || {
        let managed = spec.managed.as_ref()?;
        Some(super::nats::bytes(&managed.storage.size)? / STREAM_SHARES)
    };
    spec.stream_bytes_max.or_else(share)
}

fn scylla(file: &mut Table, cluster: &ChatCluster) {
    let (own, namespace) = place(cluster);
    let spec = &cluster.spec.scylla;
    let (points, datacenter) = match (&spec.external, &spec.managed) {
        (Some(external), _) => (external.contact_points.join(","), external.datacenter.as_str()),
        (None, managed) => (
            format!("{}.{namespace}.svc:9042", names::scylla(&own)),
            managed.as_ref().map_or("datacenter1", |managed| managed.datacenter.as_str()),
        ),
    };
    set(file, "store", format!("scylla://{points}/{}", spec.keyspace).into());
    set(file, "scylla.datacenter", datacenter.into());
    set(file, "scylla.replication_factor", i64::from(replication_factor(spec)).into());
    if secrets(cluster).scylla_authority.is_some() {
        set(file, "scylla.ca_file", format!("{DIRECTORY}/scylla/ca.crt").into());
    }
}

/// Copies of each row, if the keyspace is not there yet.
pub fn replication_factor(spec: &ScyllaSpec) -> i32 {
    let members =
        |managed: &crds::ManagedScylla| managed.racks.iter().map(|rack| rack.members).sum();
    let most = spec.managed.as_ref().map_or(3, |managed| i32::min(members(managed), 3));
    spec.replication_factor.unwrap_or(most)
}

/// A value as TOML has it: numbers, truth values and lists are written as such; anything else is a text.
fn parse(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| text.into())
}

/// Sets a setting by its dotted key.
fn set(file: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            file.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let section = file.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(rest.to_owned(), value);
            }
        }
    }
}
