//! How well a crowd was served. Pure: from what happened, and when, to figures.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::log::{DeviceNumber, Entry};

/// How well a crowd was served in a part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Service {
    /// Longest time that a device had neither a connection nor an answer to its poll.
    pub gap: Duration,
    /// Longest time from the sending of a message to its acknowledgement.
    pub answer: Duration,
    /// Longest time from the sending of a message to its arrival at another device.
    pub delivery: Duration,
    /// How often devices connected again, asked to or not.
    pub reconnections: usize,
    /// Most of these within any second.
    pub peak_per_second: usize,
}

/// The figures of what happened from `from_ms` on, given when each entry was taken down.
pub fn service(entries: &[Entry], times_ms: &[u64], from_ms: u64) -> Service {
    let end_ms = times_ms.last().copied().unwrap_or_default();
    let mut known = HashSet::new();
    let mut away: HashMap<DeviceNumber, u64> = HashMap::new();
    let mut sent = HashMap::new();
    let mut connected = Vec::new();
    let (mut gap_ms, mut answer_ms, mut delivery_ms) = (0, 0, 0);
    for (entry, at_ms) in entries.iter().zip(times_ms.iter().copied()) {
        let counts = at_ms >= from_ms;
        match entry {
            Entry::Disconnected { device, .. } if counts => {
                away.entry(*device).or_insert(at_ms);
            }
            Entry::Connected { device } => {
                if !known.insert(*device) && counts {
                    connected.push(at_ms);
                }
                if let Some(since_ms) = away.remove(device) {
                    gap_ms = gap_ms.max(at_ms - since_ms);
                }
            }
            Entry::Sent { message, device, .. } if counts => {
                sent.insert(*message, (*device, at_ms));
            }
            Entry::Acknowledged { message, .. } => {
                let took_ms = sent.get(message).map_or(0, |(_, since_ms)| at_ms - since_ms);
                answer_ms = answer_ms.max(took_ms);
            }
            // Its own messages come back to a device when it connects again.
            Entry::Received { device, message } => {
                let by_other = sent.get(&message.message).filter(|(sender, _)| sender != device);
                let took_ms = by_other.map_or(0, |(_, since_ms)| at_ms - since_ms);
                delivery_ms = delivery_ms.max(took_ms);
            }
            _ => {}
        }
    }
    // Who is still away has been so until the end.
    gap_ms = away.values().map(|since_ms| end_ms - since_ms).fold(gap_ms, u64::max);
    Service {
        gap: Duration::from_millis(gap_ms),
        answer: Duration::from_millis(answer_ms),
        delivery: Duration::from_millis(delivery_ms),
        reconnections: connected.len(),
        peak_per_second: peak(&connected),
    }
}

/// Most of these times within any second. They are in order.
fn peak(times_ms: &[u64]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, at_ms) in times_ms.iter().enumerate() {
        while at_ms - times_ms[first] >= 1000 {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(device: DeviceNumber) -> Entry {
        Entry::Disconnected { device, reason: "moved".to_owned() }
    }

    fn back(device: DeviceNumber) -> Entry {
        Entry::Connected { device }
    }

    #[test]
    fn the_longest_gap_counts_also_of_who_never_came_back() {
        let entries = [back(0), away(0), back(0), away(1), back(0)];
        let times_ms = [0, 100, 400, 1000, 1900];
        let found = service(&entries, &times_ms, 0);
        assert_eq!(found.gap, Duration::from_millis(900));
        assert_eq!((found.reconnections, found.peak_per_second), (2, 1));
        assert_eq!(service(&entries, &times_ms, 1901).gap, Duration::ZERO);
    }

    #[test]
    fn the_peak_is_of_any_second_and_not_of_those_of_a_clock() {
        assert_eq!(peak(&[0, 900, 950, 1000, 1899, 1950]), 4);
        assert_eq!(peak(&[]), 0);
    }
}
