//! How rewards and hidden norms are spread over a split.

use crate::base::quantile::quantile;
use serde::{Deserialize, Serialize};

/// Where the quantiles are taken.
pub const QUANTILES: [f64; 9] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
const BINS: usize = 32;

/// The rewards of all sequences of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardDistribution {
    pub min: f64,
    pub max: f64,
    /// At 0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99 and 1, interpolated linearly.
    pub quantiles: [f64; 9],
    pub histogram: Histogram,
}

/// Counts between edges: 32 bins of equal width from the least to the greatest reward, the last one closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

impl RewardDistribution {
    /// `None` for no rewards.
    pub fn of(mut rewards: Vec<f64>) -> Option<Self> {
        rewards.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (rewards.first()?, rewards.last()?);
        let quantiles = QUANTILES.map(|q| quantile(&rewards, q));
        Some(Self { min, max, quantiles, histogram: Histogram::of(&rewards, min, max) })
    }
}

impl Histogram {
    fn of(values: &[f64], min: f64, max: f64) -> Self {
        // As numpy does where all values are one.
        let (lo, hi) = if min == max { (min - 0.5, max + 0.5) } else { (min, max) };
        let width = (hi - lo) / BINS as f64;
        let edges: Vec<f64> =
            (0..=BINS).map(|i| if i == BINS { hi } else { lo + i as f64 * width }).collect();
        let mut counts = vec![0; BINS];
        for &value in values {
            // Bins are closed below: edges decide, so that rounding in the division cannot.
            let bin = edges[1..BINS].partition_point(|&edge| edge <= value);
            counts[bin] += 1;
        }
        Self { edges, counts }
    }
}

/// The norms of all last hidden states of a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HiddenStatistics {
    pub norm_mean: f64,
    /// Population variance.
    pub norm_var: f64,
    /// m3 / m2^1.5; above 0 for a tail of very long vectors.
    pub norm_skew: f64,
    pub norm_max: f64,
    /// Of the N x H matrix of hidden states; where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_rank: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::test_support::golden;

    #[test]
    fn equals_numpy() {
        for case in &golden().rewards {
            let found = RewardDistribution::of(case.rewards.clone()).unwrap();
            assert_eq!(found.histogram.counts, case.counts);
            let close = |a: &f64, b: &f64| (a - b).abs() <= 1e-12 * b.abs().max(1.0);
            assert!(found.histogram.edges.iter().zip(&case.edges).all(|(a, b)| close(a, b)));
            assert!(found.quantiles.iter().zip(&case.quantiles).all(|(a, b)| close(a, b)), "{found:?}");
            assert_eq!((found.min, found.max), (found.quantiles[0], found.quantiles[8]));
        }
        assert_eq!(RewardDistribution::of(Vec::new()), None);
    }
}
