//! Bootstrap intervals over rows.

use super::interval::{Estimate, combine, expanded_tail, share_ci95};
use crate::base::quantile::quantile;
use crate::base::rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

/// Resamples behind every interval.
pub const RESAMPLES: usize = 2000;

/// Intervals are a property of the values alone, so the seed is fixed.
const SEED: u64 = 0;

/// A 95% confidence interval `[lo, hi]` of the mean of `values`, the rows of a sample.
///
/// Whole rows are resampled with replacement, and percentiles are taken with the correction for small samples of
/// [`expanded_tail`]. Where all values are 0 or 1 the mean is a share and has [`share_ci95`]. `None` for no values.
///
/// # Source
/// Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval).
pub fn mean_ci95(values: &[f64]) -> Option<[f64; 2]> {
    if values.is_empty() {
        return None;
    }
    if values.iter().all(|&v| v == 0.0 || v == 1.0) {
        return Some(share_ci95(values.iter().filter(|&&v| v == 1.0).count() as u64, values.len() as u64));
    }
    Resamples::draw(|rng| Some(resampled_mean(values, rng))).ci95(values.len())
}

/// The mean of `values` with [`mean_ci95`].
pub fn mean_estimate(values: &[f64]) -> Option<Estimate> {
    let ci95 = mean_ci95(values)?;
    Some(Estimate { value: values.iter().sum::<f64>() / values.len() as f64, ci95 })
}

/// [`mean_ci95`] of a weighted sum of means, `(weight, values)` each, of groups that are independent and whose sizes
/// are given.
///
/// `None` for no terms, or one without values.
pub fn weighted_means_ci95(terms: &[(f64, &[f64])]) -> Option<[f64; 2]> {
    let estimates: Option<Vec<_>> =
        terms.iter().map(|(weight, values)| Some((*weight, mean_estimate(values)?))).collect();
    estimates.filter(|terms| !terms.is_empty()).map(|terms| combine(terms).ci95)
}

/// A statistic of [`RESAMPLES`] resamples, in ascending order.
pub(super) struct Resamples(Vec<f64>);

impl Resamples {
    /// `statistic` draws its rows and reduces them; a resample in which it is undefined is left out.
    ///
    /// Resample i draws from its own counter-based stream, so the result depends neither on the number of threads nor
    /// on what was computed before.
    pub fn draw(statistic: impl Fn(&mut ChaCha8Rng) -> Option<f64> + Sync) -> Self {
        let one = |resample| statistic(&mut rng::stream(SEED, "bootstrap", resample));
        let mut values: Vec<f64> = (0..RESAMPLES as u64).into_par_iter().filter_map(one).collect();
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    /// The percentile interval, for statistics of `count` independent rows.
    pub fn ci95(&self, count: usize) -> Option<[f64; 2]> {
        let tail = expanded_tail(count).unwrap_or(0.0);
        (!self.0.is_empty()).then(|| [quantile(&self.0, tail), quantile(&self.0, 1.0 - tail)])
    }

    /// Two-sided p-value of the hypothesis that the statistic is zero: twice the smaller share of resamples on either
    /// side of it. At least `2 / (RESAMPLES + 1)`.
    pub fn p_value(&self) -> f64 {
        let below = self.0.iter().filter(|&&v| v <= 0.0).count();
        let above = self.0.iter().filter(|&&v| v >= 0.0).count();
        (2.0 * (below.min(above) + 1) as f64 / (self.0.len() + 1) as f64).min(1.0)
    }
}

/// The mean of as many values as there are, drawn with replacement.
pub(super) fn resampled_mean(values: &[f64], rng: &mut impl Rng) -> f64 {
    let n = values.len();
    (0..n).map(|_| values[rng::below(rng, n)]).sum::<f64>() / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_cases() {
        assert_eq!(mean_ci95(&[]), None);
        assert_eq!(mean_ci95(&[0.25]), Some([0.25, 0.25]));
        assert_eq!(mean_ci95(&[0.5; 50]), Some([0.5, 0.5]));
        let [lo, hi] = mean_ci95(&[1.0; 50]).unwrap();
        assert!(0.92 < lo && lo < 0.94 && hi == 1.0, "50 of 50 is no proof of 1.0: {lo}");
    }

    /// Two groups of equal weight: the variance of half their sum, not that of all rows in one heap.
    #[test]
    fn groups_are_resampled_each_on_its_own() {
        let (low, high) = (vec![0.25; 400], vec![0.75; 100]);
        assert_eq!(weighted_means_ci95(&[(0.5, &low), (0.5, &high)]), Some([0.5, 0.5]));
        let mixed: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let [lo, hi] = weighted_means_ci95(&[(0.5, &mixed), (0.5, &high)]).unwrap();
        let half = 1.96 * 0.5 * (0.25f64 / 400.0).sqrt();
        assert!(
            (lo - (0.625 - half)).abs() < 0.15 * half && (hi - (0.625 + half)).abs() < 0.15 * half,
            "{lo} {hi}"
        );
        assert_eq!(weighted_means_ci95(&[]), None);
        assert_eq!(weighted_means_ci95(&[(0.5, &low), (0.5, &[])]), None);
    }

    #[test]
    fn a_statistic_of_zero_has_p_one_and_one_that_never_crosses_zero_the_least() {
        assert_eq!(Resamples::draw(|_| Some(0.0)).p_value(), 1.0);
        assert_eq!(Resamples::draw(|_| Some(-3.0)).p_value(), 2.0 / 2001.0);
        let none = Resamples::draw(|_| None);
        assert_eq!((none.ci95(10), none.p_value()), (None, 1.0));
    }

    #[test]
    fn is_the_same_on_any_number_of_threads() {
        let values: Vec<f64> = (0..301).map(|i| f64::from(i % 7)).collect();
        let expected = mean_ci95(&values);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| mean_ci95(&values)), expected);
        }
    }

    #[test]
    fn is_close_to_the_normal_interval_for_many_rows() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from(u8::from(i % 5 != 0))).collect();
        let [lo, hi] = mean_ci95(&values).unwrap();
        let half = 1.96 * (0.8f64 * 0.2 / 5000.0).sqrt();
        assert!((lo - (0.8 - half)).abs() < 0.1 * half, "{lo}");
        assert!((hi - (0.8 + half)).abs() < 0.1 * half, "{hi}");
    }
}
