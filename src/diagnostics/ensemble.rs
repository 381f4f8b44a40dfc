//! What the heads of an ensemble make of a step beside their mean.

use super::moments::moments;

/// Of one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnsembleDiagnostics {
    /// Mean over the step's sequences of the population standard deviation of rewards over the heads.
    pub spread_mean: f64,
    /// The lowest accuracy of any head, over all pairs of the step, those that it does not learn from included.
    pub accuracy_min: f64,
}

/// Diagnostics from the rewards of a step by every head, [K][2B], chosen and rejected in turn; `None` for one head.
pub fn ensemble(by_head: &[Vec<f64>]) -> Option<EnsembleDiagnostics> {
    let sequences = by_head.first().filter(|_| by_head.len() > 1)?.len();
    let spread = |sequence: usize| {
        let rewards: Vec<f64> = by_head.iter().map(|head| head[sequence]).collect();
        moments(&rewards).variance.sqrt()
    };
    let accuracy = |head: &Vec<f64>| {
        let pairs = head.chunks_exact(2);
        let count = pairs.len() as f64;
        pairs.filter(|pair| pair[0] > pair[1]).count() as f64 / count
    };
    Some(EnsembleDiagnostics {
        spread_mean: (0..sequences).map(spread).sum::<f64>() / sequences as f64,
        accuracy_min: by_head.iter().map(accuracy).fold(f64::INFINITY, f64::min),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_head_and_the_mean_spread() {
        let by_head = [vec![1.0, 0.0, 3.0, 2.0], vec![3.0, 0.0, 2.0, 2.0]];
        // Deviations 1, 0, 0.5 and 0; the second head ties on the second pair.
        let expected = EnsembleDiagnostics { spread_mean: 0.375, accuracy_min: 0.5 };
        assert_eq!(ensemble(&by_head), Some(expected));
        assert_eq!(ensemble(&by_head[..1]), None);
    }
}
