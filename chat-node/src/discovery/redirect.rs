//! Whom this node has sent on lately: once is enough.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use chat_protocol::{DeviceId, Millis};

use super::TOKEN_LIFE_MS;

/// Devices remembered. Whoever is forgotten early is sent on once more.
const DEVICES_MAX: usize = 65_536;

/// Devices that were sent on within the life of a token.
#[derive(Default)]
pub(super) struct Redirects(Mutex<Sent>);

#[derive(Default)]
struct Sent {
    devices: HashSet<DeviceId>,
    /// In the order of their times.
    order: VecDeque<(Millis, DeviceId)>,
}

impl Redirects {
    /// Whether this device was not sent on lately; from now on it was.
    pub(super) fn first(&self, device: DeviceId, now: Millis) -> bool {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: Millis| now.since(at) >= TOKEN_LIFE_MS;
        while let Some((at, oldest)) = sent.order.front().copied()
            && (is_over(at) || sent.order.len() >= DEVICES_MAX)
        {
            sent.order.pop_front();
            sent.devices.remove(&oldest);
        }
        if !sent.devices.insert(device) {
            return false;
        }
        sent.order.push_back((now, device));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_sent_on_once_in_the_life_of_a_token_and_memory_is_bounded() {
        let redirects = Redirects::default();
        let (device, now) = (DeviceId::random(), Millis(1_800_000_000_000));
        assert!(redirects.first(device, now));
        assert!(!redirects.first(device, now.plus(TOKEN_LIFE_MS - 1)));
        assert!(redirects.first(device, now.plus(TOKEN_LIFE_MS)));
        for _ in 0..DEVICES_MAX + 100 {
            assert!(redirects.first(DeviceId::random(), now.plus(TOKEN_LIFE_MS)));
        }
        let sent = redirects.0.lock().unwrap();
        assert_eq!((sent.order.len(), sent.devices.len()), (DEVICES_MAX, DEVICES_MAX));
    }
}
