//! The real models as scorers.

use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::TokenGroup;
use crate::diagnostics::norm;
use crate::model::{ArmoRm, Keep, Pack, RewardModel};

impl SequenceScorer for RewardModel {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        self.score_hidden(groups, &mut |_| {})
    }

    /// One forward pass over all groups, prefixes shared, nothing kept.
    fn score_hidden(
        &self,
        groups: &[TokenGroup],
        hidden: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<Vec<Scored>>> {
        let pack = Pack::new(groups);
        if pack.read.is_empty() {
            return Ok(vec![Vec::new(); groups.len()]);
        }
        let forward = self.forward(&pack, Keep::Nothing)?;
        let width = self.config().hidden_size;
        forward.hidden.chunks_exact(width).for_each(hidden);
        let rewards = forward.rewards.iter().zip(forward.head_rewards.disagreements());
        let scored = rewards.zip(forward.hidden.chunks_exact(width));
        let scored = scored.map(|((&reward, disagreement), hidden)| Scored {
            reward,
            hidden_norm: norm(hidden),
            disagreement,
            objectives: None,
        });
        Ok(by_group(groups, scored))
    }
}

impl SequenceScorer for ArmoRm {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        self.score_hidden(groups, &mut |_| {})
    }

    /// One forward pass over all groups, prefixes shared; the gate of a prompt is computed once.
    fn score_hidden(
        &self,
        groups: &[TokenGroup],
        hidden: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<Vec<Scored>>> {
        let judged = ArmoRm::score(self, groups)?;
        judged.iter().for_each(|judged| hidden(&judged.hidden));
        let scored = judged.into_iter().map(|judged| Scored {
            reward: judged.score,
            hidden_norm: norm(&judged.hidden),
            disagreement: None,
            objectives: Some(Box::new(judged.objectives)),
        });
        Ok(by_group(groups, scored))
    }
}

/// Answers in order, in the shape of the question.
fn by_group(groups: &[TokenGroup], mut scored: impl Iterator<Item = Scored>) -> Vec<Vec<Scored>> {
    groups.iter().map(|group| scored.by_ref().take(group.sequences.len()).collect()).collect()
}
