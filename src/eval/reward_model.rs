//! The real model as a scorer.

use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::TokenGroup;
use crate::diagnostics::norm;
use crate::model::{Keep, Pack, RewardModel};

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
        if pack.last.is_empty() {
            return Ok(vec![Vec::new(); groups.len()]);
        }
        let forward = self.forward(&pack, Keep::Nothing)?;
        let width = self.config().hidden_size;
        forward.hidden.chunks_exact(width).for_each(hidden);
        let mut scored = forward
            .rewards
            .iter()
            .zip(forward.hidden.chunks_exact(width))
            .map(|(&reward, hidden)| Scored { reward, hidden_norm: norm(hidden) });
        Ok(groups.iter().map(|group| scored.by_ref().take(group.sequences.len()).collect()).collect())
    }
}
