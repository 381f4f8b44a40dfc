//! Percentile bootstrap intervals over rows.

use crate::base::rng;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

/// Resamples behind every interval.
pub const RESAMPLES: usize = 2000;

/// Intervals are a property of the values alone, so the seed is fixed.
const SEED: u64 = 0;

/// A 95% confidence interval `[lo, hi]` of the mean of `values`, whole rows resampled with replacement.
///
/// Resample i draws from its own counter-based stream, so the interval depends neither on the number of threads nor
/// on what was computed before. `None` for no values.
///
/// # Source
/// Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval).
pub fn mean_ci95(values: &[f64]) -> Option<[f64; 2]> {
    weighted_means_ci95(&[(1.0, values)])
}

/// [`mean_ci95`] of a weighted sum of means, `(weight, values)` each; the rows of each are resampled among
/// themselves, as befits groups whose sizes are given.
///
/// `None` for no terms, or one without values.
pub fn weighted_means_ci95(terms: &[(f64, &[f64])]) -> Option<[f64; 2]> {
    if terms.is_empty() || terms.iter().any(|(_, values)| values.is_empty()) {
        return None;
    }
    let resampled = |resample: u64| -> f64 {
        let mut rng = rng::stream(SEED, "bootstrap", resample);
        terms.iter().map(|(weight, values)| weight * resampled_mean(values, &mut rng)).sum()
    };
    let mut means: Vec<f64> = (0..RESAMPLES as u64).into_par_iter().map(resampled).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some([quantile(&means, 0.025), quantile(&means, 0.975)])
}

fn resampled_mean(values: &[f64], rng: &mut impl Rng) -> f64 {
    let n = values.len();
    let sum: f64 = (0..n)
        .map(|_| {
            // The high half of a 64 by 64 bit product: uniform to within n / 2^64.
            let at = (u128::from(rng.next_u64()) * n as u128) >> 64;
            values[at as usize]
        })
        .sum();
    sum / n as f64
}

/// Linear interpolation between order statistics, as numpy's default.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A uniform draw from [0, 1) for the simulations.
    fn uniform(rng: &mut impl Rng) -> f64 {
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn edge_cases() {
        assert_eq!(mean_ci95(&[]), None);
        assert_eq!(mean_ci95(&[0.25]), Some([0.25, 0.25]));
        assert_eq!(mean_ci95(&[1.0; 50]), Some([1.0, 1.0]));
    }

    /// Two groups of equal weight: the variance of half their sum, not that of all rows in one heap.
    #[test]
    fn groups_are_resampled_each_on_its_own() {
        let (low, high) = (vec![0.0; 400], vec![1.0; 100]);
        assert_eq!(weighted_means_ci95(&[(0.5, &low), (0.5, &high)]), Some([0.5, 0.5]));
        let mixed: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let [lo, hi] = weighted_means_ci95(&[(0.5, &mixed), (0.5, &high)]).unwrap();
        let half = 1.96 * 0.5 * (0.25f64 / 400.0).sqrt();
        assert!(
            (lo - (0.75 - half)).abs() < 0.15 * half && (hi - (0.75 + half)).abs() < 0.15 * half,
            "{lo} {hi}"
        );
        assert_eq!(weighted_means_ci95(&[]), None);
        assert_eq!(weighted_means_ci95(&[(0.5, &low), (0.5, &[])]), None);
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

    /// In 400 worlds of 200 rows each, a 95% interval holds the true mean in about 380. The bounds are over four
    /// binomial standard deviations (0.011) away from 0.95, the small-sample shortfall of the percentile interval
    /// included.
    #[test]
    fn covers_the_truth_about_95_times_in_100() {
        for (name, truth, draw) in [
            ("accuracy", 0.8, (|u| f64::from(u8::from(u < 0.8))) as fn(f64) -> f64),
            ("tau of few levels", 0.25, |u| {
                [1.0, 1.0, 1.0, 1.0 / 3.0, 0.0, -1.0 / 3.0, -1.0, 0.0][(u * 8.0) as usize]
            }),
            ("skewed", 1.0, |u| -(1.0 - u).ln()),
        ] {
            let worlds = 400;
            let covered = (0..worlds)
                .filter(|&world| {
                    let mut rng = rng::stream(7, name, world);
                    let values: Vec<f64> = (0..200).map(|_| draw(uniform(&mut rng))).collect();
                    let [lo, hi] = mean_ci95(&values).unwrap();
                    lo <= truth && truth <= hi
                })
                .count();
            let coverage = covered as f64 / worlds as f64;
            assert!((0.90..=0.985).contains(&coverage), "{name}: {coverage}");
        }
    }

    #[test]
    fn quantiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), 1.0);
        assert_eq!(quantile(&sorted, 1.0), 8.0);
        assert_eq!(quantile(&sorted, 0.5), 3.0);
        assert!((quantile(&sorted, 0.025) - 1.075).abs() < 1e-12);
    }
}
