//! The objective of an ensemble: the terms are applied to each head's rewards as if that head were alone, over the
//! pairs that it learns from, and the loss is the mean over the heads.
//!
//! A head that learns from no pair of the step has no loss; the mean is over the others. What is not here: which head
//! learns from which pair, and the heads themselves. One head that learns from every pair is [`evaluate`] to the bit.

use super::{Batch, Config, bradley_terry_loss, sum_to_zero_penalty};
use std::ops::Range;

/// What one head says of a step, and which of its pairs the head learns from.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Rewards [2B], chosen and rejected in turn.
    pub rewards: &'a [f64],
    /// Per pair.
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
    /// dL/dr by every head, [K][2B], chosen and rejected in turn.
    pub d_rewards: Vec<Vec<f64>>,
    /// dL/d|h| [2B], beside what reaches h through its rewards.
    pub d_norms: Vec<f64>,
}

/// The mean over `heads` of the sum of all terms, and its gradient. Of `step` everything but the rewards is used.
pub fn evaluate(terms: &[Config], step: Batch, heads: &[Head]) -> EnsembleValue {
    let parts: Vec<Part> = heads.iter().map(|head| Part::of(step, *head)).collect();
    let learning = parts.iter().filter(|part| !part.pairs.is_empty()).count();
    let share = 1.0 / learning.max(1) as f64;
    let sequences = 2 * step.pairs();
    let mut mean = EnsembleValue {
        loss: 0.0,
        loss_bt: 0.0,
        loss_bsr: 0.0,
        d_rewards: vec![vec![0.0; sequences]; heads.len()],
        d_norms: vec![0.0; sequences],
    };
    for (part, d_rewards) in parts.iter().zip(&mut mean.d_rewards) {
        if part.pairs.is_empty() {
            continue;
        }
        let batch = part.batch();
        let value = super::evaluate(terms, batch);
        mean.loss += share * value.loss;
        mean.loss_bt += share * bradley_terry_loss(batch.chosen, batch.rejected);
        mean.loss_bsr += share * sum_to_zero_penalty(terms, batch);
        for (at, &pair) in part.pairs.iter().enumerate() {
            d_rewards[2 * pair] = share * value.d_chosen[at];
            d_rewards[2 * pair + 1] = share * value.d_rejected[at];
            mean.d_norms[2 * pair] += share * value.d_chosen_norms[at];
            mean.d_norms[2 * pair + 1] += share * value.d_rejected_norms[at];
        }
    }
    mean
}

/// The part of a step that one head learns from.
struct Part {
    /// Its pairs, by their place in the step.
    pairs: Vec<usize>,
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    chosen_norms: Vec<f64>,
    rejected_norms: Vec<f64>,
    margins: Vec<Option<f64>>,
    /// What is left of each micro-batch.
    micro_batches: Vec<Range<usize>>,
}

impl Part {
    fn of(step: Batch, head: Head) -> Self {
        let pairs: Vec<usize> = (0..step.pairs()).filter(|&pair| head.learns[pair]).collect();
        let mut end = 0;
        let micro_batches = step.micro_batches.iter().filter_map(|range| {
            let start = end;
            end += range.clone().filter(|&pair| head.learns[pair]).count();
            (end > start).then_some(start..end)
        });
        Self {
            chosen: pairs.iter().map(|&pair| head.rewards[2 * pair]).collect(),
            rejected: pairs.iter().map(|&pair| head.rewards[2 * pair + 1]).collect(),
            chosen_norms: pairs.iter().map(|&pair| step.chosen_norms[pair]).collect(),
            rejected_norms: pairs.iter().map(|&pair| step.rejected_norms[pair]).collect(),
            margins: pairs.iter().map(|&pair| step.margins[pair]).collect(),
            micro_batches: micro_batches.collect(),
            pairs,
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            chosen: &self.chosen,
            rejected: &self.rejected,
            chosen_norms: &self.chosen_norms,
            rejected_norms: &self.rejected_norms,
            margins: &self.margins,
            micro_batches: &self.micro_batches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MARGINS, MICRO_BATCHES, NORMS, every_term};
    use super::*;

    const REWARDS: [[f64; 10]; 3] = [
        [0.7, 0.2, -1.2, 0.9, 3.0, -2.0, 0.1, 0.3, -0.4, -0.9],
        [-0.3, 0.4, 1.1, 0.8, -0.6, -0.7, 2.1, 0.0, 0.5, -1.5],
        [0.2, 0.1, 0.6, -0.9, 0.4, 1.3, -0.8, 0.7, 0.0, 0.3],
    ];
    const LEARNS: [[bool; 5]; 3] =
        [[true, false, true, true, false], [false, true, false, false, false], [true; 5]];

    fn step<'a>(chosen: &'a [f64], rejected: &'a [f64], norms: &'a [[f64; 5]; 2]) -> Batch<'a> {
        let [chosen_norms, rejected_norms] = norms;
        let (margins, micro_batches) = (&MARGINS, &MICRO_BATCHES);
        Batch { chosen, rejected, chosen_norms, rejected_norms, margins, micro_batches }
    }

    fn run(
        terms: &[Config],
        rewards: &[[f64; 10]],
        learns: &[[bool; 5]],
        norms: &[[f64; 5]; 2],
    ) -> EnsembleValue {
        let heads: Vec<Head> =
            rewards.iter().zip(learns).map(|(rewards, learns)| Head { rewards, learns }).collect();
        evaluate(terms, step(&[0.0; 5], &[0.0; 5], norms), &heads)
    }

    fn sides(rewards: &[f64; 10]) -> (Vec<f64>, Vec<f64>) {
        rewards.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip()
    }

    #[test]
    fn one_head_that_learns_everything_is_the_objective_itself() {
        for term in every_term() {
            let terms = [term];
            let found = run(&terms, &REWARDS[..1], &[[true; 5]], &NORMS);
            let (chosen, rejected) = sides(&REWARDS[0]);
            let batch = step(&chosen, &rejected, &NORMS);
            let expected = super::super::evaluate(&terms, batch);
            assert_eq!(found.loss, expected.loss);
            assert_eq!(found.loss_bt, bradley_terry_loss(&chosen, &rejected));
            assert_eq!(found.loss_bsr, sum_to_zero_penalty(&terms, batch));
            let in_turn = |chosen: &[f64], rejected: &[f64]| -> Vec<f64> {
                chosen.iter().zip(rejected).flat_map(|(&c, &r)| [c, r]).collect()
            };
            assert_eq!(found.d_rewards, [in_turn(&expected.d_chosen, &expected.d_rejected)]);
            assert_eq!(found.d_norms, in_turn(&expected.d_chosen_norms, &expected.d_rejected_norms));
        }
    }

    #[test]
    fn every_head_has_the_objective_of_its_own_pairs() {
        for term in every_term() {
            let terms = [term];
            let alone: f64 = LEARNS
                .iter()
                .zip(&REWARDS)
                .map(|(learns, rewards)| {
                    let part = Part::of(step(&[0.0; 5], &[0.0; 5], &NORMS), Head { rewards, learns });
                    super::super::evaluate(&terms, part.batch()).loss
                })
                .sum();
            let found = run(&terms, &REWARDS, &LEARNS, &NORMS);
            assert!((found.loss - alone / 3.0).abs() < 1e-12, "{terms:?}");
            for (d_rewards, learns) in found.d_rewards.iter().zip(&LEARNS) {
                for (pair, learns) in learns.iter().enumerate() {
                    assert!(*learns || d_rewards[2 * pair..2 * pair + 2] == [0.0, 0.0], "{terms:?}");
                }
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for term in every_term() {
            let terms = [term];
            let value = run(&terms, &REWARDS, &LEARNS, &NORMS);
            let check = |found: f64, loss: &dyn Fn(f64) -> f64| {
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-7, "{terms:?}: {found} against {expected}");
            };
            for head in 0..3 {
                for sequence in 0..10 {
                    check(value.d_rewards[head][sequence], &|by| {
                        let mut rewards = REWARDS;
                        rewards[head][sequence] += by;
                        run(&terms, &rewards, &LEARNS, &NORMS).loss
                    });
                }
            }
            for sequence in 0..10 {
                check(value.d_norms[sequence], &|by| {
                    let mut norms = NORMS;
                    norms[sequence % 2][sequence / 2] += by;
                    run(&terms, &REWARDS, &LEARNS, &norms).loss
                });
            }
        }
    }

    #[test]
    fn a_head_without_a_pair_is_no_part_of_the_mean() {
        let terms = [every_term().swap_remove(0)];
        let without = run(&terms, &REWARDS, &[LEARNS[0], [false; 5], LEARNS[2]], &NORMS);
        let two = run(&terms, &[REWARDS[0], REWARDS[2]], &[LEARNS[0], LEARNS[2]], &NORMS);
        assert_eq!((without.loss, without.loss_bt), (two.loss, two.loss_bt));
        assert_eq!(without.d_rewards[1], [0.0; 10]);
        assert_eq!(without.d_rewards[2], two.d_rewards[1]);
    }

    #[test]
    fn what_is_left_of_micro_batches_stays_together() {
        let learns = [true, false, true, true, false];
        let part =
            Part::of(step(&[0.0; 5], &[0.0; 5], &NORMS), Head { rewards: &REWARDS[0], learns: &learns });
        assert_eq!(
            (part.pairs.as_slice(), part.micro_batches.as_slice()),
            (&[0, 2, 3][..], &[0..1, 1..3][..])
        );
        let learns = [false, false, true, true, true];
        let part =
            Part::of(step(&[0.0; 5], &[0.0; 5], &NORMS), Head { rewards: &REWARDS[0], learns: &learns });
        assert_eq!(part.micro_batches, std::slice::from_ref(&(0..3)));
    }
}
