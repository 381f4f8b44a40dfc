//! Lengths of tokenized lists (pairs are lists of two), in the order of a run: what its cost depends on.

use crate::data::TokenList;
use crate::model::flops::Work;
use crate::model::pack;
use std::ops::Range;

/// Tokens of one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListLengths {
    /// What all sequences begin with, and is packed once.
    pub shared: u32,
    /// Of the whole sequences, best first.
    pub sequences: Vec<u32>,
}

impl ListLengths {
    pub fn of(list: &TokenList) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            shared: count(pack::shared_prefix(&list.sequences)),
            sequences: list.sequences.iter().map(|sequence| count(sequence.len())).collect(),
        }
    }

    /// Tokens with the prompt in each sequence.
    pub fn plain(&self) -> u64 {
        self.sequences.iter().map(|&n| u64::from(n)).sum()
    }

    /// Tokens with the prompt once.
    pub fn packed(&self) -> u64 {
        self.plain() - u64::from(self.shared) * self.sequences.len().saturating_sub(1) as u64
    }

    pub fn longest(&self) -> u32 {
        self.sequences.iter().copied().max().unwrap_or(0)
    }

    /// What a decoder has to do for it.
    pub fn work(&self) -> Work {
        let own: Vec<u64> = self.sequences.iter().map(|&n| u64::from(n - self.shared)).collect();
        Work::of_group(self.shared.into(), &own)
    }
}

/// The lengths of the first steps of a run.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    lists: Vec<ListLengths>,
    steps: Vec<SampledStep>,
    /// For each token id the last step that has it, from 1; 0 where none has.
    last_seen: Vec<u32>,
    rows: u64,
}

#[derive(Debug, Clone)]
struct SampledStep {
    lists: Range<usize>,
    rows: u64,
}

impl Sample {
    /// An empty one, for ids below `vocab_size`.
    pub fn new(vocab_size: usize) -> Self {
        Self { last_seen: vec![0; vocab_size], ..Self::default() }
    }

    /// Adds the next step.
    pub fn push_step(&mut self, lists: &[TokenList]) {
        let number = self.steps.len() as u32 + 1;
        let mut rows = 0;
        for &id in lists.iter().flat_map(|list| &list.sequences).flatten() {
            let Some(seen) = self.last_seen.get_mut(id as usize) else { continue };
            rows += u64::from(*seen != number);
            self.rows += u64::from(*seen == 0);
            *seen = number;
        }
        let start = self.lists.len();
        self.lists.extend(lists.iter().map(ListLengths::of));
        self.steps.push(SampledStep { lists: start..self.lists.len(), rows });
    }

    pub fn lists(&self) -> &[ListLengths] {
        &self.lists
    }

    /// The lists of every step, and how many different tokens they have.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = (&[ListLengths], u64)> {
        self.steps.iter().map(|step| (&self.lists[step.lists.clone()], step.rows))
    }

    /// Different tokens of all steps.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Tokens that batches of `batch` consecutive lists have when every sequence is padded to its batch's longest.
    pub fn padded_tokens(&self, batch: usize) -> u64 {
        let padded = |lists: &[ListLengths]| {
            let longest = lists.iter().map(ListLengths::longest).max().unwrap_or(0);
            lists.iter().map(|list| list.sequences.len() as u64).sum::<u64>() * u64::from(longest)
        };
        self.lists.chunks(batch.max(1)).map(padded).sum()
    }
}

/// Three figures of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Spread {
    pub median: u64,
    pub p95: u64,
    pub max: u64,
}

impl Spread {
    /// Of values in any order; zeros where there are none.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self { median: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}

/// Counts of values in buckets of one width, from 0.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Histogram {
    pub width: u64,
    pub counts: Vec<u64>,
}

impl Histogram {
    const MOST_BUCKETS: u64 = 12;

    /// Bucket `i` counts values in `i * width .. (i + 1) * width`, a power of two, as narrow as the values allow.
    pub fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let largest = values.clone().max().unwrap_or(0);
        let width = (largest / Self::MOST_BUCKETS + 1).next_power_of_two();
        let mut counts = vec![0; (largest / width) as usize + 1];
        for value in values {
            counts[(value / width) as usize] += 1;
        }
        Self { width, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Ranking;

    fn list(sequences: &[&[u32]]) -> TokenList {
        let ranks = (0..sequences.len() as u32).collect();
        TokenList {
            index: 0,
            origin: String::new(),
            sequences: sequences.iter().map(|ids| ids.to_vec()).collect(),
            ranking: Ranking::new(ranks).unwrap(),
            margin: None,
        }
    }

    #[test]
    fn a_sample_counts_lengths_and_rows() {
        let mut sample = Sample::new(10);
        sample.push_step(&[list(&[&[1, 2, 3, 4], &[1, 2, 5]]), list(&[&[7, 8], &[7, 9]])]);
        sample.push_step(&[list(&[&[1, 2], &[3]])]);
        let first = ListLengths { shared: 2, sequences: vec![4, 3] };
        assert_eq!(sample.lists()[0], first);
        assert_eq!((first.plain(), first.packed(), first.longest()), (7, 5, 4));
        assert_eq!(first.work(), Work::of_group(2, &[2, 1]));
        let steps: Vec<(usize, u64)> = sample.steps().map(|(lists, rows)| (lists.len(), rows)).collect();
        assert_eq!((steps, sample.rows()), (vec![(2, 8), (1, 3)], 8));
        // 4 sequences of 4; then 2 of 2.
        assert_eq!((sample.padded_tokens(2), sample.padded_tokens(1)), (20, 8 + 4 + 4));
    }

    #[test]
    fn a_longer_list_shares_its_prompt_with_every_response() {
        let lengths = ListLengths::of(&list(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 6, 7, 8]]));
        assert_eq!((lengths.plain(), lengths.packed(), lengths.longest()), (12, 8, 5));
        assert_eq!(lengths.work(), Work::of_group(2, &[2, 1, 3]));
        let mut sample = Sample::new(10);
        sample.push_step(&[list(&[&[1, 2, 3, 4], &[1, 5], &[6]]), list(&[&[1], &[2]])]);
        assert_eq!(sample.padded_tokens(2), 5 * 4);
    }

    #[test]
    fn spreads_are_of_values_that_occur() {
        assert_eq!(Spread::of((1..=100).rev()), Spread { median: 50, p95: 95, max: 100 });
        assert_eq!(Spread::of([7]), Spread { median: 7, p95: 7, max: 7 });
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn a_histogram_has_few_buckets_and_every_value() {
        let histogram = Histogram::of([0, 63, 64, 700].into_iter());
        assert_eq!((histogram.width, histogram.counts.len()), (64, 11));
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[10]), (2, 1, 1));
        assert_eq!(Histogram::of([0].into_iter()), Histogram { width: 1, counts: vec![1] });
    }
}
