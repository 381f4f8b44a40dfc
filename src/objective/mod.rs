//! Objectives: pure arithmetic from the rewards of a whole optimizer step to a loss and dL/dr, and, for a term that
//! speaks of hidden norms, from those to dL/d|h|. No tensors here.
//!
//! The loss is the sum of its terms. A term is one file and one variant of [`Config`]; every term is checked
//! against finite differences below and stays finite at |r| = 1e4.

mod bradley_terry;
mod center;
pub mod config;
mod direct;
pub mod ensemble;
mod hinge;
pub mod implicit;
pub mod lambda;
mod normalized;
pub mod plackett_luce;
mod sum_to_zero;
mod variance;

pub use bradley_terry::loss as bradley_terry_loss;
pub use config::Config;

use config::{Margin, Scale, Scope};
use std::ops::Range;

/// The rewards of one optimizer step, pair by pair.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub chosen: &'a [f64],
    pub rejected: &'a [f64],
    /// |h| of every sequence, for the terms that read norms.
    pub chosen_norms: &'a [f64],
    pub rejected_norms: &'a [f64],
    /// The rows' own margins.
    pub margins: &'a [Option<f64>],
    /// Which consecutive pairs were computed together. Only [`Scope::MicroBatch`] looks at it.
    pub micro_batches: &'a [Range<usize>],
}

impl Batch<'_> {
    fn pairs(&self) -> usize {
        self.chosen.len()
    }

    /// The margin of pair `i`; a row without one counts as zero (where the column is required, the training loop has refused it).
    fn margin(&self, margin: Margin, i: usize) -> f64 {
        match margin {
            Margin::None => 0.0,
            Margin::Constant(margin) => margin,
            Margin::Column => self.margins[i].unwrap_or(0.0),
        }
    }

    /// Mean of all 2B rewards of `pairs`.
    fn mean(&self, pairs: Range<usize>) -> f64 {
        let sum = |rewards: &[f64]| rewards[pairs.clone()].iter().sum::<f64>();
        (sum(self.chosen) + sum(self.rejected)) / (2 * pairs.len()) as f64
    }
}

/// A loss with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// What is optimized: the sum of all terms.
    pub loss: f64,
    /// dL/dr of every chosen response.
    pub d_chosen: Vec<f64>,
    /// dL/dr of every rejected response.
    pub d_rejected: Vec<f64>,
    /// dL/d|h| of every chosen response, beside what reaches h through its reward.
    pub d_chosen_norms: Vec<f64>,
    /// dL/d|h| of every rejected response.
    pub d_rejected_norms: Vec<f64>,
}

impl Value {
    fn zero(pairs: usize) -> Self {
        let zeros = || vec![0.0; pairs];
        Self {
            loss: 0.0,
            d_chosen: zeros(),
            d_rejected: zeros(),
            d_chosen_norms: zeros(),
            d_rejected_norms: zeros(),
        }
    }

    /// Adds a term that looks at one pair at a time, averaged over pairs.
    ///
    /// `term(i)` is (loss, d/d chosen, d/d rejected) of pair i.
    fn add_mean(&mut self, term: impl Fn(usize) -> (f64, f64, f64)) {
        let pairs = self.d_chosen.len();
        let share = 1.0 / pairs as f64;
        for i in 0..pairs {
            let (loss, d_chosen, d_rejected) = term(i);
            self.loss += share * loss;
            self.d_chosen[i] += share * d_chosen;
            self.d_rejected[i] += share * d_rejected;
        }
    }
}

/// The sum of all terms and its gradient.
pub fn evaluate(terms: &[Config], batch: Batch) -> Value {
    let mut value = Value::zero(batch.pairs());
    for term in terms {
        match *term {
            Config::BradleyTerry { margin, label_smoothing } => {
                bradley_terry::add(&mut value, batch, margin, label_smoothing);
            }
            Config::SumToZero { lambda, scope, scale, .. } => {
                sum_to_zero::add(&mut value, batch, lambda, scope, scale);
            }
            Config::Hinge { margin } => hinge::add(&mut value, batch, margin),
            Config::Normalized { temperature, epsilon } => {
                normalized::add(&mut value, batch, temperature, epsilon);
            }
            Config::Direct => direct::add(&mut value, batch),
            Config::Center { coefficient } => center::add(&mut value, batch, coefficient),
            Config::RewardVariance { coefficient } => {
                variance::add_of_rewards(&mut value, batch, coefficient);
            }
            Config::NormVariance { coefficient } => variance::add_of_norms(&mut value, batch, coefficient),
        }
    }
    value
}

/// The sum-to-zero penalty before its lambda, as the first such term has it (else over the whole step): what
/// `metrics.jsonl` calls `loss_bsr`, logged for every objective because it is the thing to compare.
pub fn sum_to_zero_penalty(terms: &[Config], batch: Batch) -> f64 {
    let term = terms.iter().find_map(|term| match term {
        Config::SumToZero { scope, scale, .. } => Some((*scope, *scale)),
        _ => None,
    });
    let (scope, scale) = term.unwrap_or((Scope::Global, Scale::Mean));
    sum_to_zero::penalty(batch, scope, scale)
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)` without overflow.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use super::config::LambdaSchedule;
    use super::*;

    pub(super) fn every_term() -> Vec<Config> {
        let mut terms = vec![
            Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
            Config::BradleyTerry { margin: Margin::Column, label_smoothing: 0.1 },
            Config::BradleyTerry { margin: Margin::Constant(0.5), label_smoothing: 0.0 },
            Config::Hinge { margin: Margin::Constant(1.0) },
            Config::Normalized { temperature: 2.0, epsilon: 1e-6 },
            Config::Direct,
            Config::Center { coefficient: 0.01 },
            Config::RewardVariance { coefficient: 0.3 },
            Config::NormVariance { coefficient: 0.3 },
        ];
        for scope in [Scope::Global, Scope::MicroBatch] {
            for scale in [Scale::Mean, Scale::Batch] {
                let schedule = LambdaSchedule::default();
                terms.push(Config::SumToZero { lambda: 0.1, scope, scale, schedule });
            }
        }
        terms
    }

    pub(super) const MARGINS: [Option<f64>; 5] = [Some(0.3), None, Some(1.0), Some(-0.2), Some(0.0)];
    pub(super) const MICRO_BATCHES: [Range<usize>; 2] = [0..2, 2..5];
    pub(super) const NORMS: [[f64; 5]; 2] = [[3.0, 4.5, 2.0, 9.0, 3.5], [3.1, 0.5, 2.5, 4.0, 3.0]];

    fn batch<'a>(chosen: &'a [f64], rejected: &'a [f64], norms: &'a [[f64; 5]; 2]) -> Batch<'a> {
        let [chosen_norms, rejected_norms] = norms;
        let (margins, micro_batches) = (&MARGINS, &MICRO_BATCHES);
        Batch { chosen, rejected, chosen_norms, rejected_norms, margins, micro_batches }
    }

    fn run(term: &Config, chosen: &[f64], rejected: &[f64]) -> Value {
        evaluate(std::slice::from_ref(term), batch(chosen, rejected, &NORMS))
    }

    #[test]
    fn every_gradient_matches_finite_differences() {
        let chosen = [0.7, -1.2, 3.0, 0.1, -0.4];
        let rejected = [0.2, 0.9, -2.0, 0.3, -0.9];
        for term in every_term() {
            let value = run(&term, &chosen, &rejected);
            for i in 0..chosen.len() {
                let slope = |side: usize| {
                    let loss = |step: f64| {
                        let (mut chosen, mut rejected) = (chosen, rejected);
                        [&mut chosen, &mut rejected][side][i] += step;
                        run(&term, &chosen, &rejected).loss
                    };
                    (loss(1e-5) - loss(-1e-5)) / 2e-5
                };
                for (found, expected) in [(value.d_chosen[i], slope(0)), (value.d_rejected[i], slope(1))] {
                    assert!(
                        (found - expected).abs() < 1e-7,
                        "{term:?}, pair {i}: {found} against {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_gradient_in_norms_matches_finite_differences() {
        let (chosen, rejected) = ([0.7, -1.2, 3.0, 0.1, -0.4], [0.2, 0.9, -2.0, 0.3, -0.9]);
        for term in every_term() {
            let terms = std::slice::from_ref(&term);
            let value = evaluate(terms, batch(&chosen, &rejected, &NORMS));
            for (side, slopes) in [&value.d_chosen_norms, &value.d_rejected_norms].into_iter().enumerate() {
                for (i, found) in slopes.iter().enumerate() {
                    let loss = |step: f64| {
                        let mut norms = NORMS;
                        norms[side][i] += step;
                        evaluate(terms, batch(&chosen, &rejected, &norms)).loss
                    };
                    let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                    assert!((found - expected).abs() < 1e-7, "{term:?}: {found} against {expected}");
                    assert!(term.reads_norms() || *found == 0.0, "{term:?}");
                }
            }
        }
    }

    #[test]
    fn every_term_is_finite_at_extreme_rewards() {
        let extremes = [1e4, -1e4, 0.0, 1e-300, 1e4];
        for term in every_term() {
            for (chosen, rejected) in [(extremes, [-1e4, 1e4, 0.0, 0.0, 1e4]), ([0.0; 5], [0.0; 5])] {
                let value = run(&term, &chosen, &rejected);
                let all = value.d_chosen.iter().chain(&value.d_rejected).chain([&value.loss]);
                assert!(all.clone().all(|v| v.is_finite()), "{term:?}: {value:?}");
            }
        }
    }

    #[test]
    fn swapping_chosen_and_rejected_changes_the_loss() {
        let (chosen, rejected) = ([1.0; 5], [-1.0; 5]);
        for term in every_term() {
            let symmetric = !term.kind().is_preference();
            let (right, wrong) = (run(&term, &chosen, &rejected).loss, run(&term, &rejected, &chosen).loss);
            assert!(symmetric == (right == wrong) && right <= wrong, "{term:?}: {right}, {wrong}");
        }
    }

    #[test]
    fn terms_add_up() {
        let (chosen, rejected) = ([0.7, -1.2, 3.0, 0.1, -0.4], [0.2, 0.9, -2.0, 0.3, -0.9]);
        let together = evaluate(&every_term(), batch(&chosen, &rejected, &NORMS));
        let apart: f64 = every_term().iter().map(|term| run(term, &chosen, &rejected).loss).sum();
        assert!((together.loss - apart).abs() < 1e-12);
    }

    /// Values of PyTorch 2 in float64 for the same rewards:
    /// `-logsigmoid(c - r).mean()`, TRL's centring, Eurus, the paper's normalised form.
    #[test]
    fn losses_match_pytorch() {
        let (chosen, rejected) = ([0.7, -1.2, 3.0, 0.1, -0.4], [0.2, 0.9, -2.0, 0.3, -0.9]);
        let losses = [
            (Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 }, GOLDEN[0]),
            (Config::Center { coefficient: 0.01 }, GOLDEN[1]),
            (Config::Direct, GOLDEN[2]),
            (Config::Normalized { temperature: 1.0, epsilon: 0.0 }, GOLDEN[3]),
            (Config::Hinge { margin: Margin::Constant(1.0) }, GOLDEN[4]),
        ];
        for (term, expected) in losses {
            let found = run(&term, &chosen, &rejected).loss;
            assert!((found - expected).abs() < 1e-12, "{term:?}: {found} against {expected}");
        }
    }

    /// Written by tests/golden/objective/generate.py.
    const GOLDEN: [f64; 5] = include!("../../tests/golden/objective/expected.in");
}
