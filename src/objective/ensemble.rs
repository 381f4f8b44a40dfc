//! The objective of an ensemble: the terms are applied to each head's rewards as if that head were alone, over the
//! lists (pairs are lists of two) that it learns from, and the loss is the mean over the heads.
//!
//! A head that learns from no list of the step has no loss; the mean is over the others. What is not here: which head
//! learns from which list, and the heads themselves. One head that learns from every list is [`super::evaluate`] to the
//! bit.

use super::{Batch, Config, bradley_terry_loss, sum_to_zero_penalty};
use crate::data::Ranking;
use std::ops::Range;

/// What one head says of a step, and which of its lists the head learns from.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Rewards [S], list by list.
    pub rewards: &'a [f64],
    /// Per list.
    pub learns: &'a [bool],
}

/// The loss of all heads with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleValue {
    /// What is optimized.
    pub loss: f64,
    /// The Bradley-Terry loss alone, and the sum-to-zero penalty before its lambda: means over the heads, too.
    pub loss_bt: f64,
    pub loss_bsr: f64,
    /// dL/dr by every head, [K][S].
    pub d_rewards: Vec<Vec<f64>>,
    /// dL/d|h| [S], beside what reaches h through its rewards.
    pub d_norms: Vec<f64>,
}

/// The mean over `heads` of the sum of all terms, and its gradient. Of `step` everything but the rewards is used.
pub fn evaluate(terms: &[Config], step: Batch, heads: &[Head]) -> EnsembleValue {
    let parts: Vec<Part> = heads.iter().map(|head| Part::of(step, *head)).collect();
    let learning = parts.iter().filter(|part| !part.rankings.is_empty()).count();
    let share = 1.0 / learning.max(1) as f64;
    let sequences = step.norms.len();
    let mut mean = EnsembleValue {
        loss: 0.0,
        loss_bt: 0.0,
        loss_bsr: 0.0,
        d_rewards: vec![vec![0.0; sequences]; heads.len()],
        d_norms: vec![0.0; sequences],
    };
    for (part, d_rewards) in parts.iter().zip(&mut mean.d_rewards) {
        if part.rankings.is_empty() {
            continue;
        }
        let batch = part.batch();
        let value = super::evaluate(terms, batch);
        mean.loss += share * value.loss;
        mean.loss_bt += share * bradley_terry_loss(batch);
        mean.loss_bsr += share * sum_to_zero_penalty(terms, batch);
        for ((&sequence, d_reward), d_norm) in part.sequences.iter().zip(value.d_rewards).zip(value.d_norms) {
            d_rewards[sequence] = share * d_reward;
            mean.d_norms[sequence] += share * d_norm;
        }
    }
    mean
}

/// The part of a step that one head learns from.
struct Part<'a> {
    /// Its sequences, by their place in the step.
    sequences: Vec<usize>,
    rewards: Vec<f64>,
    norms: Vec<f64>,
    rankings: Vec<&'a Ranking>,
    margins: Vec<Option<f64>>,
    /// What is left of each micro-batch.
    micro_batches: Vec<Range<usize>>,
}

impl<'a> Part<'a> {
    fn of(step: Batch<'a>, head: Head) -> Self {
        let mut part = Self {
            sequences: Vec::new(),
            rewards: Vec::new(),
            norms: Vec::new(),
            rankings: Vec::new(),
            margins: Vec::new(),
            micro_batches: Vec::new(),
        };
        let mut end = 0;
        for (list, &ranking) in step.rankings.iter().enumerate() {
            let sequences = end..end + ranking.responses();
            end = sequences.end;
            if head.learns[list] {
                part.rewards.extend_from_slice(&head.rewards[sequences.clone()]);
                part.norms.extend_from_slice(&step.norms[sequences.clone()]);
                part.sequences.extend(sequences);
                part.rankings.push(ranking);
                part.margins.push(step.margins[list]);
            }
        }
        let mut end = 0;
        let left = step.micro_batches.iter().filter_map(|lists| {
            let start = end;
            end += lists.clone().filter(|&list| head.learns[list]).count();
            (end > start).then_some(start..end)
        });
        part.micro_batches = left.collect();
        part
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            rewards: &self.rewards,
            norms: &self.norms,
            rankings: &self.rankings,
            margins: &self.margins,
            micro_batches: &self.micro_batches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NORMS, Shape, batch, every_term, shapes};
    use super::*;

    const REWARDS: [[f64; 10]; 3] = [
        [0.7, 0.2, -1.2, 0.9, 3.0, -2.0, 0.1, 0.3, -0.4, -0.9],
        [-0.3, 0.4, 1.1, 0.8, -0.6, -0.7, 2.1, 0.0, 0.5, -1.5],
        [0.2, 0.1, 0.6, -0.9, 0.4, 1.3, -0.8, 0.7, 0.0, 0.3],
    ];
    /// Of five pairs, and of three lists.
    const PAIRS: [&[bool]; 3] =
        [&[true, false, true, true, false], &[false, true, false, false, false], &[true; 5]];
    const LISTS: [&[bool]; 3] = [&[true, false, true], &[false, true, false], &[true; 3]];

    /// Every term in every shape, with what three heads learn from.
    fn cases() -> Vec<(Config, Shape, [&'static [bool]; 3])> {
        let of = |term: Config| {
            let [pairs, lists] = shapes();
            [(term.clone(), pairs, PAIRS), (term, lists, LISTS)]
        };
        every_term().into_iter().flat_map(of).collect()
    }

    fn run(
        term: &Config,
        shape: &Shape,
        rewards: &[[f64; 10]],
        learns: &[&[bool]],
        norms: &[f64; 10],
    ) -> EnsembleValue {
        let heads = rewards.iter().zip(learns).map(|(rewards, learns)| Head { rewards, learns });
        let heads: Vec<Head> = heads.collect();
        evaluate(std::slice::from_ref(term), batch(&[0.0; 10], norms, shape), &heads)
    }

    #[test]
    fn one_head_that_learns_everything_is_the_objective_itself() {
        for (term, shape, learns) in cases() {
            let found = run(&term, &shape, &REWARDS[..1], &learns[2..], &NORMS);
            let (terms, batch) = ([term], batch(&REWARDS[0], &NORMS, &shape));
            let expected = super::super::evaluate(&terms, batch);
            assert_eq!(found.loss, expected.loss);
            assert_eq!(found.loss_bt, bradley_terry_loss(batch));
            assert_eq!(found.loss_bsr, sum_to_zero_penalty(&terms, batch));
            assert_eq!((found.d_rewards, found.d_norms), (vec![expected.d_rewards], expected.d_norms));
        }
    }

    #[test]
    fn every_head_has_the_objective_of_its_own_lists() {
        for (term, shape, learns) in cases() {
            let step = batch(&[0.0; 10], &NORMS, &shape);
            let alone = |(rewards, learns): (&[f64; 10], &&[bool])| {
                let part = Part::of(step, Head { rewards, learns });
                super::super::evaluate(std::slice::from_ref(&term), part.batch()).loss
            };
            let alone: f64 = REWARDS.iter().zip(&learns).map(alone).sum();
            let found = run(&term, &shape, &REWARDS, &learns, &NORMS);
            assert!((found.loss - alone / 3.0).abs() < 1e-12, "{term:?}");
            for (d_rewards, learns) in found.d_rewards.iter().zip(&learns) {
                for (list, _, sequences) in step.lists() {
                    assert!(learns[list] || d_rewards[sequences].iter().all(|d| *d == 0.0), "{term:?}");
                }
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (term, shape, learns) in cases() {
            let value = run(&term, &shape, &REWARDS, &learns, &NORMS);
            let check = |found: f64, loss: &dyn Fn(f64) -> f64| {
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-7, "{term:?}: {found} against {expected}");
            };
            for sequence in 0..10 {
                for head in 0..3 {
                    check(value.d_rewards[head][sequence], &|by| {
                        let mut rewards = REWARDS;
                        rewards[head][sequence] += by;
                        run(&term, &shape, &rewards, &learns, &NORMS).loss
                    });
                }
                check(value.d_norms[sequence], &|by| {
                    let mut norms = NORMS;
                    norms[sequence] += by;
                    run(&term, &shape, &REWARDS, &learns, &norms).loss
                });
            }
        }
    }

    #[test]
    fn a_head_without_a_list_is_no_part_of_the_mean() {
        let (term, [pairs, _]) = (every_term().swap_remove(0), shapes());
        let without = run(&term, &pairs, &REWARDS, &[PAIRS[0], &[false; 5], PAIRS[2]], &NORMS);
        let two = run(&term, &pairs, &[REWARDS[0], REWARDS[2]], &[PAIRS[0], PAIRS[2]], &NORMS);
        assert_eq!((without.loss, without.loss_bt), (two.loss, two.loss_bt));
        assert_eq!(without.d_rewards[1], [0.0; 10]);
        assert_eq!(without.d_rewards[2], two.d_rewards[1]);
    }

    #[test]
    fn what_is_left_of_micro_batches_stays_together() {
        let [pairs, lists] = shapes();
        let part = |shape: &Shape, learns: &[bool]| {
            let part = Part::of(batch(&[0.0; 10], &NORMS, shape), Head { rewards: &REWARDS[0], learns });
            (part.sequences, part.micro_batches)
        };
        assert_eq!(part(&pairs, PAIRS[0]), (vec![0, 1, 4, 5, 6, 7], vec![0..1, 1..3]));
        let (_, micro_batches) = part(&pairs, &[false, false, true, true, true]);
        assert_eq!(micro_batches, std::slice::from_ref(&(0..3)));
        assert_eq!(part(&lists, LISTS[0]), (vec![0, 1, 7, 8, 9], vec![0..1, 1..2]));
    }
}
