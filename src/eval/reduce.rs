//! What the rewards of an ensemble's heads become: their mean, or the lowest of them.

use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::TokenGroup;
use serde::{Deserialize, Serialize};

/// One reward out of those of all heads. With one head all are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// The mean over the heads
    #[default]
    Mean,
    /// The lowest of any head: a conservative reward, low where the heads do not agree
    Min,
}

/// A scorer whose reward is reduced in another way than by the mean.
pub struct Reduced<S> {
    pub scorer: S,
    pub reduce: Reduce,
}

impl<S: SequenceScorer> SequenceScorer for Reduced<S> {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        let mut scored = self.scorer.score(groups)?;
        for scored in scored.iter_mut().flatten() {
            match (self.reduce, scored.disagreement) {
                (Reduce::Min, Some(heads)) => scored.reward = heads.min,
                (Reduce::Mean, _) | (_, None) => {}
            }
        }
        Ok(scored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Disagreement;

    struct Two;

    impl SequenceScorer for Two {
        fn score(&self, _: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
            let one = Scored { reward: 1.0, hidden_norm: 1.0, disagreement: None };
            let disagreement = Some(Disagreement { min: -1.0, spread: 2.0 });
            Ok(vec![vec![one, Scored { disagreement, ..one }]])
        }
    }

    #[test]
    fn the_lowest_reward_is_that_of_the_lowest_head() {
        let rewards = |reduce| -> Vec<f64> {
            let scored = Reduced { scorer: Two, reduce }.score(&[]).unwrap();
            scored[0].iter().map(|scored| scored.reward).collect()
        };
        assert_eq!(rewards(Reduce::Mean), [1.0, 1.0]);
        assert_eq!(rewards(Reduce::Min), [1.0, -1.0]);
    }
}
