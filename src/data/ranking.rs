//! The gold order of the responses to one prompt.
//!
//! What is not here: where the order comes from (`pairing`) and what a loss makes of it (the floor above).

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The ranks of two responses or more that stand best first. Equals share a rank; not all are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Ranking {
    /// From 0; the next response has the same rank or the next one.
    ranks: Vec<u32>,
}

impl Ranking {
    /// Of a chosen and a rejected response.
    pub fn pair() -> Self {
        Self { ranks: vec![0, 1] }
    }

    /// `None` for ranks that are none: see the type.
    pub fn new(ranks: Vec<u32>) -> Option<Self> {
        let rises =
            |pair: &[u32]| pair[0].checked_add(1).is_some_and(|next| (pair[0]..=next).contains(&pair[1]));
        let sound = ranks.first() == Some(&0) && ranks.last() != Some(&0) && ranks.windows(2).all(rises);
        sound.then_some(Self { ranks })
    }

    /// The responses best first, as positions in `gold` (higher is better; equals stay in their order), with their
    /// ranks. `None` where no two gold scores differ.
    pub fn of_gold(gold: &[f64]) -> Option<(Vec<usize>, Self)> {
        let mut order: Vec<usize> = (0..gold.len()).collect();
        order.sort_by(|&a, &b| gold[b].total_cmp(&gold[a]));
        // Not by `total_cmp`, for which 0 and -0 differ.
        let levels = order.chunk_by(|&a, &b| gold[a] == gold[b]);
        let ranks = (0..).zip(levels).flat_map(|(rank, level)| level.iter().map(move |_| rank)).collect();
        Some((order, Self::new(ranks)?))
    }

    /// What is left of it with `kept` responses alone (ascending positions). `None` where no two of them differ.
    pub fn of_kept(&self, kept: &[usize]) -> Option<Self> {
        let levels = kept.chunk_by(|&a, &b| self.ranks[a] == self.ranks[b]);
        Self::new((0..).zip(levels).flat_map(|(rank, level)| level.iter().map(move |_| rank)).collect())
    }

    /// How many responses there are.
    pub fn responses(&self) -> usize {
        self.ranks.len()
    }

    /// The rank of each response, best first.
    pub fn ranks(&self) -> &[u32] {
        &self.ranks
    }

    /// Runs of equals, best first.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        let mut end = 0;
        let runs = self.ranks.chunk_by(|a, b| a == b).map(|run| {
            let start = end;
            end += run.len();
            start..end
        });
        runs.collect::<Vec<_>>().into_iter()
    }

    /// How many responses have a worse one.
    pub fn choices(&self) -> usize {
        let last = self.ranks.last().copied().unwrap_or(0);
        self.ranks.partition_point(|&rank| rank < last)
    }

    /// Every (better, worse); equals are no pair.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let worse = move |better: usize| {
            (better + 1..self.ranks.len()).filter(move |&i| self.ranks[i] > self.ranks[better])
        };
        (0..self.ranks.len()).flat_map(move |better| worse(better).map(move |worse| (better, worse)))
    }

    /// What a message calls response `i`.
    pub fn name_of(&self, i: usize) -> String {
        match (self.responses(), i) {
            (2, 0) => "chosen".into(),
            (2, _) => "rejected".into(),
            (count, _) => format!("response {} of {count}, rank {}", i + 1, self.ranks[i] + 1),
        }
    }
}

impl TryFrom<Vec<u32>> for Ranking {
    type Error = &'static str;

    fn try_from(ranks: Vec<u32>) -> Result<Self, Self::Error> {
        Self::new(ranks).ok_or("found ranks that do not rise from 0 by one at a time")
    }
}

impl From<Ranking> for Vec<u32> {
    fn from(ranking: Ranking) -> Self {
        ranking.ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gold_orders_best_first_and_equals_share_a_rank() {
        let (order, ranking) = Ranking::of_gold(&[1.0, 0.0, 3.0, -0.0, 3.0]).unwrap();
        assert_eq!((order, ranking.ranks()), (vec![2, 4, 0, 1, 3], &[0, 0, 1, 2, 2][..]));
        assert_eq!((ranking.choices(), Ranking::pair().choices()), (3, 1));
        assert_eq!(ranking.levels().collect::<Vec<_>>(), [0..2, 2..3, 3..5]);
        let pairs = [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4)];
        assert_eq!(ranking.pairs().collect::<Vec<_>>(), pairs);
        assert_eq!(ranking.of_kept(&[1, 3, 4]).unwrap().ranks(), [0, 1, 1]);
        assert_eq!(
            (ranking.of_kept(&[0, 1]), ranking.of_kept(&[2]), ranking.of_kept(&[])),
            (None, None, None)
        );
        assert_eq!((Ranking::of_gold(&[2.0, 2.0]), Ranking::of_gold(&[])), (None, None));
    }

    #[test]
    fn what_is_no_ranking_does_not_read_back() {
        for ranks in
            [vec![], vec![0], vec![0, 0], vec![1, 2], vec![0, 2], vec![0, 1, 0], vec![0, u32::MAX, 0]]
        {
            let json = serde_json::to_string(&ranks).unwrap();
            assert!(serde_json::from_str::<Ranking>(&json).is_err(), "{json}");
        }
        let json = serde_json::to_string(&Ranking::pair()).unwrap();
        assert_eq!(serde_json::from_str::<Ranking>(&json).unwrap(), Ranking::pair());
    }

    #[test]
    fn responses_of_a_pair_have_names() {
        let names = |ranks: &[u32]| {
            let ranking = Ranking::new(ranks.to_vec()).unwrap();
            (0..ranks.len()).map(|i| ranking.name_of(i)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[0, 1]), ["chosen", "rejected"]);
        assert_eq!(names(&[0, 1, 1])[2], "response 3 of 3, rank 2");
    }
}
