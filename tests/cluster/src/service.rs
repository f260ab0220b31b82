//! How well a crowd was served. Pure: from what happened, and when, to figures.

use std::collections::HashMap;
use std::time::Duration;

use crate::log::{DeviceNumber, Entry};

/// How well a crowd was served in a part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Service {
    /// Longest time that a device had neither a connection nor an answer to its poll.
    pub gap: Duration,
    /// Longest time from the sending of a message to its acknowledgement.
    pub answer: Duration,
    /// How often devices connected again.
    pub reconnections: usize,
    /// Most of these within any second.
    pub peak_per_second: usize,
}

/// The figures of what happened from `from_ms` on, given when each entry was taken down.
pub fn service(entries: &[Entry], times_ms: &[u64], from_ms: u64) -> Service {
    let end_ms = times_ms.last().copied().unwrap_or_default();
    let mut open: HashMap<DeviceNumber, u64> = HashMap::new();
    let mut unanswered = HashMap::new();
    let mut connected = Vec::new();
    let (mut gap_ms, mut answer_ms) = (0, 0);
    for (entry, at_ms) in
        entries.iter().zip(times_ms.iter().copied()).filter(|(_, at)| *at >= from_ms)
    {
        match entry {
            Entry::Disconnected { device, .. } => {
                open.entry(*device).or_insert(at_ms);
            }
            Entry::Connected { device } => {
                if let Some(since_ms) = open.remove(device) {
                    gap_ms = gap_ms.max(at_ms - since_ms);
                    connected.push(at_ms);
                }
            }
            Entry::Sent { message, .. } => {
                unanswered.insert(*message, at_ms);
            }
            Entry::Acknowledged { message, .. } => {
                if let Some(since_ms) = unanswered.remove(message) {
                    answer_ms = answer_ms.max(at_ms - since_ms);
                }
            }
            _ => {}
        }
    }
    // Who is still away has been so until the end.
    gap_ms = open.values().map(|since_ms| end_ms - since_ms).fold(gap_ms, u64::max);
    Service {
        gap: Duration::from_millis(gap_ms),
        answer: Duration::from_millis(answer_ms),
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
        assert_eq!((found.reconnections, found.peak_per_second), (1, 1));
        assert_eq!(service(&entries, &times_ms, 1901).gap, Duration::ZERO);
    }

    #[test]
    fn the_peak_is_of_any_second_and_not_of_those_of_a_clock() {
        assert_eq!(peak(&[0, 900, 950, 1000, 1899, 1950]), 4);
        assert_eq!(peak(&[]), 0);
    }
}
