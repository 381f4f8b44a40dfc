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
mod plackett_luce;
mod sum_to_zero;
mod variance;

pub use bradley_terry::loss as bradley_terry_loss;
pub use config::Config;
pub use plackett_luce::plackett_luce;

use crate::data::Ranking;
use config::{Margin, Scale, Scope};
use std::ops::Range;

/// The rewards of one optimizer step, list by list, best first in each; a pair is a list of two.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Of every sequence.
    pub rewards: &'a [f64],
    /// |h| of every sequence, for the terms that read norms.
    pub norms: &'a [f64],
    /// The gold order of every list; as many ranks as there are rewards.
    pub rankings: &'a [&'a Ranking],
    /// The rows' own margins, one a list.
    pub margins: &'a [Option<f64>],
    /// Which consecutive lists were computed together. Only [`Scope::MicroBatch`] looks at it.
    pub micro_batches: &'a [Range<usize>],
}

impl Batch<'_> {
    /// The lists with the sequences that each one has.
    fn lists(&self) -> impl Iterator<Item = (usize, &Ranking, Range<usize>)> {
        let mut end = 0;
        self.rankings.iter().enumerate().map(move |(list, ranking)| {
            let start = end;
            end += ranking.responses();
            (list, *ranking, start..end)
        })
    }

    /// The margin of list `i`; a row without one counts as zero (where the column is required, a run refuses such a row
    /// before its first step).
    fn margin(&self, margin: Margin, i: usize) -> f64 {
        match margin {
            Margin::None => 0.0,
            Margin::Constant(margin) => margin,
            Margin::Column => self.margins[i].unwrap_or(0.0),
        }
    }
}

/// A loss with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// What is optimized: the sum of all terms.
    pub loss: f64,
    /// dL/dr of every sequence.
    pub d_rewards: Vec<f64>,
    /// dL/d|h| of every sequence, beside what reaches h through its reward.
    pub d_norms: Vec<f64>,
}

impl Value {
    fn zero(sequences: usize) -> Self {
        Self { loss: 0.0, d_rewards: vec![0.0; sequences], d_norms: vec![0.0; sequences] }
    }

    /// Adds a term that looks at two responses at a time: averaged over the pairs of a list, equals being none, then
    /// over lists.
    ///
    /// `term(list, better, worse)` is (loss, d/d better, d/d worse) for two rewards.
    fn add_mean(&mut self, batch: Batch, term: impl Fn(usize, f64, f64) -> (f64, f64, f64)) {
        let lists = batch.rankings.len() as f64;
        for (list, ranking, sequences) in batch.lists() {
            let share = 1.0 / (lists * ranking.pairs().count() as f64);
            let rewards = &batch.rewards[sequences.clone()];
            let slopes = &mut self.d_rewards[sequences];
            for (better, worse) in ranking.pairs() {
                let (loss, d_better, d_worse) = term(list, rewards[better], rewards[worse]);
                self.loss += share * loss;
                slopes[better] += share * d_better;
                slopes[worse] += share * d_worse;
            }
        }
    }
}

/// The sum of all terms and its gradient.
pub fn evaluate(terms: &[Config], batch: Batch) -> Value {
    let mut value = Value::zero(batch.rewards.len());
    for term in terms {
        match *term {
            Config::BradleyTerry { margin, label_smoothing } => {
                bradley_terry::add(&mut value, batch, margin, label_smoothing);
            }
            Config::PlackettLuce => plackett_luce::add(&mut value, batch),
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
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)` without overflow.
pub(crate) fn sigmoid(x: f64) -> f64 {
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
    use std::sync::LazyLock;

    pub(super) fn every_term() -> Vec<Config> {
        let mut terms = vec![
            Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
            Config::BradleyTerry { margin: Margin::Column, label_smoothing: 0.1 },
            Config::BradleyTerry { margin: Margin::Constant(0.5), label_smoothing: 0.0 },
            Config::PlackettLuce,
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

    const MARGINS: [Option<f64>; 5] = [Some(0.3), None, Some(1.0), Some(-0.2), Some(0.0)];
    const MICRO_BATCHES: [Range<usize>; 2] = [0..2, 2..5];
    pub(super) const NORMS: [f64; 10] = [3.0, 3.1, 4.5, 0.5, 2.0, 2.5, 9.0, 4.0, 3.5, 3.0];
    /// Of five pairs, chosen and rejected in turn.
    pub(super) const REWARDS: [f64; 10] = [0.7, 0.2, -1.2, 0.9, 3.0, -2.0, 0.1, 0.3, -0.4, -0.9];

    static PAIR: LazyLock<Ranking> = LazyLock::new(Ranking::pair);
    /// The same ten sequences as lists, with ties in every place.
    static LISTS: LazyLock<[Ranking; 3]> = LazyLock::new(|| {
        [vec![0, 1], vec![0, 0, 1, 2, 2], vec![0, 1, 2]].map(|ranks| Ranking::new(ranks).unwrap())
    });

    /// Lists, and which of them were computed together.
    pub(super) type Shape = (Vec<&'static Ranking>, Vec<Range<usize>>);

    /// The ten sequences as five pairs, and as three lists.
    pub(super) fn shapes() -> [Shape; 2] {
        [(vec![&*PAIR; 5], MICRO_BATCHES.to_vec()), (LISTS.iter().collect(), vec![0..1, 1..3])]
    }

    fn value(terms: &[Config], rewards: &[f64; 10], norms: &[f64; 10], shape: &Shape) -> Value {
        evaluate(terms, batch(rewards, norms, shape))
    }

    pub(super) fn batch<'a>(
        rewards: &'a [f64; 10],
        norms: &'a [f64; 10],
        (rankings, micro_batches): &'a Shape,
    ) -> Batch<'a> {
        Batch { rewards, norms, rankings, margins: &MARGINS[..rankings.len()], micro_batches }
    }

    /// One term on the pairs.
    fn run(term: &Config, rewards: &[f64; 10]) -> Value {
        value(std::slice::from_ref(term), rewards, &NORMS, &shapes()[0])
    }

    #[test]
    fn every_gradient_matches_finite_differences() {
        for (term, shape) in every_term().iter().flat_map(|term| shapes().map(|shape| (term, shape))) {
            let run = |rewards: &[f64; 10], norms: &[f64; 10]| {
                value(std::slice::from_ref(term), rewards, norms, &shape)
            };
            let found = run(&REWARDS, &NORMS);
            for i in 0..REWARDS.len() {
                let slope = |loss: &dyn Fn(f64) -> f64| (loss(1e-5) - loss(-1e-5)) / 2e-5;
                let moved = |values: &[f64; 10], step: f64| {
                    let mut values = *values;
                    values[i] += step;
                    values
                };
                let by_reward = slope(&|step| run(&moved(&REWARDS, step), &NORMS).loss);
                let by_norm = slope(&|step| run(&REWARDS, &moved(&NORMS, step)).loss);
                for (found, expected) in [(found.d_rewards[i], by_reward), (found.d_norms[i], by_norm)] {
                    assert!((found - expected).abs() < 1e-7, "{term:?}, {i}: {found} against {expected}");
                }
                assert!(term.reads_norms() || found.d_norms[i] == 0.0, "{term:?}");
            }
        }
    }

    #[test]
    fn every_term_is_finite_at_extreme_rewards() {
        let extremes = [1e4, -1e4, -1e4, 1e4, 0.0, 0.0, 1e-300, 0.0, 1e4, 1e4];
        for (term, shape) in every_term().into_iter().flat_map(|term| shapes().map(|s| (term.clone(), s))) {
            for rewards in [extremes, [0.0; 10]] {
                let value = value(std::slice::from_ref(&term), &rewards, &NORMS, &shape);
                let all = value.d_rewards.iter().chain([&value.loss]);
                assert!(all.clone().all(|v| v.is_finite()), "{term:?}: {value:?}");
            }
        }
    }

    #[test]
    fn swapping_chosen_and_rejected_changes_the_loss() {
        let rewards = std::array::from_fn(|i| if i % 2 == 0 { 1.0 } else { -1.0 });
        for term in every_term() {
            let symmetric = !term.kind().is_preference();
            let (right, wrong) = (run(&term, &rewards).loss, run(&term, &rewards.map(|r: f64| -r)).loss);
            assert!(symmetric == (right == wrong) && right <= wrong, "{term:?}: {right}, {wrong}");
        }
    }

    #[test]
    fn terms_add_up() {
        for shape in shapes() {
            let together = value(&every_term(), &REWARDS, &NORMS, &shape);
            let one = |term| value(std::slice::from_ref(term), &REWARDS, &NORMS, &shape).loss;
            let apart: f64 = every_term().iter().map(one).sum();
            assert!((together.loss - apart).abs() < 1e-12);
        }
    }

    #[test]
    fn of_pairs_plackett_luce_is_bradley_terry_to_the_bit() {
        let bradley_terry = Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 };
        for scale in [1e-3, 1.0, 40.0, 1e4] {
            let rewards = REWARDS.map(|r| r * scale);
            assert_eq!(run(&Config::PlackettLuce, &rewards), run(&bradley_terry, &rewards));
        }
    }

    /// A pair's loss, averaged over the pairs of a list.
    #[test]
    fn lists_are_averaged_over_their_pairs() {
        let term = Config::Hinge { margin: Margin::Constant(1.0) };
        let found = value(&[term], &REWARDS, &NORMS, &shapes()[1]).loss;
        let hinge = |better: usize, worse: usize| (1.0 - REWARDS[better] + REWARDS[worse]).max(0.0);
        let mean = |pairs: &[(usize, usize)]| {
            pairs.iter().map(|&(better, worse)| hinge(better, worse)).sum::<f64>() / pairs.len() as f64
        };
        let second = [(2, 4), (2, 5), (2, 6), (3, 4), (3, 5), (3, 6), (4, 5), (4, 6)];
        let expected = (mean(&[(0, 1)]) + mean(&second) + mean(&[(7, 8), (7, 9), (8, 9)])) / 3.0;
        assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
    }

    /// Values of PyTorch 2 in float64 for the same rewards:
    /// `-logsigmoid(c - r).mean()`, TRL's centring, Eurus, the paper's normalised form.
    #[test]
    fn losses_match_pytorch() {
        let losses = [
            (Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 }, GOLDEN[0]),
            (Config::Center { coefficient: 0.01 }, GOLDEN[1]),
            (Config::Direct, GOLDEN[2]),
            (Config::Normalized { temperature: 1.0, epsilon: 0.0 }, GOLDEN[3]),
            (Config::Hinge { margin: Margin::Constant(1.0) }, GOLDEN[4]),
        ];
        for (term, expected) in losses {
            let found = run(&term, &REWARDS).loss;
            assert!((found - expected).abs() < 1e-12, "{term:?}: {found} against {expected}");
        }
    }

    /// Written by tests/golden/objective/generate.py.
    const GOLDEN: [f64; 5] = include!("../../tests/golden/objective/expected.in");
}
