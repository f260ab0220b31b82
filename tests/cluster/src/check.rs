//! What must hold at the end of a run. Pure: from what happened to what is wrong.

use std::collections::{BTreeMap, HashMap, HashSet};

use chat_protocol::{ClientMessageId, ConversationId, MessageId};

use crate::log::{DeviceNumber, Entry, Seen};

/// Most sentences of one kind; a broken run has thousands.
const SHOWN_MAX: usize = 20;

#[derive(Default)]
struct Facts<'a> {
    members: HashMap<ConversationId, &'a [DeviceNumber]>,
    /// In the order of sending.
    sent: Vec<(DeviceNumber, ConversationId, ClientMessageId)>,
    acknowledged: HashMap<ClientMessageId, Option<(MessageId, u64)>>,
    refused: HashMap<ClientMessageId, &'a str>,
    received: HashMap<DeviceNumber, Vec<&'a Seen>>,
    /// How many of `sent` had been sent when the device was last reset.
    sent_before_reset: HashMap<DeviceNumber, usize>,
    twice: Vec<(DeviceNumber, &'a Seen)>,
    ended: Vec<(DeviceNumber, &'a str)>,
    histories: BTreeMap<ConversationId, &'a [Seen]>,
}

impl<'a> Facts<'a> {
    fn gather(entries: &'a [Entry]) -> Facts<'a> {
        let mut facts = Facts::default();
        let mut have: HashMap<DeviceNumber, HashSet<MessageId>> = HashMap::new();
        for entry in entries {
            match entry {
                Entry::Conversation { conversation, devices } => {
                    facts.members.insert(*conversation, devices);
                }
                Entry::Sent { device, conversation, message } => {
                    facts.sent.push((*device, *conversation, *message));
                }
                Entry::Acknowledged { message, place } => {
                    facts.acknowledged.insert(*message, *place);
                }
                Entry::Refused { message, reason } => {
                    facts.refused.insert(*message, reason);
                }
                Entry::Received { device, message } => {
                    if have.entry(*device).or_default().insert(message.id) {
                        facts.received.entry(*device).or_default().push(message);
                    } else {
                        facts.twice.push((*device, message));
                    }
                }
                // What was sent until then is loaded from the history, which is checked by itself.
                Entry::Reset { device } => {
                    have.remove(device);
                    facts.received.remove(device);
                    facts.sent_before_reset.insert(*device, facts.sent.len());
                }
                Entry::Ended { device, reason } => facts.ended.push((*device, reason)),
                Entry::History { conversation, messages } => {
                    facts.histories.insert(*conversation, messages);
                }
                Entry::Started { .. }
                | Entry::Connected { .. }
                | Entry::Disconnected { .. }
                | Entry::Fault { .. }
                | Entry::Memory { .. } => {}
            }
        }
        facts
    }
}

/// What is wrong, each in a sentence; empty if nothing is.
pub fn check(entries: &[Entry]) -> Vec<String> {
    let facts = Facts::gather(entries);
    let kinds = [
        unanswered(&facts),
        histories(&facts),
        acknowledged(&facts),
        order(&facts),
        devices(&facts),
        ends(&facts),
    ];
    let mut wrong = Vec::new();
    for mut kind in kinds {
        let count = kind.len();
        kind.truncate(SHOWN_MAX);
        wrong.extend(kind);
        if count > SHOWN_MAX {
            wrong.push(format!("… and {} more of this kind.", count - SHOWN_MAX));
        }
    }
    wrong
}

/// Whether every message that was handed to a client has got its answer.
pub fn is_answered(entries: &[Entry]) -> bool {
    unanswered(&Facts::gather(entries)).is_empty()
}

/// Whether every device has every acknowledged message of its conversations.
pub fn is_delivered(entries: &[Entry]) -> bool {
    let facts = Facts::gather(entries);
    let have = by_device(&facts);
    facts.sent.iter().all(|(_, conversation, message)| {
        let members = facts.members.get(conversation).copied().unwrap_or_default();
        !facts.acknowledged.contains_key(message)
            || members
                .iter()
                .all(|device| have.get(device).is_some_and(|ids| ids.contains(message)))
    })
}

/// What each device has: what it received, and what it sent itself and knows to be committed; that does not come back to
/// it while it stays connected.
fn by_device(facts: &Facts<'_>) -> HashMap<DeviceNumber, HashSet<ClientMessageId>> {
    let mut have: HashMap<DeviceNumber, HashSet<ClientMessageId>> = HashMap::new();
    for (device, seen) in &facts.received {
        have.entry(*device).or_default().extend(seen.iter().map(|seen| seen.message));
    }
    for (device, _, message) in &facts.sent {
        if facts.acknowledged.contains_key(message) {
            have.entry(*device).or_default().insert(*message);
        }
    }
    for (device, count) in &facts.sent_before_reset {
        let loaded = facts.sent.iter().take(*count).map(|(.., message)| *message);
        have.entry(*device).or_default().extend(loaded);
    }
    have
}

fn unanswered(facts: &Facts<'_>) -> Vec<String> {
    let answered =
        |message| facts.acknowledged.contains_key(message) || facts.refused.contains_key(message);
    let open = facts.sent.iter().filter(|(_, _, message)| !answered(message));
    let sentences = open.map(|(device, conversation, message)| {
        format!("Device {device} got no answer to {message} in {conversation}.")
    });
    let refused = facts
        .refused
        .iter()
        .map(|(message, reason)| format!("{message} was refused for good: {reason}"));
    sentences.chain(refused).collect()
}

/// Each message once, ids rising, seqs without a hole.
fn histories(facts: &Facts<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for conversation in facts.members.keys().filter(|id| !facts.histories.contains_key(id)) {
        wrong.push(format!("The history of {conversation} was not read."));
    }
    for (conversation, messages) in &facts.histories {
        let mut names = HashSet::new();
        for seen in *messages {
            if !names.insert(seen.message) {
                wrong.push(format!("{} stands twice in {conversation}.", seen.message));
            }
        }
        for pair in messages.windows(2) {
            if pair[1].id <= pair[0].id || pair[1].seq <= pair[0].seq {
                wrong.push(format!("{} is out of order in {conversation}.", pair[1].message));
            }
            if pair[1].seq > pair[0].seq + 1 {
                let (from, to) = (pair[0].seq, pair[1].seq);
                wrong.push(format!("{conversation} has a hole between seq {from} and {to}."));
            }
        }
    }
    wrong
}

/// What was acknowledged is in the history, at the place that was named.
fn acknowledged(facts: &Facts<'_>) -> Vec<String> {
    let mut places = HashMap::new();
    for seen in facts.histories.values().copied().flatten() {
        places.insert(seen.message, (seen.id, seen.seq));
    }
    let mut wrong = Vec::new();
    for (message, place) in &facts.acknowledged {
        match (places.get(message), place) {
            (None, _) => wrong.push(format!("{message} was acknowledged and is lost.")),
            (Some(found), Some(named)) if found != named => {
                wrong.push(format!("{message} was acknowledged at {named:?} and is at {found:?}."));
            }
            _ => {}
        }
    }
    wrong
}

/// What one device sent to one conversation stands there in the order of sending.
fn order(facts: &Facts<'_>) -> Vec<String> {
    let mut numbers = HashMap::new();
    for (number, (device, _, message)) in facts.sent.iter().enumerate() {
        numbers.insert(*message, (*device, number));
    }
    let mut wrong = Vec::new();
    for (conversation, messages) in &facts.histories {
        let mut last: HashMap<DeviceNumber, usize> = HashMap::new();
        for seen in *messages {
            let Some((device, number)) = numbers.get(&seen.message) else {
                wrong.push(format!("Nobody sent {}, and it is in {conversation}.", seen.message));
                continue;
            };
            if last.insert(*device, *number).is_some_and(|before| before > *number) {
                let message = seen.message;
                wrong
                    .push(format!("{message} of device {device} was overtaken in {conversation}."));
            }
        }
    }
    wrong
}

/// Every device has everything of its conversations, once, and as the history has it.
fn devices(facts: &Facts<'_>) -> Vec<String> {
    let have = by_device(facts);
    let mut wrong = Vec::new();
    for (device, seen) in &facts.twice {
        wrong.push(format!("Device {device} was handed {} twice.", seen.message));
    }
    let mut true_places = HashMap::new();
    for (conversation, messages) in &facts.histories {
        for seen in *messages {
            true_places.insert(seen.message, (seen.id, seen.seq));
            for device in facts.members.get(conversation).copied().unwrap_or_default() {
                if !have.get(device).is_some_and(|ids| ids.contains(&seen.message)) {
                    wrong.push(format!(
                        "Device {device} never got {} (seq {}) of {conversation}.",
                        seen.message, seen.seq
                    ));
                }
            }
        }
    }
    for (device, received) in &facts.received {
        for seen in received {
            if true_places.get(&seen.message) != Some(&(seen.id, seen.seq)) {
                wrong.push(format!(
                    "Device {device} got {} at {:?}, which the history does not have there.",
                    seen.message,
                    (seen.id, seen.seq)
                ));
            }
        }
    }
    wrong
}

fn ends(facts: &Facts<'_>) -> Vec<String> {
    let ended = facts.ended.iter();
    ended.map(|(device, reason)| format!("Device {device} gave up: {reason}.")).collect()
}

#[cfg(test)]
mod tests {
    use chat_protocol::UserId;
    use uuid::Uuid;

    use super::*;

    const SENT: usize = 3;

    fn conversation() -> ConversationId {
        ConversationId::group(UserId(Uuid::nil()), Uuid::nil())
    }

    fn name(number: usize) -> ClientMessageId {
        ClientMessageId(Uuid::from_u128(number as u128 + 1))
    }

    fn seen(number: usize) -> Seen {
        Seen {
            conversation: conversation(),
            id: MessageId(100 + number as u64),
            seq: 1 + number as u64,
            message: name(number),
        }
    }

    /// Device 0 sends three messages; devices 0 and 1 have them.
    fn good() -> Vec<Entry> {
        let mut entries =
            vec![Entry::Conversation { conversation: conversation(), devices: vec![0, 1] }];
        for number in 0..SENT {
            let message = name(number);
            entries.push(Entry::Sent { device: 0, conversation: conversation(), message });
            let place = Some((seen(number).id, seen(number).seq));
            entries.push(Entry::Acknowledged { message, place });
            entries.extend([0, 1].map(|device| Entry::Received { device, message: seen(number) }));
        }
        let messages = (0..SENT).map(seen).collect();
        entries.push(Entry::History { conversation: conversation(), messages });
        entries
    }

    fn wrong_with(change: impl FnOnce(&mut Vec<Entry>)) -> String {
        let mut entries = good();
        change(&mut entries);
        check(&entries).join("\n")
    }

    fn history(entries: &mut [Entry]) -> &mut Vec<Seen> {
        let Some(Entry::History { messages, .. }) = entries.last_mut() else { panic!("the last") };
        messages
    }

    #[test]
    fn a_run_that_lost_nothing_passes() {
        assert_eq!(check(&good()), Vec::<String>::new());
        assert!(is_answered(&good()) && is_delivered(&good()));
    }

    #[test]
    fn whatever_is_lost_doubled_or_moved_is_told() {
        let lost = wrong_with(|entries| {
            history(entries).remove(1);
        });
        assert!(lost.contains("acknowledged and is lost") && lost.contains("a hole"), "{lost}");
        let doubled = wrong_with(|entries| {
            let again = Seen { id: MessageId(900), seq: 4, ..seen(0) };
            history(entries).push(again);
        });
        assert!(doubled.contains("stands twice"), "{doubled}");
        let moved = wrong_with(|entries| {
            let messages = history(entries);
            let (first, second) = (messages[0].message, messages[1].message);
            (messages[0].message, messages[1].message) = (second, first);
        });
        assert!(moved.contains("overtaken") && moved.contains("acknowledged at"), "{moved}");
        let foreign = wrong_with(|entries| {
            history(entries).push(Seen {
                message: name(77),
                id: MessageId(900),
                seq: 4,
                ..seen(0)
            });
        });
        assert!(foreign.contains("Nobody sent"), "{foreign}");
    }

    #[test]
    fn a_device_that_misses_one_or_gets_one_twice_is_told() {
        let of = |device: usize, number: usize| Entry::Received { device, message: seen(number) };
        let missed = wrong_with(|entries| entries.retain(|entry| *entry != of(1, 2)));
        assert!(missed.contains("Device 1 never got"), "{missed}");
        let twice = wrong_with(|entries| entries.push(of(1, 0)));
        assert!(twice.contains("Device 1 was handed"), "{twice}");
        let reset = wrong_with(|entries| {
            entries.push(Entry::Reset { device: 1 });
            entries.extend((0..SENT).map(|number| of(1, number)));
        });
        assert_eq!(reset, "", "after a reset everything may come again");
        let loaded = wrong_with(|entries| entries.insert(5, Entry::Reset { device: 1 }));
        assert_eq!(loaded, "", "what was sent before it is loaded from the history");
        let missed = wrong_with(|entries| {
            entries.insert(5, Entry::Reset { device: 1 });
            entries.retain(|entry| *entry != of(1, 2));
        });
        assert!(missed.contains("Device 1 never got"), "but not what was sent after it: {missed}");
        let false_place = wrong_with(|entries| {
            let message = Seen { seq: 9, ..seen(1) };
            entries.retain(|entry| *entry != of(1, 1));
            entries.push(Entry::Received { device: 1, message });
        });
        assert!(false_place.contains("does not have there"), "{false_place}");
    }

    #[test]
    fn no_answer_a_refusal_and_the_end_of_a_session_are_told() {
        let open = wrong_with(|entries| {
            let message = name(50);
            entries.push(Entry::Sent { device: 1, conversation: conversation(), message });
        });
        assert!(open.contains("got no answer"), "{open}");
        let refused = wrong_with(|entries| {
            entries.push(Entry::Refused { message: name(50), reason: "no".to_owned() });
        });
        assert!(refused.contains("refused for good"), "{refused}");
        let ended = wrong_with(|entries| {
            entries.push(Entry::Ended { device: 0, reason: "logged out".to_owned() });
        });
        assert!(ended.contains("gave up"), "{ended}");
    }
}
