//! Devices that were logged out while their access tokens may still be good.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chat_protocol::{DeviceId, Millis};
use uuid::Uuid;

/// Devices remembered at most: about 50 MB. When there are more, the ones logged out first are forgotten; their sessions
/// are closed all the same, and their access tokens end by themselves.
const DEVICES_MAX: usize = 1 << 20;

/// First byte of the payload, so that other things can be said to every node.
const KIND: u8 = b'R';
const PAYLOAD_BYTES: usize = 1 + 16 + 8 + 8;

/// A device that was logged out, as nodes tell each other on `Subject::Nodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The device.
    pub device_id: DeviceId,
    /// When it was logged out.
    pub at: Millis,
    /// No access token of it is good after this.
    pub until: Millis,
}

impl Revocation {
    /// The payload on the bus.
    pub fn to_payload(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(PAYLOAD_BYTES);
        bytes.put_u8(KIND);
        bytes.put_slice(self.device_id.as_bytes());
        bytes.put_u64(self.at.0);
        bytes.put_u64(self.until.0);
        bytes.freeze()
    }

    /// The revocation in a payload, if it is one.
    pub fn from_payload(mut payload: &[u8]) -> Option<Revocation> {
        // A newer node may say more behind it.
        if payload.len() < PAYLOAD_BYTES || payload.get_u8() != KIND {
            return None;
        }
        let device_id = DeviceId(Uuid::from_u128(payload.get_u128()));
        let at = Millis(payload.get_u64());
        Some(Revocation { device_id, at, until: Millis(payload.get_u64()) })
    }
}

/// What one node knows of revoked devices.
pub struct Revocations {
    devices_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revoked: HashMap<DeviceId, Revocation>,
    /// In the order in which they came, which is nearly the order in which they end.
    order: VecDeque<DeviceId>,
}

impl Default for Revocations {
    fn default() -> Revocations {
        Revocations::with_capacity(DEVICES_MAX)
    }
}

impl Revocations {
    /// Remembers at most this many devices.
    pub fn with_capacity(devices_max: usize) -> Revocations {
        Revocations { devices_max: devices_max.max(1), state: Mutex::default() }
    }

    /// Notes a revocation, and forgets those that are over.
    pub fn add(&self, revocation: Revocation, now: Millis) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(oldest) = state.order.front().copied() {
            let over = state.revoked.get(&oldest).is_none_or(|one| one.until < now);
            if !over && state.order.len() < self.devices_max {
                break;
            }
            state.order.pop_front();
            state.revoked.remove(&oldest);
        }
        match state.revoked.get_mut(&revocation.device_id) {
            Some(known) => {
                known.at = known.at.max(revocation.at);
                known.until = known.until.max(revocation.until);
            }
            None => {
                state.revoked.insert(revocation.device_id, revocation);
                state.order.push_back(revocation.device_id);
            }
        }
    }

    /// When the device was logged out, if it was.
    pub fn revoked_at(&self, device: DeviceId) -> Option<Millis> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.revoked.get(&device).map(|revocation| revocation.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(until: u64) -> Revocation {
        Revocation { device_id: DeviceId::random(), at: Millis(0), until: Millis(until) }
    }

    #[test]
    fn a_revocation_survives_its_payload_and_others_are_none() {
        let one = revocation(77);
        assert_eq!(Revocation::from_payload(&one.to_payload()), Some(one));
        assert_eq!(Revocation::from_payload(b""), None);
        assert_eq!(Revocation::from_payload(&[0; 33]), None);
    }

    #[test]
    fn a_device_is_remembered_until_its_tokens_have_ended() {
        let revocations = Revocations::default();
        let (one, two) = (revocation(100), revocation(300));
        revocations.add(one, Millis(50));
        assert!(revocations.revoked_at(one.device_id).is_some());
        revocations.add(two, Millis(200));
        assert!(revocations.revoked_at(one.device_id).is_none());
        assert!(revocations.revoked_at(two.device_id).is_some());
    }

    #[test]
    fn a_repeat_with_an_earlier_end_changes_nothing() {
        let revocations = Revocations::default();
        let one = revocation(300);
        revocations.add(one, Millis(0));
        revocations.add(Revocation { until: Millis(10), ..one }, Millis(0));
        revocations.add(revocation(400), Millis(200));
        assert!(revocations.revoked_at(one.device_id).is_some());
    }

    #[test]
    fn the_set_is_bounded_and_forgets_the_oldest_first() {
        let revocations = Revocations::with_capacity(3);
        let all: Vec<Revocation> = (0..5).map(|_| revocation(1_000)).collect();
        all.iter().for_each(|one| revocations.add(*one, Millis(0)));
        let kept: Vec<bool> =
            all.iter().map(|one| revocations.revoked_at(one.device_id).is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
    }
}
