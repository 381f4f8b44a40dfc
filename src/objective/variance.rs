//! Dispersion penalties: `coefficient * Var` of what a whole step has, its rewards or the norms of its hidden states.
//!
//! The variance is the population's over all 2B sequences, so it couples the step as sum-to-zero does and is exact
//! under any micro-batch. Of rewards it pulls scores together; of norms it acts on the hidden states themselves,
//! where the paper sees over-optimization begin, and leaves angles (and so the order) free.
//!
//! # Source
//! The diagnosis is that of arXiv 2505.07271, sections 3 and 5; neither penalty is in the paper.

use super::{Batch, Value};

/// `coefficient * Var(r)` over the 2B rewards.
pub(super) fn add_of_rewards(value: &mut Value, batch: Batch, coefficient: f64) {
    let (variance, mean) = variance(batch.chosen, batch.rejected);
    value.loss += coefficient * variance;
    add_slopes(&mut value.d_chosen, batch.chosen, mean, coefficient);
    add_slopes(&mut value.d_rejected, batch.rejected, mean, coefficient);
}

/// `coefficient * Var(|h|)` over the 2B hidden states.
pub(super) fn add_of_norms(value: &mut Value, batch: Batch, coefficient: f64) {
    let (variance, mean) = variance(batch.chosen_norms, batch.rejected_norms);
    value.loss += coefficient * variance;
    add_slopes(&mut value.d_chosen_norms, batch.chosen_norms, mean, coefficient);
    add_slopes(&mut value.d_rejected_norms, batch.rejected_norms, mean, coefficient);
}

/// d Var / d x_i = 2 (x_i - mean) / 2B: what the mean itself moves cancels.
fn add_slopes(slopes: &mut [f64], values: &[f64], mean: f64, coefficient: f64) {
    let share = coefficient / values.len() as f64;
    slopes.iter_mut().zip(values).for_each(|(slope, x)| *slope += share * (x - mean));
}

/// Population variance of both halves together, and their mean.
fn variance(chosen: &[f64], rejected: &[f64]) -> (f64, f64) {
    let both = || chosen.iter().chain(rejected);
    let count = (chosen.len() + rejected.len()) as f64;
    let mean = both().sum::<f64>() / count;
    (both().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count, mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_the_populations_over_both_sides() {
        // numpy.var([1, 2, 3, 10]) = 12.5
        assert_eq!(variance(&[1.0, 3.0], &[2.0, 10.0]), (12.5, 4.0));
    }
}
