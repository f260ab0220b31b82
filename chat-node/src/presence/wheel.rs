//! One timing wheel for all connections of a node: no timer per connection, and nothing to do on a beat.
//!
//! A connection lies in the slot at which it would be silent for too long if it were not heard again. When the slot's
//! turn comes and it was heard meanwhile, it moves to the slot of its last beat. So a connection is looked at about once
//! per time of silence, however often it beats.

use std::sync::Arc;
use std::time::Duration;

use super::Attendance;

const SLOT_MIN: Duration = Duration::from_millis(10);
const SLOT_MAX: Duration = Duration::from_secs(1);

/// The wheel holds its own `Arc` of each connection: a socket that closes without leaving counts until the silence, so
/// that nobody flaps over a resume.
pub struct Wheel {
    offline_after: Duration,
    slot: Duration,
    slots: Box<[Vec<Arc<Attendance>>]>,
    /// Number of the slot that was looked at last, counted from time zero.
    turned: u64,
    turned_at: Duration,
    connections: usize,
}

/// What a turn found. Both kinds are no longer in the wheel.
#[derive(Default)]
pub struct Turn {
    /// Silent for too long.
    pub silent: Vec<Arc<Attendance>>,
    /// Left by themselves.
    pub left: Vec<Arc<Attendance>>,
    /// Connections looked at.
    pub looked_at: usize,
}

impl Wheel {
    /// An empty wheel.
    pub fn new(offline_after: Duration, now: Duration) -> Wheel {
        let slot = (offline_after / 30).clamp(SLOT_MIN, SLOT_MAX);
        // One slot for the rounding up, one for the turn under way.
        let count = offline_after.as_nanos().div_ceil(slot.as_nanos()) as usize + 2;
        let mut slots = Vec::with_capacity(count);
        slots.resize_with(count, Vec::new);
        let turned = (now.as_nanos() / slot.as_nanos()) as u64;
        let slots = slots.into_boxed_slice();
        Wheel { offline_after, slot, slots, turned, turned_at: now, connections: 0 }
    }

    /// How often the wheel is to be turned.
    pub fn slot(&self) -> Duration {
        self.slot
    }

    /// Connections in the wheel, and those that left since their last look.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Takes in a connection.
    pub fn insert(&mut self, attendance: Arc<Attendance>) {
        self.connections += 1;
        let due = attendance.last_beat() + self.offline_after;
        self.place(attendance, due);
    }

    fn place(&mut self, attendance: Arc<Attendance>, due: Duration) {
        let number = due.as_nanos().div_ceil(self.slot.as_nanos()) as u64;
        let count = self.slots.len() as u64;
        // Never into the slot whose turn it is, nor a full turn ahead.
        let number = number.clamp(self.turned + 1, self.turned + count - 1);
        self.slots[(number % count) as usize].push(attendance);
    }

    /// Looks at what is due. Call it about once per slot.
    pub fn turn(&mut self, now: Duration) -> Turn {
        let mut turn = Turn::default();
        let target = (now.as_nanos() / self.slot.as_nanos()) as u64;
        let count = self.slots.len() as u64;
        // While this process stood still, beats waited in the sockets: they get a little time to be read.
        let stalled = now.saturating_sub(self.turned_at) > self.offline_after / 3;
        let grace = if stalled { self.offline_after / 6 } else { Duration::ZERO };
        self.turned_at = now;
        let mut due = Vec::new();
        for number in (self.turned + 1..=target).take(count as usize) {
            due.append(&mut self.slots[(number % count) as usize]);
        }
        self.turned = target.max(self.turned);
        turn.looked_at = due.len();
        for attendance in due {
            self.look(attendance, now, grace, &mut turn);
        }
        self.connections -= turn.silent.len() + turn.left.len();
        turn
    }

    fn look(
        &mut self,
        attendance: Arc<Attendance>,
        now: Duration,
        grace: Duration,
        turn: &mut Turn,
    ) {
        let silent_at = attendance.last_beat() + self.offline_after;
        if attendance.has_left() {
            turn.left.push(attendance);
        } else if silent_at > now {
            self.place(attendance, silent_at);
        } else if !grace.is_zero() {
            self.place(attendance, now + grace);
        } else {
            turn.silent.push(attendance);
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::{SessionId, UserId};
    use proptest::prelude::*;

    use super::*;

    const OFFLINE_AFTER: Duration = Duration::from_secs(30);

    fn attendance(now: Duration) -> Arc<Attendance> {
        Arc::new(Attendance::new(UserId::random(), SessionId::random(), now))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_connection_is_found_within_one_slot_of_its_time() {
        let mut wheel = Wheel::new(OFFLINE_AFTER, Duration::ZERO);
        wheel.insert(attendance(Duration::from_millis(400)));
        for second in 1..=30 {
            assert!(wheel.turn(seconds(second)).silent.is_empty(), "at {second} s");
        }
        assert_eq!(wheel.turn(seconds(31)).silent.len(), 1);
        assert_eq!(wheel.connections(), 0);
    }

    #[test]
    fn a_beating_connection_is_looked_at_once_per_time_of_silence_and_stays() {
        let mut wheel = Wheel::new(OFFLINE_AFTER, Duration::ZERO);
        let beating: Vec<_> = (0..1_000).map(|_| attendance(Duration::ZERO)).collect();
        beating.iter().for_each(|attendance| wheel.insert(attendance.clone()));
        let mut looked_at = 0;
        for second in 1..=300 {
            if second % 5 == 0 {
                beating.iter().for_each(|attendance| attendance.beat(seconds(second)));
            }
            let turn = wheel.turn(seconds(second));
            assert!(turn.silent.is_empty());
            looked_at += turn.looked_at;
        }
        assert!((10_000..=13_000).contains(&looked_at), "{looked_at} looks in 10 times of silence");
        assert_eq!(wheel.connections(), 1_000);
    }

    #[test]
    fn a_connection_that_left_is_not_called_silent() {
        let mut wheel = Wheel::new(OFFLINE_AFTER, Duration::ZERO);
        let leaving = attendance(Duration::ZERO);
        wheel.insert(leaving.clone());
        leaving.leave();
        let turns: Vec<Turn> = (1..=31).map(|second| wheel.turn(seconds(second))).collect();
        assert_eq!(turns.iter().map(|turn| turn.left.len()).sum::<usize>(), 1);
        assert!(turns.iter().all(|turn| turn.silent.is_empty()));
    }

    #[test]
    fn a_process_that_stood_still_first_reads_the_beats_that_waited() {
        let mut wheel = Wheel::new(OFFLINE_AFTER, Duration::ZERO);
        let (beating, silent) = (attendance(Duration::ZERO), attendance(Duration::ZERO));
        wheel.insert(beating.clone());
        wheel.insert(silent.clone());
        assert!(wheel.turn(seconds(100)).silent.is_empty());
        beating.beat(seconds(101));
        let found: Vec<_> =
            (101..120).flat_map(|second| wheel.turn(seconds(second)).silent).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].connection, silent.connection);
    }

    proptest! {
        #[test]
        fn every_connection_is_found_in_time_whatever_it_beats(
            offline_after_ms in 300u64..60_000,
            beats in prop::collection::vec(prop::collection::vec(1u64..20_000, 0..20), 1..20),
        ) {
            let offline_after = Duration::from_millis(offline_after_ms);
            let mut wheel = Wheel::new(offline_after, Duration::ZERO);
            let slot = wheel.slot();
            let mut plans = Vec::new();
            for gaps in &beats {
                let attendance = attendance(Duration::ZERO);
                wheel.insert(attendance.clone());
                let mut at = 0;
                let times: Vec<u64> = gaps.iter().map(|gap| { at += gap % offline_after_ms; at }).collect();
                plans.push((attendance, times));
            }
            let end = Duration::from_millis(plans.iter().filter_map(|(_, times)| times.last()).max().copied().unwrap_or(0))
                + offline_after + slot * 2;
            let mut found = std::collections::HashMap::new();
            let mut now = Duration::ZERO;
            while now <= end {
                now += slot;
                for (attendance, times) in &plans {
                    let latest = times.iter().rev().find(|at| Duration::from_millis(**at) <= now);
                    if let Some(latest) = latest {
                        attendance.beat(Duration::from_millis(*latest));
                    }
                }
                for silent in wheel.turn(now).silent {
                    prop_assert!(found.insert(silent.connection, now).is_none(), "found twice");
                }
            }
            for (attendance, _) in &plans {
                let due = attendance.last_beat() + offline_after;
                let at = found.get(&attendance.connection).copied();
                prop_assert!(at.is_some_and(|at| at >= due && at <= due + slot * 2), "due {due:?}, found {at:?}");
            }
        }
    }
}
