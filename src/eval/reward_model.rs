//! The real model as a scorer.

use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::TokenGroup;
use crate::diagnostics::norm;
use crate::model::{Keep, Pack, RewardModel};

impl SequenceScorer for RewardModel {
    /// One forward pass over all groups, prefixes shared, nothing kept.
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        let pack = Pack::new(groups);
        if pack.last.is_empty() {
            return Ok(vec![Vec::new(); groups.len()]);
        }
        let forward = self.forward(&pack, Keep::Nothing)?;
        let width = self.config().hidden_size;
        let disagreements = forward.head_rewards.disagreements();
        let rewards = forward.rewards.iter().zip(disagreements);
        let mut scored =
            rewards.zip(forward.hidden.chunks_exact(width)).map(|((&reward, disagreement), hidden)| Scored {
                reward,
                hidden_norm: norm(hidden),
                disagreement,
            });
        Ok(groups.iter().map(|group| scored.by_ref().take(group.sequences.len()).collect()).collect())
    }
}
