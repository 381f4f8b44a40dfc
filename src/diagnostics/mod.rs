//! What explains over-optimization: hidden-state norms, their spread, and how rewards decompose into norm and angle.
//!
//! Pure arithmetic over host values of one optimizer step; no tensors. `r = W_p . h = |W_p| |h| cos`: Bradley-Terry
//! alone spreads |h|, and outliers in |h| are extreme rewards on unseen data (arXiv 2505.07271).

mod ensemble;
pub mod moments;
pub mod quantiles;

pub use ensemble::{EnsembleDiagnostics, ensemble};

use crate::data::Ranking;
use moments::{Moments, moments};
use quantiles::quantiles;

/// The diagnostics of one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepDiagnostics {
    /// Pairs that differ in gold: of a list of two the one, of longer ones many.
    pub pairs: usize,
    /// Share of pairs whose better response has the strictly higher reward.
    pub accuracy: f64,
    /// Pairs with equal rewards; they count as wrong.
    pub ties: u64,
    /// Mean over pairs of better minus worse reward.
    pub margin_mean: f64,
    /// Over all rewards; the deviation is the population's.
    pub reward_mean: f64,
    pub reward_std: f64,
    pub reward_min: f64,
    pub reward_max: f64,
    /// |W_p|
    pub head_norm: f64,
    /// |h| over the step's sequences.
    pub hidden_norm: Moments,
    /// |h| over the same at [`quantiles::LEVELS`].
    pub hidden_norm_quantiles: [f64; quantiles::LEVELS.len()],
    /// Mean over pairs of |h_better|, and of |h_worse|.
    pub hidden_norm_chosen_mean: f64,
    pub hidden_norm_rejected_mean: f64,
    /// Mean over pairs of |h_better - h_worse|, the size of the Bradley-Terry gradient in W_p.
    pub hidden_diff_norm_mean: f64,
    /// Mean of cos(W_p, h).
    pub cos_mean: f64,
}

/// Diagnostics from the step's hidden states [S, H] and rewards [S], list by list with the gold order of each, and the
/// head [H].
pub fn step(hidden: &[f32], rewards: &[f64], rankings: &[&Ranking], head: &[f32]) -> StepDiagnostics {
    let width = head.len();
    let norms: Vec<f64> = hidden.chunks_exact(width).map(norm).collect();
    let head_norm = norm(head);
    let state = |sequence: usize| &hidden[sequence * width..][..width];
    let (mut pairs, mut ties) = (0, 0);
    let (mut margins, mut differences) = (0.0, 0.0);
    let (mut better_norms, mut worse_norms) = (0.0, 0.0);
    for (better, worse) in pairs_of(rankings) {
        pairs += 1;
        ties += u64::from(rewards[better] == rewards[worse]);
        margins += rewards[better] - rewards[worse];
        better_norms += norms[better];
        worse_norms += norms[worse];
        differences += squares(state(better).iter().zip(state(worse)).map(|(b, w)| b - w)).sqrt();
    }
    let count = pairs as f64;
    let cosines = rewards.iter().zip(&norms).map(|(r, norm)| {
        let scale = norm * head_norm;
        // A zero vector has no direction; it adds nothing.
        if scale > 0.0 { r / scale } else { 0.0 }
    });
    let reward = moments(rewards);
    StepDiagnostics {
        pairs,
        accuracy: accuracy(rewards, rankings),
        ties,
        margin_mean: margins / count,
        reward_mean: reward.mean,
        reward_std: reward.variance.sqrt(),
        reward_min: rewards.iter().copied().fold(f64::INFINITY, f64::min),
        reward_max: reward.max,
        head_norm,
        hidden_norm: moments(&norms),
        hidden_norm_quantiles: quantiles(&norms),
        hidden_norm_chosen_mean: better_norms / count,
        hidden_norm_rejected_mean: worse_norms / count,
        hidden_diff_norm_mean: differences / count,
        cos_mean: cosines.sum::<f64>() / rewards.len() as f64,
    }
}

/// Share of the pairs that differ in gold whose better response has the strictly higher of the `rewards` [S].
fn accuracy(rewards: &[f64], rankings: &[&Ranking]) -> f64 {
    let (mut pairs, mut right) = (0usize, 0usize);
    for (better, worse) in pairs_of(rankings) {
        pairs += 1;
        right += usize::from(rewards[better] > rewards[worse]);
    }
    right as f64 / pairs as f64
}

/// Every (better, worse) of every list, by their places in the step.
fn pairs_of(rankings: &[&Ranking]) -> impl Iterator<Item = (usize, usize)> {
    let mut end = 0;
    rankings.iter().flat_map(move |ranking| {
        let start = end;
        end += ranking.responses();
        ranking.pairs().map(move |(better, worse)| (start + better, start + worse))
    })
}

/// Euclidean norm of a vector.
pub fn norm(vector: &[f32]) -> f64 {
    squares(vector.iter().copied()).sqrt()
}

fn squares(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decomposes_rewards_into_norm_and_angle() {
        // W = (3, 4); h = W / 5 (cos 1), -W (cos -1), (4, -3) (cos 0) and zero.
        let head = [3.0, 4.0];
        let hidden = [0.6, 0.8, -3.0, -4.0, 4.0, -3.0, 0.0, 0.0];
        let rewards = [5.0, -25.0, 0.0, 0.0];
        let pair = Ranking::pair();
        let d = step(&hidden, &rewards, &[&pair, &pair], &head);
        assert_eq!((d.pairs, d.accuracy, d.ties, d.head_norm), (2, 0.5, 1, 5.0));
        assert!((d.cos_mean - 0.0).abs() < 1e-7);
        assert!((d.hidden_norm.mean - 11.0 / 4.0).abs() < 1e-7);
        assert!((d.hidden_norm.max - 5.0).abs() < 1e-7);
        // Norms 1, 5, 5 and 0: chosen are the first and the third.
        assert!(
            (d.hidden_norm_chosen_mean - 3.0).abs() < 1e-7
                && (d.hidden_norm_rejected_mean - 2.5).abs() < 1e-7
        );
        assert!((d.hidden_norm_quantiles[0], d.hidden_norm_quantiles[6]) == (0.0, d.hidden_norm.max));
        assert!((d.hidden_norm_quantiles[3] - 3.0).abs() < 1e-7, "{:?}", d.hidden_norm_quantiles);
        assert!((d.hidden_diff_norm_mean - (6.0 + 5.0) / 2.0).abs() < 1e-6);
        assert_eq!((d.margin_mean, d.reward_mean, d.reward_min, d.reward_max), (15.0, -5.0, -25.0, 5.0));
    }

    #[test]
    fn a_list_is_judged_by_every_pair_that_differs_in_gold() {
        // Best first, the first two equals: pairs are (0, 2), (1, 2).
        let list = Ranking::new(vec![0, 0, 1]).unwrap();
        let hidden = [1.0, 2.0, 4.0, 0.0, 0.0];
        let d = step(&hidden, &[1.0, 2.0, 1.0, 0.0, 3.0], &[&list, &Ranking::pair()], &[1.0]);
        assert_eq!((d.pairs, d.ties, d.accuracy), (3, 1, 1.0 / 3.0));
        assert_eq!((d.margin_mean, d.hidden_diff_norm_mean), ((0.0 + 1.0 - 3.0) / 3.0, (3.0 + 2.0) / 3.0));
        assert_eq!((d.reward_mean, d.hidden_norm.mean), (7.0 / 5.0, 7.0 / 5.0));
        // The worst of the list is worse than two.
        assert_eq!((d.hidden_norm_chosen_mean, d.hidden_norm_rejected_mean), (1.0, 8.0 / 3.0));
    }

    #[test]
    fn the_reward_is_norm_times_norm_times_cosine() {
        let head = [0.3f32, -0.7, 0.2];
        let hidden = [1.0f32, 2.0, -1.0, 0.5, 0.25, 4.0];
        let rewards: Vec<f64> = hidden
            .chunks_exact(3)
            .map(|h| h.iter().zip(&head).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
            .collect();
        let d = step(&hidden, &rewards, &[&Ranking::pair()], &head);
        let cosines: f64 =
            rewards.iter().zip(hidden.chunks_exact(3)).map(|(r, h)| r / norm(h) / norm(&head)).sum();
        assert!((d.cos_mean - cosines / 2.0).abs() < 1e-12);
    }
}
