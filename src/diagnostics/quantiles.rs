//! The quantiles that a step's norms are told by.

use crate::base::quantile::quantile;

/// The levels of [`quantiles`]: the extremes, the outer twentieths, the quartiles and the median.
pub const LEVELS: [f64; 7] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

/// Values at [`LEVELS`], interpolated linearly between order statistics (numpy's default); NaN for an empty sample.
pub fn quantiles(values: &[f64]) -> [f64; LEVELS.len()] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    LEVELS.map(|level| quantile(&sorted, level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_numpy() {
        // numpy.quantile([7, 1, 3, 12], [0, .05, .25, .5, .75, .95, 1])
        let found = quantiles(&[7.0, 1.0, 3.0, 12.0]);
        let expected = [1.0, 1.3, 2.5, 5.0, 8.25, 11.25, 12.0];
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn small_samples_have_their_own_values() {
        assert_eq!(quantiles(&[2.5]), [2.5; 7]);
        assert!(quantiles(&[]).iter().all(|value| value.is_nan()));
    }
}
