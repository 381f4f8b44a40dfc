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

impl Reduce {
    fn applied(self, mut scored: Vec<Vec<Scored>>) -> Vec<Vec<Scored>> {
        for scored in scored.iter_mut().flatten() {
            match (self, scored.disagreement) {
                (Reduce::Min, Some(heads)) => scored.reward = heads.min,
                (Reduce::Mean, _) | (_, None) => {}
            }
        }
        scored
    }
}

/// A scorer whose reward is reduced in another way than by the mean.
pub struct Reduced<S> {
    pub scorer: S,
    pub reduce: Reduce,
}

impl<S: SequenceScorer> SequenceScorer for Reduced<S> {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        Ok(self.reduce.applied(self.scorer.score(groups)?))
    }

    fn score_hidden(
        &self,
        groups: &[TokenGroup],
        hidden: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<Vec<Scored>>> {
        Ok(self.reduce.applied(self.scorer.score_hidden(groups, hidden)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Disagreement;

    struct Two;

    impl SequenceScorer for Two {
        fn score(&self, _: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
            let one = Scored { reward: 1.0, hidden_norm: 1.0, disagreement: None, objectives: None };
            let disagreement = Some(Disagreement { min: -1.0, spread: 2.0 });
            Ok(vec![vec![one.clone(), Scored { disagreement, ..one }]])
        }

        fn score_hidden(
            &self,
            groups: &[TokenGroup],
            hidden: &mut dyn FnMut(&[f32]),
        ) -> Result<Vec<Vec<Scored>>> {
            hidden(&[3.0, 4.0]);
            self.score(groups)
        }
    }

    #[test]
    fn the_lowest_reward_is_that_of_the_lowest_head() {
        let rewards = |reduce| -> Vec<f64> {
            let reduced = Reduced { scorer: Two, reduce };
            let mut hidden = Vec::new();
            let scored = reduced.score_hidden(&[], &mut |state| hidden.extend_from_slice(state)).unwrap();
            assert_eq!(hidden, [3.0, 4.0], "hidden states go through");
            assert_eq!(scored, reduced.score(&[]).unwrap());
            scored[0].iter().map(|scored| scored.reward).collect()
        };
        assert_eq!(rewards(Reduce::Mean), [1.0, 1.0]);
        assert_eq!(rewards(Reduce::Min), [1.0, -1.0]);
    }
}
