//! Batch-wise Sum-to-Zero Regularization: `lambda * mean(r)^2` over all 2B rewards.
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
    for pairs in scopes(batch, scope) {
        let mean = batch.mean(pairs.clone());
        let weight = lambda * share(batch, &pairs) * factor(scale, &pairs);
        value.loss += weight * mean * mean;
        // d mean / d r_j = 1 / 2B for every sequence alike.
        let slope = weight * 2.0 * mean / (2 * pairs.len()) as f64;
        for i in pairs {
            value.d_chosen[i] += slope;
            value.d_rejected[i] += slope;
        }
    }
}

/// The penalty before its lambda: `mean(r)^2`, scaled, averaged over the scopes by their pairs.
pub(super) fn penalty(batch: Batch, scope: Scope, scale: Scale) -> f64 {
    let square =
        |pairs: Range<usize>| share(batch, &pairs) * factor(scale, &pairs) * batch.mean(pairs).powi(2);
    scopes(batch, scope).into_iter().map(square).sum()
}

/// What the square is multiplied by: with [`Scale::Batch`] the pairs that its mean is over.
fn factor(scale: Scale, pairs: &Range<usize>) -> f64 {
    match scale {
        Scale::Mean => 1.0,
        Scale::Batch => pairs.len() as f64,
    }
}

fn scopes(batch: Batch, scope: Scope) -> Vec<Range<usize>> {
    match scope {
        Scope::Global => std::iter::once(0..batch.pairs()).collect(),
        Scope::MicroBatch => batch.micro_batches.to_vec(),
    }
}

/// The part of the step's pairs in this scope.
fn share(batch: Batch, pairs: &Range<usize>) -> f64 {
    pairs.len() as f64 / batch.pairs() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_micro_batch_exceeds_global_by_the_variance_of_means() {
        let (chosen, rejected) = ([1.0, 2.0, -1.0, 0.5], [0.0, 1.0, -2.0, 0.5]);
        let micro_batches = [0..2, 2..4];
        let (margins, norms) = ([None; 4], [1.0; 4]);
        let batch = Batch {
            chosen: &chosen,
            rejected: &rejected,
            chosen_norms: &norms,
            rejected_norms: &norms,
            margins: &margins,
            micro_batches: &micro_batches,
        };
        let means = [1.0, -0.5];
        let global: f64 = (means[0] + means[1]) / 2.0;
        let variance = means.iter().map(|m| (m - global) * (m - global)).sum::<f64>() / 2.0;
        assert!((penalty(batch, Scope::Global, Scale::Mean) - global * global).abs() < 1e-15);
        assert!(
            (penalty(batch, Scope::MicroBatch, Scale::Mean) - (global * global + variance)).abs() < 1e-15
        );
    }
}
