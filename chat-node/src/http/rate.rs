//! How often something may be done: token buckets, kept as the one number that the generic cell rate algorithm needs.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chat_protocol::error::Refusal;
use chat_protocol::{Code, UserId};

/// A rate: so many at once, and one more after each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// After this time there is one more.
    pub refill_ms: u64,
}

/// The rates of the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Logins with one handle, from wherever.
    pub logins_per_handle: Rate,
    /// Logins and refreshes from one address (of IPv6: one /64).
    pub logins_per_address: Rate,
    /// New accounts from one address (of IPv6: one /64).
    pub sign_ups_per_address: Rate,
    /// Requests of one user.
    pub requests_per_user: Rate,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            logins_per_handle: Rate { burst: 10, refill_ms: 10_000 },
            // Many people share one address behind a company's or a provider's translation.
            logins_per_address: Rate { burst: 100, refill_ms: 1_000 },
            sign_ups_per_address: Rate { burst: 20, refill_ms: 30_000 },
            requests_per_user: Rate { burst: 200, refill_ms: 20 },
        }
    }
}

/// Buckets of one kind. When there are too many, the fullest go: they are the ones that limit least.
struct Buckets<K> {
    entries_max: usize,
    /// When each bucket will be full again, in milliseconds.
    full_at: HashMap<K, u64>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn new(entries_max: usize) -> Buckets<K> {
        Buckets { entries_max, full_at: HashMap::new() }
    }

    /// Takes one token, or says how many milliseconds to wait for it.
    fn take(&mut self, key: &K, rate: Rate, now: Duration) -> Result<(), u64> {
        let now = now.as_millis() as u64;
        let full_at = self.full_at.get(key).copied().unwrap_or(0).max(now) + rate.refill_ms;
        let latest = now + rate.refill_ms * u64::from(rate.burst.max(1));
        if full_at > latest {
            return Err(full_at - latest);
        }
        if !self.full_at.contains_key(key) {
            self.make_room(now);
        }
        self.full_at.insert(key.clone(), full_at);
        Ok(())
    }

    fn make_room(&mut self, now: u64) {
        if self.full_at.len() < self.entries_max {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() < self.entries_max {
            return;
        }
        // Half of them at once, so that the next insertions need no search.
        let mut times: Vec<u64> = self.full_at.values().copied().collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.full_at.retain(|_, full_at| *full_at > median);
    }
}

/// Buckets of each kind that are kept at most.
const ENTRIES_MAX: usize = 100_000;

/// Keeps the rates of one node.
pub(super) struct Limiter {
    rates: Option<Rates>,
    handles: Mutex<Buckets<String>>,
    logins: Mutex<Buckets<IpAddr>>,
    sign_ups: Mutex<Buckets<IpAddr>>,
    users: Mutex<Buckets<UserId>>,
}

impl Limiter {
    /// `None`: everything is allowed.
    pub(super) fn new(rates: Option<Rates>) -> Limiter {
        Limiter {
            rates,
            handles: Mutex::new(Buckets::new(ENTRIES_MAX)),
            logins: Mutex::new(Buckets::new(ENTRIES_MAX)),
            sign_ups: Mutex::new(Buckets::new(ENTRIES_MAX)),
            users: Mutex::new(Buckets::new(ENTRIES_MAX)),
        }
    }

    pub(super) fn login_of(&self, handle: &str, now: Duration) -> Result<(), Refusal> {
        self.take(&self.handles, Some(handle.to_owned()), |rates| rates.logins_per_handle, now)
    }

    pub(super) fn login_from(&self, from: Option<IpAddr>, now: Duration) -> Result<(), Refusal> {
        self.take(&self.logins, from.map(network), |rates| rates.logins_per_address, now)
    }

    pub(super) fn sign_up_from(&self, from: Option<IpAddr>, now: Duration) -> Result<(), Refusal> {
        self.take(&self.sign_ups, from.map(network), |rates| rates.sign_ups_per_address, now)
    }

    pub(super) fn request_of(&self, user: UserId, now: Duration) -> Result<(), Refusal> {
        self.take(&self.users, Some(user), |rates| rates.requests_per_user, now)
    }

    fn take<K: Eq + Hash + Clone>(
        &self,
        buckets: &Mutex<Buckets<K>>,
        key: Option<K>,
        rate: impl Fn(&Rates) -> Rate,
        now: Duration,
    ) -> Result<(), Refusal> {
        let (Some(rates), Some(key)) = (&self.rates, key) else {
            return Ok(());
        };
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(&key, rate(rates), now).map_err(|wait_ms| {
            let seconds = wait_ms.div_ceil(1_000);
            let detail = format!("Too many requests. Wait {seconds} s before the next one.");
            Refusal::new(Code::RateLimited, detail).retry_after(wait_ms)
        })
    }
}

/// One customer of a provider has a whole /64 of IPv6 addresses.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill_ms: 1_000 };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let mut buckets = Buckets::new(10);
        for _ in 0..3 {
            buckets.take(&"a", RATE, at(500)).unwrap();
        }
        assert_eq!(buckets.take(&"a", RATE, at(500)), Err(1_000));
        assert_eq!(buckets.take(&"a", RATE, at(1_100)), Err(400));
        buckets.take(&"b", RATE, at(1_100)).unwrap();
        buckets.take(&"a", RATE, at(1_500)).unwrap();
        assert_eq!(buckets.take(&"a", RATE, at(1_500)), Err(1_000));
        for _ in 0..3 {
            buckets.take(&"a", RATE, at(60_000)).unwrap();
        }
        assert!(buckets.take(&"a", RATE, at(60_000)).is_err(), "rest is not saved up");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_emptiest_buckets() {
        let mut buckets = Buckets::new(100);
        for _ in 0..3 {
            buckets.take(&0, RATE, at(0)).unwrap();
        }
        for key in 1..1_000 {
            buckets.take(&key, RATE, at(0)).unwrap();
            assert!(buckets.full_at.len() <= 100);
        }
        assert!(buckets.take(&0, RATE, at(0)).is_err(), "the one that is over its rate stays");
    }

    #[test]
    fn addresses_of_one_customer_share_a_bucket() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
