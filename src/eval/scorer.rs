//! The one scoring loop without gradients: batches of bounded size, longest first, answers in the order asked.

use super::{Scored, SequenceScorer};
use crate::data::TokenGroup;
use crate::model::pack::{packed_tokens, shared_prefix};
use crate::{Error, Result};
use std::cmp::Reverse;

/// Tokens that are computed at once where nobody says otherwise. A memory knob: scores do not depend on it, but for the
/// last bits of a group's that is larger, which is computed in parts.
pub const DEFAULT_BATCH_TOKENS: usize = 16_384;

/// Scores `groups` in calls of at most `batch_tokens` packed tokens each.
///
/// Sequences of like length are computed together, the longest first, so that a batch that does not fit in memory
/// fails at once. A group that is larger than a batch is asked for in parts; a single sequence never is. (A part shares
/// what its own sequences have in common, so that attention's sums are cut elsewhere than those of the whole group.)
///
/// # Errors
/// The scorer's; and [`Error::Tensor`] when its answer has another shape than the question.
pub fn score_groups(
    scorer: &dyn SequenceScorer,
    groups: Vec<TokenGroup>,
    batch_tokens: usize,
) -> Result<Vec<Vec<Scored>>> {
    let mut answers: Vec<Vec<Scored>> =
        groups.iter().map(|g| Vec::with_capacity(g.sequences.len())).collect();
    // The parts of one group stay in order, because the sort is stable and they share its longest length.
    let mut parts: Vec<(usize, usize, TokenGroup)> = Vec::with_capacity(groups.len());
    for (index, group) in groups.into_iter().enumerate() {
        let longest = group.sequences.iter().map(Vec::len).max().unwrap_or(0);
        parts.extend(split_group(group, batch_tokens).into_iter().map(|part| (index, longest, part)));
    }
    parts.sort_by_key(|(_, longest, _)| Reverse(*longest));

    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let (mut indices, mut batch, mut tokens) = (Vec::new(), Vec::new(), 0);
        while let Some((index, _, part)) = parts.next_if(|(_, _, part)| {
            batch.is_empty() || tokens + packed_tokens(&part.sequences) <= batch_tokens
        }) {
            tokens += packed_tokens(&part.sequences);
            indices.push(index);
            batch.push(part);
        }
        let scored = scorer.score(&batch)?;
        let shape_is_kept = scored.len() == batch.len()
            && scored.iter().zip(&batch).all(|(answer, part)| answer.len() == part.sequences.len());
        if !shape_is_kept {
            let asked: usize = batch.iter().map(|part| part.sequences.len()).sum();
            let found: usize = scored.iter().map(Vec::len).sum();
            return Err(Error::Tensor(candle_core::Error::Msg(format!(
                "the scorer answered {found} scores in {} groups where {asked} in {} were asked for",
                scored.len(),
                batch.len()
            ))));
        }
        for (index, answer) in indices.into_iter().zip(scored) {
            answers[index].extend(answer);
        }
    }
    Ok(answers)
}

/// Cuts a group into parts of at most `batch_tokens` packed tokens, at least one sequence each. An empty group
/// has no parts.
fn split_group(group: TokenGroup, batch_tokens: usize) -> Vec<TokenGroup> {
    if group.sequences.is_empty() {
        return Vec::new();
    }
    if packed_tokens(&group.sequences) <= batch_tokens {
        return vec![group];
    }
    let prefix = shared_prefix(&group.sequences);
    let mut parts: Vec<TokenGroup> = Vec::new();
    let mut tokens = 0;
    for sequence in group.sequences {
        let own = sequence.len() - prefix;
        match parts.last_mut() {
            Some(part) if tokens + own <= batch_tokens => {
                tokens += own;
                part.sequences.push(sequence);
            }
            _ => {
                tokens = prefix + own;
                parts.push(TokenGroup { sequences: vec![sequence] });
            }
        }
    }
    parts
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// A stand-in for a model: the reward is a function of the ids alone. It notes the size of every call.
    #[derive(Default)]
    pub(crate) struct IdScorer {
        pub(crate) calls: RefCell<Vec<usize>>,
    }

    pub(crate) fn reward_of(ids: &[u32]) -> f64 {
        let hash =
            ids.iter().fold(17u64, |h, &id| h.wrapping_mul(6364136223846793005).wrapping_add(u64::from(id)));
        f64::from((hash >> 40) as f32 / 1e6 - 8.0)
    }

    impl SequenceScorer for IdScorer {
        fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
            self.calls.borrow_mut().push(groups.iter().map(|g| packed_tokens(&g.sequences)).sum());
            let scored = |ids: &Vec<u32>| Scored {
                reward: reward_of(ids),
                hidden_norm: ids.len() as f64,
                disagreement: None,
                objectives: None,
            };
            Ok(groups.iter().map(|g| g.sequences.iter().map(scored).collect()).collect())
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        struct Forgetful;
        impl SequenceScorer for Forgetful {
            fn score(&self, _: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
                Ok(vec![Vec::new()])
            }
        }
        let groups = vec![TokenGroup { sequences: vec![vec![1, 2]] }];
        let error = score_groups(&Forgetful, groups, 100).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("0 scores"), "{error}");
    }

    #[test]
    fn the_longest_comes_first_and_a_batch_is_filled() {
        let scorer = IdScorer::default();
        let groups = [1, 5, 3, 2].map(|n| TokenGroup { sequences: vec![vec![7; n]] }).to_vec();
        score_groups(&scorer, groups, 6).unwrap();
        assert_eq!(*scorer.calls.borrow(), [5, 6]);
    }

    proptest! {
        #[test]
        fn answers_come_back_in_order_and_batches_are_bounded(
            groups in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 0..6), 0..20),
            batch_tokens in 1usize..40,
        ) {
            let groups: Vec<_> = groups.into_iter().map(|sequences| TokenGroup { sequences }).collect();
            let scorer = IdScorer::default();
            let answers = score_groups(&scorer, groups.clone(), batch_tokens).unwrap();
            prop_assert_eq!(answers.len(), groups.len());
            for (answer, group) in answers.iter().zip(&groups) {
                let rewards: Vec<_> = answer.iter().map(|s| s.reward).collect();
                let expected: Vec<_> = group.sequences.iter().map(|s| reward_of(s)).collect();
                prop_assert_eq!(rewards, expected);
            }
            let longest = groups.iter().flat_map(|g| &g.sequences).map(Vec::len).max().unwrap_or(0);
            for &tokens in scorer.calls.borrow().iter() {
                prop_assert!(tokens <= batch_tokens.max(longest));
            }
        }
    }
}
