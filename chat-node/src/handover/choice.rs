//! Whom a batch asks, when, and how long each should wait. Pure: randomness is an input.

use std::time::Duration;

use chat_protocol::admin::{Amount, Jitter};
use rand::{Rng, RngExt};

/// How many of `candidates` a batch has.
pub fn count(amount: Amount, candidates: usize) -> usize {
    let wanted = match amount {
        Amount::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Amount::PerMille(share) => {
            // At most the candidates, because a share is at most 1000.
            let of_all = (candidates as u128 * u128::from(share)).div_ceil(1_000);
            usize::try_from(of_all).unwrap_or(usize::MAX)
        }
    };
    wanted.min(candidates)
}

/// So many of the candidates, each as likely: what the first few do stands for all.
pub fn choose<T>(mut candidates: Vec<T>, count: usize, random: &mut impl Rng) -> Vec<T> {
    let count = count.min(candidates.len());
    for place in 0..count {
        // Fisher and Yates, as far as it is needed.
        let other = random.random_range(place..candidates.len());
        candidates.swap(place, other);
    }
    candidates.truncate(count);
    candidates
}

/// How many of a batch may have been asked by now.
pub fn due(elapsed: Duration, rate_per_second: u32, batch: usize) -> usize {
    let allowed = elapsed.as_millis() * u128::from(rate_per_second) / 1_000 + 1;
    usize::try_from(allowed).unwrap_or(usize::MAX).min(batch)
}

/// One client's delay.
pub fn delay_ms(jitter: Jitter, random: &mut impl Rng) -> u64 {
    random.random_range(jitter.min_ms..=jitter.max_ms.max(jitter.min_ms))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_holds_as_many_as_were_granted_each_once(
            candidates in 0usize..500, amount in 0u64..600, share in 0u32..=1_000, seed: u64
        ) {
            let all: Vec<usize> = (0..candidates).collect();
            for amount in [Amount::Count(amount), Amount::PerMille(share)] {
                let wanted = count(amount, candidates);
                let chosen = choose(all.clone(), wanted, &mut StdRng::seed_from_u64(seed));
                prop_assert_eq!(chosen.len(), wanted);
                prop_assert!(chosen.iter().all(|one| *one < candidates));
                prop_assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), wanted);
                match amount {
                    Amount::Count(most) => prop_assert!(wanted as u64 <= most),
                    Amount::PerMille(share) => {
                        prop_assert!(wanted * 1_000 < candidates * share as usize + 1_000);
                        prop_assert!(wanted * 1_000 >= candidates * share as usize);
                    }
                }
            }
        }

        #[test]
        fn nobody_is_asked_ahead_of_the_rate_and_everyone_in_the_end(
            rate in 1u32..5_000, batch in 0usize..5_000, ms in 0u64..10_000
        ) {
            let asked = due(Duration::from_millis(ms), rate, batch);
            prop_assert!(asked as u64 <= ms * u64::from(rate) / 1_000 + 1);
            let end = Duration::from_millis(batch as u64 * 1_000 / u64::from(rate) + 1);
            prop_assert_eq!(due(end, rate, batch), batch);
        }

        #[test]
        fn delays_lie_in_their_window(min_ms in 0u64..1_000, more in 0u64..1_000, seed: u64) {
            let jitter = Jitter { min_ms, max_ms: min_ms + more };
            let delay = delay_ms(jitter, &mut StdRng::seed_from_u64(seed));
            prop_assert!((min_ms..=min_ms + more).contains(&delay));
        }
    }

    #[test]
    fn one_per_cent_of_a_few_is_one() {
        assert_eq!([0, 1, 100, 101].map(|here| count(Amount::PerMille(10), here)), [0, 1, 1, 2]);
    }

    #[test]
    fn every_candidate_is_as_likely() {
        let mut random = StdRng::seed_from_u64(7);
        let mut taken = [0u32; 10];
        for _ in 0..10_000 {
            for one in choose((0..10).collect(), 3, &mut random) {
                taken[one] += 1;
            }
        }
        assert!(taken.iter().all(|times| (2_700..3_300).contains(times)), "{taken:?}");
    }
}
