//! What the heads of an ensemble make of a step beside their mean.

use super::accuracy;
use crate::data::Ranking;

/// Of one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnsembleDiagnostics {
    /// Mean over the step's sequences of the population standard deviation of rewards over the heads.
    pub spread_mean: f64,
    /// The lowest accuracy of any head, over all pairs of the step, those that it does not learn from included.
    pub accuracy_min: f64,
}

/// Diagnostics from the rewards of a step by every head, [K][S], list by list with the gold order of each, and from
/// their deviations over the heads, [S]; `None` for one head.
pub fn ensemble(by_head: &[Vec<f64>], spreads: &[f64], rankings: &[&Ranking]) -> Option<EnsembleDiagnostics> {
    let accuracies = by_head.iter().map(|rewards| accuracy(rewards, rankings));
    (by_head.len() > 1).then(|| EnsembleDiagnostics {
        spread_mean: spreads.iter().sum::<f64>() / spreads.len() as f64,
        accuracy_min: accuracies.fold(f64::INFINITY, f64::min),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_head_and_the_mean_spread() {
        let by_head = [vec![1.0, 0.0, 3.0, 2.0], vec![3.0, 0.0, 2.0, 2.0]];
        let spreads = [1.0, 0.0, 0.5, 0.0];
        // The second head ties on the second pair.
        let expected = EnsembleDiagnostics { spread_mean: 0.375, accuracy_min: 0.5 };
        let pair = Ranking::pair();
        assert_eq!(ensemble(&by_head, &spreads, &[&pair, &pair]), Some(expected));
        assert_eq!(ensemble(&by_head[..1], &[], &[&pair, &pair]), None);
    }

    #[test]
    fn a_list_is_judged_by_every_pair_that_differs_in_gold() {
        let list = Ranking::new(vec![0, 0, 1]).unwrap();
        let by_head = [vec![1.0, 2.0, 1.5, 1.0, 0.0], vec![3.0, 2.0, 1.0, 0.0, 1.0]];
        let found = ensemble(&by_head, &[1.0; 5], &[&list, &Ranking::pair()]).unwrap();
        // The first head has (1, 2) and the pair right, the second (0, 2) and (1, 2).
        assert_eq!(found.accuracy_min, 2.0 / 3.0);
    }
}
