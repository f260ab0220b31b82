//! The sends that an owner remembers, so that a repeat gets the first answer without a read.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::HashMap;
use chat_protocol::{ClientMessageId, ConversationId, MessageId, Millis, UserId};

use crate::limits::{
    DUPLICATE_MEMORY_MS, FRESH_OWNER_MS, PARTITION_DUPLICATES_MAX,
    PARTITION_DUPLICATES_UNWRITTEN_MAX, PARTITION_RECENT_DUPLICATES_MAX,
};

/// What names a send.
pub(super) type Key = (ConversationId, UserId, ClientMessageId);

/// Clocks of gateways and owner may differ by this much.
const CLOCK_DIFFERENCE_MS: u64 = 5_000;

/// Sends are kept at least this long, even if they are many. Whoever forgets earlier than clocks may differ has to look
/// every new send up in the store.
const DUPLICATE_MEMORY_MIN_MS: u64 = 2 * CLOCK_DIFFERENCE_MS;

pub(super) struct Duplicates {
    sent: HashMap<Key, (MessageId, u64)>,
    /// The same keys, oldest first.
    order: VecDeque<(Duration, MessageId, Key)>,
    /// By the monotonic clock: a command received earlier than this may be a repeat of one that is no longer remembered.
    /// None: nothing was forgotten yet.
    complete_since: Option<Duration>,
    /// Until then, by the monotonic clock, every command may be a repeat of one that went to the owner before.
    fresh_until: Duration,
}

impl Duplicates {
    /// Nothing remembered. `unused`: nobody has owned this partition before, so nothing can repeat.
    pub(super) fn new(elapsed: Duration, unused: bool) -> Duplicates {
        let fresh = if unused { Duration::ZERO } else { Duration::from_millis(FRESH_OWNER_MS) };
        Duplicates {
            sent: HashMap::default(),
            order: VecDeque::new(),
            complete_since: (!unused).then_some(elapsed),
            fresh_until: elapsed + fresh,
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<(MessageId, u64)> {
        self.sent.get(key).copied()
    }

    /// Not finding a command's key here proves nothing. `received_at` is by its gateway's clock, `now` by this owner's: only how
    /// far they are apart counts, so that a clock that was corrected makes nothing old.
    pub(super) fn is_uncertain(&self, received_at: Millis, now: Millis, elapsed: Duration) -> bool {
        let Some(complete_since) = self.complete_since else { return elapsed < self.fresh_until };
        // A gateway so far ahead does not know when it received it.
        let is_ahead = received_at > now.plus(CLOCK_DIFFERENCE_MS);
        let age = Duration::from_millis(now.since(received_at).saturating_add(CLOCK_DIFFERENCE_MS));
        elapsed < self.fresh_until || is_ahead || elapsed < complete_since.saturating_add(age)
    }

    pub(super) fn insert(&mut self, key: Key, id: MessageId, seq: u64, elapsed: Duration) {
        self.sent.insert(key, (id, seq));
        self.order.push_back((elapsed, id, key));
    }

    /// Takes back a send that was certainly not committed.
    pub(super) fn remove(&mut self, key: &Key) {
        self.sent.remove(key);
        self.order.retain(|(_, _, other)| other != key);
    }

    /// There is room for another send even if the store takes nothing.
    pub(super) fn has_room(&self) -> bool {
        self.order.len() < PARTITION_DUPLICATES_UNWRITTEN_MAX
    }

    /// Forgets what is old or too much, but nothing that is not in the store: `lowest_waiting` and above.
    pub(super) fn evict(&mut self, elapsed: Duration, lowest_waiting: Option<MessageId>) {
        while let Some((at, id, key)) = self.order.front() {
            let age_ms = elapsed.saturating_sub(*at).as_millis() as u64;
            let written = lowest_waiting.is_none_or(|lowest| *id < lowest);
            let kept_max = if age_ms <= DUPLICATE_MEMORY_MIN_MS {
                PARTITION_RECENT_DUPLICATES_MAX
            } else if age_ms <= DUPLICATE_MEMORY_MS {
                PARTITION_DUPLICATES_MAX
            } else {
                0
            };
            if !written || self.order.len() <= kept_max {
                return;
            }
            // Memory is complete for what was received after the newest send forgotten.
            self.complete_since = self.complete_since.max(Some(*at));
            self.sent.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn key() -> Key {
        let [one, other] = [UserId::random(), UserId::random()];
        (ConversationId::direct(one, other), one, ClientMessageId::random())
    }

    /// So many sends, one a millisecond, all in the store.
    fn busy(count: u64) -> (Duplicates, Vec<Key>) {
        let mut duplicates = Duplicates::new(Duration::ZERO, true);
        let keys: Vec<Key> = (0..count).map(|_| key()).collect();
        for (n, key) in keys.iter().enumerate() {
            let elapsed = Duration::from_millis(n as u64);
            duplicates.insert(*key, MessageId(n as u64 + 1), n as u64, elapsed);
        }
        (duplicates, keys)
    }

    #[test]
    fn sends_of_the_last_seconds_are_kept_however_many_they_are() {
        let count = 2 * PARTITION_DUPLICATES_MAX as u64;
        let (mut duplicates, keys) = busy(count);
        let elapsed = Duration::from_millis(count);
        duplicates.evict(elapsed, None);
        assert!(keys.iter().all(|key| duplicates.find(key).is_some()));
        let now = NOW.plus(count);
        assert!(!duplicates.is_uncertain(now, now, elapsed), "a new send needs no read");
    }

    #[test]
    fn of_many_older_sends_some_are_forgotten_and_repeats_of_those_are_uncertain() {
        let count = 2 * PARTITION_DUPLICATES_MAX as u64;
        let (mut duplicates, keys) = busy(count);
        let elapsed = Duration::from_millis(count + DUPLICATE_MEMORY_MIN_MS);
        duplicates.evict(elapsed, None);
        assert_eq!(duplicates.order.len(), PARTITION_DUPLICATES_MAX);
        assert!(duplicates.find(&keys[0]).is_none());
        let now = NOW.plus(elapsed.as_millis() as u64);
        assert!(duplicates.is_uncertain(NOW, now, elapsed));
        assert!(!duplicates.is_uncertain(now, now, elapsed), "a new send needs no read");
    }

    #[test]
    fn clocks_that_are_corrected_by_an_hour_make_no_new_send_old_and_no_old_one_new() {
        const HOUR_MS: u64 = 3_600_000;
        let duplicates = Duplicates::new(Duration::from_secs(10), false);
        let elapsed = Duration::from_secs(100);
        for now in [NOW, NOW.plus(HOUR_MS), Millis(NOW.0 - HOUR_MS)] {
            let received = |ago_ms: u64| Millis(now.0 - ago_ms);
            assert!(!duplicates.is_uncertain(now, now, elapsed), "a new send needs no read");
            assert!(!duplicates.is_uncertain(received(84_000), now, elapsed));
            assert!(duplicates.is_uncertain(received(86_000), now, elapsed), "from before");
            assert!(duplicates.is_uncertain(now.plus(HOUR_MS), now, elapsed), "who knows when");
            let fresh = Duration::from_secs(69);
            assert!(duplicates.is_uncertain(now, now, fresh), "the owner has just opened");
        }
    }

    #[test]
    fn what_is_not_in_the_store_is_never_forgotten() {
        let (mut duplicates, keys) = busy(100);
        let late = Duration::from_millis(10 * DUPLICATE_MEMORY_MS);
        duplicates.evict(late, Some(MessageId(11)));
        let kept = keys.iter().filter(|key| duplicates.find(key).is_some()).count();
        assert_eq!(kept, 90);
    }
}
