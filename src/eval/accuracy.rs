//! How often the order of two responses is right: by the reward, and by the length-only baselines.

use std::cmp::Ordering;

/// One response with its gold score, the model's reward, and its length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// A pair's chosen response has 1 and its rejected one 0.
    pub gold: f64,
    pub reward: f64,
    /// Characters of the response.
    pub length: usize,
}

/// One row's agreement with the gold order, over all pairs of its responses whose gold scores differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Fraction of those pairs that the reward orders rightly; equal rewards count as wrong.
    pub accuracy: f64,
    /// How many of those pairs have equal rewards.
    pub ties: u64,
    /// Fraction for which the longer response is the better one; equal lengths count as wrong.
    pub longest_wins: f64,
    /// Fraction for which the shorter response is the better one; equal lengths count as wrong.
    pub shortest_wins: f64,
}

/// Positions of every two responses with different gold scores, the better one first.
pub(super) fn ordered_positions(responses: &[Judged]) -> impl Iterator<Item = (usize, usize)> {
    let order = |a: usize, b: usize| responses[a].gold.partial_cmp(&responses[b].gold);
    (0..responses.len()).flat_map(move |a| {
        (a + 1..responses.len()).filter_map(move |b| match order(a, b) {
            Some(Ordering::Greater) => Some((a, b)),
            Some(Ordering::Less) => Some((b, a)),
            _ => None,
        })
    })
}

/// Compares every two responses with different gold scores. `None` where there are no such two.
///
/// A pair row has one such pair, so its accuracy is 0 or 1. The baselines follow the reward's rule for ties, so all
/// three figures are what a picker without a coin would reach.
pub fn agreement(responses: &[Judged]) -> Option<Agreement> {
    let (mut pairs, mut right, mut ties, mut longer, mut shorter) = (0u64, 0u64, 0, 0u64, 0u64);
    for (better, worse) in ordered_positions(responses) {
        let (better, worse) = (&responses[better], &responses[worse]);
        pairs += 1;
        right += u64::from(better.reward > worse.reward);
        ties += u64::from(better.reward == worse.reward);
        longer += u64::from(better.length > worse.length);
        shorter += u64::from(better.length < worse.length);
    }
    let share = |count: u64| count as f64 / pairs as f64;
    (pairs > 0).then(|| Agreement {
        accuracy: share(right),
        ties,
        longest_wins: share(longer),
        shortest_wins: share(shorter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(rows: &[(f64, f64, usize)]) -> Vec<Judged> {
        rows.iter().map(|&(gold, reward, length)| Judged { gold, reward, length }).collect()
    }

    #[test]
    fn a_tie_is_wrong_and_counted() {
        let found = agreement(&judged(&[(1.0, 0.5, 10), (0.0, 0.5, 10)])).unwrap();
        assert_eq!(found, Agreement { accuracy: 0.0, ties: 1, longest_wins: 0.0, shortest_wins: 0.0 });
    }

    #[test]
    fn swapping_chosen_and_rejected_swaps_the_verdict() {
        let right = agreement(&judged(&[(1.0, 2.0, 9), (0.0, -1.0, 4)])).unwrap();
        assert_eq!((right.accuracy, right.longest_wins, right.shortest_wins), (1.0, 1.0, 0.0));
        let wrong = agreement(&judged(&[(1.0, -1.0, 4), (0.0, 2.0, 9)])).unwrap();
        assert_eq!((wrong.accuracy, wrong.longest_wins, wrong.shortest_wins), (0.0, 0.0, 1.0));
    }

    #[test]
    fn only_pairs_with_different_gold_count() {
        // Gold 3 > 2 = 2 > 1: five of the six pairs count. The reward ties the second and the last.
        let found =
            agreement(&judged(&[(3.0, 9.0, 4), (2.0, 5.0, 3), (2.0, 7.0, 2), (1.0, 5.0, 1)])).unwrap();
        assert_eq!(found.accuracy, 4.0 / 5.0);
        assert_eq!(found.ties, 1);
        assert_eq!((found.longest_wins, found.shortest_wins), (1.0, 0.0));
        assert_eq!(agreement(&judged(&[(1.0, 0.0, 1), (1.0, 1.0, 2)])), None);
        assert_eq!(agreement(&[]), None);
    }
}
