//! Confidence intervals in closed form, and the corrections that small samples need.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The normal distribution's two-sided 95% point.
const Z95: f64 = 1.959_963_984_540_054;

/// A figure and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub ci95: [f64; 2],
}

/// Wilson's score interval of a share: `right` of `count`, which is at least 1.
///
/// Resampling zeros and ones says nothing where all of them are equal (50 right of 50 is no proof of 1.0) and too
/// little near the ends; the score interval holds its level there.
///
/// # Source
/// Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
pub fn share_ci95(right: u64, count: u64) -> [f64; 2] {
    let (n, z2) = (count as f64, Z95 * Z95);
    let p = right as f64 / n;
    let centre = p + z2 / (2.0 * n);
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // The ends are exact where everything or nothing is right; rounding is not.
    let lo = if right == 0 { 0.0 } else { (centre - half) / scale };
    let hi = if right == count { 1.0 } else { (centre + half) / scale };
    [lo, hi]
}

/// The sum of `weight * value` over independent estimates, with the interval that theirs imply.
///
/// The method of variance estimates recovery: the distance from a value to each end of its interval stands for its
/// standard error on that side, and distances add up as their squares do. For two shares this is Newcombe's interval.
///
/// # Source
/// Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008.
pub fn combine(terms: impl IntoIterator<Item = (f64, Estimate)>) -> Estimate {
    let (mut value, mut below, mut above) = (0.0, 0.0, 0.0);
    for (weight, term) in terms {
        let [lo, hi] = term.ci95;
        let (down, up) = (weight * (lo - term.value), weight * (hi - term.value));
        value += weight * term.value;
        below += down.min(up).powi(2);
        above += down.max(up).powi(2);
    }
    Estimate { value, ci95: [value - f64::sqrt(below), value + f64::sqrt(above)] }
}

/// The tail that a bootstrap of `count` independent rows cuts off on each side for a 95% interval; `None` below two.
///
/// Resampled means spread too little by `sqrt((n - 1) / n)`, and their quantiles are the normal distribution's where
/// Student's t are due. Cutting off `Phi(-t sqrt(n / (n - 1)))` in place of 0.025 repairs both; for many rows it is
/// 0.025.
///
/// # Source
/// Hesterberg, "What teachers should know about the bootstrap", The American Statistician 2015, section 5.3.
pub fn expanded_tail(count: usize) -> Option<f64> {
    let freedom = count.checked_sub(1).filter(|&f| f > 0)? as f64;
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    Some(Normal::new(0.0, 1.0).ok()?.cdf(-t * (count as f64 / freedom).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: [f64; 2], expected: [f64; 2]) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?} {expected:?}");
    }

    /// Wilson's formula in numpy; 81 of 263 is Newcombe's (1998) example, [0.2553, 0.3662].
    #[test]
    fn shares_have_wilsons_interval() {
        close(share_ci95(8, 10), [0.490_162, 0.943_318]);
        close(share_ci95(81, 263), [0.255_289, 0.366_210]);
        assert_eq!((share_ci95(0, 20)[0], share_ci95(20, 20)[1]), (0.0, 1.0));
        assert!(share_ci95(20, 20)[0] < 0.85);
    }

    /// Newcombe (1998), table II, example (a): 56/70 - 48/80 has [0.0524, 0.3339].
    #[test]
    fn a_difference_of_shares_has_newcombes_interval() {
        let share =
            |right, count| Estimate { value: right as f64 / count as f64, ci95: share_ci95(right, count) };
        let found = combine([(1.0, share(56, 70)), (-1.0, share(48, 80))]);
        assert!((found.value - 0.2).abs() < 1e-12);
        assert!((found.ci95[0] - 0.0524).abs() < 5e-5 && (found.ci95[1] - 0.3339).abs() < 5e-5, "{found:?}");
    }

    /// scipy: norm.cdf(-t.ppf(0.975, n - 1) * sqrt(n / (n - 1)))
    #[test]
    fn a_small_samples_tail_is_thinner() {
        for (count, expected) in [(5, 0.000_954_1), (25, 0.017_582_3), (10_000, 0.024_980_4)] {
            let found = expanded_tail(count).unwrap();
            assert!((found - expected).abs() < 1e-6, "{count}: {found}");
        }
        assert_eq!((expanded_tail(0), expanded_tail(1)), (None, None));
    }
}
