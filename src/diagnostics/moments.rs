//! Mean, variance, skewness and maximum of a sample.

/// Population moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    pub mean: f64,
    /// m2, the population variance.
    pub variance: f64,
    /// g1 = m3 / m2^1.5; zero where the values are all equal.
    pub skewness: f64,
    pub max: f64,
}

/// Moments of a sample in two passes, so that a large mean does not cancel a small variance.
pub fn moments(values: &[f64]) -> Moments {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let central = |power: i32| values.iter().map(|v| (v - mean).powi(power)).sum::<f64>() / count;
    let (variance, third) = (central(2), central(3));
    Moments {
        mean,
        variance,
        skewness: if variance > 0.0 { third / variance.powf(1.5) } else { 0.0 },
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_scipy() {
        // scipy.stats.skew([1, 2, 3, 4, 10]); numpy.var
        let m = moments(&[1.0, 2.0, 3.0, 4.0, 10.0]);
        assert_eq!((m.mean, m.variance, m.max), (4.0, 10.0, 10.0));
        assert!((m.skewness - 1.138_419_957_660_617).abs() < 1e-12, "{}", m.skewness);
    }

    #[test]
    fn equal_values_have_no_spread() {
        let m = moments(&[3.0; 4]);
        assert_eq!((m.variance, m.skewness), (0.0, 0.0));
    }

    #[test]
    fn a_large_mean_does_not_cancel() {
        let m = moments(&[1e9, 1e9 + 1.0, 1e9 + 2.0]);
        assert!((m.variance - 2.0 / 3.0).abs() < 1e-9);
    }
}
