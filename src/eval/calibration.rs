//! Whether a reward difference means what Bradley-Terry says it means: P(chosen wins) = sigmoid(r_c - r_r).

use crate::objective::{sigmoid, softplus};
use serde::{Deserialize, Serialize};

/// Bins of equal width over the confidences from 0.5 to 1.
const BINS: usize = 15;

/// How far the model's probabilities are from what happens, over response pairs with different gold scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error: the mean distance between confidence and accuracy over 15 equal bins of
    /// confidence. Equal rewards are a coin flip, half right, at confidence 0.5.
    pub ece: f64,
    /// Mean square of one minus the probability of what happened; 0.25 for a model that knows nothing.
    pub brier: f64,
    /// The T for which sigmoid((r_c - r_r) / T) has the least NLL: above 1 for a model that is too sure, below for one
    /// that is not sure enough. Null where there is no least: no pair is wrong, or the mean margin is not positive.
    pub temperature: Option<f64>,
    /// Mean negative log-likelihood at T = 1, in nats; ln 2 for a model that knows nothing.
    pub nll: f64,
}

/// Calibration from margins, the reward of the better response minus that of the worse. `None` for no margins.
///
/// # Source
/// Guo et al., "On calibration of modern neural networks", ICML 2017 (expected calibration error, temperature).
pub fn calibration(margins: &[f64]) -> Option<Calibration> {
    if margins.is_empty() {
        return None;
    }
    let count = margins.len() as f64;
    let mean = |f: fn(f64) -> f64| margins.iter().map(|&m| f(m)).sum::<f64>() / count;
    Some(Calibration {
        ece: expected_calibration_error(margins),
        brier: mean(|m| sigmoid(-m).powi(2)),
        temperature: temperature(margins),
        // -log sigmoid(m).
        nll: mean(|m| softplus(-m)),
    })
}

fn expected_calibration_error(margins: &[f64]) -> f64 {
    // Sum of accuracy minus confidence, by bin.
    let mut gaps = [0.0; BINS];
    for &margin in margins {
        let confidence = sigmoid(margin.abs());
        let right = if margin == 0.0 { 0.5 } else { f64::from(u8::from(margin > 0.0)) };
        let bin = ((confidence - 0.5) * 2.0 * BINS as f64) as usize;
        gaps[bin.min(BINS - 1)] += right - confidence;
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / margins.len() as f64
}

/// Minimizes the NLL, which is convex in b = 1 / T, where its slope `-mean(m sigmoid(-b m))` crosses zero.
fn temperature(margins: &[f64]) -> Option<f64> {
    let scale = margins.iter().fold(0.0f64, |max, m| max.max(m.abs()));
    let sum: f64 = margins.iter().sum();
    if !scale.is_finite() || sum <= 0.0 || margins.iter().all(|&m| m >= 0.0) {
        return None;
    }
    // In units of the largest margin, so that the bracket below finds its end quickly whatever the rewards' scale.
    let slope = |b: f64| -margins.iter().map(|m| m / scale * sigmoid(-b * (m / scale))).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while slope(high) < 0.0 {
        (low, high) = (high, 2.0 * high);
        if high > 1e300 {
            return None;
        }
    }
    // Bisection to the last bit: about 60 passes, and no step that can leave the bracket.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    Some(scale / high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::test_support::golden;

    #[test]
    fn equals_numpy_and_scipy() {
        let golden = golden();
        assert!(golden.calibration.len() >= 6);
        for case in &golden.calibration {
            let found = calibration(&case.margins).unwrap();
            let close = |a: f64, b: f64, tolerance: f64| (a - b).abs() <= tolerance * b.abs().max(1e-3);
            assert!(close(found.ece, case.ece, 1e-11), "{found:?} {case:?}");
            assert!(close(found.brier, case.brier, 1e-11), "{found:?} {case:?}");
            assert!(close(found.nll, case.nll, 1e-11), "{found:?} {case:?}");
            assert_eq!(found.temperature.is_some(), case.temperature.is_some(), "{found:?} {case:?}");
            if let (Some(found), Some(expected)) = (found.temperature, case.temperature) {
                assert!(close(found, expected, 1e-9), "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_model_that_knows_nothing_is_calibrated() {
        let found = calibration(&[0.0; 4]).unwrap();
        assert_eq!((found.ece, found.brier, found.temperature), (0.0, 0.25, None));
        assert!((found.nll - 2f64.ln()).abs() < 1e-15);
        assert_eq!(calibration(&[]), None);
    }

    /// Outcomes drawn with probability sigmoid(m / 3): the model is three times too sure.
    #[test]
    fn the_temperature_undoes_overconfidence() {
        let mut rng = crate::base::rng::stream(3, "test", 0);
        let mut uniform = || crate::base::rng::uniform(&mut rng);
        let margins: Vec<f64> = (0..40_000)
            .map(|_| {
                let margin = 8.0 * uniform();
                if uniform() < sigmoid(margin / 3.0) { margin } else { -margin }
            })
            .collect();
        let found = calibration(&margins).unwrap();
        assert!((found.temperature.unwrap() - 3.0).abs() < 0.1, "{found:?}");
        let cooled: Vec<f64> = margins.iter().map(|m| m / found.temperature.unwrap()).collect();
        let cooled = calibration(&cooled).unwrap();
        assert!(cooled.ece < 0.015 && found.ece > 0.1 && cooled.nll < found.nll, "{found:?} {cooled:?}");
        assert!((cooled.temperature.unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn extreme_margins_stay_finite() {
        for margins in [[1e308, -1e300], [1e-300, -1e-301], [f64::MAX, 1.0], [-1e5, 1.0]] {
            let found = calibration(&margins).unwrap();
            assert!(found.ece.is_finite() && found.brier.is_finite() && found.nll.is_finite(), "{found:?}");
            assert!(found.temperature.is_none_or(|t| t.is_finite() && t > 0.0), "{margins:?} {found:?}");
        }
    }
}
