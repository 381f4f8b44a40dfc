//! Quantiles of a sample.

/// The quantile `q` of values in ascending order, interpolated linearly between order statistics as numpy's default
/// does; NaN of no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * sorted.len().saturating_sub(1) as f64;
    // At an order statistic both are the same, so that an infinite neighbour is not met.
    match (sorted.get(position.floor() as usize), sorted.get(position.ceil() as usize)) {
        (Some(low), Some(high)) => low + position.fract() * (high - low),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), 1.0);
        assert_eq!(quantile(&sorted, 1.0), 8.0);
        assert_eq!(quantile(&sorted, 0.5), 3.0);
        assert!((quantile(&sorted, 0.025) - 1.075).abs() < 1e-12);
        assert_eq!(quantile(&[2.5], 0.3), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, f64::INFINITY], 0.5), 2.0, "a neighbour of no weight");
        assert!(quantile(&[], 0.5).is_nan());
    }
}
