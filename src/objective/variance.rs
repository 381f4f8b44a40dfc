//! Dispersion penalties: `coefficient * Var` of what a whole step has, its rewards or the norms of its hidden states.
//!
//! The variance is the population's over all sequences, so it couples the step as sum-to-zero does and is exact
//! under any micro-batch. Of rewards it pulls scores together; of norms it acts on the hidden states themselves,
//! where the paper sees over-optimization begin, and leaves angles (and so the order) free.
//!
//! # Source
//! The diagnosis is that of arXiv 2505.07271, sections 3 and 5; neither penalty is in the paper.

use super::{Batch, Value};

/// `coefficient * Var(r)` over all rewards.
pub(super) fn add_of_rewards(value: &mut Value, batch: Batch, coefficient: f64) {
    value.loss += coefficient * add_slopes(&mut value.d_rewards, batch.rewards, coefficient);
}

/// `coefficient * Var(|h|)` over all hidden states.
pub(super) fn add_of_norms(value: &mut Value, batch: Batch, coefficient: f64) {
    value.loss += coefficient * add_slopes(&mut value.d_norms, batch.norms, coefficient);
}

/// The population variance, whose gradient is added.
fn add_slopes(slopes: &mut [f64], values: &[f64], coefficient: f64) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    // d Var / d x_i = 2 (x_i - mean) / n: what the mean itself moves cancels.
    let share = 2.0 * coefficient / count;
    slopes.iter_mut().zip(values).for_each(|(slope, x)| *slope += share * (x - mean));
    values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_the_populations_over_all_sequences() {
        // numpy.var([1, 2, 3, 10]) = 12.5
        assert_eq!(add_slopes(&mut [0.0; 4], &[1.0, 2.0, 3.0, 10.0], 1.0), 12.5);
    }
}
