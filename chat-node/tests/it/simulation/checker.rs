//! What must hold at the end of every run.

use std::collections::{BTreeMap, BTreeSet};

use chat_broker::{Broker, Sequence};
use chat_protocol::record::{Change, Entry, Record};
use chat_protocol::{ConversationId, MessageId, Partition, UserId};

use super::client::{Edited, Promises};
use super::device::Device;

/// Everything that was committed, as the log says.
pub(super) async fn log(broker: &dyn Broker, partitions: &[Partition]) -> Vec<Entry> {
    let mut entries = vec![];
    for partition in partitions {
        let records =
            broker.read_log(*partition, Sequence(0), usize::MAX).await.expect("a calm broker");
        let mut last = 0;
        for stored in records {
            let record = Record::from_bytes(&stored.payload).expect("own records");
            for entry in record.entries {
                assert!(entry.id > last, "ids increase in log order");
                last = entry.id;
                entries.push(entry);
            }
        }
    }
    entries
}

/// The records of the logs, a line each, to find out what went wrong.
pub(super) async fn dump(broker: &dyn Broker, partitions: &[Partition]) -> String {
    let mut lines = vec![];
    for partition in partitions {
        let records =
            broker.read_log(*partition, Sequence(0), usize::MAX).await.expect("a calm broker");
        for stored in records {
            let record = Record::from_bytes(&stored.payload).expect("own records");
            let seq = |entry: &Entry| match &entry.change {
                Some(Change::Message(sent)) => format!("{} seq {}", entry.id, sent.seq),
                _ => entry.id.to_string(),
            };
            let entries: Vec<_> = record.entries.iter().map(seq).collect();
            lines.push(format!(
                "{partition} {:?} kind {} epoch {} start {} written {} {entries:?}",
                stored.sequence, record.kind, record.epoch, record.start, record.is_written
            ));
        }
    }
    lines.join("\n")
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

pub(super) fn check(
    entries: &[Entry],
    promises: &Promises,
    devices: &[Device],
    members: &BTreeMap<ConversationId, Vec<UserId>>,
) -> Result<(), String> {
    let mut seqs: BTreeMap<ConversationId, u64> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    let mut committed = BTreeMap::new();
    for entry in entries {
        let conversation = entry.conversation_id().map_err(|e| e.to_string())?;
        let Some(Change::Message(sent)) = &entry.change else { continue };
        let seq = seqs.entry(conversation).or_default();
        *seq += 1;
        ensure!(sent.seq == *seq, "{conversation}: seq {} where {seq} was due", sent.seq);
        let key = (conversation, sent.sender.clone(), sent.client_message_id.clone());
        ensure!(
            keys.insert(key),
            "{conversation}: one send was committed twice, again as {}",
            entry.id
        );
        committed.insert(entry.message_id(), (conversation, sent.clone()));
    }
    for promise in promises.acknowledged.lock().unwrap().iter() {
        let id = promise.sent.message_id;
        let Some((conversation, sent)) = committed.get(&id) else {
            return Err(format!("acknowledged and not in the log: {promise:?}"));
        };
        ensure!(*conversation == promise.conversation, "{id} is in another conversation");
        ensure!(sent.seq == promise.sent.seq, "{id}: acknowledged with another seq");
        ensure!(
            sent.client_message_id == promise.client_message_id.as_bytes(),
            "{id}: acknowledged for another send"
        );
        ensure!(sent.sender == promise.sender.as_bytes(), "{id}: acknowledged to another sender");
        ensure!(sent.body.contains(&promise.text), "{id}: another text");
    }
    for device in devices {
        check_device(device, &committed, members)?;
    }
    check_edits(promises, devices)
}

fn check_device(
    device: &Device,
    committed: &BTreeMap<MessageId, (ConversationId, chat_protocol::record::MessageSent)>,
    members: &BTreeMap<ConversationId, Vec<UserId>>,
) -> Result<(), String> {
    let own = |conversation: &ConversationId| members[conversation].contains(&device.user);
    for (id, (conversation, _)) in
        committed.iter().filter(|(_, (conversation, _))| own(conversation))
    {
        let received = device.received.contains_key(id);
        ensure!(
            received,
            "{} never got {id} of {conversation}, cursor {}",
            device.user,
            device.cursor
        );
    }
    for (id, message) in &device.received {
        let Some((conversation, sent)) = committed.get(id) else {
            return Err(format!("{} got {id}, which was never committed", device.user));
        };
        ensure!(own(conversation), "{} got {id} of a conversation of others", device.user);
        ensure!(message.seq == sent.seq, "{id}: seq {} instead of {}", message.seq, sent.seq);
    }
    Ok(())
}

/// An acknowledged edit is what every device shows, unless a later one replaced it.
fn check_edits(promises: &Promises, devices: &[Device]) -> Result<(), String> {
    for Edited { message: id, version, text } in promises.edited.lock().unwrap().iter() {
        for device in devices {
            let Some(message) = device.received.get(id) else { continue };
            ensure!(
                message.version >= *version,
                "{}: edit {version} of {id} is missing",
                device.user
            );
            let shown =
                message.body.as_ref().map(|body| body.as_json().to_owned()).unwrap_or_default();
            ensure!(
                message.version > *version || shown.contains(text),
                "{}: {id} shows {shown} instead of {text}",
                device.user
            );
        }
    }
    Ok(())
}
