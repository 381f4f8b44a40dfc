//! Batch-wise Sum-to-Zero Regularization: `lambda * mean(r)^2` over the rewards of all sequences, 2B of B pairs.
//!
//! Over the whole step by default. Per micro-batch it is another objective: the mean of the squares exceeds the
//! square of the mean by the variance of the micro-batches' means.
//!
//! # Source
//! arXiv 2505.07271, section 4; scope `micro-batch` with scale `batch` is what its released code computes.

use super::config::{Scale, Scope};
use super::{Batch, Value};
use std::ops::Range;

pub(super) fn add(value: &mut Value, batch: Batch, lambda: f64, scope: Scope, scale: Scale) {
    for part in parts(batch, scope, scale) {
        let weight = lambda * part.weight;
        value.loss += weight * part.mean * part.mean;
        // d mean / d r_j = 1 / n for each of n sequences.
        let slope = weight * 2.0 * part.mean / part.sequences.len() as f64;
        value.d_rewards[part.sequences].iter_mut().for_each(|d| *d += slope);
    }
}

/// The penalty before its lambda: `mean(r)^2`, scaled, averaged over the scopes by their sequences.
pub(super) fn penalty(batch: Batch, scope: Scope, scale: Scale) -> f64 {
    parts(batch, scope, scale).iter().map(|part| part.weight * part.mean.powi(2)).sum()
}

/// What one mean is over.
struct Part {
    sequences: Range<usize>,
    mean: f64,
    /// Its share of the step's sequences, times what the square is multiplied by.
    weight: f64,
}

fn parts(batch: Batch, scope: Scope, scale: Scale) -> Vec<Part> {
    let lists = match scope {
        Scope::Global => std::iter::once(0..batch.rankings.len()).collect(),
        Scope::MicroBatch => batch.micro_batches.to_vec(),
    };
    let mut end = 0;
    let part = |lists: Range<usize>| {
        let start = end;
        end += batch.rankings[lists.clone()].iter().map(|ranking| ranking.responses()).sum::<usize>();
        let sequences = start..end;
        let rewards = &batch.rewards[sequences.clone()];
        let factor = match scale {
            Scale::Mean => 1.0,
            Scale::Batch => lists.len() as f64,
        };
        Part {
            mean: rewards.iter().sum::<f64>() / rewards.len() as f64,
            weight: rewards.len() as f64 / batch.rewards.len() as f64 * factor,
            sequences,
        }
    };
    lists.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Ranking;

    #[test]
    fn per_micro_batch_exceeds_global_by_the_variance_of_means() {
        let rewards = [1.0, 0.0, 2.0, 1.0, -1.0, -2.0, 0.5, 0.5];
        let pair = Ranking::pair();
        let batch = Batch {
            rewards: &rewards,
            norms: &[1.0; 8],
            rankings: &[&pair; 4],
            margins: &[None; 4],
            micro_batches: &[0..2, 2..4],
        };
        let means = [1.0, -0.5];
        let global: f64 = (means[0] + means[1]) / 2.0;
        let variance = means.iter().map(|m| (m - global) * (m - global)).sum::<f64>() / 2.0;
        assert!((penalty(batch, Scope::Global, Scale::Mean) - global * global).abs() < 1e-15);
        assert!(
            (penalty(batch, Scope::MicroBatch, Scale::Mean) - (global * global + variance)).abs() < 1e-15
        );
    }

    #[test]
    fn sequences_of_lists_count_alike() {
        let rewards = [1.0, 0.0, 2.0, 1.0, 3.0];
        let list = Ranking::new(vec![0, 1, 1]).unwrap();
        let batch = Batch {
            rewards: &rewards,
            norms: &[1.0; 5],
            rankings: &[&list, &Ranking::pair()],
            margins: &[None; 2],
            micro_batches: &[0..1, 1..2],
        };
        assert!((penalty(batch, Scope::Global, Scale::Mean) - 1.4f64.powi(2)).abs() < 1e-15);
        assert!((penalty(batch, Scope::Global, Scale::Batch) - 2.0 * 1.4f64.powi(2)).abs() < 1e-15);
        let of_each = 0.6 * 1.0 + 0.4 * 4.0;
        assert!((penalty(batch, Scope::MicroBatch, Scale::Mean) - of_each).abs() < 1e-15);
    }
}
