//! Which head of an ensemble learns from which pair, or list.

use crate::base::rng;

/// Heads that learn from the same pairs end up alike: each is given a part of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadShare {
    /// The share of the pairs that a head learns from, in (0, 1].
    pub share: f64,
    /// The run's seed.
    pub seed: u64,
}

impl HeadShare {
    /// Every head learns from every pair.
    pub const ALL: Self = Self { share: 1.0, seed: 0 };

    /// Per head, whether it learns from each of the pairs (or lists) with these numbers in the store.
    ///
    /// A draw is a function of (seed, head, pair): the same in every epoch, so that a head never sees what it left
    /// out, and whatever the batch. A pair that no head would take goes to the one that was nearest to taking it.
    pub fn learners(&self, heads: usize, pairs: impl IntoIterator<Item = u64>) -> Vec<Vec<bool>> {
        let mut learners = vec![Vec::new(); heads];
        for pair in pairs {
            let mut stream = rng::stream(self.seed, "head-share", pair);
            let draws: Vec<f64> = (0..heads).map(|_| rng::uniform(&mut stream)).collect();
            let nearest = draws.iter().copied().fold(f64::INFINITY, f64::min);
            for (learns, draw) in learners.iter_mut().zip(draws) {
                learns.push(draw < self.share || draw == nearest);
            }
        }
        learners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: u64 = 4000;

    fn shares(learners: &[Vec<bool>]) -> Vec<f64> {
        let share = |learns: &Vec<bool>| learns.iter().filter(|l| **l).count() as f64 / learns.len() as f64;
        learners.iter().map(share).collect()
    }

    #[test]
    fn a_head_learns_from_its_share_and_every_pair_is_learned() {
        let learners = HeadShare { share: 0.5, seed: 3 }.learners(4, 0..PAIRS);
        // A half, and a quarter of the one pair in sixteen that no head would have taken.
        let expected = 0.5 + 1.0 / 64.0;
        for share in shares(&learners) {
            assert!((share - expected).abs() < 0.03, "{share}");
        }
        assert!((0..PAIRS as usize).all(|pair| learners.iter().any(|learns| learns[pair])));
        let both = (0..PAIRS as usize).filter(|&pair| learners[0][pair] && learners[1][pair]).count();
        assert!((both as f64 / PAIRS as f64 - 0.25).abs() < 0.03, "heads draw on their own: {both}");
    }

    #[test]
    fn draws_depend_on_seed_head_and_pair_alone() {
        let share = HeadShare { share: 0.5, seed: 3 };
        let all = share.learners(4, 0..PAIRS);
        let some = share.learners(4, [17, 5, 17]);
        for (all, some) in all.iter().zip(&some) {
            assert_eq!(*some, [all[17], all[5], all[17]]);
        }
        assert_ne!(all, HeadShare { seed: 4, ..share }.learners(4, 0..PAIRS));
    }

    #[test]
    fn all_is_all_and_one_head_learns_everything() {
        assert!(HeadShare::ALL.learners(3, 0..100).concat().iter().all(|learns| *learns));
        let one = HeadShare { share: 0.1, seed: 0 }.learners(1, 0..100);
        assert!(one[0].iter().all(|learns| *learns));
        let little = HeadShare { share: 1e-9, seed: 0 }.learners(4, 0..PAIRS);
        assert!(shares(&little).iter().all(|share| (share - 0.25).abs() < 0.03));
    }
}
