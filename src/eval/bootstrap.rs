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

/// What a row's value can be at worst and at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// A share of what was right: from 0 to 1.
    Share,
    /// A correlation such as tau: from -1 to 1.
    Correlation,
}

impl Range {
    fn ends(self) -> [f64; 2] {
        match self {
            Range::Share => [0.0, 1.0],
            Range::Correlation => [-1.0, 1.0],
        }
    }
}

/// The mean; `None` of no values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A 95% confidence interval `[lo, hi]` of the mean of `values`, the rows of a sample.
///
/// Whole rows are resampled with replacement, and percentiles are taken with the correction for small samples of
/// [`expanded_tail`]. Where every row is at one end of the range, the mean is a matter of how many are at which: it has
/// the interval of that share, [`share_ci95`], stretched over the range. `None` for no values.
///
/// # Source
/// Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval).
pub fn mean_ci95(values: &[f64], range: Range) -> Option<[f64; 2]> {
    if values.is_empty() {
        return None;
    }
    let [worst, best] = range.ends();
    if values.iter().all(|&v| v == worst || v == best) {
        let right = values.iter().filter(|&&v| v == best).count() as u64;
        return Some(share_ci95(right, values.len() as u64).map(|share| worst + (best - worst) * share));
    }
    Resamples::draw(|rng| Some(resampled_mean(values, rng))).ci95(values.len())
}

/// The mean of `values` with [`mean_ci95`].
pub fn mean_estimate(values: &[f64], range: Range) -> Option<Estimate> {
    Some(Estimate { value: mean(values)?, ci95: mean_ci95(values, range)? })
}

/// The rows of a sample, and what is possible for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowValues<'v> {
    pub values: &'v [f64],
    pub range: Range,
}

/// The weighted sum of the means of several sets of rows, `(weight, rows)` each, that are independent and whose sizes
/// are given; with the interval that those of the means imply.
///
/// `None` for no terms, or one without values.
pub fn weighted_means(terms: &[(f64, RowValues<'_>)]) -> Option<Estimate> {
    let estimate =
        |(weight, rows): &(f64, RowValues<'_>)| Some((*weight, mean_estimate(rows.values, rows.range)?));
    let estimates: Option<Vec<_>> = terms.iter().map(estimate).collect();
    estimates.filter(|terms| !terms.is_empty()).map(combine)
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
        assert_eq!(mean_ci95(&[], Range::Share), None);
        assert_eq!(mean_ci95(&[0.25], Range::Share), Some([0.25, 0.25]));
        assert_eq!(mean_ci95(&[0.5; 50], Range::Share), Some([0.5, 0.5]));
        let [lo, hi] = mean_ci95(&[1.0; 50], Range::Share).unwrap();
        assert!(0.92 < lo && lo < 0.94 && hi == 1.0, "50 of 50 is no proof of 1.0: {lo}");
    }

    /// Tau of two responses is twice the accuracy less one, and so is its interval.
    #[test]
    fn correlations_at_their_ends_have_twice_the_interval_of_the_share() {
        let of = |right: usize, count: usize| {
            let row = |i: usize| if i < right { 1.0 } else { -1.0 };
            mean_ci95(&(0..count).map(row).collect::<Vec<_>>(), Range::Correlation).unwrap()
        };
        for (right, count) in [(50, 50), (0, 50), (43, 50), (1, 1)] {
            let expected = share_ci95(right as u64, count as u64).map(|share| 2.0 * share - 1.0);
            let found = of(right, count);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {expected:?}");
        }
        let [lo, hi] = of(50, 50);
        assert!((lo - 0.857_3).abs() < 1e-4 && hi == 1.0, "{lo} {hi}");
        let [lo, hi] = of(0, 50);
        assert!(lo == -1.0 && (hi + 0.857_3).abs() < 1e-4, "all wrong is no proof of -1: {lo} {hi}");
        // 0 is in the middle of the range and no end of it.
        let [lo, hi] = mean_ci95(&[0.0, 1.0, 0.0, 1.0, 1.0], Range::Correlation).unwrap();
        assert_ne!([lo, hi], share_ci95(3, 5));
    }

    /// Two groups of equal weight: the variance of half their sum, not that of all rows in one heap.
    #[test]
    fn groups_are_resampled_each_on_its_own() {
        let (low, high) = (vec![0.25; 400], vec![0.75; 100]);
        let half_each = |one: &[f64], other: &[f64]| {
            let rows = |values| RowValues { values, range: Range::Share };
            weighted_means(&[(0.5, rows(one)), (0.5, rows(other))])
        };
        assert_eq!(half_each(&low, &high), Some(Estimate { value: 0.5, ci95: [0.5, 0.5] }));
        let mixed: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let [lo, hi] = half_each(&mixed, &high).unwrap().ci95;
        let half = 1.96 * 0.5 * (0.25f64 / 400.0).sqrt();
        assert!(
            (lo - (0.625 - half)).abs() < 0.15 * half && (hi - (0.625 + half)).abs() < 0.15 * half,
            "{lo} {hi}"
        );
        assert_eq!(weighted_means(&[]), None);
        assert_eq!(half_each(&low, &[]), None);
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
        let expected = mean_ci95(&values, Range::Share);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| mean_ci95(&values, Range::Share)), expected);
        }
    }

    #[test]
    fn is_close_to_the_normal_interval_for_many_rows() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from(u8::from(i % 5 != 0))).collect();
        let [lo, hi] = mean_ci95(&values, Range::Share).unwrap();
        let half = 1.96 * (0.8f64 * 0.2 / 5000.0).sqrt();
        assert!((lo - (0.8 - half)).abs() < 0.1 * half, "{lo}");
        assert!((hi - (0.8 + half)).abs() < 0.1 * half, "{hi}");
    }
}
