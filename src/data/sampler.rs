//! The order of the pairs: which ones make up a step, as a function of (seed, epoch) in constant memory.
//!
//! What is not here: reading them (`store`, `loader`).

use crate::base::rng;
use rand_chacha::rand_core::Rng;
use std::ops::Range;

/// The order in which `len` pairs are visited, epoch after epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Pairs of one epoch.
    pub len: u64,
    /// A new permutation every epoch, or the order of the files.
    pub shuffle: bool,
    pub seed: u64,
}

/// The pairs of one optimizer step, as positions in the epoch's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRange {
    /// From 0.
    pub epoch: u64,
    pub positions: Range<u64>,
}

impl Order {
    /// The pair at `position` of `epoch` (both from 0); `None` past the epoch's end.
    pub fn index_at(&self, epoch: u64, position: u64) -> Option<u64> {
        (position < self.len).then(|| self.epoch(epoch).index_of(position))
    }

    /// One epoch's order, to look up many positions.
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        match self.shuffle && self.len > 1 {
            true => EpochOrder(Some(Feistel::new(self.len, self.seed, epoch))),
            false => EpochOrder(None),
        }
    }

    /// Steps of an epoch: the last one may be short. An epoch never shares a step with the next.
    pub fn steps_per_epoch(&self, batch_pairs: u64) -> u64 {
        self.len.div_ceil(batch_pairs.max(1))
    }

    /// The pairs of step `step`, counted from 1 over all epochs; `None` where there are no pairs or no such step.
    pub fn step_range(&self, step: u64, batch_pairs: u64) -> Option<StepRange> {
        let (batch, per_epoch) = (batch_pairs.max(1), self.steps_per_epoch(batch_pairs));
        let before = step.checked_sub(1)?;
        let epoch = before.checked_div(per_epoch)?;
        let start = before % per_epoch * batch;
        Some(StepRange { epoch, positions: start..start.saturating_add(batch).min(self.len) })
    }

    /// Epochs that are done after step `step`: whole ones, and the share of the current one.
    pub fn epochs_after(&self, step: u64, batch_pairs: u64) -> f64 {
        match self.step_range(step, batch_pairs) {
            Some(range) => range.epoch as f64 + range.positions.end as f64 / self.len as f64,
            None => 0.0,
        }
    }
}

/// A permutation of the pairs, or none.
#[derive(Debug, Clone)]
pub struct EpochOrder(Option<Feistel>);

impl EpochOrder {
    /// The pair at `position`, which is less than the number of pairs.
    pub fn index_of(&self, position: u64) -> u64 {
        self.0.as_ref().map_or(position, |feistel| feistel.permute(position))
    }
}

/// A pseudo-random bijection of `0..len`: a Feistel network over the next even power of two, walked until it lands
/// inside (fewer than 4 rounds of it on average; for the smallest data sets more, but on a domain of 2^10 at least,
/// as the network is no good permutation of a few elements).
///
/// # Source
/// Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (cycle walking, generalised Feistel).
#[derive(Debug, Clone)]
struct Feistel {
    len: u64,
    half_bits: u32,
    keys: [u64; Feistel::ROUNDS],
}

impl Feistel {
    const ROUNDS: usize = 8;
    const MIN_HALF_BITS: u32 = 5;

    fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let mut rng = rng::stream(seed, "shuffle", epoch);
        let bits = u64::BITS - (len - 1).leading_zeros();
        Self {
            len,
            half_bits: bits.div_ceil(2).max(Self::MIN_HALF_BITS),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    fn permute(&self, position: u64) -> u64 {
        debug_assert!(position < self.len);
        let mut value = position;
        // A bijection of the larger domain comes back to where it started, so this ends.
        loop {
            value = self.rounds(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn rounds(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the argument.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(len: u64, seed: u64) -> Order {
        Order { len, shuffle: true, seed }
    }

    fn epoch(order: Order, epoch: u64) -> Vec<u64> {
        let permutation = order.epoch(epoch);
        (0..order.len).map(|position| permutation.index_of(position)).collect()
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_pair_once(len in 1u64..3000, seed: u64, number in 0u64..1000) {
            let mut seen = epoch(order(len, seed), number);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn epochs_and_seeds_have_orders_of_their_own(len in 50u64..3000, seed: u64, number in 0u64..1000) {
            let this = epoch(order(len, seed), number);
            prop_assert_ne!(&this, &epoch(order(len, seed), number + 1));
            prop_assert_ne!(&this, &epoch(order(len, seed ^ 1), number));
        }

        #[test]
        fn steps_cut_epochs_without_gaps(len in 1u64..500, batch in 1u64..600) {
            let order = order(len, 0);
            let mut expected = (0, 0);
            for step in 1..=3 * order.steps_per_epoch(batch) {
                let range = order.step_range(step, batch).unwrap();
                prop_assert_eq!((range.epoch, range.positions.start), expected);
                let size = range.positions.end - range.positions.start;
                prop_assert!(size == batch || range.positions.end == len && size < batch && size > 0);
                expected = match range.positions.end == len {
                    true => (range.epoch + 1, 0),
                    false => (range.epoch, range.positions.end),
                };
            }
            prop_assert_eq!(order.epochs_after(2 * order.steps_per_epoch(batch), batch), 2.0);
        }
    }

    #[test]
    fn large_lengths_stay_in_range_and_do_not_collide() {
        for len in [u64::from(u32::MAX), 1 << 40, (1 << 62) + 12_345, u64::MAX] {
            let permutation = order(len, 3).epoch(0);
            let mut seen: Vec<u64> = (0..2000).map(|position| permutation.index_of(position)).collect();
            assert!(seen.iter().all(|&index| index < len));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 2000);
        }
    }

    /// Over many seeds every element is equally likely at every position, and the six orders of three elements are
    /// equally likely: chi-squared below its 99.99% quantile.
    #[test]
    fn orders_are_uniform() {
        const TRIALS: u64 = 12_000;
        let mut orders = std::collections::BTreeMap::<Vec<u64>, u64>::new();
        let mut cells = [[0u64; 10]; 10];
        for seed in 0..TRIALS {
            *orders.entry(epoch(order(3, seed), 0)).or_default() += 1;
            for (position, index) in epoch(order(10, seed), 0).into_iter().enumerate() {
                cells[position][index as usize] += 1;
            }
        }
        let chi = |counts: &[u64], expected: f64| -> f64 {
            counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum()
        };
        let counts: Vec<u64> = orders.values().copied().collect();
        assert_eq!(counts.len(), 6);
        assert!(chi(&counts, TRIALS as f64 / 6.0) < 25.7, "{orders:?}");
        assert!(chi(cells.as_flattened(), TRIALS as f64 / 10.0) < 137.0, "{cells:?}");
    }

    #[test]
    fn without_shuffling_the_files_order_is_kept() {
        let order = Order { len: 5, shuffle: false, seed: 1 };
        assert_eq!(epoch(order, 3), [0, 1, 2, 3, 4]);
        assert_eq!((order.index_at(0, 4), order.index_at(0, 5)), (Some(4), None));
    }

    #[test]
    fn no_pairs_have_no_steps() {
        let empty = order(0, 0);
        assert_eq!((empty.steps_per_epoch(4), empty.step_range(1, 4)), (0, None));
        assert_eq!(order(5, 0).step_range(0, 2), None);
        assert_eq!(order(5, 0).step_range(1, 0).unwrap().positions, 0..1);
    }
}
