//! What it means. Pure: from what was seen and what is configured to what people are told.

use std::time::Duration;

use chat_broker::nats::{FoundStream, Server, StreamState, SyncPolicy};
use chat_store::cql;

use super::evidence::{Broker, Evidence, Keys, Nats, Store};
use super::finding::Finding;
use super::{machine, web};
use crate::config::Config;

/// A node whose clock is further from the broker's takes no partition.
const CLOCK_MS_MAX: u64 = 2_000;

/// Closer than this nobody needs to know.
const CLOCK_MS_WELL: u64 = 500;

/// A stream that is fuller, in percent, will soon refuse appends.
const FULL_PERCENT: u64 = 80;

/// Everything, in the order in which a person should read it.
pub fn judge(config: &Config, evidence: &Evidence) -> Vec<Finding> {
    let mut findings = web::judge(config);
    findings.extend(machine::judge(config, evidence));
    match &evidence.broker {
        Broker::Embedded(_) => {}
        Broker::Nats(nats) => judge_nats(nats, &mut findings),
    }
    match &evidence.store {
        Store::Embedded(Err(error)) => findings.push(Finding::fail(
            "store",
            sentence(error),
            "Check that the file is a store of this program, and restore a backup if it is damaged.",
        )),
        Store::Embedded(Ok(None)) => {
            findings.push(Finding::ok("store", "There is none yet; the first start makes it."));
        }
        Store::Embedded(Ok(Some(store))) => findings.push(Finding::ok(
            "store",
            format!("The embedded store has schema version {}.", store.schema),
        )),
        Store::Cql(Err(error)) => findings.push(Finding::fail(
            "store",
            sentence(error),
            "No node starts without it.",
        )),
        Store::Cql(Ok(store)) => judge_cql(config, store, &mut findings),
    }
    findings.extend(judge_epochs(evidence));
    findings
}

fn judge_nats(nats: &Nats, findings: &mut Vec<Finding>) {
    for (address, answer) in &nats.servers {
        let check = format!("broker {address}");
        findings.push(match answer {
            Ok(server) => judge_server(&check, server),
            Err(error) => {
                let others = nats.servers.iter().any(|(_, answer)| answer.is_ok());
                match others {
                    true => Finding::warn(&check, sentence(error), "Other servers answer."),
                    false => Finding::fail(&check, sentence(error), "No node starts without it."),
                }
            }
        });
        if let Ok(server) = answer {
            findings.push(judge_clock(&format!("clock {address}"), server));
        }
    }
    judge_sync(nats, findings);
    match &nats.streams {
        // Said above, for each server.
        Err(_) if nats.servers.iter().all(|(_, answer)| answer.is_err()) => {}
        Err(error) => findings.push(Finding::fail(
            "streams",
            format!("JetStream does not answer: {}", sentence(error)),
            "Check that most of the servers run, and their logs.",
        )),
        Ok(streams) => findings.extend(judge_streams(streams)),
    }
    findings.extend(nats.keys.as_ref().map(judge_keys));
}

fn judge_server(check: &str, server: &Server) -> Finding {
    let Server { name, version, .. } = server;
    if !server.is_new_enough {
        return Finding::fail(
            check,
            format!("{name} has nats-server {version}; older ones than 2.12 do not fence appends."),
            "Upgrade it to 2.12 or newer.",
        );
    }
    if !server.has_jetstream {
        let found = format!("JetStream is off on {name}.");
        return Finding::fail(check, found, "Enable jetstream in its configuration.");
    }
    if server.payload_bytes_max < server.payload_bytes_needed {
        let (max, needed) = (server.payload_bytes_max, server.payload_bytes_needed);
        return Finding::fail(
            check,
            format!("{name} takes messages of {max} bytes; {needed} are needed."),
            format!("Set max_payload to {needed} or more in its configuration."),
        );
    }
    let cluster = server.cluster.as_ref().map(|cluster| format!(" of the cluster {cluster}"));
    let cluster = cluster.unwrap_or_default();
    Finding::ok(check, format!("{name}{cluster} answers: nats-server {version} with JetStream."))
}

fn judge_clock(check: &str, server: &Server) -> Finding {
    let Some(time) = server.time else {
        let found = format!("{} did not say what time it is.", server.name);
        let advice = "Compare the clocks of both machines by hand; 2 s apart is too much.";
        return Finding::warn(check, found, advice);
    };
    let apart_ms = time.ahead_ms.unsigned_abs();
    let direction = if time.ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("This machine's clock is {apart_ms} ms {direction} the server's.");
    let advice = "Synchronise both clocks (chrony, systemd-timesyncd).";
    let doubt_ms = u64::try_from(time.round_trip.as_millis() / 2).unwrap_or(u64::MAX);
    match apart_ms.saturating_sub(doubt_ms) {
        CLOCK_MS_MAX.. => Finding::fail(
            check,
            found,
            format!("A node takes no partition when it is more than 2 s off. {advice}"),
        ),
        CLOCK_MS_WELL.. => Finding::warn(check, found, advice),
        _ => Finding::ok(check, found),
    }
}

fn judge_sync(nats: &Nats, findings: &mut Vec<Finding>) {
    let told = nats.servers.iter().filter_map(|(address, answer)| {
        let sync = answer.as_ref().ok()?.sync?;
        Some((address.clone(), Ok(sync)))
    });
    let mut known: Vec<(String, Result<SyncPolicy, String>)> = told.collect();
    known.extend(nats.monitored_sync.iter().cloned());
    if known.is_empty() && nats.servers.iter().any(|(_, answer)| answer.is_ok()) {
        findings.push(Finding::warn(
            "sync policy",
            "The servers do not tell these credentials how they sync to disk.",
            "Make sure that each server's jetstream block says `sync_interval: always`, or name their monitoring ports \
             with --nats-monitor so that this can be checked.",
        ));
    }
    for (address, policy) in known {
        let check = format!("sync policy {address}");
        findings.push(match policy {
            Ok(SyncPolicy::Always) => Finding::ok(&check, "Every write is synced to disk."),
            Ok(SyncPolicy::Every(period)) => Finding::warn(
                &check,
                format!(
                    "Writes are synced every {} s: what was acknowledged since then can be lost when machines crash.",
                    period.as_secs()
                ),
                "Set `sync_interval: always` in the server's jetstream block.",
            ),
            Err(error) => Finding::warn(
                &check,
                sentence(&error),
                "Check the address of the monitoring port.",
            ),
        });
    }
}

/// One finding for each stream that is not right, or one for all that are.
fn judge_streams(streams: &[StreamState]) -> Vec<Finding> {
    let missing = streams.iter().filter(|stream| stream.found.is_none()).count();
    if missing == streams.len() {
        return vec![Finding::ok("streams", "There are none yet; the first node makes them.")];
    }
    let mut findings = Vec::new();
    for stream in streams {
        let check = format!("stream {}", stream.name);
        match &stream.found {
            None => findings.push(Finding::fail(
                &check,
                "It is missing while others are there.",
                "If it was deleted, what was acknowledged and not yet stored is gone: restore a backup. If the number of \
                 streams or the prefix in the configuration was changed, change it back.",
            )),
            Some(found) => findings.extend(judge_stream(&check, stream, found)),
        }
    }
    if findings.is_empty() {
        let fullest =
            streams.iter().filter_map(|stream| used_percent(stream.found.as_ref()?)).max();
        findings.push(Finding::ok(
            "streams",
            format!(
                "{} streams with {} replicas are as configured; the fullest is {} % full.",
                streams.len(),
                streams.first().map_or(0, |stream| stream.replicas_wanted),
                fullest.unwrap_or(0)
            ),
        ));
    }
    findings
}

fn used_percent(found: &FoundStream) -> Option<u64> {
    let max = found.bytes_max?;
    u64::try_from(u128::from(found.bytes) * 100 / u128::from(max.max(1))).ok()
}

fn judge_stream(check: &str, stream: &StreamState, found: &FoundStream) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(difference) = &found.difference {
        findings.push(Finding::fail(check, sentence(difference), "No node starts with it."));
    }
    if !found.has_leader {
        findings.push(Finding::fail(
            check,
            "It has no leader: nothing can be sent.",
            "Start the servers that are down; most of its replicas must run.",
        ));
    }
    let followers = found.replicas.saturating_sub(1);
    if found.has_leader && found.replicas_current < followers {
        findings.push(Finding::warn(
            check,
            format!(
                "{} of its {} replicas are up to date.",
                found.replicas_current + 1,
                found.replicas
            ),
            "Check the servers that are down or behind: the next loss may stop all sends.",
        ));
    }
    if found.replicas != stream.replicas_wanted {
        findings.push(Finding::warn(
            check,
            format!(
                "It has {} replicas, and the configuration says {}.",
                found.replicas, stream.replicas_wanted
            ),
            "The next start of a node changes it; set nats.replicas if that is not meant.",
        ));
    } else if found.replicas == 1 {
        findings.push(Finding::warn(
            check,
            "It has one replica: what was acknowledged is lost with its server's disk.",
            "Run three servers and set nats.replicas to 3.",
        ));
    }
    if found.bytes_max != Some(stream.bytes_max_wanted) {
        let now = found.bytes_max.map_or("no limit".to_owned(), |bytes| format!("{bytes} bytes"));
        findings.push(Finding::warn(
            check,
            format!("It may have {now}, and the configuration says {}.", stream.bytes_max_wanted),
            "The next start of a node changes it.",
        ));
    }
    match used_percent(found) {
        Some(100..) => findings.push(Finding::fail(
            check,
            "It is full: sends are refused.",
            "Check that the store takes writes, because the log is emptied behind them; then raise nats.stream_bytes_max.",
        )),
        Some(percent @ FULL_PERCENT..) => findings.push(Finding::warn(
            check,
            format!("It is {percent} % full; a full stream refuses sends."),
            "Check that the store takes writes, and raise nats.stream_bytes_max.",
        )),
        _ => {}
    }
    findings
}

/// A node that was not heard of for longer has died or hangs.
const NODE_SILENCE_MAX: Duration = Duration::from_secs(30);

fn judge_keys(keys: &Result<Keys, String>) -> Finding {
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => {
            let found = format!("The keys cannot be read: {}", sentence(error));
            return Finding::fail("nodes", found, "Check that the key stream has a leader.");
        }
    };
    let silent: Vec<&str> = keys
        .nodes
        .iter()
        .filter(|(_, age)| **age > NODE_SILENCE_MAX)
        .map(|(name, _)| name.as_str())
        .collect();
    match (keys.nodes.len(), silent.len()) {
        (0, _) => Finding::ok("nodes", "No node is registered: none runs now."),
        (all, 0) => Finding::ok("nodes", format!("{all} registered, all heard of lately.")),
        (all, some) => Finding::warn(
            "nodes",
            format!(
                "{some} of {all} registered nodes were not heard of for {} s: {}.",
                NODE_SILENCE_MAX.as_secs(),
                silent.join(", ")
            ),
            "If they have died, the others remove them soon; if they run, check their connection to the broker.",
        ),
    }
}

fn judge_cql(config: &Config, store: &cql::Inspection, findings: &mut Vec<Finding>) {
    let nodes: u32 = store.datacenters.values().sum();
    findings.push(Finding::ok("store", format!("{} answers, {nodes} nodes.", store.release)));
    let datacenter = &config.scylla.datacenter;
    let names: Vec<&str> = store.datacenters.keys().map(String::as_str).collect();
    let Some(nearby) = store.datacenters.get(datacenter) else {
        findings.push(Finding::fail(
            "store data centre",
            format!("There is no data centre {datacenter}; there is {}.", names.join(", ")),
            "Set scylla.datacenter to the one near this node.",
        ));
        return;
    };
    let Some(keyspace) = &store.keyspace else {
        let wanted = config.scylla.replication_factor;
        let advice = "Set scylla.replication_factor before the first start, or add nodes.";
        findings.push(match wanted > *nearby {
            true => Finding::fail(
                "store keyspace",
                format!("There is none yet, and {wanted} copies do not fit {nearby} nodes."),
                advice,
            ),
            false => Finding::ok("store keyspace", "There is none yet; the first node makes it."),
        });
        return;
    };
    findings.push(judge_replication(keyspace, datacenter, *nearby));
    findings.push(judge_schema(keyspace.schema, keyspace.schema_known));
}

fn judge_replication(keyspace: &cql::KeyspaceState, datacenter: &str, nearby: u32) -> Finding {
    let check = "store replication";
    if !keyspace.is_network_topology {
        return Finding::warn(
            check,
            "The keyspace's replication does not count copies per data centre.",
            "Alter the keyspace to NetworkTopologyStrategy, and repair it.",
        );
    }
    let copies = keyspace.replication.get(datacenter).copied().unwrap_or(0);
    let found = format!("{copies} copies in {datacenter}, which has {nearby} nodes.");
    match copies {
        0 => {
            Finding::fail(check, found, format!("Alter the keyspace: give {datacenter} 3 copies."))
        }
        _ if copies > nearby => {
            Finding::fail(check, found, "Add nodes: there are fewer than copies.")
        }
        1 | 2 => Finding::warn(
            check,
            found,
            "With less than 3 copies the store stops when one node does. Alter the keyspace to 3, and repair it.",
        ),
        _ => Finding::ok(check, found),
    }
}

fn judge_schema(found: i32, known: i32) -> Finding {
    let text = format!("The store has version {found}, this program version {known}.");
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Finding::ok("store schema", text),
        std::cmp::Ordering::Greater => {
            Finding::fail("store schema", text, "Start the newer program; this one is refused.")
        }
        std::cmp::Ordering::Less => Finding::warn(
            "store schema",
            text,
            "The next start of a node of this version migrates it; older nodes are then refused when they start.",
        ),
    }
}

/// Whether log and store are of one platform and one life.
fn judge_epochs(evidence: &Evidence) -> Option<Finding> {
    let log = match &evidence.broker {
        Broker::Embedded(Ok(epoch)) => *epoch,
        Broker::Nats(nats) => match &nats.keys {
            Some(Ok(keys)) => keys.store_epoch,
            // Said elsewhere.
            Some(Err(_)) => return None,
            None if nats.streams.is_err() => return None,
            None => None,
        },
        Broker::Embedded(Err(error)) => {
            return Some(Finding::fail(
                "log",
                sentence(error),
                "Check that the file is a log of this program, and restore a backup if it is damaged.",
            ));
        }
    };
    let store = match &evidence.store {
        Store::Embedded(Ok(Some(store))) => store.epoch,
        Store::Cql(Ok(store)) => store.keyspace.as_ref().and_then(|keyspace| keyspace.epoch),
        Store::Embedded(Ok(None)) => None,
        Store::Embedded(Err(_)) | Store::Cql(Err(_)) => return None,
    };
    let advice = "Check that both addresses are of one platform, or restore both from one backup.";
    Some(match (log, store) {
        (None, None) => Finding::ok("store epoch", "Neither log nor store has one yet."),
        (Some(log), Some(store)) if log == store => {
            Finding::ok("store epoch", "Log and store belong together.")
        }
        (Some(_), Some(_)) => Finding::fail(
            "store epoch",
            "Log and store do not belong together: they hold different epochs.",
            advice,
        ),
        (Some(_), None) => {
            Finding::fail("store epoch", "The log names a store, and the store is empty.", advice)
        }
        // A first start that was broken off leaves this; so does a log that is gone.
        (None, Some(_)) => Finding::warn(
            "store epoch",
            "The store has an epoch, and the log names none.",
            "If nodes have run with this store before, its log is missing: check the broker's address and prefix, or \
             restore both from one backup. If not, the next start writes it.",
        ),
    })
}

/// A text of another program as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let first: String = letters.next().map(|l| l.to_uppercase().collect()).unwrap_or_default();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
